"""VIPaint against latent DPS on held-out cats, judged by the exact posterior over their parts.

    python -m benchmarks.cats                           # 16 cats × 4 masks × 8 samples, ten methods; resumes
    python -m benchmarks.cats --images 32               # with sixteen further cats
    python -m benchmarks.cats --only "exact draws"      # the methods whose names begin so
    python -m benchmarks.cats --report --tasks box      # the tables of the shipped rows, for some of the masks

A plan of :mod:`pyro_vipaint.bench`. Cats are held-out combinations of parts, observed with noise of standard deviation
.05; the exact posterior of the parts knows the noise. The classifier of parts judges the samples, drawing a class from
its probabilities (:func:`draw_labels`). *Exact draws* are pictures of parts drawn from the exact posterior, judged in
the same way: where they miss the expectation, the classifier errs. *VIPaint-K* has the preset for inference;
*VIPaint-2, L1* omits the perceptual term, and *VIPaint-4, mixture* has a mixture of four hierarchical guides, as many
particles and a quarter of the steps of the fit. *SMC* is :func:`pyro_vipaint.smc` with the fitted guide of VIPaint-4 as
proposal, :data:`PARTICLES` particles for each sample, and the noise of y as it is. *Warm start* is VIPaint's start and
refinement without a fit, with the NFE of VIPaint-2. DPS has the NFE of VIPaint-4 and the zeta that was best in LPIPS on
other cats. docs/tuning.md has the record of what was tuned.

Rows are per image and slot. *Excess* is the total variation minus its expectation under as many exact draws, mean over
slots; agreement is that of shown slots, coverage that of open ones over what exact draws cover
(:mod:`pyro_vipaint.cats.scores`); the energy scores and error over spread are those of :mod:`pyro_vipaint.diagnostics`.
The differences are paired over cats, with their standard error.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial

import torch

from benchmarks.parts import BLOCK, EXACT, TASKS, ExactDraws, draw, part_scores
from benchmarks.parts import report as report_of_parts
from benchmarks.plans import Blocks, Held, command, nfe_per_sample
from pyro_vipaint import Gaussian, refine, restore, smc
from pyro_vipaint._torch import seeded
from pyro_vipaint.bench import METHODS, Plan, Suite
from pyro_vipaint.bench.methods import Method, Outcome, VIPaint
from pyro_vipaint.bench.scores import image_scores
from pyro_vipaint.bench.trials import Trial
from pyro_vipaint.calls import count_calls
from pyro_vipaint.guides import HierarchicalGuide, MixtureGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior
from pyro_vipaint.results.approximation import Approximation
from pyro_vipaint.settings import default_settings

PRIOR = "cats64"
COMPONENTS = 4  # of the mixture guide
PARTICLES = 4  # of SMC, for each sample
WARM, SMC = "Warm start", "SMC"
COMPARED = [
    *((method, "DPS") for method in ("VIPaint-2", "VIPaint-4")),
    ("VIPaint-4", "VIPaint-2"),
    *((f"VIPaint-{levels}", f"VIPaint-{levels}, pictures") for levels in (2, 4)),
    ("VIPaint-2", "VIPaint-2, L1"),
    ("VIPaint-4", "VIPaint-4, mixture"),
    ("VIPaint-2", WARM),
    ("VIPaint-4", SMC),
]


@dataclass(frozen=True)
class Particles:
    """Draws of :func:`pyro_vipaint.smc` whose proposal is the fitted guide of VIPaint-4, refined as VIPaint-4's are."""

    particles: int

    def applies(self, prior: DiffusionPrior, is_inpainting: bool) -> bool:
        return prior.is_latent and is_inpainting

    def numbers(self) -> str:
        return repr([self, default_settings(4, latent=True)])

    def __call__(self, trial: Trial, num_samples: int, budget: int | None) -> Outcome:
        begun, settings = time.perf_counter(), default_settings(4, latent=True)
        with count_calls() as count:
            fitted = self.fit(trial)
            with seeded(trial.seed), torch.no_grad():
                model, guide = gaussian(fitted, trial)
                z = smc(model, guide, trial.y, num_samples, num_particles=self.particles * num_samples).z
                x = refine(
                    model, z, trial.y, settings.refine_steps, zeta=settings.zeta, zeta_decay=settings.zeta_decay,
                    polyak=settings.polyak,
                )  # fmt: skip
        return Outcome(x.cpu(), count.calls, count.nfe, time.perf_counter() - begun, gradients=count.gradients)

    def fit(self, trial: Trial) -> Approximation:
        """The guide of VIPaint-4, with a draw of a single step beside it."""
        quick = replace(default_settings(4, latent=True), refine_steps=1, spare=0.0)
        fitted = restore(trial.y, trial.operator, trial.prior, 4, 1, seed=trial.seed, settings=quick).approximation
        assert fitted is not None
        return fitted


def gaussian(fitted: Approximation, trial: Trial) -> tuple[DiffusionModel, HierarchicalGuide]:
    """The model with the Gaussian noise that y has, and the fitted guide on it."""
    likelihood = Gaussian(trial.operator, trial.noise)
    model = DiffusionModel(fitted.model.prior, likelihood, fitted.model.keypoints, **trial.condition)
    start = torch.zeros(len(trial.y), *fitted.model.prior.event_shape)
    guide = HierarchicalGuide(model, start)
    guide.load_state_dict(fitted.guide.state_dict())
    return model, guide


def mixture() -> VIPaint:
    """VIPaint-4 with a mixture of hierarchical guides at the NFE of one: one particle per component, fewer steps."""
    settings = default_settings(4, latent=True)
    guide = partial(
        MixtureGuide, num_components=COMPONENTS, gamma_logit=settings.gamma_logit, tau_scale=settings.tau_scale
    )
    return VIPaint(
        4, settings=replace(settings, steps=settings.steps // COMPONENTS, num_particles=COMPONENTS), guide=guide
    )


def methods(num_samples: int) -> dict[str, Method]:
    """The methods of the tables."""
    two, four = (default_settings(levels, latent=True) for levels in (2, 4))
    return {
        EXACT: ExactDraws(PRIOR),
        "VIPaint-2": VIPaint(2),
        "VIPaint-2, L1": VIPaint(2, settings=replace(two, perceptual_weight=0.0)),
        "VIPaint-4": VIPaint(4),
        "VIPaint-4, mixture": mixture(),
        "VIPaint-2, pictures": VIPaint(2, "pictures"),
        "VIPaint-4, pictures": VIPaint(4, "pictures"),
        SMC: Particles(PARTICLES),
        WARM: Held(METHODS[WARM], nfe_per_sample(two, num_samples)),
        "DPS": Held(METHODS["DPS"], nfe_per_sample(four, num_samples)),
    }


def suite(num_samples: int) -> Suite:
    """The methods for ``num_samples`` samples per image, the four masks, and the scores of parts."""
    return Suite(
        methods(num_samples), TASKS, Blocks(BLOCK, partial(draw, PRIOR)), (image_scores, partial(part_scores, PRIOR))
    )


PLAN = Plan((PRIOR,), tuple(TASKS), tuple(methods(8)), (None,), num_images=16, num_samples=8, chunk=8)


report = partial(report_of_parts, methods=PLAN.methods, compared=COMPARED)


if __name__ == "__main__":
    command(str(__doc__), PLAN, suite, report, "cats")
