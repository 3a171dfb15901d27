"""Schedules of beta: each step has the weight of its number, and an annealed fit ends at the bound."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pyro_vipaint as vp
from pyro_vipaint.elbos import GeometricSchedule
from pyro_vipaint.guides import HierarchicalGuide
from tests.elbos.by_hand import build, evidence, nearby_guide, observed_problem
from tests.problems import bound_draws, diagonal_problem
from tests.statistics import STANDARD_ERRORS, mean_and_error

PLAN: list[Any] = [8.0, {"z_3": 2.0, "z_1": 7.0}, 1.0]


def plan(step: int) -> Any:
    return PLAN[min(step, 2)]


@pytest.mark.parametrize("kind", [vp.BetaELBO, vp.SampledELBO, vp.StickingTheLandingELBO])
def test_each_step_has_the_weights_of_its_number(kind: Any) -> None:
    """The weighted sum of ``terms``, which the grid compares with those by hand."""
    model, guide, y = build()
    elbo = kind(plan, num_particles=7)
    for step in range(4):
        loss, beta = elbo.differentiable_loss(model, guide, y), plan(step)
        assert all(term.shape == (2,) for term in elbo.terms.values())
        weights = {"y": 1.0} | (beta if isinstance(beta, dict) else dict.fromkeys(("z_3", "z_2", "z_1"), beta))
        expected = sum(weights.get(name, 1.0) * term.sum() for name, term in elbo.terms.items())
        assert torch.allclose(loss, torch.as_tensor(expected), rtol=1e-5)


def test_only_evaluations_with_gradients_count() -> None:
    model, guide, y = build()
    elbo = vp.BetaELBO(plan)
    elbo.loss(model, guide, y)
    with torch.no_grad():
        elbo.differentiable_loss(model, guide, y)
    assert elbo.step == 0
    elbo.loss_and_grads(model, guide, y)
    assert elbo.step == 1


def test_a_second_fit_restarts_the_schedule_and_evaluations_do_not_advance_it() -> None:
    model, guide, y = build()
    seen: list[int] = []
    losses: list[float] = []
    elbo = vp.BetaELBO(lambda step: seen.append(step) or 2.0)
    vp.fit(model, guide, y, elbo, steps=3)

    vp.fit(model, guide, y, elbo, steps=2, callback=lambda progress: losses.append(elbo.loss(model, guide, y)))
    assert seen == [0, 1, 2, 0, 1, 1, 2]


def test_weights_of_a_schedule_are_checked_at_each_step() -> None:
    model, guide, y = build()
    elbo = vp.BetaELBO(lambda step: 1.0 - step)
    elbo.differentiable_loss(model, guide, y)
    with pytest.raises(ValueError, match="positive"):
        elbo.differentiable_loss(model, guide, y)


def test_the_geometric_schedule_goes_from_start_to_stop_by_equal_factors() -> None:
    betas = torch.tensor([GeometricSchedule(32.0, 1.0, 6)(step) for step in range(9)])
    assert torch.allclose(betas, torch.tensor([32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0]))
    assert GeometricSchedule(7.3, 1.0, 40)(39) == 1.0, "exactly: from here on it is the true bound"


@pytest.mark.parametrize(("start", "stop", "steps"), [(10.0, 1.0, 1), (0.0, 1.0, 5), (10.0, -1.0, 5)])
def test_invalid_schedules_are_refused(start: float, stop: float, steps: int) -> None:
    with pytest.raises(ValueError, match=r"at least 2|positive"):
        vp.AnnealedELBO(start, stop, steps=steps)


def test_the_annealed_objective_begins_weighted_and_ends_as_the_bound() -> None:
    model, guide, y = build()
    annealed = vp.AnnealedELBO(10.0, steps=4)
    for step, beta in enumerate((10.0, 10 ** (2 / 3), 10 ** (1 / 3), 1.0, 1.0)):
        torch.manual_seed(step)
        loss = annealed.differentiable_loss(model, guide, y)
        torch.manual_seed(step)
        assert torch.allclose(loss, vp.BetaELBO(beta).differentiable_loss(model, guide, y), rtol=1e-6)


def test_an_annealed_fit_ends_at_the_evidence() -> None:
    problem = observed_problem()
    model, truth = problem.model(), evidence(problem)
    guide = nearby_guide(problem, 0.3, model)
    before = bound_draws(model, guide, problem.y, 5, 1000).mean(0)
    elbo = vp.AnnealedELBO(5.0, steps=50, num_particles=16)
    fit = vp.fit(model, guide, problem.y, elbo, steps=200, lr=0.05, lr_decay=0.01, seed=1)
    after, error = mean_and_error(bound_draws(model, guide, problem.y, 10, 2000))
    assert (truth - before > 0.3).all()
    assert (truth - after < 0.05 + 3 * error).all()
    assert (after < truth + STANDARD_ERRORS * error).all()
    last, last_error = mean_and_error(fit.bounds[-50:])
    assert (last < truth + STANDARD_ERRORS * last_error).all(), "the record is of the bound, not of the weighted loss"


@pytest.mark.slow
@pytest.mark.parametrize(
    "elbo",
    [
        vp.BetaELBO(num_particles=16),
        vp.SampledELBO(num_particles=16),
        vp.StickingTheLandingELBO(num_particles=16),
        vp.AnnealedELBO(10.0, steps=300, num_particles=16),
    ],
    ids=lambda elbo: type(elbo).__name__,
)
def test_every_objective_takes_the_gaussian_family_to_the_same_optimum(elbo: Any) -> None:
    problem = diagonal_problem(images=2)
    model, truth = problem.model(), evidence(diagonal_problem(images=2))
    start = vp.initial_latent(model.prior, model.likelihood, problem.y)
    guide = HierarchicalGuide(model, start, gamma_logit=0.0)
    vp.fit(model, guide, problem.y, elbo, steps=1500, lr=0.1, lr_decay=0.005, seed=1)
    bound, error = mean_and_error(bound_draws(model, guide, problem.y))
    assert (truth - bound < 0.05 + 3 * error).all()
    assert (bound < truth + STANDARD_ERRORS * error).all()


@pytest.mark.slow
def test_iwae_reaches_the_evidence_while_the_elbo_of_the_guide_stays_below() -> None:
    """Its weights compensate for the guide, whose gradient therefore vanishes (Rainforth et al. 2018)."""
    problem = diagonal_problem(images=2)
    model, truth = problem.model(), evidence(problem)
    start = vp.initial_latent(model.prior, model.likelihood, problem.y)
    guide = HierarchicalGuide(model, start, gamma_logit=0.0)
    fit = vp.fit(model, guide, problem.y, vp.RenyiELBO(0.0, 16), steps=1500, lr=0.1, lr_decay=0.005, seed=1)
    importance, importance_error = mean_and_error(fit.bounds[-500:])
    elbo, elbo_error = mean_and_error(bound_draws(model, guide, problem.y))
    assert (truth - importance < 0.1 + 3 * importance_error).all()
    assert (importance < truth + STANDARD_ERRORS * importance_error).all()
    assert (importance > elbo + STANDARD_ERRORS * elbo_error).all()
