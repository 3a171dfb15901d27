r"""Means and spreads along random directions: a check for dimensions in which k-hat is always too large.

For random unit vectors u, u·z under the guide is compared with u·z under the truth:

.. math:: \frac{u \cdot (\bar z - m)}{\sqrt{u^\top C u}}, \qquad \frac{\mathrm{sd}(u \cdot z)}{\sqrt{u^\top C u}}

The projections show errors of mean and covariance, in reference standard deviations, at a precision that does not
depend on the dimension. They show nothing beyond two moments: an error confined to a few pixels is diluted over all
directions, and a guide with the right covariance on the wrong modes passes. The errors of the reference enter.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import seeded
from pyro_vipaint.errors import InputError, numbers, whole


class ProjectionSummary(NamedTuple):
    """Moments along P directions for N images, ``(P, N)``; shift 0 and ratio 1 where they agree.

    Attributes:
        mean_shift: difference of means, in reference standard deviations.
        std_ratio: ratio of standard deviations, samples over reference.
        mean_error: standard error of one ``mean_shift`` if both laws are equal.
        std_error: standard error of one log ``std_ratio`` if both laws are the same Gaussian.
    """

    mean_shift: Tensor
    std_ratio: Tensor
    mean_error: float
    std_error: float

    __repr__, _repr_html_ = compact, as_html


def project_onto_moments(
    samples: Tensor, mean: Tensor, covariance: Tensor, num_projections: int = 100, *, seed: int | None = None
) -> ProjectionSummary:
    """Samples against exact moments.

    Args:
        samples: ``(S, N, *event)``, S >= 2, with D elements per event.
        mean: ``(N, D)`` or ``(D,)``, of the flattened event.
        covariance: ``(N, D, D)`` or ``(D, D)``.
        num_projections: P; the same directions for all images.
        seed: seed of the directions; ``None`` continues the global generator.

    Raises:
        InputError: fewer than two samples, which have no standard deviation; shapes that do not fit; infinite or NaN
            values; no spread along a direction.
    """
    flat = _flat("samples", samples)
    _, images, size = flat.shape
    numbers("mean", mean, (images, size) if getattr(mean, "ndim", 1) > 1 else (size,))
    numbers("covariance", covariance, (images, size, size) if getattr(covariance, "ndim", 2) > 2 else (size, size))
    directions = unit_vectors(flat, num_projections, seed)
    center, variance = mean @ directions.T, ((directions @ covariance) * directions).sum(-1)
    return _summary(flat @ directions.T, center, variance.sqrt(), 1 / len(samples))


def project_onto_samples(
    samples: Tensor, reference: Tensor, num_projections: int = 100, *, seed: int | None = None
) -> ProjectionSummary:
    """Samples ``(S, N, *event)`` against reference samples ``(R, N, *event)``, drawn independently of them.

    S and R are at least 2; the other arguments, and the errors, are those of :func:`project_onto_moments`.
    """
    flat, reference = _flat("samples", samples), _flat("reference", reference)
    numbers("reference", reference, ("R", *flat.shape[1:]))
    directions = unit_vectors(flat, num_projections, seed)
    projected = reference @ directions.T
    return _summary(flat @ directions.T, projected.mean(0), projected.std(0), 1 / len(samples) + 1 / len(reference))


def unit_vectors(flat: Tensor, count: int, seed: int | None) -> Tensor:
    """``count`` directions, ``(count, D)``, uniform on the sphere, for values ``(..., D)``."""
    with seeded(seed):
        directions = torch.randn(whole("num_projections", count), flat.shape[-1])
    return (directions / directions.norm(dim=1, keepdim=True)).to(flat)


def _flat(name: str, samples: Tensor) -> Tensor:
    """Samples ``(S, N, *event)`` as ``(S, N, D)``; a spread needs two."""
    return numbers(name, samples, ("S", "N", "D", ...), least=2).flatten(2)


def _summary(projected: Tensor, center: Tensor, std: Tensor, variance: float) -> ProjectionSummary:
    """``projected`` is ``(S, N, P)``; ``variance`` is the one of a mean shift if both laws are equal."""
    if not (std > 0).all():  # false with a NaN, of a negative variance
        raise InputError("the reference has no spread along a direction: its covariance must be positive definite.")
    shift, ratio = (projected.mean(0) - center) / std, projected.std(0) / std
    return ProjectionSummary(shift.T, ratio.T, math.sqrt(variance), math.sqrt(variance / 2))
