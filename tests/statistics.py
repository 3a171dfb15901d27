"""One failure rate for every statistical test: a correct program fails a check once in a million runs."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

FAILURE_RATE = 1e-6
STANDARD_ERRORS = NormalDist().inv_cdf(1 - FAILURE_RATE / 2)  # 4.89, for one comparison


def critical_value(comparisons: int = 1) -> float:
    """How many standard errors the largest of ``comparisons`` differences may reach (Bonferroni)."""
    return NormalDist().inv_cdf(1 - FAILURE_RATE / 2 / comparisons)


def assert_within(
    estimate: Tensor | float, truth: Tensor | float, standard_error: Tensor | float, slack: float = 0.0
) -> None:
    """Fails if any element of ``estimate`` is further from ``truth`` than chance (or ``slack``) allows."""
    difference = (torch.as_tensor(estimate) - torch.as_tensor(truth)).abs()
    error = torch.as_tensor(standard_error)
    allowed = critical_value(difference.numel()) * error + slack
    assert (difference <= allowed).all(), f"off by {difference.max():.3g}, allowed {allowed.max():.3g}"


def mean_and_error(values: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Mean over ``dim`` and its standard error."""
    return values.mean(dim), values.std(dim) / values.shape[dim] ** 0.5


def psislw(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """ArviZ's smoothed log weights and k-hat, from log weights ``(…, S)``; ArviZ 1 takes them with the other sign."""
    import arviz

    values = log_weights.numpy().copy()
    if hasattr(arviz, "psislw"):
        found: Any = arviz.psislw(values)
    else:
        from arviz_stats.base import array_stats  # pyright: ignore[reportMissingImports]

        found = array_stats.psislw(-values)
    return torch.as_tensor(found[0]), torch.as_tensor(found[1])
