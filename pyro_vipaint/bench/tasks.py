"""The inverse problems of the benchmark: what is observed of an image, and with how much noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from pyro_vipaint.bench.draws import PriorDraws
from pyro_vipaint.checks import NOISE
from pyro_vipaint.models.measurements.blur import GaussianBlur, MotionBlur
from pyro_vipaint.models.measurements.masks import MASKS
from pyro_vipaint.models.measurements.operators import Inpainting, Operator
from pyro_vipaint.models.measurements.super_resolution import SuperResolution


@dataclass(frozen=True)
class Task:
    """An inverse problem for images of any size.

    Attributes:
        operator: ``(size, seeds) -> A`` for square images, one per seed.
        noise: standard deviation of the noise in y; images in [-1, 1].
        is_inpainting: whether A is a mask.
        draws: where the true images are draws of the prior: how they are drawn.
    """

    operator: Callable[[int, Sequence[int]], Operator]
    noise: float
    is_inpainting: bool
    draws: PriorDraws | None = None

    def keeping(self, folder: Path) -> Task:
        """The task, which keeps in ``folder`` what it draws."""
        return self if self.draws is None else replace(self, draws=replace(self.draws, folder=folder))


def _mask(name: str, size: int, seeds: Sequence[int]) -> Operator:
    return Inpainting(torch.cat([MASKS[name](size, 1, seed=seed) for seed in seeds]))


def _super_resolution(size: int, seeds: Sequence[int]) -> Operator:
    return SuperResolution(4)


def _gaussian_blur(size: int, seeds: Sequence[int]) -> Operator:
    return GaussianBlur(size / 32)  # the paper's 3 size / 256 would hardly blur images this small


def _motion_blur(size: int, seeds: Sequence[int]) -> Operator:
    return MotionBlur(max(3, size // 8), 45.0)


TASKS: dict[str, Task] = {
    **{name: Task(partial(_mask, name), 0.0, True) for name in MASKS},
    "super-resolution": Task(_super_resolution, NOISE, False),
    "gaussian-blur": Task(_gaussian_blur, NOISE, False),
    "motion-blur": Task(_motion_blur, NOISE, False),
    "rotated-window-noisy": Task(partial(_mask, "rotated-window"), NOISE, True),
    "prior-draws": Task(partial(_mask, "rotated-window"), NOISE, True, PriorDraws()),
}
