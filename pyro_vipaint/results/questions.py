r"""Questions to draws of a posterior, with the error of their number.

For S independent draws :math:`x_s` of an image,

.. math:: E[f(x) \mid y] \approx \bar f \pm \mathrm{sd}(f) / \sqrt S, \qquad
          P(f(x) \mid y) \approx k / S \pm \sqrt{\frac{a b}{(a + b)^2 (a + b + 1)}}, \quad
          a = k + \tfrac12, \; b = S - k + \tfrac12,

with k the draws for which f holds. The second error is the standard deviation of the Beta posterior under Jeffreys'
prior (Brown, Cai & DasGupta 2001), which is not zero where k is 0 or S. Quantiles are Weibull's, at position
(S + 1) q of the ordered draws (:mod:`pyro_vipaint.diagnostics.coverage`); outside the draws there is none.

These are errors of the number of draws, not of the guide: a guide that is too sure gives small ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint.checks import as_tensor
from pyro_vipaint.diagnostics.coverage import credible_interval
from pyro_vipaint.errors import InputError, instance, number, numbers

Function = Callable[[Tensor], Any]
ROUNDING = 1e-9  # of a level such as .9


@dataclass(frozen=True, eq=False)
class Estimate:
    """A Monte-Carlo estimate.

    Attributes:
        value: one number per image, ``(N,)``.
        error: its standard error, of the number of draws alone; NaN for the mean of a single draw.
    """

    value: Tensor
    error: Tensor

    __repr__, _repr_html_ = compact, as_html


def expectation(samples: Tensor, f: Function) -> Estimate:
    """The mean of ``f`` over the draws, and its standard error."""
    values = values_of(samples, f).double()
    error = values.std(0) / math.sqrt(len(values)) if len(values) > 1 else torch.full_like(values[0], math.nan)
    return Estimate(values.mean(0), error)


def probability(samples: Tensor, f: Function) -> Estimate:
    """The share of draws for which ``f`` is true, and its standard error by Jeffreys' prior."""
    values = values_of(samples, f)
    if values.dtype != torch.bool:
        todo = "compare, lambda x: x.mean((2, 3, 4)) > 0, or ask for the expectation"
        raise InputError(f"f must return booleans, not {values.dtype}: {todo}.")
    count, true = len(values), values.double().sum(0)
    a, b = true + 0.5, count - true + 0.5
    return Estimate(true / count, (a * b / (a + b) ** 2 / (a + b + 1)).sqrt())


def quantile(samples: Tensor, q: float, f: Function | None = None) -> Tensor:
    """Weibull's quantile over the draws of each pixel, or of ``f``."""
    tail = number("q", q, most=1.0)
    values = samples if f is None else _real(values_of(samples, f))
    _check_resolved(len(values), min(tail, 1 - tail), f"the quantile at {q:g}")
    return torch.as_tensor(np.quantile(values.numpy(), q, axis=0, method="weibull"), dtype=values.dtype)


def interval(samples: Tensor, level: float, f: Function | None = None) -> tuple[Tensor, Tensor]:
    """The central credible interval of each pixel, or of ``f``."""
    if not 0 < number("level", level, most=1.0) < 1:
        raise InputError(f"level must lie between 0 and 1, not {level:g}: .9 for nine of ten.")
    values = samples if f is None else _real(values_of(samples, f))
    _check_resolved(len(values), (1 - level) / 2, f"an interval of {level:.4g}")
    return credible_interval(values.sort(0).values, level)


def values_of(samples: Tensor, f: Function) -> Tensor:
    """f of the images, ``(S, N)``.

    Raises:
        InputError: it is no function, or returns something else or numbers that are not finite.
    """
    instance("f", f, callable(f), "a function of images (S, N, C, H, W), such as lambda x: x.mean((2, 3, 4))")
    values, leading = as_tensor("f of the images", f(samples)).cpu(), tuple(samples.shape[:2])
    if tuple(values.shape) != leading:
        todo = "reduce the dimensions of an image, x.mean((2, 3, 4))"
        raise InputError(f"f must return one value per sample and image, {leading}, not {tuple(values.shape)}: {todo}.")
    return values if values.dtype == torch.bool else numbers("f of the images", _real(values))


def _real(values: Tensor) -> Tensor:
    return values if values.is_floating_point() else values.double()


def _check_resolved(count: int, tail: float, what: str) -> None:
    """Refuses a question about a tail in which no draw is expected: it needs (S + 1) tail >= 1."""
    if (count + 1) * tail >= 1 - ROUNDING:
        return
    if tail <= 0:
        raise InputError(f"{what} lies beyond any number of samples: ask for one inside 0 and 1.")
    needed = math.ceil(1 / tail - 1 - ROUNDING)
    raise InputError(f"{count} samples cannot carry {what}: it needs {needed}, result.sample({needed}) draws them.")
