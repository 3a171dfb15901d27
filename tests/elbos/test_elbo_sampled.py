"""Objectives whose terms are taken at the draw: the same mean, and a gradient that ends when the guide has arrived."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.transforms import AffineCoupling, affine_coupling
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

import pyro_vipaint as vp
from pyro_vipaint.guides import FlowGuide, HierarchicalGuide, MixtureGuide
from pyro_vipaint.guides.base import LatentGuide
from pyro_vipaint.models import DiffusionModel, GaussianPrior
from tests.elbos.test_elbo import BETAS, build, drawn_by_hand, gradients, weight
from tests.problems import Problem, diagonal_problem
from tests.statistics import assert_within, mean_and_error

SAMPLED = [vp.SampledELBO, vp.StickingTheLandingELBO]
EVERY: list[Callable[..., Any]] = [vp.BetaELBO, *SAMPLED, vp.RenyiELBO]


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

    ``model`` is what the guide rides on, if not the problem's own.
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


# --- the value ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SAMPLED)
@pytest.mark.parametrize("beta", BETAS)
def test_the_loss_is_the_weighted_sum_written_by_hand(kind: Any, beta: float | dict[str, float]) -> None:
    model, guide, y = build()
    sites, observed = drawn_by_hand(model, guide, y, seed=3)
    terms = {name: q.log_prob(z) - p.log_prob(z) for name, (q, p, z) in sites.items()}
    expected = sum((weight(beta, name) * term.sum() for name, term in terms.items()), observed.sum())
    elbo = kind(beta, num_particles=1)
    torch.manual_seed(3)
    loss = elbo.differentiable_loss(model, guide, y)
    assert torch.allclose(loss, expected, rtol=1e-5)
    for name, term in (terms | {"y": observed}).items():
        assert torch.allclose(elbo.terms[name], term, rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("particles", [1, 5])
def test_at_beta_one_the_sampled_one_is_pyros_in_value_and_gradient(particles: int) -> None:
    model, guide, y = build()
    theirs = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    loss, slope = gradients(vp.SampledELBO(1.0, particles), model, guide, y, seed=4)
    expected, expected_slope = gradients(theirs, model, guide, y, seed=4)
    assert torch.allclose(loss, expected, rtol=1e-6)
    assert torch.allclose(slope, expected_slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", SAMPLED)
def test_terms_of_many_particles_are_unweighted_and_add_up(kind: Any) -> None:
    model, guide, y = build()
    elbo = kind(3.0, num_particles=7)
    loss = elbo.differentiable_loss(model, guide, y)
    assert all(term.shape == (2,) for term in elbo.terms.values())
    assert torch.allclose(loss, (3 * elbo.negative_bound() - 2 * elbo.terms["y"]).sum(), rtol=1e-5)


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
    """log q - log p(z, y) is constant there. The bound holds everywhere, so this value is the optimum of each."""
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
    """With beta = 4 the optimum is the posterior under p(y | z)^(1/4), that is, under twice the noise."""
    problem, tempered = observed_problem(sigma=0.5), observed_problem(sigma=1.0)
    model = problem.model()
    guide = exact_guide(tempered, model)
    assert gradient_draws(vp.StickingTheLandingELBO(4.0), model, guide, problem.y, 5).abs().max() < 1e-9
    assert gradient_draws(vp.StickingTheLandingELBO(1.0), model, guide, problem.y, 5).abs().max() > 1e-2


# --- the gradient without the score -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SAMPLED)
@pytest.mark.parametrize("beta", [1.0, {"z_3": 2.0, "z_1": 0.5}])
def test_the_mean_gradient_is_that_of_the_analytic_bound(kind: Any, beta: float | dict[str, float]) -> None:
    model, guide, y = build()
    ours, our_error = mean_and_error(gradient_draws(kind(beta, 1000), model, guide, y))
    exact, exact_error = mean_and_error(gradient_draws(vp.BetaELBO(beta, 1000), model, guide, y))
    error = (our_error**2 + exact_error**2).sqrt()
    assert_within(ours, exact, error)
    assert error.norm() < 0.1 * exact.norm(), "the comparison is too noisy to mean anything"


class Coupling(LatentGuide):
    """A coupling flow at T_e, whose transform remembers its last output, and a shifted prior below."""

    def __init__(self, model: DiffusionModel, images: int) -> None:
        super().__init__(model)
        self.flow: AffineCoupling = affine_coupling(16, hidden_dims=[8])
        self.mu: Any = PyroParam(torch.zeros(images, 16))
        self.tau: Any = PyroParam(torch.full((images, 16), 0.5), constraint=constraints.positive)

    def get_posterior(self, name: str, prior: Any) -> Any:
        if name == "z_3":
            return dist.TransformedDistribution(dist.Normal(self.mu, self.tau).to_event(1), [self.flow])
        return dist.Normal(0.5 * (prior.mean + self.mu), self.tau.expand(prior.mean.shape)).to_event(1)


def chained(y: Tensor) -> None:
    """An ordinary guide function with parameters in Pyro's store; each level leans on the one above."""
    z: Tensor | float = 0.0
    with pyro.plate("images", len(y), dim=-1):
        for i in (3, 2, 1):
            mu = pyro.param(f"mu_{i}", torch.full((len(y), 16), 0.1 * i))
            tau = pyro.param(f"tau_{i}", torch.full((16,), 0.4), constraint=constraints.positive)
            z = pyro.sample(f"z_{i}", dist.Normal(mu + 0.5 * z, tau).to_event(1))


def guides(model: DiffusionModel, y: Tensor) -> dict[str, tuple[Any, Callable[[], list[nn.Parameter]]]]:
    """Guides of every make, each with a way to its parameters."""
    modules: dict[str, Any] = {
        "hierarchical": HierarchicalGuide(model, y, gamma_logit=0.5),
        "coupling": Coupling(model, len(y)),
        "flow": FlowGuide(model, y),
        "mixture": MixtureGuide(model, y, num_components=3),
        "auto normal": AutoNormal(model),
        "auto diagonal": AutoDiagonalNormal(model),
    }
    for guide in modules.values():
        guide(y)  # Pyro's own create their parameters at the first run
        with torch.no_grad():
            for parameter in guide.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    made = {name: (guide, lambda guide=guide: list(guide.parameters())) for name, guide in modules.items()}
    chained(y)
    store: Any = pyro.get_param_store()
    return made | {"function": (chained, lambda: [store[name].unconstrained() for name in sorted(store.keys())])}


def score(model: DiffusionModel, guide: Any, y: Tensor, parameters: list[nn.Parameter], seed: int) -> list[Tensor]:
    """The gradient of log q at fixed draws, those of ``seed``, one particle: q is run again on detached values."""
    torch.manual_seed(seed)
    if isinstance(guide, LatentGuide):
        guide(y)
        log_q, prior, z, t = torch.zeros(()), model.prior.marginal(model.levels[0].t).expand((len(y),)), y, 1.0
        for level in model.levels:
            if level.name != "z_3":
                prior = model.prior.transition(z, t, level.t).to_event(1)
            site: Any = guide.trace.nodes[level.name]
            z, t = site["value"].detach().clone(), level.t
            q: Any = guide.get_posterior(level.name, prior)
            site.update(value=z, fn=q)
            log_q = log_q + q.log_prob(z).sum()
    else:
        drawn = poutine.trace(guide).get_trace(y)
        drawn.detach_()
        log_q = torch.as_tensor(poutine.trace(poutine.replay(guide, trace=drawn)).get_trace(y).log_prob_sum())
    return [torch.zeros(()) if g is None else g for g in torch.autograd.grad(log_q, parameters, allow_unused=True)]


GUIDES = ["hierarchical", "coupling", "flow", "mixture", "auto normal", "auto diagonal", "function"]


@pytest.mark.parametrize("kind", GUIDES)
def test_the_score_is_what_is_left_out_whatever_the_guide(kind: str) -> None:
    """On the same draws, the two gradients differ by the gradient of log q at fixed draws, no less and no more."""
    problem = diagonal_problem(images=2)
    model, y = problem.model(), problem.y
    guide, parameters = guides(model, y)[kind]
    slopes = []
    for elbo in (vp.SampledELBO(num_particles=1), vp.StickingTheLandingELBO(num_particles=1)):
        torch.manual_seed(7)
        loss = elbo.differentiable_loss(model, guide, y)
        slopes.append(torch.autograd.grad(loss, parameters(), allow_unused=True))
    scores = score(model, guide, y, parameters(), seed=7)
    assert sum(float(s.abs().sum()) for s in scores) > 1
    for full, path, left_out in zip(*slopes, scores, strict=True):
        full, path = (torch.zeros(()) if g is None else g for g in (full, path))
        assert torch.allclose(full - path, left_out, rtol=1e-3, atol=2e-3 * float(full.abs().max()) + 1e-4)
    assert all(parameter.requires_grad for parameter in parameters())


# --- costs, sites outside the plate, refusals ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVERY)
def test_each_costs_k_plus_one_calls_a_step(kind: Any) -> None:
    problem = diagonal_problem(images=2)
    model = problem.model(problem.prior.diffusion())
    fit = vp.fit(model, HierarchicalGuide(model, problem.y), problem.y, kind(num_particles=3), steps=2)
    assert (fit.calls, fit.nfe) == (2 * 4, 2 * 4 * 3 * 2)


@pytest.mark.parametrize("kind", [vp.BetaELBO, *SAMPLED])
def test_a_site_outside_the_plate_of_images_is_shared_among_them(kind: Any) -> None:
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


def test_at_least_one_particle_is_asked_for() -> None:
    for kind in EVERY:
        with pytest.raises(ValueError, match="at least 1"):
            kind(num_particles=0)
