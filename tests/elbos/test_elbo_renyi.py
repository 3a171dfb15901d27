"""Importance-weighted bounds: Pyro's on one image, a sum of single images on several, ordered, below the evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pyro.infer
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide
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


def test_several_images_are_the_sum_of_single_runs_on_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    model, guide, y = build(2)
    bank = [torch.randn(6, 2, 16) for _ in range(3)]

    def play(noise: list[Tensor]) -> None:
        rest: Iterator[Tensor] = iter(noise)
        monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda *_, **__: next(rest))

    elbo = vp.RenyiELBO(num_particles=6)
    play(bank)
    loss = elbo.loss(model, guide, y)
    singles = []
    for n in (0, 1):
        single = HierarchicalGuide(model, y[n : n + 1])
        single.load_state_dict({name: value[n : n + 1] for name, value in guide.state_dict().items()})
        play([noise[:, n : n + 1] for noise in bank])
        singles.append(pyros(0.0, 6).loss(model, single, y[n : n + 1]))
    assert loss == pytest.approx(sum(singles), rel=1e-5)
    assert elbo.negative_bound().tolist() == pytest.approx(singles, rel=1e-5)
    elbo_loss = elbo.negative_bound() - elbo.terms["importance"]
    assert (elbo_loss - elbo.negative_bound()).min() > 1, "the weights matter here"


def test_with_a_site_outside_the_plate_pyros_is_no_bound_and_this_one_refuses() -> None:
    """Pyro's subtracts log q of all images from the weight of each."""
    problem = diagonal_problem(images=2)
    model, elbo = problem.model(), pyros(0.0, 5)
    guide = AutoDiagonalNormal(model)
    guide(problem.y)
    torch.manual_seed(9)
    loss = elbo.loss(model, guide, problem.y)
    torch.manual_seed(9)
    with torch.no_grad():
        ((model_trace, guide_trace),) = elbo._get_traces(model, guide, (problem.y,), {})
    log_p = torch.stack([site["log_prob"] for site in model_trace.nodes.values() if site["type"] == "sample"]).sum(0)
    log_q = torch.stack([log_prob_sum(site, 5) for site in guide_trace.nodes.values() if site["type"] == "sample"])
    per_image = torch.logsumexp(log_p - log_q.sum(0)[:, None], 0) - math.log(5)
    assert loss == pytest.approx(-float(per_image.sum()), rel=1e-5)
    with pytest.raises(ValueError, match="plate of images"):
        vp.RenyiELBO(0.0, 5).loss(model, guide, problem.y)


def log_prob_sum(site: Any, particles: int) -> Tensor:
    return site["log_prob"].reshape(particles, -1).sum(1)


def test_one_image_may_have_a_site_outside_its_plate() -> None:
    problem = diagonal_problem(images=1)
    model, losses = problem.model(), []
    guide = AutoDiagonalNormal(model)
    guide(problem.y)
    for elbo in (pyros(0.0, 5), vp.RenyiELBO(0.0, 5)):
        torch.manual_seed(9)
        losses.append(elbo.loss(model, guide, problem.y))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


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


def test_one_particle_is_the_sampled_elbo() -> None:
    model, guide, y = build()
    losses = [gradients(elbo, model, guide, y, seed=6) for elbo in (vp.RenyiELBO(0.0, 1), vp.SampledELBO(1.0, 1))]
    assert torch.allclose(losses[0][0], losses[1][0], rtol=1e-6)
    assert torch.allclose(losses[0][1], losses[1][1], rtol=1e-4, atol=1e-5)


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


def test_it_fits() -> None:
    problem = diagonal_problem()
    model = problem.model()
    fit = vp.fit(model, HierarchicalGuide(model, problem.y), problem.y, vp.RenyiELBO(), steps=40, lr=0.1)
    assert set(fit.terms) == {"z_3", "z_2", "z_1", "y", "importance"}
    assert torch.allclose(-fit.bounds.sum(1), torch.tensor(fit.losses), rtol=1e-4, atol=1e-3)
    assert sum(fit.losses[-10:]) < 0.7 * sum(fit.losses[:10])


@pytest.mark.parametrize("alpha", [1.0, -0.5, math.nan, math.inf])
def test_orders_without_a_bound_are_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        vp.RenyiELBO(alpha)
