"""The mixture of hierarchical guides: its law, density, gradients and modes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Categorical, Normal  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide, MixtureGuide, mixture
from pyro_vipaint.guides.mixture import StratifiedMixture, systematic, weight_gradient
from pyro_vipaint.models import DiffusionModel, GaussianMixturePrior, GaussianPrior
from tests.problems import bound_draws, diagonal_problem
from tests.statistics import FAILURE_RATE, STANDARD_ERRORS, assert_within, mean_and_error

WEIGHTS = torch.tensor([0.62, 0.3, 0.08])
BETA = 2.0


def univariate(logits: Tensor, loc: Tensor, scale: Tensor, images: int) -> StratifiedMixture:
    """Parameters ``(M,)`` or ``(images, M)``, the event one number."""
    components = Normal(loc.expand(images, -1)[..., None], scale.expand(images, -1)[..., None]).to_event(1)
    return StratifiedMixture(Categorical(logits=logits.expand(images, -1)), components)


def three_components(images: int) -> StratifiedMixture:
    return univariate(WEIGHTS.log(), torch.tensor([-1.0, 0.5, 3.0]), torch.tensor([0.5, 1.0, 0.3]), images)


@pytest.mark.parametrize("particles", [1, 5, 8])
def test_each_particle_alone_is_a_draw_of_the_mixture(particles: int) -> None:
    images = 20000
    q = three_components(images).expand((particles, images))
    z = q.rsample()[..., 0]
    assert q.which is not None
    share = torch.stack([(q.which == m).float().mean(-1) for m in range(3)], -1)
    assert_within(share, WEIGHTS.expand(particles, 3), (WEIGHTS * (1 - WEIGHTS) / images).sqrt())
    first = z[0].sort().values
    normal = q.component_distribution.base_dist
    cdf = (WEIGHTS * Normal(normal.loc[0, 0, :, 0], normal.scale[0, 0, :, 0]).cdf(first[:, None])).sum(-1)
    distance = (cdf - (torch.arange(images) + 0.5) / images).abs().max()
    assert distance < math.sqrt(math.log(2 / FAILURE_RATE) / 2 / images), "Kolmogorov-Smirnov"


def test_the_counts_of_the_components_differ_from_their_shares_by_less_than_one() -> None:
    q = three_components(500).expand((30, 500))
    q.rsample()
    assert q.which is not None
    count = torch.stack([(q.which == m).sum(0) for m in range(3)], -1)
    assert ((count - 30 * WEIGHTS).abs() < 1).all()


def test_samples_are_independent() -> None:
    """Of two samples of an image all pairs of components are as frequent as the products of their weights."""
    images = 50_000
    prior = GaussianPrior.diagonal(torch.zeros(1), torch.ones(1))
    likelihood = vp.Gaussian(vp.Inpainting(torch.zeros(1)), sigma=0.5)
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=[0.1]))
    guide = MixtureGuide(model, torch.tensor([[-9.0], [0.0], [9.0]]).expand(images, 3, 1), num_components=3)
    guide.weight_logits = WEIGHTS.log().expand(images, 3).clone()
    first, second = (vp.sample(guide, torch.zeros(images, 1), 2)[..., 0] / 9).round().long() + 1
    pairs = torch.bincount(3 * first + second, minlength=9) / images
    expected = WEIGHTS.outer(WEIGHTS).flatten()
    assert_within(pairs, expected, (expected * (1 - expected) / images).sqrt())


def objective(z: Tensor) -> Tensor:
    return 30 + torch.sin(2 * z) + 0.3 * z**2


@pytest.mark.parametrize("particles", [20, 6, 2], ids=["all drawn", "one of them rare", "fewer than components"])
def test_the_gradient_is_that_of_the_integral(particles: int) -> None:
    """E_q[f + log q] by quadrature against the mean over images; each image is a replicate."""
    images = 20000
    start = (WEIGHTS.log(), torch.tensor([-1.0, 0.5, 3.0]), torch.tensor([0.5, 1.0, 0.7]))
    exact = [value.double().requires_grad_() for value in start]
    grid = torch.linspace(-12, 12, 6001, dtype=torch.float64)
    log_q = univariate(*exact, images=1).log_prob(grid[:, None, None])[:, 0]
    integral = torch.trapezoid(log_q.exp() * (objective(grid) + log_q), grid)
    truth = torch.autograd.grad(integral, exact)

    copies = [value.expand(images, 3).clone().requires_grad_() for value in start]
    q = univariate(*copies, images=images).expand((particles, images))
    z = q.rsample()
    value = objective(z[..., 0]) + q.log_prob(z)
    gradients = torch.autograd.grad((q.gradient_factor() * value).mean(0).sum(), copies)
    for ours, expected in zip(gradients, truth, strict=True):
        estimate, error = mean_and_error(ours)
        assert_within(estimate, expected.float(), error)
        assert error.max() < 0.1 if particles > 2 else True


@pytest.mark.parametrize(
    ("particles", "weights"),
    [(1, (0.6, 0.35, 0.05)), (3, (0.34, 0.33, 0.33)), (6, (0.5, 0.3, 0.15, 0.05)), (12, (0.6, 0.35, 0.05))],
)
def test_the_gradient_of_the_weights_is_unbiased(particles: int, weights: tuple[float, ...]) -> None:
    """f is one number per component: grad sum_m w_m f_m is w (f - sum w f) in the logits. Each image is a replicate."""
    images, w = 30_000, torch.tensor(weights)
    for f in (10 * torch.eye(len(w))[0], 10 * torch.eye(len(w))[-1], torch.linspace(-20, 30, len(w))):
        logits = w.log().expand(images, -1).clone().requires_grad_()
        which = systematic(w, torch.Size((particles, images)))
        loss = (weight_gradient(logits.softmax(-1), which) * f[which]).mean(0).sum()
        (gradient,) = torch.autograd.grad(loss, logits)
        estimate, error = mean_and_error(gradient.double())
        exact = w.double() * (f - (w * f).sum())
        assert_within(estimate, exact, error, slack=1e-5)


def test_a_constant_in_the_objective_changes_no_gradient_and_no_value() -> None:
    logits = WEIGHTS.log().expand(50, 3).clone().requires_grad_()
    q = univariate(logits, torch.zeros(3), torch.ones(3), images=50).expand((6, 50))
    q.rsample()
    factor = q.gradient_factor()
    assert isinstance(factor, Tensor)
    assert torch.equal(factor, torch.ones(6, 50))
    (gradient,) = torch.autograd.grad((factor * 1000).mean(0).sum(), logits)
    assert gradient.abs().max() < 1e-3


def perturbed(model: DiffusionModel, images: int, components: int = 3, scale: float = 0.4) -> MixtureGuide:
    """The same random parameters for each image."""
    torch.manual_seed(11)
    start = torch.zeros(images, *model.prior.event_shape)
    guide = MixtureGuide(model, start, num_components=components, gamma_logit=0.5)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(parameter[:1] + scale * torch.randn_like(parameter[:1]))
    return guide


def small_model(images: int, size: int = 2, levels: tuple[float, ...] = (1.5, 0.5)) -> tuple[DiffusionModel, Tensor]:
    prior = GaussianPrior.diagonal(torch.linspace(-0.5, 0.5, size), torch.linspace(0.5, 1.0, size))
    mask = torch.zeros(size)
    mask[0] = 1
    model = DiffusionModel(prior, vp.Gaussian(vp.Inpainting(mask), sigma=0.5), vp.keypoints(prior, noise_levels=levels))
    return model, torch.full((images, size), 0.7) * mask


def replayed(guide: MixtureGuide, y: Tensor, values: dict[str, Tensor]) -> dict[str, Any]:
    """The guide's distributions at given ``values``, ``(particles, N, *event)``."""
    trace = poutine.Trace()
    for name, value in values.items():
        trace.add_node(name, type="sample", value=value, is_observed=False, infer={})
    count = next(iter(values.values())).shape[0]
    with poutine.replay(trace=trace), pyro.plate("particles", count, dim=-2):
        guide.sample_latents(len(y))
    return {name: guide.trace.nodes[name]["fn"] for name in values}


def test_the_density_is_the_mixture_of_hierarchical_densities_and_integrates_to_one() -> None:
    model, y = small_model(1, size=1)
    guide = perturbed(model, 1)
    axis = torch.linspace(-12, 12, 301)
    high, low = (axis_values.reshape(-1, 1, 1) for axis_values in torch.meshgrid(axis, axis, indexing="ij"))
    with torch.no_grad():
        q = replayed(guide, y, {"z_2": high, "z_1": low})
        log_q = q["z_2"].log_prob(high) + q["z_1"].log_prob(low)
        top, below = model.levels
        prior_mean = model.prior.transition(high, top.t, below.t).mean
        by_hand = torch.zeros(len(high), 1)
        for m in range(3):
            gamma = guide.gamma_1[:, m]
            mean = gamma * prior_mean + (1 - gamma) * below.alpha * guide.mu_1[:, m]
            log_m = Normal(top.alpha * guide.mu_2[:, m], guide.tau_2[:, m]).log_prob(high)[..., 0]
            by_hand += (guide.weights[:, m].log() + log_m + Normal(mean, guide.tau_1[:, m]).log_prob(low)[..., 0]).exp()
    dense = by_hand > 1e-20
    assert torch.allclose(log_q[dense], by_hand[dense].log(), atol=1e-3)
    assert abs(float(log_q.exp().sum() * (axis[1] - axis[0]) ** 2) - 1) < 1e-3


def log_ratio(model: DiffusionModel, guide: MixtureGuide, y: Tensor, values: dict[str, Tensor]) -> tuple:
    """(beta (log q - log p) of the latents - log p(y), log q), by hand, ``(S, N)`` each."""
    q = replayed(guide, y, values)
    log_q = torch.stack([q[name].log_prob(values[name]) for name in values]).sum(0)
    top, below = model.levels
    log_p = model.prior.marginal(top.t).log_prob(values["z_2"])
    log_p = log_p + model.prior.transition(values["z_2"], top.t, below.t).log_prob(values["z_1"]).sum(-1)
    observed = Normal(model.reconstruct(values["z_1"]), 0.5).log_prob(y)[..., 0]
    return BETA * (log_q - log_p) - observed, log_q


def test_the_gradient_is_that_of_the_score_function_estimator() -> None:
    """REINFORCE needs only the density, neither reparameterisation nor strata. Each image is a replicate."""
    images, particles = 3000, 6
    model, y = small_model(images)
    guide = perturbed(model, images)
    names, parameters = zip(*guide.named_parameters(), strict=True)

    with torch.no_grad(), pyro.plate("particles", 40, dim=-2):
        guide(y)
    nodes: Any = guide.trace.nodes
    values = {name: nodes[name]["value"].detach() for name in ("z_2", "z_1")}
    cost, log_q = log_ratio(model, guide, y, values)
    baseline = float(cost.detach().mean())
    reference = torch.autograd.grad(((cost.detach() - baseline) * log_q).mean(0).sum(), parameters)

    loss = vp.BetaELBO(BETA, particles).differentiable_loss(model, guide, y)
    gradients = torch.autograd.grad(loss, parameters)
    assert_within(loss.detach() / images, baseline, float(cost.detach().std()) / images**0.5)
    for name, ours, theirs in zip(names, gradients, reference, strict=True):
        estimate, error = mean_and_error(ours)
        expected, expected_error = mean_and_error(theirs)
        assert (estimate.abs() > 3 * error).any(), f"{name}: too noisy to mean anything"
        assert_within(estimate, expected, (error**2 + expected_error**2).sqrt())


def test_one_component_is_the_hierarchical_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same noise the losses are equal: the KL terms are analytic given the component."""
    problem = diagonal_problem(images=2)
    model = problem.model()
    monkeypatch.setattr(mixture, "systematic", lambda _, shape: torch.zeros(shape, dtype=torch.long))
    losses = []
    for guide in (HierarchicalGuide(model, problem.y), MixtureGuide(model, problem.y, num_components=1)):
        torch.manual_seed(3)
        losses.append(vp.BetaELBO(num_particles=4).differentiable_loss(model, guide, problem.y))
    assert torch.allclose(losses[0], losses[1], rtol=1e-5)


@pytest.fixture(scope="module")
def two_modes() -> tuple[DiffusionModel, Tensor, Tensor, float]:
    """The model, y, the exact log evidence and the exact weight of the upper mode.

    The modes lie so far apart that each has the closed form of one Gaussian prior.
    """
    mean, std = torch.tensor([0.4, 4.0]), 0.5
    prior = GaussianMixturePrior.diagonal(torch.ones(2), torch.stack([mean, -mean]), std)
    likelihood = vp.Gaussian(vp.Inpainting(torch.tensor([1.0, 0.0])), sigma=0.3)
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=[1.0, 0.4]))
    y = torch.tensor([[-0.3, 0.0]])
    of_each = torch.stack(
        [
            GaussianPrior.diagonal(sign * mean, torch.full((2,), std)).log_evidence(likelihood, y, model.keypoints)
            for sign in (1, -1)
        ]
    )
    return model, y, of_each.logsumexp(0) - math.log(2), float(of_each.softmax(0)[0])


def test_the_mixture_finds_both_modes_with_their_weights(two_modes: tuple) -> None:
    """The weights stay constant until the components have reached their modes."""
    model, y, evidence, upper = two_modes
    assert 0.1 < upper < 0.3, "the weights are unequal"
    guide = MixtureGuide(model, y, num_components=4, spread=1.4, generator=torch.Generator().manual_seed(1))
    elbo, resting = vp.BetaELBO(num_particles=16), {"mu": 0.3, "tau": 0.1, "gamma": 0.1, "weight": 0.0}
    vp.fit(model, guide, y, elbo, steps=100, lr=resting, seed=2)
    vp.fit(model, guide, y, elbo, steps=250, lr=0.1, lr_decay=0.02, seed=2)
    bound, error = map(float, mean_and_error(bound_draws(model, guide, y, repeats=20)))
    share = float((model.reconstruct(vp.sample(guide, y, 4000, seed=3))[..., 1] > 0).float().mean())
    assert abs(share - upper) < 0.04
    assert bound < float(evidence) + STANDARD_ERRORS * error + 0.01
    assert float(evidence) - bound < 0.1


def test_the_components_start_around_init_or_at_it() -> None:
    model, _ = small_model(50, size=20)
    init = torch.full((50, 20), 3.0)
    guide = MixtureGuide(model, init, num_components=6, spread=2.0)
    assert torch.equal(guide.mu_2[:, 0], init)
    others = guide.mu_2[:, 1:].detach()
    std = 2 * model.prior.sigma_data
    assert_within(others.mean(), 3.0, std / others.numel() ** 0.5)
    assert_within(others.std(), std, std / (2 * others.numel()) ** 0.5)
    starts = torch.randn(50, 6, 20)
    assert torch.equal(MixtureGuide(model, starts, num_components=6).mu_1, starts)
    logit = torch.randn(50, 20)
    gamma = MixtureGuide(model, starts, num_components=6, gamma_logit=logit).gamma_1
    assert torch.allclose(gamma, logit.sigmoid()[:, None].expand(gamma.shape))


def test_loading_does_not_change_the_global_generator(tmp_path: Path) -> None:
    model, _ = small_model(2)
    perturbed(model, 2, components=4).save_pretrained(tmp_path)
    before = torch.random.get_rng_state()
    MixtureGuide.load(tmp_path, model)
    assert torch.equal(torch.random.get_rng_state(), before)
