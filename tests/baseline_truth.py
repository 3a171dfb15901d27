"""The Gaussian problem by which every baseline's bias is measured, and the bias.

A correlated prior in one channel of 4 × 4 pixels, so that the hidden half depends on the observed one; noise 0.1 on
what is observed. Small enough (standard deviations near .3) that no method's clamping to [-1, 1] matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.baselines import BaselineResult
from pyro_vipaint.models import DiffusionPrior, GaussianPrior
from pyro_vipaint.models.priors.kernels import Time
from pyro_vipaint.models.priors.schedules import Schedule

SIDE, SIGMA = 4, 0.1


@dataclass(frozen=True)
class _Flattened:
    """The denoiser of a vector prior for images ``(1, 4, 4)``."""

    vector: GaussianPrior

    def __call__(self, z_t: Tensor, t: Time, **condition: object) -> Tensor:
        return self.vector.denoiser(z_t.flatten(-3), t).reshape(z_t.shape)


@dataclass(frozen=True, eq=False)
class GaussianTruth:
    """Prior, likelihood, one observation, and the exact moments of x given it."""

    prior: DiffusionPrior
    likelihood: vp.Gaussian
    y: Tensor
    mean: Tensor
    std: Tensor

    @property
    def observed(self) -> Tensor:
        """``(1, 4, 4)``, True where a pixel is seen."""
        return self.likelihood.operator.mask.bool()  # pyright: ignore[reportAttributeAccessIssue]


def gaussian_truth(schedule: Schedule | None = None) -> GaussianTruth:
    """A smooth prior (correlation .8 between neighbours), the left half observed."""
    place = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
    covariance = 0.09 * 0.8 ** torch.cdist(place, place, p=1).float()
    vector = GaussianPrior.full(torch.full((SIDE**2,), 0.1), covariance, schedule)
    prior = DiffusionPrior(vector.schedule, _Flattened(vector), (1, SIDE, SIDE), sigma_data=vector.sigma_data)
    mask = torch.zeros(1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    generator = torch.Generator().manual_seed(0)
    x = 0.1 + torch.linalg.cholesky(covariance) @ torch.randn(SIDE**2, generator=generator)
    y = mask * (x.reshape(1, 1, SIDE, SIDE) + SIGMA * torch.randn(1, 1, SIDE, SIDE, generator=generator))
    vector_likelihood = vp.Gaussian(vp.Inpainting(mask.flatten()), SIGMA)
    exact = vector.posterior(vector_likelihood, y.flatten(1))
    shape = (1, SIDE, SIDE)
    likelihood = replace(vector_likelihood, operator=vp.Inpainting(mask))
    return GaussianTruth(prior, likelihood, y, exact.mean[0].reshape(shape), exact.stddev[0].reshape(shape))


@dataclass(frozen=True)
class Bias:
    """Of one method, over observed and over hidden pixels.

    Attributes:
        mean_observed, mean_hidden: root mean square of (sample mean - exact mean) / exact standard deviation.
        std_observed, std_hidden: mean of the sample standard deviation over the exact one.
    """

    mean_observed: float
    mean_hidden: float
    std_observed: float
    std_hidden: float


def measure_bias(truth: GaussianTruth, method: Callable[[GaussianTruth], BaselineResult]) -> Bias:
    """The bias of ``method(truth)``, whose samples are ``(S, 1, 1, 4, 4)``; Monte-Carlo error about 1 / sqrt(S)."""
    samples = method(truth).samples[:, 0]
    shift = ((samples.mean(0) - truth.mean) / truth.std).square()
    ratio = samples.std(0) / truth.std
    seen = truth.observed
    return Bias(
        float(shift[seen].mean().sqrt()), float(shift[~seen].mean().sqrt()),
        float(ratio[seen].mean()), float(ratio[~seen].mean()),
    )  # fmt: skip
