r"""The masks of the paper, 1 = observed: rotated window, random (large), small, box; and soft masks.

Each function returns float masks ``(num, 1, size, size)`` that are reproducible from ``seed``. Sizes scale with the
image. Free-form holes are those of Zhao et al. 2021 (CoModGAN), thick random strokes and rectangles, redrawn until the
hidden share lies in its range.

A soft mask has values m(x) between 0 and 1, which weigh the log likelihood of a pixel. For Gaussian noise this is a map
of the noise,

.. math:: m \log N(y; x, \sigma^2) = \log N(y; x, \sigma^2 / m) + const, \qquad \sigma(x) = \sigma / \sqrt{m(x)},

so that m = 1 is an observed pixel, m = 0 a hidden one, and m = 1/4 one that was observed with twice the noise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pyro_vipaint._torch import SEEDS, has_values
from pyro_vipaint.errors import instance, number, numbers, whole
from pyro_vipaint.models.measurements.likelihoods import Gaussian
from pyro_vipaint.models.measurements.operators import Inpainting

LARGE_HOLE = (0.3, 0.7)  # the hidden share of the paper's "random" masks
SMALL_HOLE = (0.05, 0.3)
FAINT = (
    1e-4  # below it a pixel is hidden: its noise, a hundred times sigma, exceeds the range of images for .02 or more
)


def rotated_window(size: int, num: int = 1, seed: int = 0) -> Tensor:
    """Half planes at uniform angles, whose border passes within 10 % of the size of the centre."""
    generator = _generator(size, num, seed)
    centre = (np.arange(size) - (size - 1) / 2) / size
    x, y = np.meshgrid(centre, centre)
    angle = generator.uniform(0, 2 * np.pi, (num, 1, 1))
    offset = generator.uniform(-0.1, 0.1, (num, 1, 1))
    return _as_masks(np.cos(angle) * x + np.sin(angle) * y > offset)


def random_large(size: int, num: int = 1, seed: int = 0) -> Tensor:
    """Free-form holes over 30-70 % of the image."""
    return _free_form(size, num, seed, LARGE_HOLE, rectangles=3, strokes=4)


def random_small(size: int, num: int = 1, seed: int = 0) -> Tensor:
    """Free-form holes over 5-30 % of the image."""
    return _free_form(size, num, seed, SMALL_HOLE, rectangles=1, strokes=2)


def box(size: int, num: int = 1, seed: int = 0) -> Tensor:
    """The central square of half the size, a quarter of the area, is observed; ``seed`` has no effect."""
    _generator(size, num, seed)
    quarter = size // 4
    mask = np.zeros((num, size, size), dtype=bool)
    mask[:, quarter : size - quarter, quarter : size - quarter] = True
    return _as_masks(mask)


MASKS: dict[str, Callable[..., Tensor]] = {
    "rotated-window": rotated_window,
    "random-large": random_large,
    "random-small": random_small,
    "box": box,
}


def soft_inpainting(mask: Tensor, sigma: float = 0.05) -> Gaussian:
    """The likelihood of a soft mask: y = x + v where ``mask`` > 0, v ~ N(0, sigma^2 / mask).

    Args:
        mask: floats m in [0, 1], 1 = observed, 0 = hidden; ``(1, H, W)``, or ``(N, 1, H, W)`` with one per image.
            Pixels with m < 1e-4 are hidden.
        sigma: standard deviation of the noise where m = 1, in the units of images; .05 is the paper's value.

    Returns:
        ``Gaussian(Inpainting(m >= 1e-4), sigma / sqrt(m))``, for :func:`pyro_vipaint.restore`. A mask of 0 and 1 alone
        has the number ``sigma`` in the place of the map.

    Raises:
        InputError: ``mask`` holds something else, or ``sigma`` is not positive and finite.
    """
    instance("mask", mask, isinstance(mask, Tensor), "a tensor of numbers from 0 (hidden) to 1 (observed)")
    mask = numbers("mask", mask.float(), low=0.0, high=1.0)
    observed, sigma = observed_pixels(mask), number("sigma", sigma, positive=True)
    weights = torch.where(observed > 0, mask, 1.0)
    return Gaussian(Inpainting(observed), sigma / weights.sqrt() if is_soft(mask) else sigma)


def observed_pixels(mask: Tensor) -> Tensor:
    """1 where a mask, soft or not, lets anything be seen (m >= :data:`FAINT`), 0 elsewhere; floats of its shape."""
    return (mask >= FAINT).float()


def composite(samples: Tensor, picture: Tensor, mask: Tensor) -> Tensor:
    """The samples with the observed pixels in their places: m y + (1 - m) x, exact where m = 1, blended in between.

    They are draws of the posterior no more: observed pixels lose the uncertainty that noise leaves them, and the border
    of the hole may show (:func:`pyro_vipaint.metrics.seam`).

    Args:
        samples: x, ``(..., N, C, H, W)``.
        picture: y, ``(N, C, H, W)``; values where the mask is 0 have no influence, and may be NaN.
        mask: m in [0, 1], 1 = observed, ``(N, 1, H, W)`` or one that broadcasts.

    Raises:
        InputError: the mask holds something else.
    """
    weight = numbers("mask", mask.to(samples), low=0.0, high=1.0)
    return weight * torch.where(weight > 0, picture.to(samples), 0.0) + (1 - weight) * samples


def is_soft(mask: Tensor) -> bool:
    """Whether a mask of floats has values between 0 and 1 and none outside."""
    if not (mask.is_floating_point() and has_values(mask)):
        return False
    return bool(((mask >= 0) & (mask <= 1)).all() and ((mask > 0) & (mask < 1)).any())


def _generator(size: int, num: int, seed: int) -> np.random.Generator:
    """The random numbers of a call, whose arguments it checks."""
    whole("size", size)
    whole("num", num)
    return np.random.default_rng(whole("seed", seed, 0, SEEDS[1]))


def _as_masks(observed: np.ndarray) -> Tensor:
    return torch.from_numpy(observed.astype(np.float32)).unsqueeze(1)


def _free_form(size: int, num: int, seed: int, share: tuple[float, float], rectangles: int, strokes: int) -> Tensor:
    generator = _generator(size, num, seed)
    masks: list[np.ndarray] = []
    while len(masks) < num:
        hidden = _draw_hole(generator, size, rectangles, strokes)
        if share[0] <= hidden.mean() <= share[1]:
            masks.append(~hidden)
    return _as_masks(np.stack(masks))


def _draw_hole(generator: np.random.Generator, size: int, rectangles: int, strokes: int) -> np.ndarray:
    canvas = Image.new("1", (size, size), 0)
    draw = ImageDraw.Draw(canvas)
    for _ in range(generator.integers(0, rectangles + 1)):
        width, height = generator.integers(size // 8, size // 2 + 1, 2)
        left, top = generator.integers(0, size - width + 1), generator.integers(0, size - height + 1)
        draw.rectangle([int(left), int(top), int(left + width), int(top + height)], fill=1)
    for _ in range(generator.integers(1, strokes + 1)):
        _draw_stroke(draw, generator, size)
    return np.asarray(canvas, dtype=bool)


def _draw_stroke(draw: ImageDraw.ImageDraw, generator: np.random.Generator, size: int) -> None:
    """Draws a thick line of segments that turn by random angles."""
    width = int(generator.integers(max(1, size // 21), max(2, size // 8) + 1))
    position, heading = generator.uniform(0, size, 2), generator.uniform(0, 2 * np.pi)
    points = [tuple(position)]
    for _ in range(generator.integers(4, 12)):
        heading += generator.uniform(-2 * np.pi / 5, 2 * np.pi / 5)
        length = abs(generator.normal(size / 8, size / 16))
        position = np.clip(position + length * np.array([np.cos(heading), np.sin(heading)]), 0, size)
        points.append(tuple(position))
    draw.line(points, fill=1, width=width, joint="curve")
    for x, y in points:
        draw.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=1)
