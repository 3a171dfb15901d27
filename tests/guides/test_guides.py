"""Guide families: shared costs, independent images, and the law of each family."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any, cast

import pyro.distributions as dist
import pytest
import torch
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
)
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, constraints, kl_divergence

import pyro_vipaint as vp
from pyro_vipaint import guides
from pyro_vipaint.guides import (
    DeltaGuide,
    FeatureGuide,
    FlowGuide,
    HierarchicalGuide,
    LowRankGuide,
    MeanFieldGuide,
    MixtureGuide,
    PriorGuide,
)
from pyro_vipaint.guides.base import LatentGuide
from pyro_vipaint.guides.hierarchical import GRANULARITIES
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, GaussianPrior
from pyro_vipaint.models.priors.denoisers import EDMDenoiser
from pyro_vipaint.models.priors.schedules import EDM, CosineVP, Schedule
from tests.networks import random_unet
from tests.problems import Problem, bound_draws, diagonal_problem, perturbed
from tests.statistics import STANDARD_ERRORS, assert_within, mean_and_error

OBJECTIVES: dict[str, Callable[[int], Any]] = {
    "BetaELBO": lambda particles: vp.BetaELBO(num_particles=particles),
    "Trace_ELBO": lambda particles: Trace_ELBO(particles, max_plate_nesting=1, vectorize_particles=True),
    "TraceMeanField_ELBO": lambda particles: TraceMeanField_ELBO(
        particles, max_plate_nesting=1, vectorize_particles=True
    ),
}
families = pytest.mark.parametrize("family", [getattr(guides, name) for name in guides.__all__])


def network_model(levels: int, images: int = 2) -> tuple[DiffusionModel, Tensor]:
    """A class-conditional model of two-channel images on a small random network."""
    network = random_unet(in_channels=2, out_channels=2, num_class_embeds=3)
    prior = DiffusionPrior(EDM(), EDMDenoiser(network, EDM()), (2, 8, 8))
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    times = vp.keypoints(prior, noise_levels=[5 * 0.5**i for i in range(levels)])
    model = DiffusionModel(prior, vp.Laplace(vp.Inpainting(mask)), times, class_labels=torch.arange(images) % 3)
    return model, torch.rand(images, 2, 8, 8) * mask


def exact_model(levels: int, images: int = 2) -> tuple[DiffusionModel, Tensor]:
    """The diagonal Gaussian."""
    problem = diagonal_problem((3.0, 1.0, 0.3)[-levels:], images)
    return problem.model(), problem.y


# every family


@families
def test_a_guide_draws_for_every_image_and_sample_with_k_minus_one_calls(family: type[LatentGuide]) -> None:
    model, y = network_model(3)
    guide = perturbed(family(model, y), 0.2)
    with vp.count_calls() as count:
        z = vp.sample(guide, y, 5, seed=0)
    assert z.shape == (5, 2, 2, 8, 8)
    assert (count.calls, count.nfe) == (2, 2 * 5 * 2)
    assert torch.equal(z, vp.sample(guide, y, 5, seed=0))
    assert (z[0] == z[1]).all() == (family is DeltaGuide)


@families
def test_images_do_not_influence_each_other(family: type[LatentGuide]) -> None:
    """A large change of one image's observation changes only the gradients of that image's parameters."""
    model, y = network_model(3, images=3)
    guide = perturbed(family(model, y), 0.2)
    elbo = OBJECTIVES["Trace_ELBO"](4)
    other = y + 1e3 * torch.tensor([0.0, 1.0, 0.0])[:, None, None, None]
    gradients = []
    for observation in (y, other):
        guide.zero_grad()
        torch.manual_seed(0)
        elbo.differentiable_loss(model, guide, observation).backward()
        gradients.append([torch.stack(p.grad.chunk(3)) for p in guide.parameters() if p.grad is not None])
    assert all(torch.equal(a[[0, 2]], b[[0, 2]]) for a, b in zip(*gradients, strict=True))
    assert any(not torch.equal(a[1], b[1]) for a, b in zip(*gradients, strict=True))


# granularity


@pytest.mark.parametrize("granularity", GRANULARITIES[1:])
def test_every_granularity_starts_as_the_same_distribution(granularity: str) -> None:
    model, y = network_model(3)
    draws = [
        vp.sample(HierarchicalGuide(model, y, gamma_logit=0.5, gamma=kind, tau=kind), y, 3, seed=1)
        for kind in ("element", granularity)
    ]
    assert torch.allclose(*draws, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("granularity", GRANULARITIES[1:])
def test_the_gradient_of_a_shared_number_is_the_sum_over_its_elements(granularity: str) -> None:
    """The chain rule, on the unconstrained scale, where d tau / du = tau and d gamma / du = gamma (1 - gamma)."""
    model, y = network_model(3)
    gradients = []
    for kind in ("element", granularity):
        guide = HierarchicalGuide(model, y, gamma_logit=0.5, gamma=kind, tau=kind)
        torch.manual_seed(2)
        vp.BetaELBO().differentiable_loss(model, guide, y).backward()
        named = ((name.removesuffix("_unconstrained"), value.grad) for name, value in guide.named_parameters())
        gradients.append({name: grad for name, grad in named if not name.startswith("mu")})
    fine, coarse = gradients
    for name, gradient in coarse.items():
        kind, _, level = name.partition("_")
        parts = [fine[part] for part in fine if part.startswith(kind) and level in ("shared", part[-1])]
        total = torch.stack([part for part in parts if part is not None]).sum(0)
        assert gradient is not None
        assert torch.allclose(gradient, total.sum_to_size(gradient.shape), rtol=1e-3, atol=1e-3), name


def test_a_granularity_has_the_number_of_parameters_in_the_table() -> None:
    model, y = network_model(3)

    def count(**settings: Any) -> int:
        return sum(p.numel() for n, p in HierarchicalGuide(model, y, **settings).named_parameters() if n[0] != "m")

    images, levels, elements, channels = 2, 3, 128, 2
    assert count() == images * (levels + levels - 1) * elements
    assert count(gamma="channel", tau="channel") == images * (levels + levels - 1) * channels
    assert count(gamma="level", tau="level") == images * (levels + levels - 1)
    assert count(gamma="shared", tau="shared") == images * 2


# the truth


START: dict[str, Any] = {"gamma_logit": 0.0}
RATES = {"mu": 0.1, "tau": 0.1, "gamma": 0.25, "factor": 0.05}
FITTED: dict[str, Callable[..., LatentGuide]] = {
    "mean field": MeanFieldGuide,
    "prior": PriorGuide,
    "feature": FeatureGuide,
    "low rank": lambda model, init: LowRankGuide(model, init, rank=3, **START),
    "level": lambda model, init: HierarchicalGuide(model, init, gamma="level", tau="level", **START),
}


def gap_after_a_fit(family: str) -> tuple[Tensor, Tensor]:
    """log p(y) minus the bound, ``(N,)``, of the two-level diagonal Gaussian, and its standard error."""
    problem = diagonal_problem((1.0, 0.4), images=2)
    model = problem.model()
    torch.manual_seed(0)
    guide = FITTED[family](model, problem.y)
    vp.fit(model, guide, problem.y, vp.BetaELBO(num_particles=16), steps=350, lr=RATES, lr_decay=0.01, seed=1)
    bound, error = mean_and_error(bound_draws(model, guide, problem.y, repeats=20))
    return problem.prior.log_evidence(problem.likelihood, problem.y, problem.keypoints) - bound, error


@pytest.mark.slow
def test_a_family_that_contains_the_posterior_reaches_the_evidence() -> None:
    """The posterior of a diagonal Gaussian is low rank with F = 0."""
    gap, error = gap_after_a_fit("low rank")
    assert (gap > -STANDARD_ERRORS * error).all()
    assert (gap < 0.05 + 3 * error).all()
    assert (error < 0.02).all(), "the comparison is too noisy to mean anything"


@pytest.mark.parametrize(
    "family", ["mean field", *(pytest.param(name, marks=pytest.mark.slow) for name in ("prior", "feature", "level"))]
)
def test_families_that_do_not_contain_it_stay_below(family: str) -> None:
    """The gap is several nats where the hierarchical family has none."""
    gap, error = gap_after_a_fit(family)
    assert (gap > 3 + STANDARD_ERRORS * error).all()


@pytest.mark.slow
def test_low_rank_closes_the_gap_of_a_diagonal_where_elements_are_correlated() -> None:
    """Strongly correlated coordinates at T_e: the directions in F close most of the gap of a diagonal."""
    generator = torch.Generator().manual_seed(3)
    directions = torch.randn(12, 2, generator=generator)
    prior = GaussianPrior.full(torch.zeros(12), 0.02 * torch.eye(12) + directions @ directions.T)
    mask = torch.zeros(12)
    mask[0] = 1
    likelihood, y = vp.Gaussian(vp.Inpainting(mask), sigma=0.1), 0.5 * mask[None]
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=[0.3]))
    truth, gaps = prior.log_evidence(likelihood, y, model.keypoints), []
    for build in (HierarchicalGuide, LowRankGuide):
        guide = build(model, y)
        vp.fit(model, guide, y, vp.BetaELBO(num_particles=8), steps=400, lr=0.05, lr_decay=0.01, seed=1)
        gaps.append(float(truth - bound_draws(model, guide, y, repeats=10).mean()))
    assert gaps[0] > 1
    assert -0.05 < gaps[1] < 0.2


# the law of each family


def test_below_t_e_the_terms_of_the_prior_guide_are_zero() -> None:
    """Exactly zero, because q is the prior's own transition there."""
    model, y = network_model(4)
    guide = perturbed(PriorGuide(model, y), 0.2)
    elbo = vp.BetaELBO(num_particles=3)
    elbo.differentiable_loss(model, guide, y)
    assert all((elbo.terms[f"z_{i}"] == 0).all() for i in (1, 2, 3))
    assert (elbo.terms["z_4"] != 0).all()


@pytest.mark.parametrize(
    ("family", "limit"),
    [(PriorGuide, {"gamma_logit": 30.0, "tau_scale": 1.0}), (MeanFieldGuide, {"gamma_logit": -30.0})],
)
def test_limits_of_the_hierarchical_guide(family: type[LatentGuide], limit: dict[str, Any]) -> None:
    """gamma = 1 is the prior guide, gamma = 0 the mean field."""
    model, y = network_model(3)
    draws = [vp.sample(guide, y, 4, seed=5) for guide in (family(model, y), HierarchicalGuide(model, y, **limit))]
    assert torch.allclose(*draws, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", [EDM(), CosineVP()])
def test_the_terms_of_the_feature_guide_are_red_diffs(schedule: Schedule) -> None:
    """At each draw KL = (SNR_s - SNR_t) / 2 |mu - E[z_0 given z_t]|^2, from the schedule and the denoiser alone."""
    torch.manual_seed(0)
    prior = GaussianPrior.diagonal(0.5 * torch.randn(16), 0.3 + torch.rand(16), schedule)
    likelihood = vp.Gaussian(vp.Inpainting(torch.ones(16)))
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=[3.0, 1.2, 0.7, 0.2]))
    mu = torch.randn(2, 16)
    guide = FeatureGuide(model, mu)
    guide(torch.zeros(2, 16))
    model_sites, guide_sites = (cast(dict[str, Any], trace.nodes) for trace in guide.get_traces())
    ratio = [float((schedule(torch.tensor(t))[0] / schedule(torch.tensor(t))[1]) ** 2) for t in model.keypoints]
    for i in range(3):
        upper, lower = f"z_{4 - i}", f"z_{3 - i}"
        z_hat = prior.denoise(guide_sites[upper]["value"], model.keypoints[i])
        expected = (ratio[i + 1] - ratio[i]) / 2 * (mu - z_hat).square().sum(-1)
        divergence = kl_divergence(guide_sites[lower]["fn"], model_sites[lower]["fn"])
        assert torch.allclose(divergence, expected, rtol=1e-3)


def test_every_level_of_the_feature_guide_is_the_diffusion_of_mu() -> None:
    """The bridges compose: z_i ~ N(alpha_i mu, sigma_i^2) at the last level too, for each image and sample."""
    model, _ = exact_model(3)
    mu = torch.randn(2, 16)
    z = vp.sample(FeatureGuide(model, mu), mu, 20_000, seed=3)
    level, count = model.levels[-1], 20_000
    assert_within(z.mean(0), level.alpha * mu, level.sigma / count**0.5)
    assert_within(z.std(0), level.sigma, level.sigma / (2 * count) ** 0.5)


def negative_log_joint(problem: Problem, z: Tensor) -> Tensor:
    """-log p(z_3, z_2, z_1, y) of one image under EDM; ``z`` has shape ``(3, 16)``."""
    m, v = problem.prior.mean.double(), problem.prior.denoiser.variance.double()
    sigma = [float(problem.prior.schedule(torch.tensor(t))[1]) for t in problem.keypoints]
    total = -Normal(m, (v + sigma[0] ** 2).sqrt()).log_prob(z[0]).sum()
    for i in (0, 1):
        z_hat = m + v / (v + sigma[i] ** 2) * (z[i] - m)
        ratio = (sigma[i + 1] / sigma[i]) ** 2
        mean = ratio * z[i] + (1 - ratio) * z_hat
        total = total - Normal(mean, ((1 - ratio) * sigma[i + 1] ** 2) ** 0.5).log_prob(z[i + 1]).sum()
    x = m + v / (v + sigma[2] ** 2) * (z[2] - m)
    return total - Normal(x, 0.1).log_prob(problem.y[0].double())[:6].sum()


def maximum_a_posteriori(problem: Problem) -> tuple[Tensor, float]:
    """The mode of p(z | y), ``(3, 16)``, and -log p(z, y) there, by one Newton step: the joint is quadratic."""

    def joint(z: Tensor) -> Tensor:
        return negative_log_joint(problem, z.reshape(3, 16))

    origin = torch.zeros(48, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(joint, origin)
    slope = torch.autograd.functional.jacobian(joint, origin)
    assert isinstance(hessian, Tensor) and isinstance(slope, Tensor)
    mode = -torch.linalg.solve(hessian, slope)
    return mode.reshape(3, 16), float(joint(mode))


def test_at_the_maximum_a_posteriori_the_gradient_of_the_delta_guide_is_zero() -> None:
    """There the objective is -log p(z, y) and its gradient is zero; a step away it is not."""
    problem = diagonal_problem()
    model, (mode, lowest) = problem.model(), maximum_a_posteriori(problem)
    slopes = []
    for shift in (0.0, 0.01):
        guide = DeltaGuide(model, problem.y)
        with torch.no_grad():
            for level, value in zip(model.levels, mode.float(), strict=True):
                getattr(guide, f"mu_{level.name[-1]}").copy_((value + shift) / level.alpha)
        loss = vp.BetaELBO(num_particles=2).differentiable_loss(model, guide, problem.y)
        loss.backward()
        slopes.append(max(float(p.grad.abs().max()) for p in guide.parameters() if p.grad is not None))
        if shift == 0:
            assert loss.item() == pytest.approx(lowest, rel=1e-5)
    assert slopes[0] < 1e-3 < 0.1 < slopes[1]


@pytest.mark.parametrize("shape", [(12,), (3, 2, 2)])
def test_the_low_rank_gaussian_is_the_dense_one(shape: tuple[int, ...]) -> None:
    """Density, entropy and divergences equal those of the dense covariance sigma^2 F F^T + diag(tau^2)."""
    prior = GaussianPrior.diagonal(torch.randn(shape), 0.3 + torch.rand(shape))
    model = DiffusionModel(prior, vp.Gaussian(vp.Inpainting(torch.ones(shape))), vp.keypoints(prior, noise_levels=[2]))
    guide = perturbed(LowRankGuide(model, torch.randn(2, *shape), rank=4), 0.2)
    p = prior.marginal(model.keypoints[0])
    q: Any = guide.get_posterior("z_1", p)
    factor, tau, sigma = guide.factor_1, guide.tau_1.flatten(1), model.levels[0].sigma
    covariance = sigma**2 * factor @ factor.mT + torch.diag_embed(tau**2)
    dense = MultivariateNormal(guide.mu_1.flatten(1), covariance)
    z = q.rsample()
    assert (q.batch_shape, q.event_shape, z.shape) == ((2,), shape, (2, *shape))
    assert torch.allclose(q.log_prob(z), dense.log_prob(z.flatten(1)), rtol=1e-4)
    assert torch.allclose(q.entropy(), dense.entropy(), rtol=1e-4)
    diagonal = MultivariateNormal(p.mean.flatten(), torch.diag(p.variance.flatten()))
    assert torch.allclose(kl_divergence(q, p), kl_divergence(dense, diagonal), rtol=1e-4)
    if len(shape) == 1:
        assert torch.allclose(kl_divergence(q, diagonal), kl_divergence(dense, diagonal), rtol=1e-4)
        expanded = q.expand(torch.Size((5, 2)))
        assert torch.allclose(kl_divergence(expanded, p), kl_divergence(dense, diagonal).expand(5, 2), rtol=1e-4)


# Pyro's own guides


class JointNormal(EasyGuide):
    """All levels as one diagonal Gaussian for each image, by hand."""

    def __init__(self, model: DiffusionModel, images: int, size: int) -> None:
        super().__init__(model)
        self.loc: Any = PyroParam(torch.zeros(images, size))
        self.scale: Any = PyroParam(torch.ones(images, size), constraints.positive)

    def guide(self, y: Tensor) -> None:
        with self.plate("images", len(y), dim=-1):
            self.group("z_.*").sample("z", dist.Normal(self.loc, self.scale).to_event(1))


CHAIN: dict[str, dict[str, Any]] = {"z_3": {}, "z_2": {"z_3": "linear"}, "z_1": {"z_2": "linear"}}
# Each with the number of its parameters for T numbers in all latents, L levels of T / L numbers.
PYROS: dict[str, tuple[Callable[[DiffusionModel], Any], Callable[[int, int], int]]] = {
    "AutoNormal": (AutoNormal, lambda total, levels: 2 * total),
    "AutoDiagonalNormal": (AutoDiagonalNormal, lambda total, levels: 2 * total),
    "AutoLowRankMultivariateNormal": (
        lambda model: AutoLowRankMultivariateNormal(model, rank=5),
        lambda total, levels: (2 + 5) * total,
    ),
    "AutoMultivariateNormal": (AutoMultivariateNormal, lambda total, levels: (2 + total) * total),
    "AutoStructured": (
        lambda model: AutoStructured(model, conditionals=dict.fromkeys(CHAIN, "normal"), dependencies=CHAIN),
        lambda total, levels: 2 * total + (levels - 1) * (total // levels) ** 2,
    ),
    "AutoIAFNormal": (AutoIAFNormal, lambda total, levels: (total + 1) * (3 * total + 1) + (3 * total + 2) * 2 * total),
    "EasyGuide": (lambda model: JointNormal(model, 2, 48), lambda total, levels: 2 * total),
}


@pytest.mark.parametrize(("name", "objective"), list(zip(PYROS, cycle(OBJECTIVES))))
def test_pyros_own_guides_run_on_the_same_model(name: str, objective: str) -> None:
    """Finite loss and gradients, and the number of parameters in the table of ``pyro_vipaint.guides``."""
    model, y = exact_model(3)
    build, expected = PYROS[name]
    guide = build(model)
    loss = OBJECTIVES[objective](3).differentiable_loss(model, guide, y)
    loss.backward()
    assert loss.isfinite()
    for parameter_name, parameter in guide.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
    assert sum(parameter.numel() for parameter in guide.parameters()) == expected(2 * 3 * 16, 3)


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        (HierarchicalGuide, {"gamma": "pixel"}, "element, channel, level, shared"),
        (HierarchicalGuide, {"gamma": "level", "gamma_logit": torch.zeros(16)}, "cannot be broadcast"),
        (LowRankGuide, {"rank": 17}, "rank is 17"),
        (FlowGuide, {"num_couplings": 0}, "num_couplings"),
        (MixtureGuide, {"num_components": 0}, "at least 1"),
        (MixtureGuide, {"num_components": 4, "init": torch.zeros(2, 3, 16)}, "init has 3"),
        *((family, {"tau_scale": 0.0}, "tau_scale") for family in (HierarchicalGuide, MeanFieldGuide, MixtureGuide)),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(family: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(vp.InputError, match=message):
        family(diagonal_problem().model(), **arguments)
