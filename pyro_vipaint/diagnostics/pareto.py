r"""Pareto k-hat, the tail index of the importance weights, and Pareto smoothed weights (PSIS).

A generalised Pareto distribution is fitted to the largest M = min(S/5, 3 sqrt(S)) weights,

.. math:: P(w - u > x) = (1 + k x / \sigma)^{-1/k}

with the empirical-Bayes estimator of Zhang & Stephens (*A new and efficient estimation method for the generalized
Pareto distribution*, Technometrics 2009) and the weak prior of Vehtari, Simpson, Gelman, Yao & Gabry (*Pareto smoothed
importance sampling*, JMLR 2024, appendix), k = .5 with the weight of ten observations: Pyro's
``fit_generalized_pareto``. Weights with shape k have 1/k moments.

Below :func:`pareto_threshold` importance estimates with these weights, and the bounds of :mod:`evidence`, are reliable
at this S; above it the guide misses mass that S draws cannot compensate for. k-hat does not show where the guide is
wrong, and a mode that no draw has visited does not affect the weights at all. k grows with the dimension: for a joint
density over 1000 pixels it exceeds 1 even for guides with good marginals; use :mod:`projections` there. With the
estimated marginal of a network prior k is pessimistic: it measures guide and noise (:mod:`evidence`) together.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import double
from pyro_vipaint.diagnostics.draws import check_log_weights
from pyro_vipaint.errors import whole


class SmoothedWeights(NamedTuple):
    """Smoothed log weights ``(S, N)``, normalised to sum to 1 over S, and k-hat ``(N,)``."""

    log_weights: Tensor
    pareto_k: Tensor

    __repr__, _repr_html_ = compact, as_html


def pareto_smooth(log_weights: Tensor) -> SmoothedWeights:
    """Pareto smoothed importance sampling: quantiles of the fitted distribution replace the weights of the tail.

    Args:
        log_weights: ``(S, N)``, up to a constant per image, in nats.

    Returns:
        Float64 tensors. Tail weights are at most the largest raw weight. k is ``inf``, and nothing is smoothed, where
        fewer than five weights exceed the cut, so that always for S up to 20; -``inf`` where all of several weights are
        equal and there is no tail.

    Raises:
        InputError: an error of :func:`pyro_vipaint.diagnostics.elbo_estimate`.
    """
    check_log_weights(log_weights)
    smoothed, shapes = zip(*(_smooth(column) for column in double(log_weights).T), strict=True)
    return SmoothedWeights(torch.stack(smoothed, -1), torch.tensor(shapes, dtype=torch.float64))


def pareto_k(log_weights: Tensor) -> Tensor:
    """k-hat per image, ``(N,)``, from log weights ``(S, N)``; see :func:`pareto_smooth`."""
    return pareto_smooth(log_weights).pareto_k


def pareto_threshold(num_samples: int) -> float:
    """min(1 - 1 / log10(S), 0.7): the largest k-hat at which estimates from S draws are reliable (Vehtari et al.)."""
    return min(1 - 1 / math.log10(num_samples), 0.7) if whole("num_samples", num_samples) > 1 else -math.inf


def _smooth(log_weights: Tensor) -> tuple[Tensor, float]:
    """Smoothed, normalised log weights of one image, and k."""
    x = log_weights - log_weights.max()
    if len(x) > 1 and bool((x == 0).all()):
        return x - math.log(len(x)), -math.inf
    size = math.ceil(min(len(x) / 5, 3 * math.sqrt(len(x))))
    ordered, order = x.sort()
    cut = max(float(ordered[max(len(x) - size - 1, 0)]), math.log(torch.finfo(x.dtype).tiny))
    tail, k = order[ordered > cut], math.inf
    if len(tail) >= 5:  # Vehtari et al.: no fit to fewer points
        excess = x[tail].exp() - math.exp(cut)
        k, sigma = fit_generalized_pareto(excess.cpu())
        probability = (torch.arange(len(tail), dtype=x.dtype, device=x.device) + 0.5) / len(tail)
        exponential = -torch.log1p(-probability)
        quantile = sigma * (exponential if abs(k) < 1e-15 else torch.expm1(k * exponential) / k)
        x[tail] = (quantile + math.exp(cut)).log().clamp(max=0)
    return x - x.logsumexp(0), k
