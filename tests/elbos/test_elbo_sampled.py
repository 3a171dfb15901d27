"""Objectives evaluated at the draw: the same mean, and without the score a gradient that vanishes at the posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import Tensor, nn
from torch.distributions import constraints

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel
from tests.elbos.by_hand import build, evidence, exact_guide, gradient_draws, observed_problem
from tests.problems import diagonal_problem, perturbed
from tests.statistics import assert_within, mean_and_error

SAMPLED = [vp.SampledELBO, vp.StickingTheLandingELBO]
EVERY: list[Callable[..., Any]] = [vp.BetaELBO, *SAMPLED, vp.RenyiELBO]


def test_the_loss_without_gradients_is_the_same_number() -> None:
    model, guide, y = build()
    for kind in EVERY:
        torch.manual_seed(5)
        number = kind().loss(model, guide, y)
        torch.manual_seed(5)
        assert number == pytest.approx(float(kind().differentiable_loss(model, guide, y).detach()), rel=1e-6)


# --- the optimum -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*SAMPLED, vp.RenyiELBO])
def test_at_the_posterior_every_single_draw_is_the_evidence(kind: Any) -> None:
    """log q - log p(z, y) is constant there, and the bound holds everywhere: this value is the optimum of each."""
    problem = observed_problem()
    model = problem.model()
    guide, elbo = exact_guide(problem, model), kind(num_particles=1)
    for _ in range(5):
        elbo.loss(model, guide, problem.y)
        assert torch.allclose(-elbo.negative_bound(), evidence(problem), atol=1e-9)


def test_at_the_posterior_the_analytic_bound_is_the_evidence_in_the_mean() -> None:
    problem = observed_problem()
    model = problem.model()
    guide, elbo, draws = exact_guide(problem, model), vp.BetaELBO(num_particles=500), []
    for _ in range(30):
        elbo.loss(model, guide, problem.y)
        draws.append(-elbo.negative_bound())
    bound, error = mean_and_error(torch.stack(draws))
    assert_within(bound, evidence(problem), error)
    assert error.max() < 0.05


@pytest.mark.parametrize("kind", EVERY)
def test_at_the_posterior_the_mean_gradient_of_each_is_zero(kind: Any) -> None:
    problem = observed_problem()
    model = problem.model()
    guide = exact_guide(problem, model)
    draws = gradient_draws(kind(num_particles=200), model, guide, problem.y)
    mean, error = mean_and_error(draws)
    assert_within(mean, 0.0, error, slack=1e-9)
    away = HierarchicalGuide(model, problem.y, gamma_logit=0.5)
    assert gradient_draws(kind(num_particles=200), model, away, problem.y, 5).mean(0).norm() > 5 * error.norm()


def test_at_the_posterior_the_gradient_without_the_score_is_zero_at_every_draw() -> None:
    problem = observed_problem()
    model = problem.model()
    guide = exact_guide(problem, model)
    noisy = gradient_draws(vp.SampledELBO(num_particles=1), model, guide, problem.y, 10)
    still = gradient_draws(vp.StickingTheLandingELBO(num_particles=1), model, guide, problem.y, 10)
    assert noisy.std(0).min() > 1e-2
    assert still.abs().max() < 1e-9


def test_beta_tempers_the_likelihood() -> None:
    """With beta = 4 the optimum is the posterior under p(y | z)^(1/4), that is, with twice the noise."""
    problem, tempered = observed_problem(sigma=0.5), observed_problem(sigma=1.0)
    model = problem.model()
    guide = exact_guide(tempered, model)
    assert gradient_draws(vp.StickingTheLandingELBO(4.0), model, guide, problem.y, 5).abs().max() < 1e-9
    assert gradient_draws(vp.StickingTheLandingELBO(1.0), model, guide, problem.y, 5).abs().max() > 1e-2


# --- the gradient without the score -------------------------------------------------------------------------------


def chained(y: Tensor) -> None:
    """An ordinary guide function with parameters in Pyro's store; each level depends on the one above."""
    z: Tensor | float = 0.0
    with pyro.plate("images", len(y), dim=-1):
        for i in (3, 2, 1):
            mu = pyro.param(f"mu_{i}", torch.full((len(y), 16), 0.1 * i))
            tau = pyro.param(f"tau_{i}", torch.full((16,), 0.4), constraint=constraints.positive)
            z = pyro.sample(f"z_{i}", dist.Normal(mu + 0.5 * z, tau).to_event(1))


def guides(model: DiffusionModel, y: Tensor) -> dict[str, tuple[Any, Callable[[], list[nn.Parameter]]]]:
    """Guides of every kind, each with a function that returns its parameters."""
    modules: dict[str, Any] = {
        "auto normal": AutoNormal(model),
        "auto diagonal": AutoDiagonalNormal(model),
    }
    for guide in modules.values():
        guide(y)  # Pyro's own create their parameters at the first run
        perturbed(guide)
    made = {name: (guide, lambda guide=guide: list(guide.parameters())) for name, guide in modules.items()}
    chained(y)
    store: Any = pyro.get_param_store()
    return made | {"function": (chained, lambda: [store[name].unconstrained() for name in sorted(store.keys())])}


def score(guide: Any, y: Tensor, parameters: list[nn.Parameter], seed: int) -> list[Tensor]:
    """The gradient of log q at fixed draws, those of ``seed``, one particle: q is run again on detached values."""
    torch.manual_seed(seed)
    drawn = poutine.trace(guide).get_trace(y)
    drawn.detach_()
    log_q: Any = poutine.trace(poutine.replay(guide, trace=drawn)).get_trace(y).log_prob_sum()
    return [torch.zeros(()) if g is None else g for g in torch.autograd.grad(log_q, parameters, allow_unused=True)]


GUIDES = ["auto normal", "auto diagonal", "function"]  # the library's own are in the grid


@pytest.mark.parametrize("kind", GUIDES)
def test_the_score_is_omitted_for_guides_of_every_kind(kind: str) -> None:
    """On the same draws, the two gradients differ exactly by the gradient of log q at fixed draws."""
    problem = diagonal_problem(images=2)
    model, y = problem.model(), problem.y
    guide, parameters = guides(model, y)[kind]
    slopes = []
    for elbo in (vp.SampledELBO(num_particles=1), vp.StickingTheLandingELBO(num_particles=1)):
        torch.manual_seed(7)
        loss = elbo.differentiable_loss(model, guide, y)
        slopes.append(torch.autograd.grad(loss, parameters(), allow_unused=True))
    scores = score(guide, y, parameters(), seed=7)
    assert sum(float(s.abs().sum()) for s in scores) > 1
    for full, path, left_out in zip(*slopes, scores, strict=True):
        full, path = (torch.zeros(()) if g is None else g for g in (full, path))
        assert torch.allclose(full - path, left_out, rtol=1e-3, atol=2e-3 * float(full.abs().max()) + 1e-4)
    assert all(parameter.requires_grad for parameter in parameters())


# --- sites outside the plate, refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [vp.BetaELBO, *SAMPLED])
def test_the_term_of_a_site_outside_the_plate_is_divided_among_the_images(kind: Any) -> None:
    """AutoDiagonalNormal draws all images at one auxiliary site; value and weights are Pyro's, and the terms add up."""
    problem = diagonal_problem(images=2)
    model, y = problem.model(), problem.y
    guide = AutoDiagonalNormal(model)
    guide(y)
    torch.manual_seed(8)
    expected = Trace_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1).loss(model, guide, y)
    elbo = kind(num_particles=5)
    torch.manual_seed(8)
    loss = elbo.differentiable_loss(model, guide, y)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert elbo.negative_bound().shape == (2,)
    assert torch.allclose(elbo.negative_bound().sum(), loss, rtol=1e-5)
    torch.manual_seed(8)
    weighted = kind(3.0, num_particles=5).differentiable_loss(model, guide, y)
    assert torch.allclose(weighted, 3 * loss - 2 * elbo.terms["y"].sum(), rtol=1e-5)


class Cut(dist.Normal):
    """A Gaussian whose draws have no path to its parameters."""

    has_rsample = False


@pytest.mark.parametrize("kind", EVERY)
def test_a_draw_that_is_not_reparameterised_is_refused(kind: Any) -> None:
    model, _, y = build()

    def guide(y: Tensor) -> None:
        with pyro.plate("images", 2, dim=-1):
            for i in (3, 2, 1):
                pyro.sample(f"z_{i}", Cut(torch.zeros(2, 16), 0.5).to_event(1))

    with pytest.raises(NotImplementedError, match="reparameterized"):
        kind().differentiable_loss(model, guide, y)
