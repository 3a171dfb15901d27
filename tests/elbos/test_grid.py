"""Every guide with every objective, prior and number of levels, in pairs: value and gradient are those written by hand.

The cases are a pairwise design: any two values of (guide, objective, prior, levels) meet in at least one case. In each
case the loss and its gradient equal the sum of the terms at the same draws, with the prior's transitions from Eq. 3,
and the density of the hierarchical guides is Eq. 11-12. The network is called K times where the prior's marginal is
exact, K + 1 times where it is estimated. Everything runs in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

import pyro.infer
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Independent, Laplace, Normal, kl_divergence

import pyro_vipaint as vp
from pyro_vipaint import guides
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.guides.base import LatentGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, EmpiricalPrior, GaussianMixturePrior, GaussianPrior
from pyro_vipaint.models.priors.denoisers import EDMDenoiser
from pyro_vipaint.models.priors.schedules import EDM, CosineVP
from tests.networks import random_unet
from tests.problems import perturbed

EVENT, IMAGES, PARTICLES = (1, 8, 8), 2, 4
NOISE = (3.0, 1.0, 0.3)
BETA, ALPHA = 3.0, 0.5
PYROS: dict[str, Any] = {"num_particles": PARTICLES, "max_plate_nesting": 1, "vectorize_particles": True}


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# --- the objectives, by hand ---------------------------------------------------------------------------------------


class Site(NamedTuple):
    """A latent site: q, p, and their log densities at the draw, ``(P, N)``."""

    q: Any
    p: Any
    log_q: Tensor
    log_p: Tensor


def sampled(site: Site) -> Tensor:
    return site.log_q - site.log_p


def analytic(site: Site, entropy: bool = False) -> Tensor:
    """KL(q || p); where it has no closed form, -H[q] - log p or log q - log p."""
    try:
        return kl_divergence(site.q, site.p)
    except NotImplementedError:
        pass
    try:
        return -site.q.entropy() - site.log_p if entropy else sampled(site)
    except NotImplementedError:
        return sampled(site)


def weighted(term: Callable[[Site], Tensor], beta: float) -> Callable[..., Tensor]:
    """Mean over particles of beta × (the latent terms) - log p(y | z)."""

    def loss(sites: list[Site], observed: Tensor, factor: Tensor | float) -> Tensor:
        total = sum((beta * term(site) for site in sites), observed)
        return (factor * total).sum() / PARTICLES

    return loss


def renyi(uses_factor: bool) -> Callable[..., Tensor]:
    def loss(sites: list[Site], observed: Tensor, factor: Tensor | float) -> Tensor:
        log_weight = -sum((sampled(site) for site in sites), observed) * (factor if uses_factor else 1.0)
        return -(((1 - ALPHA) * log_weight).logsumexp(0) - math.log(PARTICLES)).sum() / (1 - ALPHA)

    return loss


def beta_term(site: Site) -> Tensor:
    return analytic(site, entropy=True)


ARGUMENTS: dict[str, dict[str, Any]] = {
    "AnnealedELBO": {"start": 2 * BETA, "steps": 3},
    "RenyiELBO": {"alpha": ALPHA},
    "BetaELBO": {"beta": BETA},
    "SampledELBO": {"beta": BETA},
    "StickingTheLandingELBO": {"beta": BETA},
}
TERMS = {"AnnealedELBO": beta_term, "BetaELBO": beta_term}  # the others report sampled terms
LOSSES: dict[str, Callable[..., Tensor]] = {
    "AnnealedELBO": weighted(beta_term, 2 * BETA),
    "RenyiELBO": renyi(uses_factor=False),
    "BetaELBO": weighted(beta_term, BETA),
    "SampledELBO": weighted(sampled, BETA),
    "StickingTheLandingELBO": weighted(sampled, BETA),
    "Pyro's Trace_ELBO": weighted(sampled, 1.0),
    "Pyro's TraceMeanField_ELBO": weighted(analytic, 1.0),
    "Pyro's RenyiELBO": renyi(uses_factor=True),
}


def objective(name: str) -> Any:
    if name.startswith("Pyro's"):
        arguments: dict[str, Any] = {"alpha": ALPHA} if "Renyi" in name else {}
        return getattr(pyro.infer, name.removeprefix("Pyro's "))(**arguments, **PYROS)
    return getattr(vp, name)(num_particles=PARTICLES, **ARGUMENTS.get(name, {}))


# --- the models ----------------------------------------------------------------------------------------------------


PRIORS: dict[str, Callable[[int | None], DiffusionPrior]] = {
    "Gaussian": lambda _: GaussianPrior.diagonal(0.5 * torch.randn(EVENT), 0.3 + torch.rand(EVENT), CosineVP()),
    "mixture": lambda _: GaussianMixturePrior.diagonal(torch.ones(3), torch.randn(3, *EVENT), 0.4, CosineVP()),
    "empirical": lambda _: EmpiricalPrior(torch.rand(9, *EVENT) * 2 - 1, labels=torch.arange(9) % 3),
    "network": lambda classes: DiffusionPrior(EDM(), EDMDenoiser(random_unet(num_class_embeds=classes), EDM()), EVENT),
}
FACTORS: dict[str, Sequence[Any]] = {
    "family": guides.__all__,
    "objective": [name for name in vp.__all__ if name.endswith("ELBO")] + [n for n in LOSSES if n.startswith("Pyro's")],
    "prior": ["Gaussian", "mixture", "empirical", "empirical, labels", "network", "network, labels"],
    "levels": [1, 3],
}


def build(prior_name: str, levels: int, labels: Sequence[int] = (0, 2)) -> tuple[DiffusionModel, Tensor]:
    """Two images of which the left half is observed."""
    kind, _, labelled = prior_name.partition(", ")
    prior = PRIORS[kind](3 if labelled else None)
    mask = torch.zeros(EVENT)
    mask[..., :4] = 1
    times = vp.keypoints(prior, noise_levels=NOISE[-levels:])
    condition = {"class_labels": torch.tensor(labels)} if labelled else {}
    model = DiffusionModel(prior, vp.Laplace(vp.Inpainting(mask)), times, **condition)
    return model, torch.rand(IMAGES, *EVENT) * mask


def transition(model: DiffusionModel, z_t: Tensor, t: float, s: float) -> Independent:
    """Eq. 3 from the schedule and the denoiser."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, model.prior.schedule(torch.tensor(time))) for time in (t, s))
    alpha_ts = alpha_t / alpha_s
    variance_ts = sigma_t**2 - alpha_ts**2 * sigma_s**2
    x = model.prior.denoise(z_t, t, **model.condition)
    mean = (alpha_ts * sigma_s**2 * z_t + alpha_s * variance_ts * x) / sigma_t**2
    return Independent(Normal(mean, variance_ts**0.5 * sigma_s / sigma_t), len(EVENT))


def draw(model: DiffusionModel, guide: LatentGuide, y: Tensor) -> tuple[dict[str, Tensor], list[Site], Tensor]:
    """The draws of the guide, its sites with the prior by hand, and -log p(y | z), ``(P, N)``."""
    with pyro.plate("particles", PARTICLES, dim=-2):
        guide(y)
    model_trace, guide_trace = guide.get_traces()
    nodes: Any = guide_trace.nodes
    prior: Any = model_trace.nodes[model.levels[0].name]["fn"]
    values, sites = {level.name: nodes[level.name]["value"] for level in model.levels}, []
    for level, below in zip(model.levels, [*model.levels[1:], None], strict=True):
        q, z = nodes[level.name]["fn"], values[level.name]
        sites.append(Site(q, prior, q.log_prob(z), prior.log_prob(z)))
        if below is not None:
            prior = transition(model, z, level.t, below.t)
    x = model.prior.denoise(values["z_1"], model.keypoints[-1], **model.condition)
    return values, sites, -Laplace(x, 0.2).log_prob(y)[..., :4].flatten(2).sum(-1)


def score(guide: LatentGuide, values: dict[str, Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of log q in the parameters at fixed draws."""
    trace = poutine.Trace()
    for name, value in values.items():
        trace.add_node(name, type="sample", value=value.detach(), is_observed=False, infer={})
    with poutine.replay(trace=trace), pyro.plate("particles", PARTICLES, dim=-2):
        guide.sample_latents(IMAGES)
    nodes: Any = guide.trace.nodes
    log_q = torch.stack([nodes[name]["fn"].log_prob(value.detach()) for name, value in values.items()])
    if not log_q.requires_grad:
        return [torch.zeros_like(parameter) for parameter in parameters]
    found = torch.autograd.grad(log_q.sum(), parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def log_density(model: DiffusionModel, guide: Any, values: dict[str, Tensor]) -> Tensor:
    """log q of all levels by Eq. 11-12, summed over the components of a mixture."""
    shape = (IMAGES, -1, *EVENT)  # a hierarchical guide has one component
    total, above = getattr(guide, "weights", torch.ones(IMAGES, 1)).log(), None
    for level in model.levels:
        i, z = level.name[2:], values[level.name].unsqueeze(2)
        mean, tau = level.alpha * getattr(guide, f"mu_{i}").view(shape), getattr(guide, f"tau_{i}").view(shape)
        if above is not None:
            gamma = getattr(guide, f"gamma_{i}").view(shape)
            z_hat = transition(model, values[above.name], above.t, level.t).mean.unsqueeze(2)
            mean = gamma * z_hat + (1 - gamma) * mean
        total, above = total + Normal(mean, tau).log_prob(z).flatten(3).sum(-1), level
    return total.logsumexp(-1)


# --- the grid ------------------------------------------------------------------------------------------------------


Pair = tuple[tuple[int, Any], ...]


def pairs(case: dict[int, Any]) -> set[Pair]:
    """The pairs of (factor, value) that meet in a case."""
    return set(combinations(sorted(case.items(), key=lambda item: item[0]), 2))


def all_pairs(factors: Sequence[Sequence[Any]]) -> set[Pair]:
    return set().union(*(pairs(dict(enumerate(case))) for case in product(*factors)))


def pairwise_design(factors: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Cases in which any two values of different factors meet; each case greedily covers many new pairs."""
    missing, design = all_pairs(factors), []
    while missing:
        case = dict(min(missing, key=str))
        for k in (k for k in range(len(factors)) if k not in case):
            gains = {value: len(missing & pairs(case | {k: value})) for value in factors[k]}
            case[k] = max(factors[k], key=gains.__getitem__)
        design.append(tuple(case[k] for k in range(len(factors))))
        missing -= pairs(case)
    return design


DESIGN = pairwise_design(list(FACTORS.values()))


def test_every_pair_of_values_meets_in_a_case() -> None:
    assert set().union(*(pairs(dict(enumerate(case))) for case in DESIGN)) == all_pairs(list(FACTORS.values()))
    assert len(DESIGN) < 1.3 * len(FACTORS["family"]) * len(FACTORS["objective"])


@pytest.mark.parametrize(("family", "name", "prior", "levels"), DESIGN)
def test_value_gradient_and_calls_are_those_by_hand(family: str, name: str, prior: str, levels: int) -> None:
    model, y = build(prior, levels)
    guide = perturbed(getattr(guides, family)(model, y))
    names, parameters = zip(*guide.named_parameters(), strict=True)
    torch.manual_seed(5)
    elbo = objective(name)
    with vp.count_calls() as count:
        loss = elbo.loss_and_grads(model, guide, y)
    assert count.calls == levels + prior.startswith("network")
    assert count.nfe == count.calls * PARTICLES * IMAGES

    torch.manual_seed(5)
    values, sites, observed = draw(model, guide, y)
    if family in ("HierarchicalGuide", "MixtureGuide"):
        torch.testing.assert_close(
            torch.stack([site.log_q for site in sites]).sum(0), log_density(model, guide, values)
        )
    if name not in LOSSES:
        return  # an objective whose formula is not written here
    factor = getattr(sites[0].q, "gradient_factor", lambda: 1.0)()
    expected = LOSSES[name](sites, observed, factor)
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    if name in vp.__all__:
        for level, site in zip(model.levels, sites, strict=True):
            torch.testing.assert_close(elbo.terms[level.name], TERMS.get(name, sampled)(site).mean(0))
        torch.testing.assert_close(elbo.terms["y"], observed.mean(0))
    gradients = torch.autograd.grad(expected, parameters, retain_graph=True)
    left_out = score(guide, values, parameters) if name == "StickingTheLandingELBO" else [0.0] * len(parameters)
    for label, parameter, gradient, part in zip(names, parameters, gradients, left_out, strict=True):
        assert parameter.grad is not None and parameter.grad.any(), label
        torch.testing.assert_close(parameter.grad, gradient - BETA / PARTICLES * part, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("prior_name", ["empirical, labels", "network, labels"])
def test_labels_reach_every_site(prior_name: str) -> None:
    """Another class for the second image changes all terms of that image and none of the first."""
    terms = []
    for labels in ([0, 2], [0, 1]):
        torch.manual_seed(0)
        model, y = build(prior_name, 3, labels)
        elbo = vp.SampledELBO(num_particles=PARTICLES)
        elbo.loss(model, perturbed(HierarchicalGuide(model, y)), y)
        terms.append(torch.stack(list(elbo.terms.values())))
    assert len(terms[0]) == 4
    torch.testing.assert_close(terms[0][:, 0], terms[1][:, 0])
    assert (terms[0][:, 1] != terms[1][:, 1]).all()
