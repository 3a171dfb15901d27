"""The objective: equal to the sum written by hand, to Pyro's own, and weighted on the latent side only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, JitTrace_ELBO, JitTraceMeanField_ELBO, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroParam
from pyro.optim import PyroOptim
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

import pyro_vipaint as vp
from pyro_vipaint.elbos.base import LatentScale
from pyro_vipaint.errors import InputError
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.guides.base import LatentGuide
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


def drawn_by_hand(
    model: DiffusionModel, guide: HierarchicalGuide, y: Tensor, seed: int
) -> tuple[dict[str, tuple[Any, Any, Tensor]], Tensor]:
    """(q, p, draw) at each latent site and -log p(y | z), one particle, in plain torch, on Pyro's noise of ``seed``."""
    torch.manual_seed(seed)
    top, *below = model.levels
    q = Independent(Normal(top.alpha * guide.mu_3, guide.tau_3), 1)
    z, t = q.rsample(), top.t
    sites: dict[str, tuple[Any, Any, Tensor]] = {"z_3": (q, model.prior.marginal(top.t), z)}
    for level in below:
        i = level.name[-1]
        prior = model.prior.transition(z, t, level.t)
        gamma, mu, tau = (getattr(guide, f"{kind}_{i}") for kind in ("gamma", "mu", "tau"))
        q = Independent(Normal(gamma * prior.mean + (1 - gamma) * level.alpha * mu, tau), 1)
        z, t = q.rsample(), level.t
        sites[level.name] = (q, Independent(prior, 1), z)
    x = model.prior.denoise(z, t)
    return sites, -Normal(x, 0.1).log_prob(y)[:, :6].sum(-1)


def by_hand(model: DiffusionModel, guide: HierarchicalGuide, y: Tensor, seed: int) -> dict[str, Tensor]:
    """The terms of Eq. 13 for one particle."""
    sites, observed = drawn_by_hand(model, guide, y, seed)
    return {name: kl_divergence(q, p) for name, (q, p, _) in sites.items()} | {"y": observed}


@pytest.mark.parametrize("beta", BETAS)
def test_the_loss_is_the_weighted_sum_written_by_hand(beta: float | dict[str, float]) -> None:
    model, guide, y = build()
    terms = by_hand(model, guide, y, seed=3)
    weights = {name: 1.0 if name == "y" else weight(beta, name) for name in terms}
    expected = torch.stack([weights[name] * term.sum() for name, term in terms.items()]).sum()
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
    svi: Any = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 0.05}), loss=vp.BetaELBO(1.0, 8))
    losses = [svi.step(y) for _ in range(60)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_beta_must_be_positive_and_finite() -> None:
    for beta in (0.0, -1.0, float("nan"), float("inf"), {"z_1": 0.0}):
        with pytest.raises(ValueError, match="positive"):
            vp.BetaELBO(beta)


@pytest.mark.parametrize("beta", [[1.0, 2.0], "1", None, {"z_1": [1.0]}])
@pytest.mark.parametrize("kind", [vp.BetaELBO, vp.SampledELBO, vp.StickingTheLandingELBO])
def test_what_beta_may_be_is_said(kind: Any, beta: Any) -> None:
    with pytest.raises(InputError, match="a mapping such as"):
        kind(beta)


def test_a_site_that_does_not_exist_is_named() -> None:
    model, guide, y = build()
    with pytest.raises(ValueError, match="z_4"):
        vp.BetaELBO({"z_4": 2.0, "z_3": 1.0}).differentiable_loss(model, guide, y)


class Point(LatentGuide):
    """A point at every level: the smallest guide whose posterior is a Delta."""

    def __init__(self, model: DiffusionModel, shape: tuple[int, ...]) -> None:
        super().__init__(model)
        for level in model.levels:
            setattr(self, f"mu_{level.name[-1]}", PyroParam(torch.randn(shape)))

    def get_posterior(self, name: str, prior: Any) -> Tensor:
        return getattr(self, f"mu_{name[-1]}").expand(prior.shape())


def test_the_term_of_a_point_is_its_log_density_and_costs_no_second_call() -> None:
    """Pyro's own KL of a Delta would evaluate the marginal, a network call, once more."""
    problem = diagonal_problem(images=2)
    model, estimated = problem.model(), problem.model(problem.prior.diffusion())
    guide, elbo = Point(model, (2, 16)), vp.BetaELBO(num_particles=1)
    elbo.differentiable_loss(model, guide, problem.y)
    log_p = problem.prior.marginal(problem.keypoints[0]).log_prob(guide.mu_3)
    assert torch.allclose(elbo.terms["z_3"], -log_p)
    with vp.count_calls() as count:
        elbo.differentiable_loss(estimated, Point(estimated, (2, 16)), problem.y)
    assert count.calls == 4


def gradients(
    elbo: Any, model: DiffusionModel, guide: Any, y: Tensor, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """The objective and its gradient in all parameters, flattened, by Pyro's own entrance, ``loss_and_grads``."""
    if seed is not None:
        torch.manual_seed(seed)
    guide.zero_grad()
    loss = elbo.loss_and_grads(model, guide, y)
    return torch.tensor(loss), torch.cat([p.grad.flatten() for p in guide.parameters() if p.grad is not None])


PYROS = [Trace_ELBO, TraceMeanField_ELBO, RenyiELBO]
JITS = [(JitTrace_ELBO, Trace_ELBO), (JitTraceMeanField_ELBO, TraceMeanField_ELBO)]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("kind", PYROS)
def test_pyros_objectives_fit_the_guide_unchanged(kind: type, exact: bool) -> None:
    problem = diagonal_problem(images=2)
    model = problem.model(problem.prior if exact else problem.prior.diffusion())
    guide = HierarchicalGuide(model, problem.y, gamma_logit=0.5)
    elbo = kind(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    fit = vp.fit(model, guide, problem.y, elbo, steps=40, lr=0.1)
    assert sum(fit.losses[-10:]) < 0.7 * sum(fit.losses[:10])
    assert fit.calls == 40 * (3 if exact else 4)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("jit", "plain"), JITS)
def test_pyros_jit_cannot_find_parameters_that_live_in_their_guide(jit: type, plain: type) -> None:
    """It looks them up by name in the global store, which ``module_local_params`` leaves empty: Pyro's limitation."""
    model, guide, y = build()
    with pytest.raises(KeyError, match=r"mu|tau|gamma"):
        jit(num_particles=3, vectorize_particles=True, max_plate_nesting=1).differentiable_loss(model, guide, y)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("jit", "plain"), JITS)
def test_pyros_jit_objectives_equal_the_plain_ones_with_global_parameters(jit: type, plain: type) -> None:
    """On the same noise: a compilation runs the program twice before it answers, and one of the two never stops."""
    with pyro.settings.context(module_local_params=False):
        model, guide, y = build()
        compiled = jit(num_particles=3, vectorize_particles=True, max_plate_nesting=1, ignore_jit_warnings=True)
        eager = plain(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
        gradients(compiled, model, guide, y)
        runs_first = 2 if jit is JitTraceMeanField_ELBO else 0
        loss, slope = gradients(compiled, model, guide, y, seed=6)
        torch.manual_seed(6)
        for _ in range(runs_first):
            eager.differentiable_loss(model, guide, y)
        expected, expected_slope = gradients(eager, model, guide, y)
        assert torch.allclose(loss, expected, rtol=1e-5)
        assert torch.allclose(slope, expected_slope, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_pyros_jit_draws_the_estimated_marginal_anew_at_every_call() -> None:
    """Random steps of the marginal are compiled as draws, not as constants: the mean is that of the plain objective."""
    problem = diagonal_problem(images=2)
    model = problem.model(problem.prior.diffusion())
    with pyro.settings.context(module_local_params=False):
        guide = HierarchicalGuide(model, problem.y, gamma_logit=0.5)
        settings: dict[str, Any] = {"num_particles": 200, "vectorize_particles": True, "max_plate_nesting": 1}
        compiled, eager = JitTrace_ELBO(ignore_jit_warnings=True, **settings), Trace_ELBO(**settings)
        draws = [
            torch.stack([elbo.differentiable_loss(model, guide, problem.y).detach() for _ in range(40)])
            for elbo in (compiled, eager)
        ]
    (ours, our_error), (theirs, their_error) = (mean_and_error(values) for values in draws)
    assert_within(ours, theirs, (our_error**2 + their_error**2).sqrt())
    assert draws[0].std() > 0.5 * draws[1].std()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_the_gradient_of_pyros_compiled_differentiable_loss_is_doubled() -> None:
    """Pyro's: the loss beside the surrogate keeps its graph. ``loss_and_grads``, which ``fit`` calls, is right."""
    with pyro.settings.context(module_local_params=False):
        model, guide, y = build()
        elbo = JitTrace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1, ignore_jit_warnings=True)
        gradients(elbo, model, guide, y)
        _, right = gradients(elbo, model, guide, y, seed=6)
        guide.zero_grad()
        torch.manual_seed(6)
        elbo.differentiable_loss(model, guide, y).backward()
        wrong = torch.cat([p.grad.flatten() for p in guide.parameters() if p.grad is not None])
    assert torch.allclose(wrong, 2 * right, rtol=1e-3, atol=1e-3)
