"""Pictures by matplotlib: each function returns the figure that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    import pandas as pd

    from pyro_vipaint.results import Result

HIDDEN = np.array([0.36, 0.42, 0.55])  # the colour of hidden pixels: not a grey that an image could have


def contact_sheet(result: Result, truth: Tensor | None = None, max_samples: int = 10) -> Figure:
    """One row per image: truth where known, observation, mean, standard deviation, samples.

    ``truth``: ``(N, C, H, W)``, or one image for all, in [-1, 1]. The standard deviation is drawn from 0 (black) to 1
    (white), in the units of the image. Observations of fewer pixels are enlarged; those that are not pictures are
    omitted.
    """
    columns = {} if truth is None else {"truth": _pictures(truth.expand(result.mean.shape))}
    if result.observation.ndim == 4 and result.observation.shape[1] in (1, 3):
        columns["observation"] = _observations(result)
    columns |= {"mean": _pictures(result.mean), "std. dev.": _pictures(2 * result.std - 1)}
    columns |= {f"sample {i + 1}": _pictures(x) for i, x in enumerate(result.samples[:max_samples])}
    return _mosaic(list(columns), list(columns.values()))


def comparison_figure(table: pd.DataFrame) -> Figure:
    """One dot per run: the bound on log p(y), summed over images, by guide. The evidence is a line.

    Each objective has a colour. ``table`` is that of :func:`pyro_vipaint.compare`. Runs without a bound are omitted.
    """
    keys = ["guide", "objective", "seed"]
    runs = table.dropna(subset="bound").groupby(keys, sort=False, as_index=False).agg({"bound": "sum", "gap": "sum"})
    guides = list(dict.fromkeys(runs["guide"]))
    figure = Figure(figsize=(6.0, 0.6 + 0.4 * max(len(guides), 2)), layout="constrained")
    axes = figure.subplots()
    for objective, group in runs.groupby("objective", sort=False):
        axes.plot(
            group["bound"], [guides.index(guide) for guide in group["guide"]], "o", alpha=0.7, label=str(objective)
        )
    if table["gap"].notna().any():
        axes.axvline(float((runs["bound"] + runs["gap"]).mean()), color="black", linewidth=1, label="log p(y)")
    axes.set_yticks(range(len(guides)), guides)
    axes.invert_yaxis()
    axes.set_xlabel("bound on log p(y), nats (further right is better)")
    axes.legend(fontsize=7)
    return figure


def to_picture(x: Tensor) -> np.ndarray:
    """An image ``(C, H, W)`` in [-1, 1] as ``(H, W, 3)`` bytes; one channel becomes grey."""
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte()
    return pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()


def _pictures(images: Tensor) -> list[np.ndarray]:
    return [to_picture(x) for x in images]


def _observations(result: Result) -> list[np.ndarray]:
    """Observed pixels unchanged and hidden ones in one colour, enlarged to the size of the images without smoothing."""
    size = result.samples.shape[-2:]
    pictures = _pictures(interpolate(result.observation if result.picture is None else result.picture, size))
    if result.mask is None:
        return pictures
    colour = (HIDDEN * 255).astype(np.uint8)
    seen = interpolate(result.mask.float(), size).bool().permute(0, 2, 3, 1).cpu().numpy()
    return [np.where(s, picture, colour) for s, picture in zip(seen, pictures, strict=True)]


def _mosaic(titles: Sequence[str], columns: Sequence[list[np.ndarray]]) -> Figure:
    """All pictures in one axes, separated by white: drawing one axes per picture is slow."""
    width = columns[0][0].shape[1]
    gap = max(1, round(0.1 * width))
    framed = [[np.pad(x, ((0, gap), (0, gap), (0, 0)), constant_values=255) for x in column] for column in columns]
    sheet = np.concatenate([np.concatenate(column) for column in framed], axis=1)[:-gap, :-gap]
    inches = (len(columns), len(columns) * sheet.shape[0] / sheet.shape[1])
    head = 0.25  # inches, for the titles
    figure = Figure(figsize=(inches[0], inches[1] + head))
    axes = figure.add_axes((0, 0, 1, inches[1] / (inches[1] + head)))
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    axes.xaxis.tick_top()
    axes.set_xticks([j * (width + gap) + (width - 1) / 2 for j in range(len(columns))], titles, fontsize=7)
    axes.tick_params(length=0, pad=2)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return figure
