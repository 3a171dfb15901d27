"""Samplers on held-out faces in colour, judged by the exact posterior over their parts.

    python -m benchmarks.faces                           # 16 faces × 4 masks × 9 samples; resumes
    python -m benchmarks.faces --images 32               # with sixteen further faces
    python -m benchmarks.faces --only "exact draws" Twisted
    python -m benchmarks.faces --report --tasks box      # the tables of the shipped rows, for some of the masks

A plan of :mod:`pyro_vipaint.bench`. Faces are held-out combinations of parts, observed with noise of standard deviation
.05, their hair style given. The exact posterior of the parts knows noise and style. The classifier of parts judges the
samples, drawing a class from its probabilities; *exact draws* are faces of parts drawn from the exact posterior.

*VIPaint* runs with its defaults, *warm start* is VIPaint's start and refinement without a fit. The baselines have as
many forward equivalents, a gradient counted as .85 calls: :data:`STEPS` steps with one gradient each, or
:data:`FORWARD` calls, with the numbers that they have in ``vipaint bench`` at a budget.

*Twisted guide* is a :class:`pyro_vipaint.guides.TwistedGuide` that is not fitted: the chain of :data:`LEVELS`,
corrected by the covariance of the training faces above :data:`GRADIENTS_BELOW` and by MMPS with :data:`ITERATIONS`
iterations of GMRES below it, and a refinement that follows y in the same way. With *MMPS alone* there are
:data:`ITERATIONS_ALONE` iterations at every level.

*SMC* is :func:`pyro_vipaint.smc` through :data:`PARTICLE_LEVELS` below t = 1 with the guide of the preset for
inference, whose transitions and twist have the covariance of the training faces: :data:`PARTICLES` particles for each
sample, and then the refinement of that preset in :data:`PARTICLE_STEPS` steps. *SMC, unweighted* is the guide's own
draws on the same levels, one for each sample, refined in the same way.

Nine samples resolve an interval of .8. Rows are per face and slot. *Excess* is the total variation minus its
expectation under as many exact draws, mean over slots; agreement is that of shown slots, coverage that of open ones
over what exact draws cover (:mod:`pyro_vipaint.cats.scores`). The energy scores, error over spread and the coverage of
smooth projections of the hole are those of :mod:`pyro_vipaint.diagnostics`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial

import torch

from benchmarks.parts import BLOCK, EXACT, TASKS, ExactDraws, draw, part_scores
from benchmarks.parts import report as report_of_parts
from benchmarks.plans import Blocks, Held, command
from pyro_vipaint import Gaussian, refine, sample, smc
from pyro_vipaint._torch import seeded
from pyro_vipaint.bench import METHODS, Plan, Suite
from pyro_vipaint.bench.methods import Method, Outcome
from pyro_vipaint.bench.scores import image_scores
from pyro_vipaint.bench.trials import Trial
from pyro_vipaint.calls import count_calls
from pyro_vipaint.corrections import MMPS, ByLevel, Correction, Wiener
from pyro_vipaint.guides import TwistedGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, MatchedPrior, keypoints
from pyro_vipaint.settings import Settings, inference_settings

PRIOR = "faces32"
STEPS, GRADIENT = 50, 0.85  # of a baseline with one gradient a step; forward calls that cost as much as a gradient
FORWARD = round(STEPS * (1 + GRADIENT))
TWISTED, ALONE, WARM = "Twisted guide", "Twisted guide, MMPS alone", "Warm start"
LEVELS = (80.0, 30.0, 16.0, 12.8, 10.1, 8.0, 6.2, 4.8, 3.7, 2.8, 2.1, 1.5, 1.1, 0.8)  # sigma/alpha
GRADIENTS_BELOW = 6.0  # in units of the prior's sigma_data: the six lowest of the levels
ITERATIONS, ITERATIONS_ALONE, REFINE_STEPS = 3, 5, 2
SMC, UNWEIGHTED = "SMC", "SMC, unweighted"
PARTICLE_LEVELS = (36.0, 16.4, 7.5, 4.0, 2.0, 1.0)  # below t = 1, sigma/alpha over the data's standard deviation
PARTICLES, PARTICLE_STEPS = 4, 7
GRADIENT_RIVALS, FORWARD_RIVALS = ("DPS", "PiGDM", "MMPS"), ("DDNM", "DiffPIR", "DAPS", "DDSMC")
OTHERS = ("VIPaint-2", TWISTED, ALONE, SMC, UNWEIGHTED, WARM, *GRADIENT_RIVALS, *FORWARD_RIVALS, EXACT)
COMPARED = [("VIPaint-4", other) for other in OTHERS]


@dataclass(frozen=True)
class Twisted:
    """Draws of a :class:`TwistedGuide` along ``levels``, from noise to T_s, refined with the same correction."""

    correction: Correction
    levels: tuple[float, ...]
    refine_steps: int

    def applies(self, prior: DiffusionPrior, is_inpainting: bool) -> bool:
        return not prior.is_latent

    def numbers(self) -> str:
        return repr(self)

    def __call__(self, trial: Trial, num_samples: int, budget: int | None) -> Outcome:
        begun, times = time.perf_counter(), keypoints(trial.prior, noise_levels=self.levels)
        model = DiffusionModel(trial.prior, Gaussian(trial.operator, trial.noise), times, **trial.condition)
        guide = TwistedGuide(model, correction=self.correction)
        with seeded(trial.seed), count_calls() as count, torch.no_grad():
            z = sample(guide, trial.y, num_samples)
            x = refine(model, z, trial.y, self.refine_steps, correction=self.correction)
        seconds = time.perf_counter() - begun
        return Outcome(x.cpu(), count.calls, count.nfe, seconds, gradients=count.gradients)


@dataclass(frozen=True)
class Particles:
    """Draws of :func:`pyro_vipaint.smc` with the guide of the preset for inference, refined as it refines.

    Attributes:
        levels: below t = 1.
        particles: for each sample; 0 takes draws of the guide, without weights.
        refine_steps: from the last level.
    """

    levels: tuple[float, ...]
    particles: int
    refine_steps: int

    def applies(self, prior: DiffusionPrior, is_inpainting: bool) -> bool:
        return is_inpainting and prior.data_covariance is not None

    def numbers(self) -> str:
        return repr([self, self.settings()])

    def settings(self) -> Settings:
        return replace(inference_settings(), noise_levels=self.levels)

    def __call__(self, trial: Trial, num_samples: int, budget: int | None) -> Outcome:
        begun, settings = time.perf_counter(), self.settings()
        assert trial.prior.data_covariance is not None and settings.twist is not None
        matched = MatchedPrior(trial.prior, trial.prior.data_covariance)
        likelihood = Gaussian(trial.operator, trial.noise)
        model = DiffusionModel(matched, likelihood, settings.keypoints(trial.prior), **trial.condition)
        guide = TwistedGuide(model, correction=settings.twist)
        with seeded(trial.seed), count_calls() as count, torch.no_grad():
            if self.particles:
                z = smc(model, guide, trial.y, num_samples, num_particles=self.particles * num_samples).z
            else:
                z = sample(guide, trial.y, num_samples)
            images = DiffusionModel(trial.prior, likelihood, model.keypoints, **trial.condition)
            x = refine(
                images, z, trial.y, self.refine_steps, correction=settings.correction, order=settings.order
            )  # fmt: skip
        seconds = time.perf_counter() - begun
        return Outcome(x.cpu(), count.calls, count.nfe, seconds, gradients=count.gradients)


def methods() -> dict[str, Method]:
    """The methods of the tables."""
    return {
        EXACT: ExactDraws(PRIOR),
        TWISTED: Twisted(ByLevel(Wiener(), MMPS(ITERATIONS), GRADIENTS_BELOW), LEVELS, REFINE_STEPS),
        ALONE: Twisted(MMPS(ITERATIONS_ALONE), LEVELS, REFINE_STEPS),
        SMC: Particles(PARTICLE_LEVELS, PARTICLES, PARTICLE_STEPS),
        UNWEIGHTED: Particles(PARTICLE_LEVELS, 0, PARTICLE_STEPS),
        "VIPaint-2": METHODS["VIPaint-2"],
        "VIPaint-4": METHODS["VIPaint-4"],
        WARM: METHODS[WARM],
        **{name: Held(METHODS[name], STEPS) for name in GRADIENT_RIVALS},
        **{name: Held(METHODS[name], FORWARD) for name in FORWARD_RIVALS},
    }


def suite(num_samples: int) -> Suite:
    """The methods, the four masks, and the scores of images and parts."""
    faces = Blocks(BLOCK, partial(draw, PRIOR))
    return Suite(methods(), TASKS, faces, (image_scores, partial(part_scores, PRIOR)))


PLAN = Plan((PRIOR,), tuple(TASKS), tuple(methods()), (None,), num_images=16, num_samples=9, chunk=8)


report = partial(report_of_parts, methods=PLAN.methods, compared=COMPARED)


if __name__ == "__main__":
    command(str(__doc__), PLAN, suite, report, "faces")
