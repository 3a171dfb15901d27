"""Small random layers that several tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vipaint.cats.parts import Layers

SIZE = 5  # pixels a side


def random_layers(sizes: tuple[int, ...] = (3, 2, 4), seed: int = 0, dtype: torch.dtype = torch.float32) -> Layers:
    """Parts of colour and opacity that cover random pixels, some opaque; part 0 of slot 1 is blank, parts 1, 2 equal.

    Slot 1 gets a third part for that, so it has ``sizes[1] + 1``.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = {f"slot{i}": _random_parts(size, generator).to(dtype) for i, size in enumerate(sizes)}
    parts["slot1"] = torch.cat([parts["slot1"], parts["slot1"][-1:]])
    parts["slot1"][0] = 0
    return Layers(parts)


def _random_parts(count: int, generator: torch.Generator) -> Tensor:
    shape = (count, 1, SIZE, SIZE)
    opacity = torch.rand(shape, generator=generator).mul(1.5).clamp(max=1)
    opacity *= torch.rand(shape, generator=generator) < 0.4
    return torch.cat([opacity * torch.rand(count, 3, SIZE, SIZE, generator=generator), opacity], 1)
