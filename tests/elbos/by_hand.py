"""Problems that the tests of the objectives share."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, GaussianPrior
from tests.problems import Problem, diagonal_problem, perturbed


def build(images: int = 2) -> tuple[DiffusionModel, HierarchicalGuide, Tensor]:
    problem = diagonal_problem(images=images)
    model = problem.model()
    return model, perturbed(HierarchicalGuide(model, problem.y, gamma_logit=0.5), 0.2), problem.y


def gradients(
    elbo: Any, model: DiffusionModel, guide: Any, y: Tensor, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """The objective and its gradient in all parameters, flattened, from ``loss_and_grads``."""
    if seed is not None:
        torch.manual_seed(seed)
    guide.zero_grad()
    loss = elbo.loss_and_grads(model, guide, y)
    return torch.tensor(loss), torch.cat([p.grad.flatten() for p in guide.parameters() if p.grad is not None])


def observed_problem(sigma: float = 0.5, images: int = 2) -> Problem:
    """Four coordinates, all observed, in double precision: the posterior is a HierarchicalGuide with gamma < 1."""
    generator = torch.Generator().manual_seed(2)
    mean = 0.5 * torch.randn(4, generator=generator, dtype=torch.float64)
    std = 0.3 + torch.rand(4, generator=generator, dtype=torch.float64)
    y = mean + 0.7 * torch.randn(images, 4, generator=generator, dtype=torch.float64)
    prior = GaussianPrior.diagonal(mean, std)
    likelihood = vp.Gaussian(vp.Inpainting(torch.ones(4, dtype=torch.float64)), sigma=sigma)
    return Problem(prior, likelihood, vp.keypoints(prior, noise_levels=(3.0, 1.0, 0.3)), y)


@torch.no_grad()
def exact_guide(problem: Problem, model: DiffusionModel | None = None) -> HierarchicalGuide:
    """p(z_K | y) prod p(z_i | z_{i+1}, y), from messages N(z_i; centre, spread^2) proportional to p(y | z_i).

    ``model`` is the one that the guide is built on, by default the problem's own.
    """
    zero, model = torch.zeros_like(problem.y), model or problem.model()
    guide, levels = HierarchicalGuide(model, zero), list(model.levels)
    offset = model.prior.denoise(zero, levels[-1].t)
    gain = model.prior.denoise(zero + 1, levels[-1].t) - offset
    centre, spread = (problem.y - offset) / gain, problem.likelihood.sigma / gain
    for above, level in reversed(list(pairwise(levels))):
        step = model.prior.transition(zero, above.t, level.t)
        slope = model.prior.transition(zero + 1, above.t, level.t).mean - step.mean
        set_level(guide, level, centre, spread**2 / (spread**2 + step.variance), step.variance)
        centre, spread = (centre - step.mean) / slope, (spread**2 + step.variance).sqrt() / slope
    marginal = problem.prior.marginal(levels[0].t)
    gamma = spread**2 / (spread**2 + marginal.variance)
    set_level(guide, levels[0], gamma * marginal.mean + (1 - gamma) * centre, gamma, marginal.variance)
    return guide


def set_level(guide: HierarchicalGuide, level: Any, centre: Tensor, gamma: Tensor, variance: Tensor) -> None:
    i = level.name[-1]
    setattr(guide, f"mu_{i}", centre / level.alpha)
    setattr(guide, f"tau_{i}", (gamma * variance).sqrt())
    if hasattr(guide, f"gamma_{i}"):
        setattr(guide, f"gamma_{i}", gamma)


def evidence(problem: Problem) -> Tensor:
    return problem.prior.log_evidence(problem.likelihood, problem.y, problem.keypoints)


def gradient_draws(elbo: Any, model: DiffusionModel, guide: Any, y: Tensor, repeats: int = 30) -> Tensor:
    return torch.stack([gradients(elbo, model, guide, y)[1] for _ in range(repeats)])


def nearby_guide(problem: Problem, distance: float, model: DiffusionModel | None = None) -> HierarchicalGuide:
    """The posterior with every parameter moved by noise, the same for all images."""
    guide = exact_guide(problem, model)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(distance * torch.randn_like(parameter[:1]))
    return guide
