"""From rows to the numbers of the report: means over images, paired differences, distances between sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.store import Store
from pyro_vipaint.diagnostics.scores import ratio_of_sums
from pyro_vipaint.metrics import restored_kernel_distance

GROUP = ["prior", "task", "budget", "method", "num_samples", "images"]
SCORES = ["lpips", "energy", "lpips_energy", "coverage_pixels", "coverage_projections"]  # those with an error
MEASURES = ["lpips", "lpips_best", "psnr", "ssim", "observation_error", "diversity", *SCORES[1:]]
SUMS = ["squared_error", "variance"]
COSTS = ["kernel_distance", "nfe", "gradients", "forward_equivalents", "seconds"]


def add_kernel_distance(frame: pd.DataFrame, store: Store) -> pd.DataFrame:
    """``frame`` with a column ``kernel_distance``, from all samples of a method on a task to the true images.

    Rows that differ in the image alone have the same number; a single image has NaN.
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
    """The kernel distance of the cells together; an image in several cells counts with the samples of the last one."""
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


def rank_shares(cells: Sequence[Cell], store: Store) -> Tensor:
    """The share of each rank of the truth along the projections of an image, ``(images, S + 1)``.

    An image in several cells of a seed counts with the last one.
    """
    images: dict[tuple[int, int], Tensor] = {}
    for cell in sorted(cells, key=lambda cell: (cell.start, cell.stop)):
        counts = store.tensors(cell)["ranks"].double()
        numbers = [(cell.seed, number) for number in range(cell.start, cell.stop)]
        images |= dict(zip(numbers, counts / counts.sum(1, keepdim=True), strict=True))
    return torch.stack(list(images.values()))


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images and seeds, one row per :data:`GROUP`, with the ``count`` of images.

    The standard error of a column of :data:`SCORES`, over images, is beside it as ``…_se``. ``error_over_spread`` is
    the ratio of sums over images, with its error by the jackknife. Columns that ``frame`` lacks are NaN.
    """
    columns = [*MEASURES, *SUMS, *COSTS]
    done: Any = frame[frame["error"].isna()]
    done = done.reindex(columns=[*done.columns, *(name for name in columns if name not in done)])
    by_image = done.groupby([*GROUP, "image"], sort=False, dropna=False)[columns].mean()
    groups = by_image.groupby(GROUP, sort=False, dropna=False)
    errors = groups[SCORES].sem().add_suffix("_se")
    ratios = groups[SUMS].apply(_error_over_spread)
    table = pd.concat([groups.size().rename("count"), groups.mean(), errors, ratios], axis=1)
    return table.reset_index()


def _error_over_spread(images: pd.DataFrame) -> pd.Series:
    numerators, denominators = (torch.tensor(images[name].to_numpy(float)) for name in SUMS)
    ratio = ratio_of_sums(numerators, denominators)
    return pd.Series({"error_over_spread": ratio.estimate, "error_over_spread_se": ratio.standard_error})


def paired(
    frame: pd.DataFrame,
    column: str,
    method: str,
    other: str,
    unit: str = "image",
    shared: tuple[str, ...] = ("task", "seed"),
) -> tuple[float, float]:
    """Mean of ``method`` minus ``other`` in ``column``, and its standard error over units.

    Args:
        frame: rows with the columns ``method``, ``unit`` and ``shared``. Several rows of one method, unit and shared
            values count with their mean; units that lack one of the two methods do not count.
        column: of scores.
        method, other: the two methods. The result is NaN where one is missing.
        unit: the column whose values are independent of each other.
        shared: columns in which a unit has several differences, of which the mean counts.
    """
    wide = frame.pivot_table(index=[unit, *shared], columns="method", values=column)
    if not {method, other} <= set(wide.columns):
        return float("nan"), float("nan")
    difference = (wide[method] - wide[other]).dropna().groupby(unit).mean()
    return float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))
