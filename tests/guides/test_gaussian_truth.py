"""The K-level model on a Gaussian prior is solved in closed form; the library must reach that solution."""

from __future__ import annotations

import pytest
import torch

import pyro_vipaint as vp
from tests.problems import bound_draws, diagonal_problem, fitted_guide
from tests.statistics import STANDARD_ERRORS, mean_and_error


@pytest.fixture(scope="module")
def fitted() -> tuple:
    torch.manual_seed(0)
    problem = diagonal_problem()
    model = problem.model()
    return problem, model, fitted_guide(model, problem.y)


def test_the_guide_reaches_the_evidence_and_never_exceeds_it(fitted: tuple) -> None:
    problem, model, guide = fitted
    truth = problem.prior.log_evidence(problem.likelihood, problem.y, problem.keypoints)
    bound, error = mean_and_error(bound_draws(model, guide, problem.y))
    assert truth - bound < 0.05 + 3 * error
    assert bound < truth + STANDARD_ERRORS * error
    assert error < 0.02, "the comparison is too noisy to mean anything"


def test_the_hidden_coordinates_have_the_exact_mean_and_spread(fitted: tuple) -> None:
    problem, model, guide = fitted
    draws = 4000
    x = model.reconstruct(vp.sample(guide, problem.y, draws, seed=2))[:, 0, 6:]
    exact = problem.prior.posterior(problem.likelihood, problem.y, problem.keypoints)
    std = exact.stddev[0, 6:]
    assert ((x.mean(0) - exact.mean[0, 6:]).abs() < 3 * std / draws**0.5 + 0.02 * std).all()
    assert ((x.std(0) - std).abs() < 3 * std / (2 * draws) ** 0.5 + 0.02 * std).all()


def test_the_observed_coordinates_have_the_exact_mean_and_spread(fitted: tuple) -> None:
    problem, model, guide = fitted
    x = model.reconstruct(vp.sample(guide, problem.y, 4000, seed=3))[:, 0, :6]
    exact = problem.prior.posterior(problem.likelihood, problem.y, problem.keypoints)
    assert torch.allclose(x.mean(0), exact.mean[0, :6], atol=0.02)
    assert torch.allclose(x.std(0), exact.stddev[0, :6], rtol=0.1)


def test_an_unfitted_guide_is_far_from_the_evidence() -> None:
    """The test above can fail: before the fit the gap is tens of nats."""
    problem = diagonal_problem()
    from pyro_vipaint.guides import HierarchicalGuide

    model = problem.model()
    guide = HierarchicalGuide(model, vp.initial_latent(problem.prior, problem.likelihood, problem.y))
    bound = bound_draws(model, guide, problem.y, repeats=5).mean()
    assert problem.prior.log_evidence(problem.likelihood, problem.y, problem.keypoints) - bound > 2


def test_with_the_estimated_marginal_the_bound_stays_below_the_evidence() -> None:
    problem = diagonal_problem()
    model = problem.model(problem.prior.diffusion())
    guide = fitted_guide(model, problem.y, particles=64, steps=600)
    truth = problem.prior.log_evidence(problem.likelihood, problem.y, problem.keypoints)
    bound, error = mean_and_error(bound_draws(model, guide, problem.y, repeats=40))
    assert bound < truth + STANDARD_ERRORS * error
    assert truth - bound < 0.3, "a bound this far below would say that the estimate is wrong"


def test_several_images_in_one_fit_reach_their_own_evidence() -> None:
    problem = diagonal_problem(images=3)
    model = problem.model()
    guide = fitted_guide(model, problem.y)
    truth = problem.prior.log_evidence(problem.likelihood, problem.y, problem.keypoints)
    bound, error = mean_and_error(bound_draws(model, guide, problem.y))
    assert (truth - bound < 0.05 + 3 * error).all()
    assert (bound < truth + STANDARD_ERRORS * error).all()
