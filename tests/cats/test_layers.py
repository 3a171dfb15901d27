"""Laws of layered pictures: what paint does, on random layers, and against Pillow's compositing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from pyro_vipaint.cats.parts import Layers, draw_parts, load_layers
from pyro_vipaint.errors import InputError
from tests.layered import SIZE, random_layers
from tests.statistics import assert_within


def all_combinations(layers: Layers) -> Tensor:
    return torch.cartesian_prod(*(torch.arange(size) for size in layers.sizes))


def test_equals_pillow() -> None:
    """Pillow's alpha_composite, not premultiplied and rounded to bytes at each layer."""
    generator = np.random.default_rng(0)
    shape = (3, 4, SIZE, SIZE, 4)  # slots, parts, pixels, RGBA
    straight = generator.integers(0, 256, shape, dtype=np.uint8)
    straight[generator.random(shape[:-1]) < 0.3] = 0
    rgba = torch.from_numpy(straight).double().movedim(-1, -3) / 255
    parts = torch.cat([rgba[:, :, :3] * rgba[:, :, 3:], rgba[:, :, 3:]], 2)
    layers = Layers({str(slot): part for slot, part in enumerate(parts)})
    index = all_combinations(layers)
    pictures = (layers.compose(index) + 1) / 2
    for k, picture in zip(index.tolist(), pictures, strict=True):
        image = Image.new("RGBA", (SIZE, SIZE), "white")
        for slot, part in enumerate(k):
            image = Image.alpha_composite(image, Image.fromarray(straight[slot, part]))
        expected = torch.from_numpy(np.array(image)[..., :3]).double().movedim(-1, 0) / 255
        rounding = 0.5 / 255 * len(k) + 1e-9  # half a byte a layer
        assert (picture - expected).abs().max() <= rounding


def test_equal_parts_share_a_class() -> None:
    layers = random_layers()
    assert layers.classes["slot1"].tolist() == [0, 1, 1]
    assert layers.classes["slot0"].tolist() == [0, 1, 2]
    assert layers.num_classes == {"slot0": 3, "slot1": 2, "slot2": 4}
    changed = layers.parts["slot1"].clone()
    changed[2, 3, 0, 0] += 1 / 255
    assert Layers({"slot1": changed}).classes["slot1"].tolist() == [0, 1, 2]


def test_draws_are_uniform_and_independent() -> None:
    layers, num = random_layers(), 20_000
    index = layers.draw(num, torch.Generator().manual_seed(0))
    cells = (index * torch.tensor([12, 4, 1])).sum(1).bincount(minlength=36) / num
    assert_within(cells, torch.full((36,), 1 / 36), (35 / 36**2 / num) ** 0.5)


def test_held_out_combinations_are_those_whose_numbers_add_up_to_tens() -> None:
    """Shipped weights rest on this rule; draws are uniform on either side of it."""
    layers, generator = random_layers((5, 4, 6)), torch.Generator().manual_seed(0)
    held_out = draw_parts(layers, 3000, True, generator)
    assert (held_out.sum(-1) % 10 == 0).all() and (draw_parts(layers, 3000, False, generator).sum(-1) % 10 != 0).all()
    every = all_combinations(layers)
    cells = every[every.sum(-1) % 10 == 0]
    shares = (held_out[:, None] == cells).all(-1).double().mean(0)
    p = 1 / len(cells)
    assert_within(shares, torch.full_like(shares, p), (p * (1 - p) / 3000) ** 0.5)


def test_a_file_comes_back(tmp_path: Path) -> None:
    parts = {"upper": torch.randint(256, (2, 4, SIZE, SIZE)), "lower": torch.randint(256, (3, 4, SIZE, SIZE))}
    path = tmp_path / "parts.safetensors"
    save_file({slot: part.to(torch.uint8) for slot, part in parts.items()}, path, {"slots": "lower upper"})
    layers = load_layers(path)
    assert list(layers.parts) == ["lower", "upper"]
    for slot, part in layers.parts.items():
        torch.testing.assert_close(part, parts[slot] / 255)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no layers")
    save_file({"body": torch.zeros(1)}, tmp_path / "no_slots")
    for name in ("missing", "text", "no_slots"):
        with pytest.raises(InputError, match=r"layers|does not exist|safetensors file"):
            load_layers(tmp_path / name)
