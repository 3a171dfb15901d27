"""From rows to the figures of the report: means over images, paired differences, distances between sets."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.store import Store
from pyro_vipaint.metrics import restored_kernel_distance

GROUP = ["prior", "task", "budget", "method", "num_samples", "images"]
SCORES = ["lpips", "lpips_best", "psnr", "ssim", "observation_error", "diversity"]
COSTS = ["kernel_distance", "nfe", "seconds", "peak_memory"]


def add_kernel_distance(frame: pd.DataFrame, store: Store) -> pd.DataFrame:
    """``frame`` with a column ``kernel_distance``: of all samples of a method on a task to the true images.

    It is one number for all rows that differ in the image alone; NaN where there is a single image.
    """
    groups: dict[tuple, list[Cell]] = {}
    for plain in store.records():
        if plain["error"] is None:
            groups.setdefault(_group(plain["cell"]), []).append(Cell(**plain["cell"]))
    distances = {key: _distance(cells, store) for key, cells in groups.items()}
    values = [distances.get(_group(row), float("nan")) for row in frame.to_dict("records")]
    return frame.assign(kernel_distance=values)


def _group(row: dict[str, Any]) -> tuple:
    keys = [None if pd.isna(row[name]) else row[name] for name in (*GROUP, "seed")]
    return tuple(int(key) if isinstance(key, float) else key for key in keys)


def _distance(cells: list[Cell], store: Store) -> float:
    """Of an image that is in several cells, the samples of the last of them count."""
    images: dict[int, tuple[Tensor, Tensor]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.start, cell.stop)):
        tensors = store.tensors(cell)
        samples = tensors["features"].unflatten(0, (-1, cell.num_samples))
        pairs = zip(samples, tensors["true_features"], strict=True)
        images |= dict(zip(range(cell.start, cell.stop), pairs, strict=True))
    if len(images) < 2:
        return float("nan")
    samples, truth = (torch.stack(values) for values in zip(*images.values(), strict=True))
    return restored_kernel_distance(samples, truth)


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images and seeds, a row for each of :data:`GROUP`; ``count`` images; the standard error of LPIPS."""
    done = frame[frame["error"].isna()]
    by_image = done.groupby([*GROUP, "image"], sort=False, dropna=False)[[*SCORES, *COSTS]].mean()
    groups = by_image.groupby(GROUP, sort=False, dropna=False)
    table = groups.mean()
    table.insert(1, "lpips_se", groups["lpips"].std() / groups["lpips"].size() ** 0.5)
    table.insert(0, "count", groups.size())
    return table.reset_index()


def paired(frame: pd.DataFrame, column: str, method: str, other: str) -> tuple[float, float]:
    """Mean of ``method`` minus ``other`` and its standard error, over images, which tasks and seeds share."""
    wide = frame.pivot_table(index=["image", "task", "seed"], columns="method", values=column)
    if not {method, other} <= set(wide.columns):
        return float("nan"), float("nan")
    difference = (wide[method] - wide[other]).dropna().groupby("image").mean()
    return float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))
