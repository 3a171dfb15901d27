r"""How often credible intervals contain the truth.

The central interval of level c lies between the order statistics at positions (S + 1)(1 - c)/2 and (S + 1)(1 + c)/2 of
S draws, interpolated. For draws from the exact posterior and integer positions it covers the truth with probability c
exactly, whatever S is; the usual quantiles would cover about 2c/S less.

What it shows: whether marginal uncertainty is of the right size on average over images and elements. What it does not
show: the coverage given one image, joint uncertainty, or how sharp the posterior could be; the prior has the right
coverage too, so read the width beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vipaint.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def coverage(
    samples: Tensor, truth: Tensor, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95), where: Tensor | None = None
) -> pd.DataFrame:
    """Empirical coverage of central credible intervals, one row per level.

    Args:
        samples: S draws of each image, ``(S, N, *event)``.
        truth: ``(N, *event)``.
        levels: in (0, 1).
        where: elements that count, nonzero or True, broadcast against ``truth``: ``mask == 0`` for the hidden pixels.

    Returns:
        Columns ``level``, ``coverage``, ``binomial_error`` (its standard error if all elements were independent),
        ``standard_error`` (from the spread between images, which are; NaN for one image), ``width`` (mean width of the
        intervals) and ``elements`` (how many counted).

    Raises:
        InputError: too few samples for a level, which needs (S + 1)(1 - level) >= 2, or no element counts.
    """
    import pandas as pd

    counted = torch.ones_like(truth, dtype=torch.bool) if where is None else (where != 0).expand(truth.shape)
    if not counted.any():
        raise InputError("no element counts: where is zero everywhere.")
    ordered = samples.sort(0).values
    rows = [(level, *_coverage_at(ordered, truth, counted, level)) for level in levels]
    return pd.DataFrame(rows, columns=["level", "coverage", "binomial_error", "standard_error", "width", "elements"])


def credible_interval(ordered: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Lower and upper end of the central interval from samples ``(S, ...)`` sorted along their first dimension.

    Raises:
        InputError: too few samples for the level.
    """
    count, tail = len(ordered), (1 - level) / 2
    if not (0 < level < 1 and (count + 1) * tail >= 1 - 1e-9):
        raise InputError(f"{count} samples do not resolve a level of {level}: it needs (S + 1)(1 - level) >= 2.")
    return _order_statistic(ordered, (count + 1) * tail), _order_statistic(ordered, (count + 1) * (1 - tail))


def _order_statistic(ordered: Tensor, position: float) -> Tensor:
    """The value at a one-based, possibly fractional position."""
    position = round(position - 1, 9)
    low = min(int(position), len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(ordered) - 1)], position - low)


def _coverage_at(
    ordered: Tensor, truth: Tensor, counted: Tensor, level: float
) -> tuple[float, float, float, float, int]:
    lower, upper = credible_interval(ordered, level)
    covered = ((lower <= truth) & (truth <= upper) & counted).flatten(1).sum(1).double()
    sizes = counted.flatten(1).sum(1).double()
    total, share = float(sizes.sum()), float(covered.sum() / sizes.sum())
    # of a ratio of sums over independent images; elements of one image are not independent
    spread = (covered - share * sizes).square().sum() * len(truth) / max(len(truth) - 1, 1)
    error = float(spread.sqrt() / total) if len(truth) > 1 else math.nan
    width = float((upper - lower)[counted].mean())
    return share, math.sqrt(share * (1 - share) / total), error, width, int(total)
