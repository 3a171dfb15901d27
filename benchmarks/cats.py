"""VIPaint against latent DPS on held-out cats, judged by the exact posterior over their parts.

    python -m benchmarks.cats                           # 16 cats × 4 masks × 8 samples, nine methods; resumes
    python -m benchmarks.cats --images 32               # with sixteen further cats
    python -m benchmarks.cats --only "exact draws"      # the methods whose names begin so
    python -m benchmarks.cats --report --tasks box      # the tables of the shipped rows, for some of the masks

A plan of :mod:`pyro_vipaint.bench`. Cats are held-out combinations of parts, observed with noise of standard deviation
.05; the exact posterior of the parts knows the noise. The classifier of parts judges the samples, drawing a class from
its probabilities (:func:`draw_labels`). *Exact draws* are pictures of parts drawn from the exact posterior, judged in
the same way: where they miss the expectation, the classifier errs. *VIPaint-K* has the preset for inference;
*VIPaint-2, L1* omits the perceptual term, and *VIPaint-4, mixture* has a mixture of four hierarchical guides, as many
particles and a quarter of the steps of the fit. *Warm start* is VIPaint's start and refinement without a fit, with the
NFE of VIPaint-2. DPS has the NFE of VIPaint-4 and the zeta that was best in LPIPS on other cats. docs/tuning.md has the
record of what was tuned.

Rows are per image and slot. *Excess* is the total variation minus its expectation under as many exact draws, mean over
slots; agreement is that of shown slots, coverage that of open ones over what exact draws cover
(:mod:`pyro_vipaint.cats.scores`); the energy scores and error over spread are those of :mod:`pyro_vipaint.diagnostics`.
The differences are paired over cats, with their standard error.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from benchmarks.parts import BLOCK, EXACT, TASKS, ExactDraws, draw, part_scores
from benchmarks.parts import report as report_of_parts
from benchmarks.plans import Blocks, Held, command, nfe_per_sample
from pyro_vipaint.bench import METHODS, Plan, Suite
from pyro_vipaint.bench.methods import Method, VIPaint
from pyro_vipaint.bench.scores import image_scores
from pyro_vipaint.guides import MixtureGuide
from pyro_vipaint.settings import default_settings

PRIOR = "cats64"
COMPONENTS = 4  # of the mixture guide
WARM = "Warm start"
COMPARED = [
    *((method, "DPS") for method in ("VIPaint-2", "VIPaint-4")),
    ("VIPaint-4", "VIPaint-2"),
    *((f"VIPaint-{levels}", f"VIPaint-{levels}, pictures") for levels in (2, 4)),
    ("VIPaint-2", "VIPaint-2, L1"),
    ("VIPaint-4", "VIPaint-4, mixture"),
    ("VIPaint-2", WARM),
]


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
