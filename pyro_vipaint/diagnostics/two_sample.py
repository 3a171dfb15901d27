r"""Comparison of two sets of samples: sliced Wasserstein distance and classifier two-sample test.

Sliced 1-Wasserstein, the mean over unit vectors u of the exact distance on the line,

.. math:: SW_1 = E_u \int |F_{u \cdot x}(t) - F_{u \cdot y}(t)|\, dt,

is a metric, in the units of the samples. Between two finite samples of one law it is about 1/sqrt(n), not zero: compare
it with the distance of two reference samples. In high dimension it is most sensitive to mean and covariance.

C2ST (Lopez-Paz & Oquab, ICLR 2017) is the held-out accuracy of a classifier between the two. An accuracy above 1/2
proves a difference; 1/2 means only that this classifier found none. It saturates at 1 for laws that differ a little in
each of many dimensions, where sliced Wasserstein still ranks. Both take independent samples for *one* data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_vipaint._torch import gradients, seeded
from pyro_vipaint.diagnostics.projections import unit_vectors
from pyro_vipaint.errors import numbers, whole


def wasserstein(x: Tensor, y: Tensor) -> Tensor:
    """Exact 1-Wasserstein distance on the line between samples ``(..., n)`` and ``(..., m)``, of leading shape.

    Raises:
        InputError: the leading shapes differ, there is no sample, or one is infinite or NaN.
    """
    numbers("x", x, (..., "n"))
    numbers("y", y, (*x.shape[:-1], "m"))
    whole("the number of draws", min(x.shape[-1], y.shape[-1]))
    x, y = (values.sort(-1).values.contiguous() for values in (x, y))
    points = torch.cat([x, y], -1).sort(-1).values
    left = points[..., :-1].contiguous()
    below_x, below_y = (torch.searchsorted(v, left, right=True) / v.shape[-1] for v in (x, y))
    return ((below_x - below_y).abs() * points.diff(dim=-1)).sum(-1)


def sliced_wasserstein(x: Tensor, y: Tensor, num_projections: int = 100, *, seed: int | None = None) -> float:
    """Sliced 1-Wasserstein distance between samples ``(n, *event)`` and ``(m, *event)``, in their units.

    Args:
        num_projections: directions, uniform on the sphere; 100 as in Cardoso et al. (ICLR 2024).
        seed: seed of the directions: use the same seed for all distances to be compared.

    Raises:
        InputError: the event shapes differ, there is no sample, or one is infinite or NaN.
    """
    x, y = _flat_pair(x, y)
    directions = unit_vectors(x, num_projections, seed)
    return float(wasserstein(directions @ x.T, directions @ y.T).mean())


class Accuracy(NamedTuple):
    """Held-out accuracy, the mean over both classes, and its binomial standard error."""

    estimate: float
    standard_error: float


def c2st(
    x: Tensor, y: Tensor, *, folds: int = 5, hidden: int = 64, steps: int = 200, seed: int | None = None
) -> Accuracy:
    """Classifier two-sample test: cross-validated accuracy of a network with two hidden layers, 1/2 for equal laws.

    Args:
        x, y: samples ``(n, *event)`` and ``(m, *event)``; both classes have the same weight for any n and m.
        folds: of cross-validation; 5 as in the sbi benchmark (Lueckmann et al., AISTATS 2021).
        hidden: width of the layers.
        steps: full-batch AdamW steps for each fold, rate .01.
        seed: seed of folds and weights; ``None`` continues the global generator.

    The standard error ignores that the training folds overlap.

    Raises:
        InputError: the event shapes differ; there are fewer than two folds, or fewer samples than folds, so that one
            would hold none of a class; a sample is infinite or NaN.
    """
    x, y = _flat_pair(x, y)
    hidden, steps = whole("hidden", hidden), whole("steps", steps)
    whole("the number of samples", min(len(x), len(y)), least=whole("folds", folds, least=2))
    values, labels = torch.cat([x, y]), torch.cat([x.new_ones(len(x)), x.new_zeros(len(y))])
    right = torch.empty_like(labels)
    with seeded(seed), gradients():
        fold = torch.cat([torch.randperm(len(each)) for each in (x, y)]).to(x.device) % folds
        for i in range(folds):
            held_out = fold == i
            logits = _train(values[~held_out], labels[~held_out], hidden, steps)(values[held_out])
            right[held_out] = ((logits > 0) == (labels[held_out] > 0)).to(right)
    shares = [(float(right[labels == label].mean()), int((labels == label).sum())) for label in (1, 0)]
    variance = sum(share * (1 - share) / count for share, count in shares)
    return Accuracy(sum(share for share, _ in shares) / 2, math.sqrt(variance) / 2)


def _train(values: Tensor, labels: Tensor, hidden: int, steps: int) -> Callable[[Tensor], Tensor]:
    """Logits of a classifier fitted to standardised values, with equal weights of both classes."""
    mean, std = values.mean(0), values.std(0).clamp(min=1e-12)
    layers = (nn.Linear(values.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))
    network = nn.Sequential(*layers).to(values)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.01)
    weight = torch.where(labels > 0, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    for _ in range(steps):
        loss = binary_cross_entropy_with_logits(network((values - mean) / std)[:, 0], labels, weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lambda new: network((new - mean) / std)[:, 0]


def _flat_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both as ``(n, D)`` and ``(m, D)``, of one dtype and device."""
    numbers("x", x, ("n", ...), least=1)
    numbers("y", y, ("m", *x.shape[1:]), least=1)
    return x.detach().reshape(len(x), -1), y.detach().reshape(len(y), -1).to(x)
