"""Uploads and brush strokes as images and masks of the size of a prior, and images as pictures for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, pad

from pyro_vipaint._files import check_file, read_image
from pyro_vipaint.cats.parts import draw_held_out, has_layers
from pyro_vipaint.demo import held_out_images
from pyro_vipaint.errors import InputError, number
from pyro_vipaint.plotting import HIDDEN, to_picture

MAX_BYTES = 20 * 2**20  # of an upload
MAX_PIXELS = 25_000_000  # of an upload: a camera's picture; 300 MB as three channels of floats
SIDE = 512  # pixels of the longer side of an enlarged picture, about
COLOUR = 8 / 127.5  # channels of a grey picture differ by less after JPEG
SOFTEST = 4.0  # pixels
TRACE = 0.02  # of a blurred mask, this close to 0 or 1 counts as that


def held_out_pictures(prior: str, num: int) -> tuple[Tensor, Tensor | None]:
    """``num`` pictures ``(num, C, H, W)`` that a shipped prior was not trained on, and their labels; else none."""
    if prior == "fashion32":
        images, labels = held_out_images()
        return images[:num], labels[:num]
    return draw_held_out(prior, num) if has_layers(prior) else (torch.empty(0), None)


def read_upload(path: str | Path, shape: Sequence[int], grey: bool = False) -> tuple[Tensor, str]:
    """An uploaded picture as ``(C, H, W)`` in [-1, 1], and a sentence that says what was done to it.

    Its middle is cut to the sides of the prior's images, and each new pixel is the mean of those that it covers.

    Args:
        path: the file.
        shape: (C, H, W) of the prior's images.
        grey: whether a colour picture is turned grey for a prior of one channel.

    Raises:
        InputError: it is no picture, larger than ``MAX_BYTES`` or ``MAX_PIXELS``, holds NaN, or has colours which the
            prior has not.
    """
    path, (channels, height, width) = Path(path), shape
    check_file(path, MAX_BYTES)
    _check_pixels(path)
    image = read_image(path, 3)
    if not image.isfinite().all():
        raise InputError(f"{path.name} has pixels that are NaN: paint the hole on a whole picture.")
    if channels == 1:
        if not grey and float((image.amax(0) - image.amin(0)).max()) > COLOUR:
            raise InputError(f"{path.name} has colours and the prior is grey: tick “turn it grey”, or choose a prior.")
        image = read_image(path, 1)
    cut = _middle(image, width / height)
    done = f"{path.name}: {image.shape[2]} × {image.shape[1]} pixels"
    done += ", cut to its middle" if cut.shape != image.shape else ""
    done += f", resized to {width} × {height}" if tuple(cut.shape[1:]) != (height, width) else ""
    return adaptive_avg_pool2d(cut, (height, width)), f"{done}."


def _check_pixels(path: Path) -> None:
    """Refuses a picture of too many pixels before they are decoded."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except Exception as error:  # parsers of broken files raise anything
        raise InputError(f"{path.name} cannot be read as a picture.") from error
    if width * height > MAX_PIXELS:
        most = MAX_PIXELS // 1_000_000
        raise InputError(
            f"{path.name} has {width} × {height} pixels; at most {most} million are read: make it smaller."
        )


def _middle(image: Tensor, ratio: float) -> Tensor:
    """The largest part of ``(C, H, W)`` around the middle with this ratio of width to height."""
    height, width = image.shape[1:]
    new_height, new_width = min(height, max(1, round(width / ratio))), min(width, max(1, round(height * ratio)))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return image[:, top : top + new_height, left : left + new_width]


def enlarged(image: Tensor, mask: Tensor | None = None) -> np.ndarray:
    """An image ``(C, H, W)`` in [-1, 1] as bytes, each pixel a square; hidden pixels in the colour of plots."""
    pixels = to_picture(image)
    if mask is not None:
        seen = mask.reshape(1, *mask.shape[-2:]).permute(1, 2, 0).numpy()
        pixels = (seen * pixels + (1 - seen) * HIDDEN * 255).round().astype(np.uint8)
    return squares(pixels)


def squares(pixels: np.ndarray) -> np.ndarray:
    """A picture ``(H, W, 3)`` with each pixel as a square, about ``SIDE`` pixels wide."""
    side = zoom(pixels.shape)
    return pixels.repeat(side, 0).repeat(side, 1)


def zoom(size: Sequence[int]) -> int:
    """The side of the square that stands for one pixel of a picture ``(H, W, …)``."""
    return max(1, SIDE // max(size[:2]))


def painted(editor: Mapping[str, Any] | None, size: Sequence[int]) -> Tensor:
    """The share of each pixel that brush strokes cover, ``(1, H, W)`` in [0, 1], of the value of an image editor.

    Args:
        editor: with ``layers``, a list of RGBA pictures of bytes of any size.
        size: (H, W).
    """
    layers = [np.asarray(layer) for layer in (editor or {}).get("layers") or []]
    shares = [
        adaptive_avg_pool2d(torch.from_numpy(layer[..., 3] / 255.0).float()[None], (size[0], size[1]))
        for layer in layers
    ]
    return torch.stack(shares).amax(0) if shares else torch.zeros(1, *size)


def middle_hidden(image: Tensor) -> Tensor:
    """The middle half of either side of an image ``(C, H, W)``: 1 there, ``(1, H, W)``."""
    hidden = torch.zeros(1, *image.shape[1:])
    height, width = image.shape[1:]
    hidden[:, height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    return hidden


def mask_of(share: Tensor, softness: float = 0.0) -> Tensor:
    """The mask ``(1, H, W)`` of strokes that cover ``share``: 0 (hidden) where they cover half of a pixel, 1 elsewhere.

    Args:
        share: ``(1, H, W)`` in [0, 1].
        softness: standard deviation, in pixels, of the Gaussian that blurs the edge of the hole; 0 keeps it sharp.

    Raises:
        InputError: nothing is painted, or everything is.
    """
    hard = (share < 0.5).float()
    if hard.min() == 1 or hard.max() == 0:
        fault = "no pixel is hidden: paint a hole" if hard.min() == 1 else "every pixel is hidden: paint less"
        raise InputError(f"There is nothing to complete, {fault}.")
    return hard if number("softness", softness, most=SOFTEST) == 0 else _blurred(hard, softness)


def _blurred(mask: Tensor, std: float) -> Tensor:
    """A mask blurred by a Gaussian; what lies outside the picture repeats its edge."""
    radius = int(3 * std + 0.5)
    x = torch.arange(-radius, radius + 1.0)
    kernel = torch.exp(-(x**2) / (2 * std**2))
    kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1)
    padded = pad(mask[None], (radius,) * 4, mode="replicate")
    soft = conv2d(conv2d(padded, kernel), kernel.transpose(2, 3))[0]
    return torch.where(soft < TRACE, 0.0, torch.where(soft > 1 - TRACE, 1.0, soft))
