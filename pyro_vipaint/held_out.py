"""Held-out images of the embedded priors, which no training saw: for demonstrations, tests and benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vipaint.layers import Layers, load_layers
from pyro_vipaint.models.pretrained import weights_folder

HELD_OUT = 10  # one combination of parts in so many


def held_out_images() -> tuple[Tensor, Tensor]:
    """The 64 shipped held-out images ``(64, 1, 32, 32)`` in [-1, 1] of ``fashion32`` and their labels ``(64,)``."""
    from safetensors.torch import load_file

    tensors = load_file(weights_folder() / "fashion32" / "held_out.safetensors")
    return tensors["images"].unsqueeze(1).float() / 127.5 - 1, tensors["labels"].long()


def is_held_out(index: Tensor) -> Tensor:
    """Which combinations of parts ``(N, 5)`` the training of ``cats64`` left out: numbers that add up to 10 k."""
    return index.sum(-1) % HELD_OUT == 0


def draw_parts(layers: Layers, num: int, held_out: bool, generator: torch.Generator | None = None) -> Tensor:
    """``num`` combinations, uniform among the held-out ones or among the others."""
    kept = torch.empty(0, len(layers.sizes), dtype=torch.long)
    while len(kept) < num:
        index = layers.draw(2 * num * (HELD_OUT if held_out else 1), generator)
        kept = torch.cat([kept, index[is_held_out(index) == held_out]])
    return kept[:num]


def shipped_layers() -> Layers:
    """The parts of ``cats64`` as they ship."""
    return load_layers(weights_folder() / "cats64" / "parts.safetensors")


def draw_held_out_cats(num: int, seed: int = 0) -> Tensor:
    """``num`` cats ``(num, 3, 64, 64)`` in [-1, 1], uniform among the held-out combinations."""
    layers = shipped_layers()
    return layers.compose(draw_parts(layers, num, held_out=True, generator=torch.Generator().manual_seed(seed)))
