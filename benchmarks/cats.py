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

Rows are per image and slot. Columns: LPIPS to the truth (mean over samples, then over cats), total variation (mean over
slots), agreement in shown slots, coverage in open ones (:mod:`pyro_vipaint.cats.scores`), each beside its expectation
under as many exact draws; NFE and seconds per sample. The differences are paired over cats, with their standard error.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from benchmarks.parts import (
    BLOCK,
    EXACT,
    SCORE_COLUMNS,
    SCORES,
    TASKS,
    ExactDraws,
    differences,
    draw,
    in_order,
    part_scores,
    per_image,
)
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


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means by mask and method; those of the scores are over the slots of all cats."""
    keys = ["task", "method"]
    scores = rows.groupby(keys, sort=False)[SCORE_COLUMNS].mean()
    costs: Any = per_image(rows).groupby(keys, sort=False)[["lpips", "nfe", "seconds"]].mean()
    table = costs[["lpips"]].join(scores).join(costs[["nfe", "seconds"]])
    return in_order(table, PLAN.methods).reset_index()


def over_masks(rows: pd.DataFrame) -> pd.DataFrame:
    """By method over all masks: LPIPS, the excess of the total variation, coverage over that of exact draws, agreement.

    The agreement also by slot, where it is shown.
    """
    means: Any = rows.groupby("method")[SCORE_COLUMNS].mean()
    table: Any = per_image(rows).groupby("method")[["lpips"]].mean()
    table = table.assign(
        excess=means["total_variation"] - means["total_variation_exact"],
        coverage=means["coverage"] / means["coverage_exact"],
        agreement=means["agreement"],
    )
    slots = rows.pivot_table(index="method", columns="slot", values="agreement")
    return in_order(table.join(slots), PLAN.methods).reset_index()


def report(rows: pd.DataFrame) -> str:
    """The tables, and the paired differences between the methods that are there."""
    tables = [over_masks(rows), summary(rows).rename(columns={"nfe": "NFE"})]
    text = differences(rows, COMPARED, ("lpips", *SCORES))
    return "\n\n".join([*(table.round(4).to_markdown(index=False) for table in tables), text])


if __name__ == "__main__":
    command(str(__doc__), PLAN, suite, report, "cats")
