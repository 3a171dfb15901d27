"""The objective: equal to the sum written by hand, to Pyro's own, and weighted on the latent side only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

import pyro_vipaint as vp
from pyro_vipaint.elbos.beta import LatentScale
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel
from tests.problems import diagonal_problem
from tests.statistics import assert_within, mean_and_error

BETAS: list[float | dict[str, float]] = [1.0, 5.0, 0.3, {"z_3": 2.0, "z_1": 7.0}]


def build(images: int = 2) -> tuple[DiffusionModel, HierarchicalGuide, Tensor]:
    problem = diagonal_problem(images=images)
    model = problem.model()
    guide = HierarchicalGuide(model, problem.y, gamma_logit=0.5)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model, guide, problem.y


def weight(beta: float | dict[str, float], name: str) -> float:
    return beta.get(name, 1.0) if isinstance(beta, dict) else beta


def by_hand(model: DiffusionModel, guide: HierarchicalGuide, y: Tensor, seed: int) -> dict[str, Tensor]:
    """The terms of Eq. 13 for one particle, in plain torch, on the noise that Pyro draws from ``seed``."""
    torch.manual_seed(seed)
    top, *below = model.levels
    q = Independent(Normal(top.alpha * guide.mu_3, guide.tau_3), 1)
    terms = {"z_3": kl_divergence(q, model.prior.marginal(top.t))}
    z, t = q.rsample(), top.t
    for level in below:
        i = level.name[-1]
        prior = model.prior.transition(z, t, level.t)
        gamma, mu, tau = (getattr(guide, f"{kind}_{i}") for kind in ("gamma", "mu", "tau"))
        q = Independent(Normal(gamma * prior.mean + (1 - gamma) * level.alpha * mu, tau), 1)
        terms[level.name] = kl_divergence(q, Independent(prior, 1))
        z, t = q.rsample(), level.t
    x = model.prior.denoise(z, t)
    terms["y"] = -Normal(x, 0.1).log_prob(y)[:, :6].sum(-1)
    return terms


@pytest.mark.parametrize("beta", BETAS)
def test_the_loss_is_the_weighted_sum_written_by_hand(beta: float | dict[str, float]) -> None:
    model, guide, y = build()
    terms = by_hand(model, guide, y, seed=3)
    expected = sum(weight(beta, name) * term.sum() if name != "y" else term.sum() for name, term in terms.items())
    elbo = vp.BetaELBO(beta, num_particles=1)
    torch.manual_seed(3)
    loss = elbo.differentiable_loss(model, guide, y)
    assert torch.allclose(loss, expected, rtol=1e-5)
    for name, term in terms.items():
        assert torch.allclose(elbo.terms[name], term, rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("particles", [1, 5])
def test_at_beta_one_it_is_pyros_own_elbo(particles: int) -> None:
    model, guide, y = build()
    ours = vp.BetaELBO(1.0, particles)
    theirs = TraceMeanField_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    losses = []
    for elbo in (ours, theirs):
        torch.manual_seed(4)
        losses.append(elbo.differentiable_loss(model, guide, y))
    assert torch.allclose(losses[0], losses[1], rtol=1e-6)


@pytest.mark.parametrize("beta", BETAS)
def test_terms_are_unweighted_and_add_up(beta: float | dict[str, float]) -> None:
    model, guide, y = build()
    elbo = vp.BetaELBO(beta, num_particles=7)
    loss = elbo.differentiable_loss(model, guide, y)
    total = sum((1.0 if name == "y" else weight(beta, name)) * term.sum() for name, term in elbo.terms.items())
    assert torch.allclose(loss, torch.as_tensor(total), rtol=1e-5)
    assert all(term.shape == (2,) for term in elbo.terms.values())


def test_the_sampled_elbo_under_the_same_scale_has_the_same_mean() -> None:
    """Trace_ELBO inside LatentScale estimates the same weighted objective."""
    model, guide, y = build()
    sampled = Trace_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    analytic = vp.BetaELBO(3.0, num_particles=4000)

    def scaled() -> Tensor:
        with LatentScale(3.0):
            return sampled.differentiable_loss(model, guide, y).detach()

    ours, our_error = mean_and_error(
        torch.stack([analytic.differentiable_loss(model, guide, y).detach() for _ in range(20)])
    )
    theirs, their_error = mean_and_error(torch.stack([scaled() for _ in range(20)]))
    assert_within(ours, theirs, (our_error**2 + their_error**2).sqrt())


def test_scaling_the_model_alone_is_the_silent_bug_that_this_avoids() -> None:
    """Under TraceMeanField_ELBO poutine.scale on the model leaves the latent sites alone: it reads the guide's."""
    model, _, y = build()

    def guide(y: Tensor) -> None:
        with pyro.plate("images", 2, dim=-1):
            for i in (3, 2, 1):
                pyro.sample(f"z_{i}", dist.Normal(torch.zeros(2, 16), 0.5).to_event(1))

    def loss(elbo: TraceMeanField_ELBO, program: Callable[..., Any]) -> Tensor:
        torch.manual_seed(5)
        return elbo.differentiable_loss(program, guide, y)

    pyros, ours = TraceMeanField_ELBO(max_plate_nesting=1), vp.BetaELBO(5.0, num_particles=1)
    plain, bugged, right = loss(pyros, model), loss(pyros, poutine.scale(model, scale=5.0)), loss(ours, model)
    latent = torch.stack([ours.terms[f"z_{i}"] for i in (1, 2, 3)]).sum()
    observed = ours.terms["y"].sum()
    assert torch.allclose(plain, latent + observed, rtol=1e-5)
    assert torch.allclose(right, 5 * latent + observed, rtol=1e-5)
    assert torch.allclose(bugged, latent + 5 * observed, rtol=1e-5), "Pyro behaves as this library assumes"


def test_pyros_svi_runs_the_same_objective() -> None:
    model, guide, y = build()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=vp.BetaELBO(1.0, 8))
    losses = [svi.step(y) for _ in range(60)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_beta_must_be_positive() -> None:
    for beta in (0.0, -1.0, {"z_1": 0.0}):
        with pytest.raises(ValueError, match="positive"):
            vp.BetaELBO(beta)
