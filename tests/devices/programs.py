"""Small programs that run every part of the library on one device; each is a line in a table.

A program returns numbers of N images that are copies of one another, ``(N, k)``: independent draws of one law, whose
means agree between two devices within their standard errors. With equal random numbers they are equal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import pyro.infer
import torch
from torch import Tensor, nn

import pyro_vipaint as vp
from benchmarks.bias import Rotation
from pyro_vipaint import diagnostics, guides, metrics
from pyro_vipaint._torch import widest
from pyro_vipaint.bench import METHODS
from pyro_vipaint.bench.methods import Baseline
from pyro_vipaint.corrections import MMPS, ByLevel, Wiener
from pyro_vipaint.models import (
    Compose,
    DataCovariance,
    DiffusionModel,
    DiffusionPrior,
    EmpiricalPrior,
    GaussianBlur,
    GaussianMixturePrior,
    GaussianPrior,
    GuidedNetwork,
    MatchedPrior,
    MotionBlur,
    Operator,
    SuperResolution,
    adjoint,
    from_diffusers,
    pseudo_inverse,
)
from pyro_vipaint.models.priors.denoisers import EDMDenoiser
from pyro_vipaint.models.priors.schedules import Schedule, time_of
from tests.every_prior import TABLE, SmallNetwork, covariances
from tests.layered import SIZE, random_layers
from tests.pipelines import ldm_pipeline

EVENT = (2, 4, 4)
LEVELS = (1.0, 0.3)
SAMPLES = 4
PYROS: dict[str, Any] = {"num_particles": 2, "max_plate_nesting": 1, "vectorize_particles": True}
STARTS: dict[str, dict[str, Any]] = {"AnnealedELBO": {"start": 2.0, "steps": 3}}
OBJECTIVES: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: getattr(vp, name)(num_particles=2, **STARTS.get(name, {}))
       for name in vp.__all__ if name.endswith("ELBO")},
    **{f"Pyro's {name}": lambda name=name: getattr(pyro.infer, name)(**PYROS) for name in
       ("Trace_ELBO", "TraceMeanField_ELBO", "RenyiELBO")},
}  # fmt: skip
BASELINES = {name: method for name, method in METHODS.items() if isinstance(method, Baseline)}


@dataclass(frozen=True, eq=False)
class Setting:
    """A problem on a device.

    Attributes:
        model: of N copies of one image.
        y: ``(N, *observation)``.
    """

    model: DiffusionModel
    y: Tensor

    @property
    def prior(self) -> DiffusionPrior:
        return self.model.prior

    @property
    def likelihood(self) -> Any:
        return self.model.likelihood

    @property
    def condition(self) -> dict[str, Any]:
        return self.model.condition

    def guide(self, family: str = "HierarchicalGuide") -> Any:
        return getattr(guides, family)(self.model, vp.initial_latent(self.prior, self.likelihood, self.y))


def placed(value: Any, device: torch.device) -> Any:
    """A copy of a tensor, a network, or a dataclass or mapping around some, on a device."""
    if isinstance(value, Tensor):
        return value.to(device, widest(device) if value.dtype == torch.float64 else value.dtype)
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(device)
    if isinstance(value, Mapping):
        return {name: placed(each, device) for name, each in value.items()}
    if not is_dataclass(value):
        return value
    new = copy.copy(value)
    for field in fields(value):
        object.__setattr__(new, field.name, placed(getattr(value, field.name), device))
    return new


def network_prior(guided: bool = False) -> DiffusionPrior:
    """A small convolution on the table of a variance-preserving schedule."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        module: Any = SmallNetwork().float().requires_grad_(False).eval()
    function = GuidedNetwork(module, {"class_labels": torch.tensor(2)}) if guided else module
    return DiffusionPrior(TABLE, EDMDenoiser(function, TABLE, sigma_data=0.6), EVENT, sigma_data=0.6)


def latent_prior() -> DiffusionPrior:
    """Its latents, rotated."""
    noise = torch.randn(32, 32, generator=torch.Generator().manual_seed(7))
    return replace(network_prior(), codec=Rotation(torch.linalg.qr(noise)[0]))


def exact_prior(kind: str) -> DiffusionPrior:
    numbers = torch.Generator().manual_seed(3)
    normal = lambda *shape: torch.randn(*shape, generator=numbers)  # noqa: E731
    if kind == "Gaussian":
        return GaussianPrior.diagonal(0.3 * normal(*EVENT), 0.3 + normal(*EVENT).abs())
    if kind == "Gaussian, full":
        return GaussianPrior.full(normal(5), covariances(normal))
    if kind == "mixture":
        return GaussianMixturePrior.full(torch.ones(3), normal(3, 5), covariances(normal, 3))
    labels = torch.arange(7) % 3 if kind == "empirical, labels" else None
    return EmpiricalPrior(normal(7, *EVENT).tanh(), labels=labels, batch_size=3)


def left_half() -> Tensor:
    mask = torch.zeros(1, 4, 4)
    mask[..., :2] = 1
    return mask


OPERATORS: dict[str, Operator] = {
    "Inpainting": vp.Inpainting(left_half()),
    "Inpainting, bytes": vp.Inpainting(left_half().byte()),
    "GaussianBlur": GaussianBlur(1.0, 3),
    "MotionBlur": MotionBlur(3, 30.0),
    "SuperResolution, box": SuperResolution(2),
    "SuperResolution, bicubic": SuperResolution(2, "bicubic"),
    "Compose": Compose(SuperResolution(2), GaussianBlur(1.0, 3)),
}


def setting(
    device: torch.device,
    images: int,
    prior: DiffusionPrior | None = None,
    operator: Operator | None = None,
    family: Callable[..., Any] = vp.Gaussian,
    **condition: Any,
) -> Setting:
    """N copies of one image; the prior is the network's and its conditions a class, unless they are given."""
    condition = condition or ({"class_labels": torch.tensor([1])} if prior is None else {})
    prior, operator = prior or network_prior(), operator or OPERATORS["Inpainting"]
    x = torch.rand(1, *prior.image_shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    y = operator.A(x)
    copies = {k: v.expand(images) if isinstance(v, Tensor) else v for k, v in placed(condition, device).items()}
    model = DiffusionModel(
        placed(prior, device),
        placed(family(operator, 0.1), device),
        keypoints(prior.schedule, prior.sigma_data),
        **copies,
    )
    return Setting(model, placed(y, device).expand(images, *y.shape[1:]).clone())


@lru_cache
def keypoints(schedule: Schedule, sigma_data: float) -> tuple[float, ...]:
    return tuple(time_of(schedule, level * sigma_data) for level in LEVELS)


def numbers_of(draws: Tensor) -> Tensor:
    """Mean and mean square of each image of ``(S, N, …)``: ``(N, 2)``."""
    values = draws.transpose(0, 1).flatten(1)
    return torch.stack([values.mean(1), values.square().mean(1)], 1)


Run = Callable[[torch.device, int, int], Tensor]


@dataclass(frozen=True)
class Program:
    """What runs, as ``run(device, images, steps)``.

    Attributes:
        waits: how often the host may wait for the device in each step.
    """

    run: Run
    waits: int = 0


def fitted(family: str, objective: str, make: Callable[..., Setting] = setting) -> Run:
    """A fit and draws of it."""

    def run(device: torch.device, images: int, steps: int) -> Tensor:
        here = make(device, images)
        guide = here.guide(family)
        vp.fit(here.model, guide, here.y, OBJECTIVES[objective](), steps)
        return numbers_of(vp.sample(guide, here.y, SAMPLES))

    return run


def refined(**options: Any) -> Run:
    """A refinement, from the noise of T_s."""

    def run(device: torch.device, images: int, steps: int) -> Tensor:
        here = setting(device, images, **options)
        z = here.model.levels[-1].sigma * torch.randn(SAMPLES, images, *here.prior.event_shape, device=device)
        return numbers_of(vp.refine(here.model, z, here.y, steps + 1, polyak=1.0))

    return run


def baseline(name: str) -> Run:
    """A baseline, on pixels where it can."""
    method = BASELINES[name]

    def run(device: torch.device, images: int, steps: int) -> Tensor:
        here = setting(device, images, None if method.pixels else latent_prior())
        options = {"pixel_iterations": 2, "latent_iterations": 2} if name == "ReSample" else {}
        result = method.run(here.prior, here.likelihood, here.y, SAMPLES, steps + 2, **here.condition, **options)
        return numbers_of(result.samples)

    return run


def measured(operator: Operator, family: Callable[..., Any]) -> Run:
    """An operator, its adjoint and pseudo-inverse, and a likelihood with its gradient, ``steps`` times."""

    def run(device: torch.device, images: int, steps: int) -> Tensor:
        here = setting(device, images, operator=operator, family=family)
        likelihood, operator_here, found = here.likelihood, here.likelihood.operator, []
        for _ in range(steps):
            x = torch.randn(SAMPLES, images, *here.prior.image_shape, device=device).requires_grad_()
            density = likelihood(x).log_prob(here.y).flatten(2).sum(-1)
            (gradient,) = torch.autograd.grad(density.sum(), x)
            image = adjoint(operator_here, likelihood.residual(x.detach(), here.y))
            found += [gradient, image, pseudo_inverse(operator_here, here.y).expand_as(x)]
        return numbers_of(torch.stack(found).flatten(0, 1))

    return run


def judged(number: Callable[[Setting, Any, Tensor], Tensor]) -> Run:
    """A diagnostic of an unfitted guide: ``(setting, guide, draws (S, N, *event))`` to ``(N, k)``."""

    def run(device: torch.device, images: int, steps: int) -> Tensor:
        here = setting(device, images)
        guide = here.guide()
        return number(here, guide, vp.sample(guide, here.y, 20))

    return run


def per_image(*columns: Tensor) -> Tensor:
    return torch.stack([column.flatten(1).mean(1) if column.ndim > 1 else column for column in columns], 1)


def log_weights(here: Setting, guide: Any) -> Tensor:
    return diagnostics.log_weights(here.model, guide, here.y, 30)


def of_weights(here: Setting, guide: Any, _: Tensor) -> Tensor:
    weights = log_weights(here, guide)
    bounds = (diagnostics.elbo_estimate(weights), diagnostics.iwae_bound(weights), diagnostics.iwae_bound(weights, 5))
    return per_image(*(bound.estimate for bound in bounds), diagnostics.effective_sample_size(weights))


def of_smoothed(here: Setting, guide: Any, _: Tensor) -> Tensor:
    smoothed = diagnostics.pareto_smooth(log_weights(here, guide))
    return per_image(smoothed.log_weights.exp().square().sum(0))


def of_resampled(here: Setting, guide: Any, _: Tensor) -> Tensor:
    return numbers_of(diagnostics.resample(here.model, guide, here.y, 30, SAMPLES).z)


def of_terms(here: Setting, guide: Any, _: Tensor) -> Tensor:
    draws = diagnostics.weighted_draws(here.model, guide, here.y, 30, batch_size=20)
    assert len(diagnostics.terms_by_level(draws)) == len(draws.terms) * len(here.y)
    return per_image(*(term.mean(0) for term in draws.terms.values()))


def of_projections(here: Setting, guide: Any, draws: Tensor) -> Tensor:
    moments = draws.flatten(2)
    covariance = torch.eye(moments.shape[-1], device=draws.device)
    exact = diagnostics.project_onto_moments(draws, moments.mean((0, 1)), covariance, 10, seed=0)
    other = diagnostics.project_onto_samples(draws, vp.sample(guide, here.y, 20), 10, seed=0)
    return per_image(exact.std_ratio.T, other.std_ratio.T)


def of_coverage(here: Setting, guide: Any, draws: Tensor) -> Tensor:
    table = diagnostics.coverage(draws, draws.mean(0), (0.5, 0.8), where=here.likelihood.operator.mask == 0)
    lower, upper = diagnostics.credible_interval(draws.sort(0).values, 0.8)
    assert len(table) == 2
    return per_image(upper - lower)


def of_calibration(here: Setting, guide: Any, draws: Tensor) -> Tensor:
    truth = vp.sample(guide, here.y, 1)[0]
    draws = draws[:19]
    ranks = diagnostics.rank_statistics(truth, draws)
    tests = [diagnostics.chi_square_test(ranks, 19), diagnostics.ecdf_test(ranks[:8], 19)]
    found = diagnostics.vsbc(truth[:8], draws[:, :8])
    assert diagnostics.rank_histogram(ranks, 19).sum(0).eq(len(ranks)).all()
    assert all(((0 <= value) & (value <= 1)).all() for value in [*tests, *found])
    return per_image(ranks.float())


def of_simulations(here: Setting, guide: Any, draws: Tensor) -> Tensor:
    here = setting(here.y.device, len(here.y), exact_prior("Gaussian"), vp.Inpainting(left_half()))
    quantities = {**diagnostics.coordinates([0, 3], 3), "log p(y | z)": diagnostics.log_likelihood(here.model)}

    def factory(model: Any, y: Tensor) -> Any:
        return guides.PriorGuide(model, torch.zeros(len(y), *EVENT, device=y.device))

    def fit(model: Any, guide: Any, y: Tensor) -> vp.Fit:
        return vp.fit(model, guide, y, vp.BetaELBO(num_particles=1), 1)

    found = diagnostics.sbc_of_guide(here.model, factory, fit, quantities, len(here.y), 19)
    assert len(found.uniformity()) == len(found.data_averaged()) == 3
    return per_image(*(ranks.float() for ranks in found.ranks.values()))


def of_two_samples(here: Setting, guide: Any, draws: Tensor) -> Tensor:
    one, other = draws[:, 0], vp.sample(guide, here.y, 20)[:, 0]
    accuracy = diagnostics.c2st(one, other, steps=2, hidden=4, seed=0).estimate
    distance = diagnostics.sliced_wasserstein(one, other, 10, seed=0)
    assert 0 <= accuracy <= 1 and distance > 0
    left, right = draws.flatten(2).movedim(0, -1).chunk(2, 1)
    return per_image(diagnostics.wasserstein(left, right))


def of_parts(here: Setting, guide: Any, draws: Tensor) -> Tensor:
    """Layers of the CPU and observations, samples of the device."""
    layers, images = random_layers(), len(here.y)
    y = torch.rand(images, 3, SIZE, SIZE, device=here.y.device)
    posterior = diagnostics.parts_posterior(layers, y, torch.ones_like(y[:, :1]), 0.5)
    labels = {slot: torch.zeros(3, images, dtype=torch.long, device=y.device) for slot in posterior.marginals}
    for marginals in (posterior.marginals, placed(posterior.marginals, y.device)):
        assert len(diagnostics.part_scores(marginals, labels)) == images * len(labels)
    return per_image(posterior.log_evidence, posterior.entropy)


def of_intervals(here: Setting, guide: Any, draws: Tensor) -> Tensor:
    calibrated = diagnostics.conformalize(draws[1:], draws[0], 0.5)
    return per_image(*(end.flatten(1).mean(1) for end in calibrated.interval(draws[1:])))


def of_export(here: Setting, guide: Any, _: Tensor) -> Tensor:
    data: Any = diagnostics.to_arviz(here.model, guide, here.y, 8, losses=[1.0])
    return torch.as_tensor(data.posterior["z_Ts"].to_numpy()[0]).transpose(0, 1).flatten(1).mean(1, keepdim=True)


def of_images(device: torch.device, images: int, steps: int) -> Tensor:
    """The measures of images."""
    x, y = (torch.rand(2, images, 1, 32, 32, device=device) * 2 - 1 for _ in range(2))
    mask = torch.ones(1, 32, 32, device=device)
    mask[..., 16:] = 0
    features, others = metrics.alexnet_features(x), metrics.alexnet_features(y)
    assert metrics.kernel_distance(features.flatten(0, 1), others.flatten(0, 1), 2).standard_error >= 0
    scores = (metrics.psnr(x, y), metrics.observed_error(x, y, mask), metrics.lpips_distance(x, y))
    return per_image(*(score.mean(0) for score in scores), metrics.hidden_std(x, mask), features.mean(0))


def of_perceptual(device: torch.device, images: int, steps: int) -> Tensor:
    """The gradient of the perceptual term, ``steps`` times."""
    mask, found = torch.ones(1, 32, 32), []
    mask[..., 16:] = 0
    likelihood = placed(vp.Perceptual(vp.Inpainting(mask), 0.2), device)
    for _ in range(steps):
        x, y = (torch.rand(1, images, 1, 32, 32, device=device) * 2 - 1 for _ in range(2))
        x.requires_grad_()
        found.append(torch.autograd.grad(likelihood(x).log_prob(y[0]).sum(), x)[0])
    return numbers_of(torch.cat(found))


def exact(kind: str) -> Run:
    """A fit on an exact prior; and its evidence and posterior, which say where they are computed."""

    def run(device: torch.device, images: int, steps: int) -> Tensor:
        prior: Any = exact_prior(kind)
        mask = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0]) if prior.event_dim == 1 else left_half()
        condition: dict[str, Any] = {"class_labels": torch.tensor([1])} if "labels" in kind else {}
        here = setting(device, images, prior, vp.Inpainting(mask), **condition)
        placed_prior: Any = here.prior
        evidence = placed_prior.log_evidence(here.likelihood, here.y, **here.condition)
        posterior = placed_prior.posterior(here.likelihood, here.y, **here.condition)
        guide = here.guide()
        vp.fit(here.model, guide, here.y, vp.BetaELBO(num_particles=2), steps)
        draws = [vp.sample(guide, here.y, SAMPLES), posterior.sample((SAMPLES,)).reshape(SAMPLES, *here.y.shape)]
        assert {value.device for value in [evidence, *draws]} == {here.y.device}
        return torch.cat([numbers_of(torch.cat(draws)), evidence[:, None]], 1)

    return run


def known_prior() -> DiffusionPrior:
    """The network's, with a covariance of its images."""
    vectors = torch.linalg.qr(torch.randn(32, 3, generator=torch.Generator().manual_seed(8))).Q.T.reshape(3, *EVENT)
    return replace(network_prior(), data_covariance=DataCovariance(vectors, torch.tensor([2.0, 1.0, 0.5]), 0.1))


def followed(operator: str) -> Run:
    """A refinement by Wiener's correction and MMPS, from the noise of T_s."""

    def run(device: torch.device, images: int, steps: int) -> Tensor:
        here = setting(device, images, known_prior(), OPERATORS[operator], class_labels=torch.tensor([1]))
        z = here.model.levels[-1].sigma * torch.randn(SAMPLES, images, *EVENT, device=device)
        correction = ByLevel(Wiener(), MMPS(2), 0.2)
        return numbers_of(vp.refine(here.model, z, here.y, steps + 1, correction=correction, order=2))

    return run


def correlated(device: torch.device, images: int, steps: int) -> Tensor:
    """A twisted guide whose transitions have the covariance of the images, fitted, and as a proposal."""
    here = setting(device, images, known_prior(), class_labels=torch.tensor([1]))
    known: Any = here.prior.data_covariance
    model = DiffusionModel(MatchedPrior(here.prior, known), here.likelihood, (1.0, *here.model.keypoints))
    guide = guides.TwistedGuide(model, here.y, correction=Wiener())
    vp.fit(model, guide, here.y, vp.BetaELBO(), steps)
    draws = [vp.sample(guide, here.y, SAMPLES), vp.smc(model, guide, here.y, SAMPLES).z]
    return numbers_of(torch.cat(draws))


def completed(device: torch.device, images: int, steps: int) -> Tensor:
    """The facade, which takes images of the CPU."""
    prior = placed(replace(network_prior(), class_names=("a", "b", "c")), device)
    x = (torch.rand(1, *EVENT, generator=torch.Generator().manual_seed(1)) * 2 - 1).expand(images, *EVENT)
    numbers: dict[str, Any] = {"levels": 2, "num_samples": SAMPLES, "steps": steps, "refine_steps": 2, "label": 1}
    return numbers_of(vp.inpaint(x, left_half(), prior, device=str(device), **numbers).samples)


def compared(device: torch.device, images: int, steps: int) -> Tensor:
    """The comparison of guides, which reports what all images have in common."""
    here = setting(device, images)
    found = vp.compare(
        here.model, {"ours": guides.HierarchicalGuide}, {"beta": vp.BetaELBO(num_particles=2)}, here.y,
        steps=steps, num_draws=20, posterior=vp.sample(here.guide(), here.y, 20),
    )  # fmt: skip
    assert found.table["note"].eq("").all(), found.table["note"].tolist()
    return torch.zeros(images, 1)


def latent_diffusion(device: torch.device, images: int, steps: int) -> Tensor:
    """A pipeline of diffusers: a UNet on the latents of an autoencoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        prior = from_diffusers(ldm_pipeline())
    mask = torch.ones(1, *prior.image_shape[-2:])
    mask[..., 8:] = 0
    return refined(prior=prior, operator=vp.Inpainting(mask))(device, images, steps)


def guided(device: torch.device, images: int, steps: int) -> Tensor:
    """Classifier-free guidance, with labels that stay on the CPU."""
    prior = placed(network_prior(guided=True), device)
    z, labels = torch.randn(SAMPLES, images, *EVENT, device=device), torch.full((images,), 1)
    for step in range(steps):
        z = prior.denoise(z, 0.5 / (step + 1), class_labels=labels, guidance_scale=(2.0, None)[step % 2])
    return numbers_of(z)


FITS = {
    f"{family}, {objective}": fitted(family, objective) for family, objective in product(guides.__all__, OBJECTIVES)
}
PAIRED = [f"{family}, {objective}" for family, objective in zip(guides.__all__, OBJECTIVES, strict=False)]
DIAGNOSTICS = {name: judged(number) for name, number in list(globals().items()) if name in (
    "of_weights", "of_smoothed", "of_resampled", "of_terms", "of_projections", "of_coverage", "of_calibration",
    "of_simulations", "of_two_samples", "of_parts", "of_intervals", "of_export",
)}  # fmt: skip
ADAPTIVE = 10**6  # these choose their steps by what they find, sample by sample: the host has to look
WAITS = {  # beyond none, and one for the loss of a fit
    "LowRankGuide": 2,  # torch checks the Cholesky factor of its capacitance matrix
    "images of a known covariance": 5,  # likewise, that of each of two levels in model and guide, and that of y
    "Pyro's Trace_ELBO": 4, "Pyro's TraceMeanField_ELBO": 4, "Pyro's RenyiELBO": 4,  # read by Pyro, site by site
    "CoPaint": ADAPTIVE, "CoPaint-TT": ADAPTIVE, "ReSample": ADAPTIVE,
    "empirical, labels": ADAPTIVE,  # draws and sums by class
}  # fmt: skip


def allowed(name: str, least: int) -> int:
    return least + sum(WAITS.get(part, 0) for part in {name, *name.split(", ")})


PROGRAMS: dict[str, Program] = {
    **{name: Program(run, allowed(name, 1)) for name, run in FITS.items()},
    **{name: Program(baseline(name), allowed(name, 0)) for name in BASELINES},
    **{name: Program(measured(operator, vp.Gaussian)) for name, operator in OPERATORS.items()},
    "Laplace": Program(measured(OPERATORS["Inpainting"], vp.Laplace)),
    "Perceptual": Program(of_perceptual),
    **{kind: Program(exact(kind), allowed(kind, 1)) for kind in
       ("Gaussian", "Gaussian, full", "mixture", "empirical", "empirical, labels")},
    "refine": Program(refined()),
    "refine, blur": Program(refined(operator=OPERATORS["GaussianBlur"])),
    "refine, latent": Program(refined(prior=latent_prior())),
    "refine, by corrections": Program(followed("Inpainting")),
    "refine, by corrections, blur": Program(followed("GaussianBlur")),
    "images of a known covariance": Program(correlated, allowed("images of a known covariance", 1)),
    "guidance": Program(guided),
    "a pipeline of diffusers": Program(latent_diffusion),
    "inpaint": Program(completed, 1),
    "compare": Program(compared, 1),
    "metrics": Program(of_images, ADAPTIVE),
    **{name: Program(run, ADAPTIVE) for name, run in DIAGNOSTICS.items()},
}  # fmt: skip
