r"""Proper scores and calibration of draws for images whose truth is known.

For S draws :math:`X_s` of the posterior of an image x the **energy score** is

.. math:: \frac1S \sum_s |X_s - x| - \frac{1}{2 S (S - 1)} \sum_{s \ne s'} |X_s - X_{s'}|,

unbiased for :math:`E|X - x| - \tfrac12 E|X - X'|`. It is strictly proper (Gneiting & Raftery 2007): its mean over
images is least for the exact posterior, so that neither draws that are too alike nor draws that are too different can
win. The mean distance alone rewards draws that are too alike. Smaller is better.

**Error over spread** is the squared error of the mean of the draws over what it would be if the truth were one more
draw,

.. math:: \frac{\sum |\bar X - x|^2}{\sum (1 + 1/S)\, \widehat{\mathrm{Var}}(X)}.

It is 1 for exact draws, more for draws that are too sure. **Interval coverage** looks at smooth random projections too,
since a posterior of pixels can be right pixel by pixel and wrong in what a larger region has in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_vipaint._torch import seeded
from pyro_vipaint.diagnostics.coverage import coverage
from pyro_vipaint.errors import InputError, instance, number, numbers, whole
from pyro_vipaint.metrics import lpips_features
from pyro_vipaint.models.measurements.blur import GaussianBlur

if TYPE_CHECKING:
    import pandas as pd


class Ratio(NamedTuple):
    """A ratio of sums over images, and its standard error by the jackknife over images; NaN for one image."""

    estimate: float
    standard_error: float


def energy_score(samples: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """The energy score with Euclidean distances, ``(N,)``, in the units of the values.

    Args:
        samples: S >= 2 draws for each of N images, ``(S, N, …)``.
        truth: ``(N, …)``.
        where: nonzero or True for the elements that count, broadcast against ``truth``: ``mask == 0`` for the hole.

    Raises:
        InputError: the shapes do not fit, there is one draw only, or a value that counts is infinite or NaN.
    """
    draws, truth = _counted(samples, truth, where)
    draws = draws.transpose(0, 1)
    count = draws.shape[1]
    error = torch.cdist(draws, truth.unsqueeze(1)).mean((1, 2))
    between = torch.cdist(draws, draws, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2))
    return error - between / (2 * count * (count - 1))


def lpips_energy_score(samples: Tensor, truth: Tensor) -> Tensor:
    """The energy score with the distance sqrt(LPIPS), ``(N,)``; images ``(S, N, C, H, W)`` and ``(N, C, H, W)``.

    sqrt(LPIPS) is the Euclidean distance of :func:`pyro_vipaint.metrics.lpips_features`, so that this score is proper
    for the law of the features.

    Raises:
        InputError: as :func:`energy_score`, or AlexNet cannot take the images.
    """
    return energy_score(lpips_features(samples), lpips_features(truth))


def error_over_spread(samples: Tensor, truth: Tensor, where: Tensor | None = None) -> Ratio:
    """Squared error of the mean over the spread of the draws, 1 if calibrated; arguments of :func:`energy_score`."""
    return ratio_of_sums(*error_and_spread(samples, truth, where))


def error_and_spread(samples: Tensor, truth: Tensor, where: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of :func:`error_over_spread` by image, ``(N,)`` each, in squared units."""
    draws, truth = _counted(samples, truth, where)
    errors = (draws.mean(0) - truth).square().sum(1).double()
    return errors, (1 + 1 / len(draws)) * draws.var(0).sum(1).double()


def ratio_of_sums(numerators: Tensor, denominators: Tensor) -> Ratio:
    """The ratio of the sums of two numbers per image, ``(N,)`` each."""
    images = len(numerators)
    leave_one_out = (numerators.sum() - numerators) / (denominators.sum() - denominators)
    error = ((images - 1) * leave_one_out.var(correction=0)).sqrt()
    return Ratio(float(numerators.sum() / denominators.sum()), float(error) if images > 1 else float("nan"))


def interval_coverage(
    samples: Tensor,
    truth: Tensor,
    level: float = 0.8,
    where: Tensor | None = None,
    *,
    num_projections: int = 30,
    width: float = 2.0,
    seed: int | None = None,
) -> pd.DataFrame:
    """Coverage of central intervals by pixels and by smooth random projections: two rows of :func:`coverage`.

    A projection is the inner product with white noise, blurred and set to zero where ``where`` is zero. The
    projections are the same for all draws of an image, and different for different images.

    Args:
        samples, truth, where: images, as for :func:`energy_score`.
        level: of the intervals; S draws resolve levels up to (S - 1) / (S + 1).
        num_projections: of each image.
        width: standard deviation of the blur, in pixels; 2 makes features of about a sixth of a 32-pixel image.
        seed: of the projections; ``None`` continues the global generator.
    """
    import pandas as pd

    along = smooth_projections(samples, truth, where, num_projections=num_projections, width=width, seed=seed)
    tables = {"pixels": coverage(samples, truth, (level,), where), "projections": coverage(*along, (level,))}
    return pd.concat(tables, names=["of"]).reset_index("of").reset_index(drop=True)


def smooth_projections(
    samples: Tensor,
    truth: Tensor,
    where: Tensor | None = None,
    *,
    num_projections: int = 30,
    width: float = 2.0,
    seed: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws ``(S, N, P)`` and truth ``(N, P)`` along the projections of :func:`interval_coverage`; its arguments."""
    number("width", width, positive=True)
    directions = _smooth(truth, whole("num_projections", num_projections), width, where, seed)
    along = [torch.einsum("pn...,sn...->snp", directions, images) for images in (samples, truth.unsqueeze(0))]
    return along[0], along[1][0]


def _smooth(truth: Tensor, count: int, width: float, where: Tensor | None, seed: int | None) -> Tensor:
    """Unit directions ``(count, N, C, H, W)``."""
    with seeded(seed):
        noise = torch.randn(count, *truth.shape)
    smooth = GaussianBlur(width).A(noise).to(truth)
    smooth = smooth if where is None else smooth * (where != 0)
    return smooth / smooth.flatten(2).norm(dim=2).clamp(min=1e-20)[(..., *[None] * (truth.ndim - 1))]


def _counted(samples: Tensor, truth: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draws ``(S, N, D)`` and truth ``(N, D)``, zero where elements do not count, which adds to no distance."""
    for name, value in (("samples", samples), ("truth", truth)):
        instance(name, value, isinstance(value, Tensor), "a tensor, such as result.samples")
    if samples.shape[1:] != truth.shape or len(samples) < 2:
        shapes = f"{tuple(samples.shape)} and {tuple(truth.shape)}"
        raise InputError(f"samples and truth must be (S, N, …) and (N, …) with S of 2 or more, not {shapes}.")
    if where is not None:
        samples, truth = (torch.where(where != 0, values, torch.zeros_like(values)) for values in (samples, truth))
    return numbers("samples", samples.flatten(2)), numbers("truth", truth.flatten(1))
