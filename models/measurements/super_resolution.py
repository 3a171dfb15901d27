"""Super-resolution: the observation is a smaller version of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pyro_vipaint._torch import cached
from pyro_vipaint.errors import InputError, choice, whole
from pyro_vipaint.models.measurements.operators import Separable, placed

MODES = ("box", "bicubic")


@dataclass(frozen=True, eq=False)
class SuperResolution(Separable):
    """A(x) = the image ``(…, C, H, W)`` at ``(…, C, H / factor, W / factor)``.

    Args:
        factor: a whole number, 2 or more, that divides both sides of the image.
        mode: ``box``, the mean over blocks of ``factor`` × ``factor`` pixels; or ``bicubic``, with the kernel widened
            by ``factor`` against aliasing (a = -0.5, as in PIL and ``interpolate(antialias=True)`` of torch). At the
            border the kernel is cut off and its weights are divided by their sum.

    Raises:
        InputError: another factor or mode; and, from the methods, an image whose sides ``factor`` does not divide.
    """

    keeps_range: ClassVar[bool] = True
    factor: int
    mode: Literal["box", "bicubic"] = "box"

    def __post_init__(self) -> None:
        whole("The factor of super-resolution", self.factor, least=2)
        choice("mode of super-resolution", self.mode, MODES)

    def A_dagger(self, y: Tensor) -> Tensor:
        """The image of least norm with A(x) = y; for ``box``, each pixel repeated ``factor`` × ``factor`` times."""
        rows, columns = (placed(_inverse(self.image_side(size), self.factor, self.mode), y) for size in y.shape[-2:])
        return rows @ y @ columns.mT

    def side(self, size: int) -> Tensor:
        """The weights ``(size / factor, size)``."""
        return _weights(size, self.factor, self.mode)

    def image_side(self, observed: int) -> int:
        """``factor`` times the observed pixels."""
        return observed * self.factor


@cached
def _weights(size: int, factor: int, mode: str) -> Tensor:
    if size % factor:
        raise InputError(f"The factor {factor} of super-resolution does not divide a side of {size} pixels.")
    identity = torch.eye(size, dtype=torch.float64)
    if mode == "box":
        return identity.reshape(size // factor, factor, size).mean(1)
    small = (size // factor, size)
    return interpolate(identity[None, None], size=small, mode=mode, antialias=True, align_corners=False)[0, 0]


@cached
def _inverse(size: int, factor: int, mode: str) -> Tensor:
    return torch.linalg.pinv(_weights(size, factor, mode))
