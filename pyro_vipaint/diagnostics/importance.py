r"""Importance refinement: guide draws, resampled by their weights under the unscaled model.

.. math:: w_s = \frac{p(y, z^{(s)})}{q(z^{(s)})}, \qquad
          ESS = \frac{(\sum_s w_s)^2}{\sum_s w_s^2}, \qquad z \sim \sum_s \frac{w_s}{\sum_r w_r} \delta_{z^{(s)}}

The law of the draws tends to the posterior of the K-level model as the number of proposals grows, for any guide that
covers the posterior. The effective sample size is the number of independent draws that the proposals are worth. It does
not show regions that were never proposed: a guide on one of two modes has a large
ESS and misses half of the posterior. Judge the ESS together with k-hat (:mod:`pareto`). With the estimated marginal of
a network prior (:mod:`evidence`) the target is the posterior's density times exp(-slack(z)) E[exp(noise) given z], and
the noise lowers the ESS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import seeded, widest
from pyro_vipaint.diagnostics.draws import check_log_weights, weighted_draws
from pyro_vipaint.diagnostics.pareto import pareto_smooth
from pyro_vipaint.errors import whole


@dataclass(frozen=True, eq=False)
class Resampled:
    """Resampled draws and the quality of their weights.

    Attributes:
        z: draws of z_Ts, ``(num_samples, N, *event)``; copies are neighbours.
        effective_sample_size: of the weights used, ``(N,)``.
        pareto_k: k-hat of the raw weights, ``(N,)``.
        nfe: images passed through the network.
    """

    z: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    nfe: int

    __repr__, _repr_html_ = compact, as_html


def resample(
    model: Callable[..., Any],
    guide: Any,
    y: Tensor,
    num_proposals: int = 1000,
    num_samples: int = 10,
    *,
    seed: int | None = None,
    smooth: bool = False,
    batch_size: int | None = None,
) -> Resampled:
    """Self-normalised importance resampling of guide draws: num_proposals × N × (K + 1) NFE.

    Args:
        model, guide, y, seed, batch_size: as for :func:`weighted_draws`.
        num_proposals: draws of the guide for each image.
        num_samples: draws returned for each image, by systematic resampling.
        smooth: whether to use Pareto smoothed weights, which have less variance and a small bias.

    Raises:
        InputError: a number of draws is not positive, or an error of :func:`weighted_draws`.
    """
    whole("num_proposals", num_proposals)
    whole("num_samples", num_samples)
    with seeded(seed):
        draws = weighted_draws(model, guide, y, num_proposals, batch_size=batch_size)
        smoothed = pareto_smooth(draws.log_weights)
        weights = smoothed.log_weights if smooth else draws.log_weights
        index = systematic_indices(weights, num_samples)
    z = draws.z[index, torch.arange(index.shape[1], device=index.device)]
    return Resampled(z, effective_sample_size(weights), smoothed.pareto_k, draws.nfe)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 per image, ``(N,)``, from log weights ``(S, N)`` up to a constant per image.

    Raises:
        InputError: an error of :func:`pyro_vipaint.diagnostics.elbo_estimate`.
    """
    check_log_weights(log_weights)
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def systematic_indices(log_weights: Tensor, num_samples: int) -> Tensor:
    """Ancestors ``(num_samples, N)`` for log weights ``(S, N)``, ascending.

    There is one uniform offset per image: draw s has floor or ceil of num_samples × w_s copies, w_s normalised.
    """
    count, images = log_weights.shape
    kind: Any = {"dtype": widest(log_weights.device), "device": log_weights.device}
    cumulative = log_weights.to(kind["dtype"]).softmax(0).cumsum(0).T.contiguous()
    position = (torch.arange(num_samples, **kind) + torch.rand(images, 1, **kind)) / num_samples
    return torch.searchsorted(cumulative, position, right=True).clamp(max=count - 1).T
