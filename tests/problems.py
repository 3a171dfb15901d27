"""Small exact problems that several tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, GaussianPrior
from pyro_vipaint.models.priors.schedules import EDM, Schedule

MASK = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])  # of four pixels, the upper two are observed
LIKELIHOOD = vp.Gaussian(vp.Inpainting(MASK), sigma=0.1)
Y = torch.tensor([[[[0.5, -0.3], [0.0, 0.0]]]])


def four_pixels(schedule: Schedule | None = None) -> GaussianPrior:
    """Independent pixels of mean 0.2 and standard deviation 0.3, ``(1, 2, 2)``."""
    return GaussianPrior.diagonal(torch.full((1, 2, 2), 0.2), torch.full((1, 2, 2), 0.3), schedule or EDM())


@dataclass(frozen=True)
class Unscaled:
    """The variance exploding version of a schedule: z / alpha, so alpha = 1 and sigma is the noise level."""

    schedule: Schedule

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(t)
        return torch.ones_like(alpha), sigma / alpha


@dataclass(frozen=True)
class Problem:
    """A Gaussian prior in 16 dimensions of which six coordinates are observed."""

    prior: GaussianPrior
    likelihood: vp.Gaussian
    keypoints: tuple[float, ...]
    y: Tensor

    def model(self, prior: DiffusionPrior | None = None) -> DiffusionModel:
        """The model on this prior, or on another one with the same schedule."""
        return DiffusionModel(prior or self.prior, self.likelihood, self.keypoints)


def diagonal_problem(levels: tuple[float, ...] = (3.0, 1.0, 0.3), images: int = 1) -> Problem:
    """Observations drawn from the prior itself, noise 0.1."""
    generator = torch.Generator().manual_seed(1)
    mean = 0.5 * torch.randn(16, generator=generator)
    std = 0.3 + torch.rand(16, generator=generator)
    prior = GaussianPrior.diagonal(mean, std)
    mask = torch.zeros(16)
    mask[:6] = 1
    x = mean + std * torch.randn(images, 16, generator=generator)
    y = mask * (x + 0.1 * torch.randn(images, 16, generator=generator))
    likelihood = vp.Gaussian(vp.Inpainting(mask), sigma=0.1)
    return Problem(prior, likelihood, vp.keypoints(prior, noise_levels=levels), y)


@torch.no_grad()
def bound_draws(model: DiffusionModel, guide: Any, y: Tensor, repeats: int = 30, particles: int = 1000) -> Tensor:
    """Independent estimates of the bound on log p(y), ``(repeats, N)``, each a mean over ``particles``."""
    elbo = vp.BetaELBO(num_particles=particles)
    draws = []
    for _ in range(repeats):
        elbo.differentiable_loss(model, guide, y)
        draws.append(-torch.stack(list(elbo.terms.values())).sum(0))
    return torch.stack(draws)


def perturbed(guide: Any, scale: float = 0.1) -> Any:
    """The guide away from its start, where nothing cancels."""
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return guide
