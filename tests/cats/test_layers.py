"""Laws of layered pictures: what paint does, on random layers, and against Pillow's compositing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from pyro_vipaint.cats.parts import Layers, load_layers, over
from pyro_vipaint.errors import InputError
from tests.layered import SIZE, random_layers
from tests.statistics import assert_within


def all_combinations(layers: Layers) -> Tensor:
    return torch.cartesian_prod(*(torch.arange(size) for size in layers.sizes))


def random_part(*leading: int, opaque: bool = False) -> Tensor:
    opacity = torch.ones(*leading, 1, SIZE, SIZE) if opaque else torch.rand(*leading, 1, SIZE, SIZE)
    return torch.cat([opacity * torch.rand(*leading, 3, SIZE, SIZE), opacity], -3)


def test_painting_is_associative() -> None:
    """Two parts merged into one, premultiplied, paint like the two in turn, over any ground."""
    upper, lower, ground = random_part(6), random_part(6), torch.rand(6, 3, SIZE, SIZE)
    opacity = upper[:, 3:] + (1 - upper[:, 3:]) * lower[:, 3:]
    merged = torch.cat([over(upper, lower[:, :3]), opacity], 1)
    torch.testing.assert_close(over(merged, ground), over(upper, over(lower, ground)))


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
        with pytest.raises(InputError, match="layers"):
            load_layers(tmp_path / name)
