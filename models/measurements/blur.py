"""Blurs with a fixed kernel; beyond its border an image continues as its mirror image (``abcd`` as ``dcb abcd cba``).

Reflection keeps the size of an image and leaves constant images unchanged. The blurs have no ``A_dagger``, since
dividing by their small singular values would amplify noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

from pyro_vipaint._torch import cached, on_device
from pyro_vipaint.errors import InputError, number, whole
from pyro_vipaint.models.measurements.operators import Broadcasting, Separable, placed

REACH = 10  # standard deviations on each side: the paper's kernel of 61 pixels has std 3
WIDEST = 1000  # pixels, about the width of the largest images of latent diffusion


@dataclass(frozen=True, eq=False)
class GaussianBlur(Separable):
    """A(x) = x convolved with a Gaussian, of the shape of x.

    Args:
        std: standard deviation in pixels. The paper has 3 pixels for images of 256; ``3 * W / 256`` is the same blur
            for images of another width W.
        kernel_size: odd; by default 2 round(10 std) + 1, which is the paper's 61 for its std of 3. The weights are the
            density at whole pixels, divided by their sum.

    Raises:
        InputError: ``std`` is not positive or more than ``WIDEST``, or ``kernel_size`` is not a positive odd number.
    """

    keeps_range: ClassVar[bool] = True
    std: float
    kernel_size: int | None = None

    def __post_init__(self) -> None:
        number("The std of a Gaussian blur", self.std, positive=True, most=WIDEST)
        size = 1 if self.kernel_size is None else self.kernel_size
        if whole("The kernel size of a blur", size, most=2 * REACH * WIDEST) % 2 == 0:
            raise InputError(f"The kernel size of a blur must be odd, not {self.kernel_size}.")

    def side(self, size: int) -> Tensor:
        """The weights ``(size, size)``, mirrored at the border."""
        radius = round(REACH * self.std) if self.kernel_size is None else self.kernel_size // 2
        return _gaussian_side(size, self.std, radius)


@cached
def _gaussian_side(size: int, std: float, radius: int) -> Tensor:
    weights = (-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / std) ** 2).exp()
    source = _mirrored(size, radius).unfold(0, 2 * radius + 1, 1)  # the pixel that each weight of a row multiplies
    rows = torch.zeros(size, size, dtype=torch.float64)
    return rows.scatter_add(1, source, (weights / weights.sum()).expand(size, -1))


@dataclass(frozen=True, eq=False)
class MotionBlur(Broadcasting):
    """A(x) = the mean of ``length`` copies of x, each shifted by one more pixel along a line; of the shape of x.

    Args:
        length: number of copies, a whole number of at least 1; shifts are centred, bilinear between pixels.
        angle: direction in degrees, counter-clockwise from the horizontal: 0 blurs along rows, 90 along columns.

    Raises:
        InputError: ``length`` is not a whole number from 1 to ``WIDEST``, or ``angle`` is not finite.
    """

    keeps_range: ClassVar[bool] = True
    length: int
    angle: float = 0.0

    def __post_init__(self) -> None:
        whole("The length of a motion blur", self.length, most=WIDEST)
        number("The angle of a motion blur", self.angle, signed=True)

    @property
    def kernel(self) -> Tensor:
        """The weights, square with an odd side, float64, of sum 1."""
        return _line(self.length, self.angle)

    def A(self, x: Tensor) -> Tensor:
        radius, (height, width) = len(self.kernel) // 2, x.shape[-2:]
        rows, columns = (on_device(_mirrored(size, radius), x.device) for size in (height, width))
        padded = x[..., rows, :][..., columns]
        images = padded.reshape(-1, 1, *padded.shape[-2:])
        return conv2d(images, placed(self.kernel, x)[None, None]).reshape(x.shape)

    def A_adjoint(self, y: Tensor) -> Tensor:
        radius, (height, width) = len(self.kernel) // 2, y.shape[-2:]
        images = conv_transpose2d(y.reshape(-1, 1, height, width), placed(self.kernel, y)[None, None])
        rows = images.new_zeros(len(images), 1, height, images.shape[-1])
        rows = rows.index_add(-2, on_device(_mirrored(height, radius), y.device), images)
        folded = images.new_zeros(len(images), 1, height, width)
        return folded.index_add(-1, on_device(_mirrored(width, radius), y.device), rows).reshape(y.shape)


@cached
def _line(length: int, angle: float) -> Tensor:
    """The kernel of ``length`` points one pixel apart, each divided among the four pixels around it."""
    steps = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
    row, column = -steps * math.sin(math.radians(angle)), steps * math.cos(math.radians(angle))
    radius = math.ceil((length - 1) / 2)
    pixels = torch.arange(-radius, radius + 1, dtype=torch.float64)
    shares = [(1 - (place[:, None] - pixels).abs()).clamp(min=0) for place in (row, column)]
    return shares[0].T @ shares[1] / length


@cached
def _mirrored(size: int, radius: int) -> Tensor:
    """The index of the pixel that is seen at each position from ``-radius`` to ``size + radius - 1``."""
    period = max(2 * (size - 1), 1)
    place = torch.arange(-radius, size + radius) % period
    return torch.minimum(place, period - place)
