r"""Pareto k-hat: the weight of the tail of the importance weights, and weights smoothed by it (PSIS).

The largest M = min(S/5, 3 sqrt(S)) weights are fitted by a generalised Pareto distribution

.. math:: P(w - u > x) = (1 + k x / \sigma)^{-1/k}

with the empirical-Bayes estimator of Zhang & Stephens (*A new and efficient estimation method for the generalized
Pareto distribution*, Technometrics 2009) and the weak prior k ~ .5 worth ten observations of Vehtari, Simpson, Gelman,
Yao & Gabry (*Pareto smoothed importance sampling*, JMLR 2024, appendix). Weights with shape k have 1/k moments.

What it shows: below :func:`pareto_threshold` importance estimates with these weights, and the bounds of
:mod:`evidence`, can be trusted at this S; above it the guide misses mass that S draws cannot make up for. What it does
not show: where the guide is wrong, or that it is wrong in a way that matters; and a mode that no draw has visited
leaves no trace in the weights at all. k grows with dimension: of a joint density over 1000 pixels it exceeds 1 for
guides whose every marginal is good, and a k of marginals cannot be had from joint weights. There use
:mod:`projections`. With the estimated marginal of a network prior the weights carry the noise of the estimate too
(:mod:`evidence`), so that k is pessimistic: it measures guide and noise together.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SHORTEST_TAIL = 5  # Vehtari et al.: fewer points are not fitted


class SmoothedWeights(NamedTuple):
    """Smoothed log weights ``(S, N)``, normalised to sum to 1 over S, and k-hat ``(N,)``."""

    log_weights: Tensor
    pareto_k: Tensor


def pareto_smooth(log_weights: Tensor) -> SmoothedWeights:
    """Pareto smoothed importance sampling: the tail's weights become the fitted distribution's quantiles.

    Args:
        log_weights: ``(S, N)``, up to a constant per image, in nats.

    Returns:
        Float64 tensors. Tail weights are cut off at the largest raw weight. k is ``inf``, and nothing is smoothed,
        where fewer than five weights exceed the cut; -``inf`` where all weights are equal and there is no tail.
    """
    smoothed, shapes = zip(*(_smooth(column) for column in log_weights.double().T), strict=True)
    return SmoothedWeights(torch.stack(smoothed, -1), torch.tensor(shapes, dtype=torch.float64))


def pareto_k(log_weights: Tensor) -> Tensor:
    """k-hat per image, ``(N,)``, from log weights ``(S, N)``; see :func:`pareto_smooth`."""
    return pareto_smooth(log_weights).pareto_k


def pareto_threshold(num_samples: int) -> float:
    """min(1 - 1 / log10(S), 0.7): the largest k-hat at which estimates from S draws are reliable (Vehtari et al.)."""
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 1 else -math.inf


def _smooth(log_weights: Tensor) -> tuple[Tensor, float]:
    """Smoothed, normalised log weights of one image, and k."""
    x = log_weights - log_weights.max()
    if bool((x == 0).all()):
        return x - math.log(len(x)), -math.inf
    size = math.ceil(min(len(x) / 5, 3 * math.sqrt(len(x))))
    ordered, order = x.sort()
    cut = max(float(ordered[max(len(x) - size - 1, 0)]), math.log(torch.finfo(x.dtype).tiny))
    tail, k = order[ordered > cut], math.inf
    if len(tail) >= SHORTEST_TAIL:
        excess = x[tail].exp() - math.exp(cut)
        k, sigma = _fit_generalised_pareto(excess)
        probability = (torch.arange(len(tail), dtype=x.dtype, device=x.device) + 0.5) / len(tail)
        x[tail] = (_quantile(probability, k, sigma) + math.exp(cut)).log().clamp(max=0)
    return x - x.logsumexp(0), k


def _fit_generalised_pareto(excess: Tensor) -> tuple[float, float]:
    """(k, sigma) of ascending positive values. With theta = -k / sigma the profile likelihood has one parameter."""
    n = len(excess)
    grid = 30 + int(math.sqrt(n))
    quartile = excess[int(n / 4 + 0.5) - 1]
    points = torch.arange(1, grid + 1, dtype=excess.dtype, device=excess.device)
    theta = 1 / excess[-1] + (1 - (grid / (points - 0.5)).sqrt()) / (3 * quartile)
    shape = torch.log1p(-theta[:, None] * excess).mean(1)
    log_likelihood = n * ((-theta / shape).log() - shape - 1)
    mean_theta = log_likelihood.softmax(0) @ theta
    k = float(torch.log1p(-mean_theta * excess).mean())
    return (n * k + 10 * 0.5) / (n + 10), float(-k / mean_theta)


def _quantile(probability: Tensor, k: float, sigma: float) -> Tensor:
    exponential = -torch.log1p(-probability)
    return sigma * (exponential if abs(k) < 1e-15 else torch.expm1(k * exponential) / k)
