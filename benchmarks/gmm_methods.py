"""The methods of the Gaussian mixture benchmark: from a problem to samples of x and their cost.

NFE are counted by :func:`pyro_vipaint.count_calls` over the whole method, fits, proposals and the denoising errors of
the model included, and divided by the number of samples. In the fit of a twisted guide a gradient through the network
counts as :data:`GRADIENT` of them, elsewhere as none. The prior's exact marginal is used at T_e alone, where it is
nearly a Gaussian. Its density counts as one evaluation, the cost of the estimate of a network's marginal.

Baselines that take a matrix have rows. DDSMC and DING need a mask of pixels, which A is in no coordinates: its singular
values are not 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import pyro_vipaint as vp
from benchmarks.gmm_model import ERROR_DRAWS, LEVELS, DiagonalProblem, diagonal_problem
from benchmarks.gmm_problem import GMMProblem, spherical_mixture
from benchmarks.gmm_smc import guided_smc, twisted_smc
from pyro_vipaint.baselines import BaselineResult, daps, ddnm, diffpir, dps, mgdm, mmps, pi_gdm
from pyro_vipaint.baselines.corrected import run_corrected
from pyro_vipaint.corrections import TMPD, OptimalCovariance
from pyro_vipaint.guides import (
    DeltaGuide,
    FeatureGuide,
    FlowGuide,
    HierarchicalGuide,
    LowRankGuide,
    MeanFieldGuide,
    MixtureGuide,
    PriorGuide,
    TwistedGuide,
)
from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.models.measurements.operators import Matrix
from pyro_vipaint.models.priors.schedules import LinearVP

SAMPLES = 1000
COMPONENTS, START_PARTICLES = 50, 500  # the mixture's components start at some of the particles of a small control run
PARTICLES, STEPS = 100, 200  # of every fit; the mixture's weights rest in the first half of the steps
PROPOSALS = 4000
RATES = {"mu": 1.0, "tau": 0.05, "gamma": 0.05, "factor": 0.05, "flow": 1e-3}
WEIGHT_RATE = 0.05
DPS_SCALE = 24.0  # baselines see x / 24, which lies in [-1, 1], the range of their schedule and of their last step
BASELINE_STEPS = 100
FINE_LEVELS, FINE_PARTICLES = 40, 6000  # the control at about the NFE of the guides
TWISTED_STEPS, TWISTED_RATE = 10, 0.03  # of the fit of w and tau
GRADIENT = 0.85  # further evaluations that a gradient through the network costs
GAMMA_LOGIT = 0.0  # at 4, the default for images, gamma stays near 1 and mu is hardly felt (cell 8, 4: 2.17, not .06)
FAMILIES: dict[str, Any] = {
    "HierarchicalGuide": partial(HierarchicalGuide, gamma_logit=GAMMA_LOGIT),
    "LowRankGuide": partial(LowRankGuide, gamma_logit=GAMMA_LOGIT),
    "FlowGuide": partial(FlowGuide, gamma_logit=GAMMA_LOGIT),
    "MeanFieldGuide": MeanFieldGuide,
    "FeatureGuide": FeatureGuide,
    "PriorGuide": PriorGuide,
    "DeltaGuide": DeltaGuide,
}


def tmpd(prior: DiffusionPrior, likelihood: vp.Gaussian, y: Tensor, num_samples: int, steps: int) -> BaselineResult:
    """Draws with the correction of TMPD, which the library has as a guide's."""
    return run_corrected("tmpd", TMPD(), prior, likelihood, y, num_samples, steps, None, None, {})


BASELINES: dict[str, Callable[..., BaselineResult]] = {  # those that take a matrix, with their authors' defaults
    "PiGDM": pi_gdm,
    "MMPS": mmps,
    "TMPD": tmpd,
    "DDNM": ddnm,
    "DiffPIR": diffpir,
    "DAPS": daps,
    "MGDM": mgdm,
}


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples ``(SAMPLES, d_x)``, NFE per sample, seconds, and the effective sample size where there is one."""

    name: str
    samples: Tensor
    nfe: float
    seconds: float
    effective: float | None = None


Method = Callable[[GMMProblem], Iterator[Drawn]]


def exact(problem: GMMProblem) -> Iterator[Drawn]:
    """A second set of exact draws, the floor of the metric; and one Gaussian with the exact moments."""
    posterior = problem.posterior
    samples = posterior.sample(torch.Size([SAMPLES]))[:, 0]
    yield Drawn("exact", samples, 0, 0)
    mixture, normals = posterior.mixture_distribution, posterior.component_distribution
    centred = (normals.loc - posterior.mean[:, None])[0].double()
    weights = mixture.probs[0].double()
    between = centred.T @ (weights[:, None] * centred)
    within = normals.covariance_matrix[0].double()  # the same for every component
    within = (weights[:, None, None] * within).sum(0)
    factor = torch.linalg.cholesky(within + between).to(samples)
    yield Drawn("one Gaussian", posterior.mean + torch.randn_like(samples) @ factor.T, 0, 0)


def dps_with(steps: int, zeta: float, name: str) -> Method:
    """DPS from noise."""
    return in_pixels(partial(dps, zeta=zeta), steps, name)


def in_pixels(baseline: Callable[..., BaselineResult], steps: int, name: str) -> Method:
    """A baseline on the linear variance-preserving schedule, in the coordinates that it is made for."""

    def run(problem: GMMProblem) -> Iterator[Drawn]:
        prior = spherical_mixture(problem.weights, problem.means / DPS_SCALE, 1 / DPS_SCALE, LinearVP())
        likelihood = vp.Gaussian(Matrix(problem.A), problem.sigma_y / DPS_SCALE)
        result = baseline(prior, likelihood, problem.y / DPS_SCALE, SAMPLES, steps)
        yield Drawn(name, result.samples[:, 0] * DPS_SCALE, result.nfe / SAMPLES, result.seconds)

    return run


def smc_with(levels: int, num_particles: int) -> Method:
    """The control without a guide."""

    def run(problem: GMMProblem) -> Iterator[Drawn]:
        begun = time.perf_counter()
        with vp.count_calls() as count:
            diagonal = diagonal_problem(problem, levels)
            z = twisted_smc(diagonal, num_particles)
            samples = diagonal.finish(z[torch.randperm(num_particles)[:SAMPLES]])
        seconds = time.perf_counter() - begun
        yield Drawn(f"SMC, {levels} levels", samples, count.nfe / SAMPLES, seconds)

    return run


def twisted(name: str, steps: int = 0) -> Method:
    """The library's SMC with a :class:`TwistedGuide`, w and tau fitted by ``steps``; at the control's evaluations."""

    def run(problem: GMMProblem) -> Iterator[Drawn]:
        begun = time.perf_counter()
        fit = steps * PARTICLES * (FINE_LEVELS + 1) + GRADIENT * steps * PARTICLES * FINE_LEVELS
        with vp.count_calls() as count:
            diagonal = diagonal_problem(problem, FINE_LEVELS)
            guide = TwistedGuide(diagonal.model, diagonal.y, correction=OptimalCovariance())
            if steps:
                vp.fit(diagonal.model, guide, diagonal.y, vp.BetaELBO(1.0, PARTICLES), steps, TWISTED_RATE)
            particles = FINE_PARTICLES - math.ceil(fit / FINE_LEVELS)
            result = vp.smc(diagonal.model, guide, diagonal.y, SAMPLES, num_particles=particles)
            samples = diagonal.finish(result.z[:, 0])
        further = fit - steps * PARTICLES * FINE_LEVELS  # the marginal's densities, and gradients
        effective = float(result.effective_sample_size[0])
        yield Drawn(name, samples, (count.nfe + further) / SAMPLES, time.perf_counter() - begun, effective)

    return run


def mixture(problem: GMMProblem) -> Iterator[Drawn]:
    """The fitted mixture's own draws, then with importance resampling, then as the proposal of SMC."""
    begun = time.perf_counter()
    with vp.count_calls() as count:
        diagonal = diagonal_problem(problem)
        guide = fitted_mixture(diagonal)
    fitted, seconds = count.nfe + PARTICLES * STEPS, time.perf_counter() - begun
    for name, threshold in (("Mixture", None), ("Mixture, importance", 0.0), ("Mixture, SMC", 0.5)):
        begun, effective, proposals = time.perf_counter(), None, 0
        with vp.count_calls() as count:
            if threshold is None:
                z = vp.sample(guide, diagonal.y, SAMPLES)[:, 0]
            else:
                z, effective = guided_smc(diagonal, guide, PROPOSALS, SAMPLES, threshold)
                proposals = PROPOSALS
            samples = diagonal.finish(z)
        nfe = (fitted + count.nfe + proposals) / SAMPLES
        yield Drawn(name, samples, nfe, seconds + time.perf_counter() - begun, effective)


def fitted_mixture(diagonal: DiagonalProblem) -> MixtureGuide:
    """A fitted mixture whose components start at draws of a small control run; weights learn in the second half."""
    t = diagonal.model.keypoints[-1]
    z = twisted_smc(diagonal, START_PARTICLES)[torch.randperm(START_PARTICLES)[:COMPONENTS]]
    with torch.no_grad():
        start, _ = diagonal.condition(diagonal.prior.denoise(z, t), diagonal.variance(t))
    guide = MixtureGuide(diagonal.model, start[None], num_components=COMPONENTS, gamma_logit=GAMMA_LOGIT)
    for weight_rate, final in ((0.0, 0.3), (WEIGHT_RATE, 0.1)):
        rates = {**RATES, "weight": weight_rate}
        vp.fit(diagonal.model, guide, diagonal.y, vp.BetaELBO(1.0, PARTICLES), STEPS // 2, rates, lr_decay=final)
    return guide


def family(name: str) -> Method:
    """The own draws of another guide, fitted on the same model with as many NFE as the mixture."""

    def run(problem: GMMProblem) -> Iterator[Drawn]:
        begun = time.perf_counter()
        with vp.count_calls() as count:
            diagonal = diagonal_problem(problem)
            start, _ = diagonal.condition(*_prior_moments(diagonal))
            guide = FAMILIES[name](diagonal.model, start)
            rates = {kind: rate for kind, rate in RATES.items() if any(_is_of(kind, p) for p in guide.state_dict())}
            vp.fit(diagonal.model, guide, diagonal.y, vp.BetaELBO(1.0, PARTICLES), STEPS, rates, lr_decay=0.1)
            samples = diagonal.finish(vp.sample(guide, diagonal.y, SAMPLES)[:, 0])
        nfe = (count.nfe + PARTICLES * STEPS) / SAMPLES
        yield Drawn(name, samples, nfe, time.perf_counter() - begun)

    return run


def _prior_moments(diagonal: DiagonalProblem) -> tuple[Tensor, Tensor]:
    """Mean ``(1, d_x)`` and variance ``(d_x,)`` of x a priori, element by element."""
    denoiser: Any = diagonal.prior.denoiser
    weights, means = denoiser.log_weights.exp(), denoiser.means
    mean = weights @ means
    return mean[None], 1 + weights @ (means - mean) ** 2


def _is_of(kind: str, parameter: str) -> bool:
    return kind in parameter.split("_")[0].split(".")


def nfe_of_mixture() -> int:
    """NFE per sample of the mixture as a proposal, the model's own included; DPS is given as many."""
    setup = ERROR_DRAWS * LEVELS + START_PARTICLES * LEVELS + COMPONENTS
    return round((setup + PARTICLES * STEPS * (LEVELS + 1) + PROPOSALS * (LEVELS + 1)) / SAMPLES) + 1
