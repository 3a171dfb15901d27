"""Importance-weighted bounds: Pyro's on one image, a sum of single images on several, ordered, below the evidence."""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pyro.infer
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal
from torch import Tensor

import pyro_vipaint as vp
from tests.elbos.by_hand import build, evidence, gradients, nearby_guide, observed_problem
from tests.problems import Problem, diagonal_problem
from tests.statistics import STANDARD_ERRORS, mean_and_error


def pyros(alpha: float, particles: int) -> pyro.infer.RenyiELBO:
    kind: Any = pyro.infer.RenyiELBO
    return kind(alpha, particles, max_plate_nesting=1, vectorize_particles=True)


def copies(problem: Problem, count: int) -> Problem:
    """The first image many times: with weights per image, as many independent estimates of one bound."""
    return Problem(problem.prior, problem.likelihood, problem.keypoints, problem.y[:1].repeat(count, 1))


def bound(elbo: Any, problem: Problem, distance: float, estimated: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and standard error of the bound on log p(y) over the copies of an image."""
    torch.manual_seed(1)
    model = problem.model(problem.prior.diffusion() if estimated else None)
    guide = nearby_guide(problem, distance, model)
    elbo.loss(model, guide, problem.y)
    return mean_and_error(-elbo.negative_bound())


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_it_is_pyros_where_all_sites_are_in_the_plate(alpha: float) -> None:
    model, guide, y = build()
    loss, slope = gradients(vp.RenyiELBO(alpha, 5), model, guide, y, seed=4)
    expected, expected_slope = gradients(pyros(alpha, 5), model, guide, y, seed=4)
    assert torch.allclose(loss, expected, rtol=1e-6)
    assert torch.allclose(slope, expected_slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("images", [1, 2])
def test_only_one_image_may_have_a_site_outside_its_plate(images: int) -> None:
    problem = diagonal_problem(images=images)
    model, losses = problem.model(), []
    guide = AutoDiagonalNormal(model)
    guide(problem.y)
    for elbo in (pyros(0.0, 5), vp.RenyiELBO(0.0, 5)):
        torch.manual_seed(9)
        with nullcontext() if images == 1 or not losses else pytest.raises(vp.InputError, match="plate of images"):
            losses.append(elbo.loss(model, guide, problem.y))
    assert losses[-1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_terms_are_those_of_the_elbo_and_the_correction_by_the_weights(alpha: float) -> None:
    model, guide, y = build()
    ours, plain = vp.RenyiELBO(alpha, 7), vp.SampledELBO(num_particles=7)
    losses = []
    for elbo in (ours, plain):
        torch.manual_seed(5)
        losses.append(elbo.differentiable_loss(model, guide, y).detach())
    assert all(torch.allclose(ours.terms[name], term, rtol=1e-5) for name, term in plain.terms.items())
    assert torch.allclose(ours.negative_bound().sum(), losses[0], rtol=1e-5)
    change = ours.terms["importance"]
    assert change.shape == (2,)
    assert ((change < 0) if alpha < 1 else (change > 0)).all()


def test_the_bound_rises_with_the_particles_and_stays_below_the_evidence() -> None:
    problem = observed_problem(images=1)
    truth = evidence(problem)
    sizes = [(1, 20_000), (5, 4000), (50, 1000), (2000, 50)]
    values = [bound(vp.RenyiELBO(0.0, particles), copies(problem, n), 0.5) for particles, n in sizes]
    for (low, low_error), (high, high_error) in pairwise(values):
        assert high - low > STANDARD_ERRORS * (low_error**2 + high_error**2).sqrt()
    assert all(value < truth + STANDARD_ERRORS * error for value, error in values)
    assert truth - values[-1][0] < 0.2 * (truth - values[0][0]), "with many particles it closes the gap"


def test_orders_above_one_lie_below_the_elbo() -> None:
    problem = copies(observed_problem(images=1), 4000)
    (low, low_error), (elbo, elbo_error) = (bound(vp.RenyiELBO(a, p), problem, 0.5) for a, p in ((2.0, 8), (0.0, 1)))
    assert elbo - low > STANDARD_ERRORS * (low_error**2 + elbo_error**2).sqrt()


def test_with_the_estimated_marginal_it_may_exceed_the_evidence() -> None:
    """The estimate is in an exponent there. The ELBO on the same model and guide stays below."""
    problem = observed_problem(images=1)
    truth = evidence(problem)
    value, error = bound(vp.RenyiELBO(0.0, 2000), copies(problem, 50), 0.0, estimated=True)
    assert value - truth > STANDARD_ERRORS * error
    elbo, elbo_error = bound(vp.BetaELBO(num_particles=20), copies(problem, 5000), 0.0, estimated=True)
    assert elbo < truth + STANDARD_ERRORS * elbo_error


def test_a_scale_on_the_program_does_not_change_the_weights() -> None:
    model, guide, y = build()
    values = []
    for program in (guide, poutine.scale(guide, scale=3.0)):
        torch.manual_seed(7)
        values.append(vp.RenyiELBO(0.0, 5).loss(model, program, y))
    assert values[0] == values[1]


@pytest.mark.parametrize("alpha", [1.0, -0.5, math.nan, math.inf])
def test_orders_without_a_bound_are_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        vp.RenyiELBO(alpha)
