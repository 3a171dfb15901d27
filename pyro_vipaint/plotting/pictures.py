"""Images as bytes, without matplotlib: pictures, sheets of them, standard deviations by a scale of colours."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from pyro_vipaint.results import Result

HIDDEN = np.array([0.36, 0.42, 0.55])  # the colour of hidden pixels: not a grey that an image could have
WHITE = 255
STD_MAP = "magma"  # of matplotlib, perceptually uniform: equal steps of a value look equal
SMALL = 96  # pixels of the longer side of a picture in a table of facts


def to_picture(x: Tensor) -> np.ndarray:
    """An image ``(C, H, W)`` in [-1, 1] as ``(H, W, 3)`` bytes; one channel becomes grey."""
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte()
    return pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()


def pictures(images: Tensor) -> list[np.ndarray]:
    """Each of ``(N, C, H, W)`` by :func:`to_picture`."""
    return [to_picture(x) for x in images]


def are_pictures(images: Tensor) -> bool:
    """Whether ``(…, C, H, W)`` are grey or colour images."""
    return images.ndim >= 4 and images.shape[-3] in (1, 3)


def observations(result: Result) -> list[np.ndarray]:
    """Observed pixels unchanged and hidden ones in one colour, enlarged to the size of the images without smoothing."""
    size = result.samples.shape[-2:]
    shown = pictures(interpolate(result.observation if result.picture is None else result.picture, size))
    if result.mask is None:
        return shown
    colour = (HIDDEN * 255).astype(np.uint8)
    seen = interpolate(result.mask.float(), size).bool().permute(0, 2, 3, 1).cpu().numpy()
    return [np.where(s, picture, colour) for s, picture in zip(seen, shown, strict=True)]


def deviations(result: Result) -> tuple[list[np.ndarray], float]:
    """The standard deviations, their mean over channels by the colours of ``STD_MAP``, and the largest of them.

    One scale for all images of a result, from 0 to the largest; 1 where no sample differs from another.
    """
    from matplotlib import colormaps

    std = result.std.mean(1)
    largest = float(std.max()) or 1.0
    return [(colormaps[STD_MAP]((s / largest).numpy())[..., :3] * 255).round().astype(np.uint8) for s in std], largest


def sheet(columns: Sequence[Sequence[np.ndarray]]) -> tuple[np.ndarray, int]:
    """All pictures side by side, one list per column, separated by white; and the pixels of one separation."""
    gap = max(1, round(0.1 * columns[0][0].shape[1]))
    framed = [[np.pad(x, ((0, gap), (0, gap), (0, 0)), constant_values=WHITE) for x in column] for column in columns]
    return np.concatenate([np.concatenate(column) for column in framed], axis=1)[:-gap, :-gap], gap


def enlarged(picture: np.ndarray, least: int) -> np.ndarray:
    """The picture with whole pixels repeated until its shorter side has at least ``least``."""
    factor = max(1, -(-least // min(picture.shape[:2])))
    return picture.repeat(factor, 0).repeat(factor, 1)


def data_uri(picture: np.ndarray) -> str:
    """``(H, W, 3)`` bytes as a PNG within a link, which no request is made for."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@torch.no_grad()
def pictures_html(result: Result, most_images: int = 2, most_samples: int = 6) -> str:
    """A row of small pictures for each of the first images: mean, standard deviation, samples. HTML without links."""
    if not are_pictures(result.samples):
        return ""
    spread, largest = deviations(result)
    columns = {"mean": pictures(result.mean), f"std. dev., 0 to {largest:.2g}": spread}
    columns |= {f"sample {i + 1}": pictures(x) for i, x in enumerate(result.samples[:most_samples])}
    head = "".join(f'<th style="font-weight:normal;text-align:center">{title}</th>' for title in columns)
    rows = (
        "<tr>" + "".join(f"<td>{_image(column[n], title)}</td>" for title, column in columns.items()) + "</tr>"
        for n in range(min(len(result.mean), most_images))
    )
    return f'<table style="font-size:80%"><tr>{head}</tr>{"".join(rows)}</table>'


def _image(picture: np.ndarray, title: str) -> str:
    """An ``img`` of at most SMALL pixels a side; larger pictures are thinned, smaller ones drawn without smoothing."""
    step = max(1, max(picture.shape[:2]) // SMALL)
    link = data_uri(np.ascontiguousarray(picture[::step, ::step]))
    return f'<img src="{link}" alt="{title}" width="{SMALL * 2 // 3}" style="image-rendering:pixelated">'
