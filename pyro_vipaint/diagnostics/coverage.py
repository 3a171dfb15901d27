r"""Coverage: the share of true values inside their credible intervals.

The central interval of level c lies between the order statistics at positions (S + 1)(1 - c)/2 and (S + 1)(1 + c)/2 of
S draws, interpolated (Weibull's quantiles). For draws from the exact posterior and integer positions it covers the
truth with probability c exactly, for any S; the usual quantiles would cover about 2c/S less.

Coverage shows whether marginal uncertainty has the right size on average over images and elements, not for one image or
jointly. The prior has the right coverage too: compare the widths as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyro_vipaint._torch import double
from pyro_vipaint.errors import InputError, broadcast, instance, number, numbers, whole

if TYPE_CHECKING:
    import pandas as pd


def coverage(
    samples: Tensor, truth: Tensor, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95), where: Tensor | None = None
) -> pd.DataFrame:
    """Empirical coverage of central credible intervals, one row per level.

    Args:
        samples: S draws of each image, ``(S, N, *event)``, in any order.
        truth: ``(N, *event)``.
        levels: in (0, 1), one row each, in the given order.
        where: nonzero or True for the elements to be counted, broadcast against ``truth``: ``mask == 0`` for the hidden
            pixels.

    Returns:
        Columns ``level``, ``coverage``, ``binomial_error`` (its standard error if all elements were independent),
        ``standard_error`` (from the spread between images, which are independent; NaN for one image), ``width`` (mean
        width of the intervals) and ``elements`` (the number of counted elements).

    Raises:
        InputError: too few samples for a level, which needs (S + 1)(1 - level) >= 2, or no counted element; shapes that
            do not fit; infinite or NaN values.
    """
    import pandas as pd

    instance("levels", levels, isinstance(levels, Iterable), "a sequence of numbers in (0, 1)")
    whole("the number of levels", len(levels := list(levels)))
    numbers("samples", samples, ("S", "N", ...), least=1)
    numbers("truth", truth, tuple(samples.shape[1:]))
    counted = torch.ones_like(truth, dtype=torch.bool) if where is None else broadcast(truth.shape, where=where)[0] != 0
    sizes, images = double(counted.flatten(1).sum(1)), len(truth)
    total = float(sizes.sum())
    whole("the number of elements with nonzero where", int(total), most=math.inf)
    ordered, rows = samples.sort(0).values, []
    for level in levels:
        lower, upper = credible_interval(ordered, level)
        covered = double(((lower <= truth) & (truth <= upper) & counted).flatten(1).sum(1))
        share = float(covered.sum() / total)
        binomial = math.sqrt(share * (1 - share) / total)
        # The error of a ratio of sums over independent images; the elements of one image are dependent.
        spread = (covered - share * sizes).square().sum() * images / max(images - 1, 1)
        error = float(spread.sqrt() / total) if images > 1 else math.nan
        rows.append((level, share, binomial, error, float((upper - lower)[counted].mean()), int(total)))
    return pd.DataFrame(rows, columns=["level", "coverage", "binomial_error", "standard_error", "width", "elements"])


def credible_interval(ordered: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Lower and upper end of the central interval, ``(...)`` each, from S draws ``(S, ...)`` in ascending order.

    The first dimension must be sorted, ``draws.sort(0).values``, and is not sorted here: draws along another dimension
    would give an interval as well, of the wrong values.

    Raises:
        InputError: too few draws for the level, which needs (S + 1)(1 - level) >= 2, or draws that are infinite, NaN or
            not in ascending order.
    """
    count, tail = len(numbers("ordered", ordered, ("S", ...), least=1)), (1 - number("level", level)) / 2
    if (ordered.diff(dim=0) < 0).any():
        raise InputError("ordered must ascend along its first dimension, that of the draws: give draws.sort(0).values.")
    if not (0 < level < 1 and (count + 1) * tail >= 1 - 1e-9):
        raise InputError(f"{count} samples do not resolve a level of {level}: it needs (S + 1)(1 - level) >= 2.")
    ends = np.quantile(ordered.cpu().numpy(), (tail, 1 - tail), axis=0, method="weibull")
    lower, upper = torch.as_tensor(ends, dtype=ordered.dtype, device=ordered.device)
    return lower, upper
