"""The K-level model on a Gaussian prior is solved in closed form; a fitted guide reaches that solution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel
from tests.problems import bound_draws, diagonal_problem
from tests.statistics import STANDARD_ERRORS, mean_and_error


def fitted_guide(model: DiffusionModel, y: Tensor, particles: int, steps: int) -> HierarchicalGuide:
    """A hierarchical guide after a fit that is long enough to be judged."""
    guide = HierarchicalGuide(model, vp.initial_latent(model.prior, model.likelihood, y), gamma_logit=0.0)
    rates = {"mu": 0.1, "tau": 0.1, "gamma": 0.25}
    vp.fit(model, guide, y, vp.BetaELBO(num_particles=particles), steps=steps, lr=rates, lr_decay=0.01, seed=1)
    return guide


@pytest.fixture(scope="module")
def fitted() -> tuple:
    """Two images in one fit."""
    torch.manual_seed(0)
    problem = diagonal_problem(images=2)
    model = problem.model()
    return problem, model, fitted_guide(model, problem.y, particles=16, steps=450)


def test_the_bound_of_each_image_reaches_its_evidence_and_never_exceeds_it(fitted: tuple) -> None:
    problem, model, guide = fitted
    truth = problem.prior.log_evidence(problem.likelihood, problem.y, problem.keypoints)
    bound, error = mean_and_error(bound_draws(model, guide, problem.y))
    assert (truth - bound < 0.05 + 3 * error).all()
    assert (bound < truth + STANDARD_ERRORS * error).all()
    assert (error < 0.02).all(), "the comparison is too noisy to mean anything"
    start = HierarchicalGuide(model, vp.initial_latent(problem.prior, problem.likelihood, problem.y))
    assert (truth - bound_draws(model, start, problem.y, repeats=5).mean(0) > 2).all(), "before the fit it is far"


def test_the_coordinates_have_the_exact_mean_and_spread(fitted: tuple) -> None:
    """16 coordinates of two images, the first six of them observed."""
    problem, model, guide = fitted
    draws = 4000
    x = model.reconstruct(vp.sample(guide, problem.y, draws, seed=2))
    exact = problem.prior.posterior(problem.likelihood, problem.y, problem.keypoints)
    mean, std = exact.mean[:, 6:], exact.stddev[:, 6:]
    assert ((x[..., 6:].mean(0) - mean).abs() < 3 * std / draws**0.5 + 0.02 * std).all()
    assert ((x[..., 6:].std(0) - std).abs() < 3 * std / (2 * draws) ** 0.5 + 0.02 * std).all()
    assert torch.allclose(x[..., :6].mean(0), exact.mean[:, :6], atol=0.02)
    assert torch.allclose(x[..., :6].std(0), exact.stddev[:, :6], rtol=0.1)


@pytest.mark.slow
def test_with_the_estimated_marginal_the_bound_stays_below_the_evidence() -> None:
    problem = diagonal_problem()
    model = problem.model(problem.prior.diffusion())
    guide = fitted_guide(model, problem.y, particles=64, steps=600)
    truth = problem.prior.log_evidence(problem.likelihood, problem.y, problem.keypoints)
    bound, error = mean_and_error(bound_draws(model, guide, problem.y, repeats=40))
    assert bound < truth + STANDARD_ERRORS * error
    assert truth - bound < 0.3, "the estimate of the marginal would be wrong"
