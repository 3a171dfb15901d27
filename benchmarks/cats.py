"""VIPaint against latent DPS on held-out cats, judged by the exact posterior over their parts.

    python -m benchmarks.cats                           # 16 cats × 4 masks × 8 samples, six methods; resumes
    python -m benchmarks.cats --images 32               # with sixteen further cats
    python -m benchmarks.cats --only "exact draws"      # the methods whose names begin so
    python -m benchmarks.cats --report --tasks box      # the tables of the shipped rows, for some of the masks

A plan of :mod:`pyro_vipaint.bench`. Cats are held-out combinations of parts, observed with noise of standard deviation
.05; the exact posterior of the parts knows the noise. The classifier of parts judges the samples, drawing a class from
its probabilities (:func:`draw_labels`). *Exact draws* are pictures of parts drawn from the exact posterior, judged in
the same way: where they miss the expectation, the classifier errs. *VIPaint-2, L1* omits the perceptual term.
*VIPaint-4, mixture* has a mixture of four hierarchical guides, as many particles and a quarter of the steps. DPS has
the NFE of VIPaint-4 and the zeta that was best in LPIPS on other cats. docs/tuning.md has the record of what was tuned.

Rows are per image and slot. Columns: LPIPS to the truth (mean over samples, then over cats), total variation (mean over
slots), agreement in shown slots, coverage in open ones (:mod:`pyro_vipaint.cats.scores`), each beside its expectation
under as many exact draws; NFE and seconds per sample. The differences are paired over cats, with their standard error.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmarks.plans import Blocks, Held, block_task, command, nfe_per_sample
from pyro_vipaint.bench import METHODS, Plan, Suite
from pyro_vipaint.bench.methods import Method, Outcome, VIPaint
from pyro_vipaint.bench.scores import image_scores
from pyro_vipaint.bench.summary import paired
from pyro_vipaint.bench.trials import Trial
from pyro_vipaint.cats.classifier import draw_labels, part_probabilities, shipped_classifier
from pyro_vipaint.cats.parts import draw_parts, shipped_layers
from pyro_vipaint.cats.scores import part_scores as scores_of_parts
from pyro_vipaint.diagnostics import PartsPosterior, parts_posterior
from pyro_vipaint.guides import MixtureGuide
from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.models.measurements.masks import box, random_large, rotated_window
from pyro_vipaint.settings import default_settings

PRIOR = "cats64"
BLOCK = 16  # cats drawn together
SIGMA = 0.05  # of the observation's noise, images in [-1, 1]
COMPONENTS = 4  # of the mixture guide
EXACT = "exact draws"
SCORES = ("total_variation", "agreement", "coverage")
SCORE_COLUMNS = [f"{score}{end}" for score in SCORES for end in ("", "_exact")]
COMPARED = [
    *((method, "DPS") for method in ("VIPaint-2", "VIPaint-4", "VIPaint-4, mixture")),
    ("VIPaint-2", "VIPaint-2, L1"),
]


def draw(block: int) -> tuple[Tensor, None, torch.Generator]:
    """The cats of a block, drawn from a seed of its own, and the generator that goes on with their noise."""
    layers, generator = shipped_layers(PRIOR), torch.Generator().manual_seed(block)
    return layers.compose(draw_parts(layers, BLOCK, held_out=True, generator=generator)), None, generator


def lower_third(size: int, num: int = 1, seed: int = 0) -> Tensor:
    """Only the lowest third is observed, where body, fur and accessory show; ``seed`` has no effect."""
    mask = torch.zeros(num, 1, size, size)
    mask[:, :, size - size // 3 :] = 1
    return mask


TASKS = {
    "rotated window": block_task(rotated_window, SIGMA),
    "box": block_task(box, SIGMA),
    "random": block_task(random_large, SIGMA),
    "lower third": block_task(lower_third, SIGMA),
}


def posterior_of(trial: Trial) -> PartsPosterior:
    """The exact posterior over the parts of the cats of a trial."""
    assert trial.mask is not None
    return parts_posterior(shipped_layers(PRIOR), trial.y, trial.mask, trial.noise)


@dataclass(frozen=True)
class ExactDraws:
    """Pictures of parts drawn from the exact posterior, without the prior."""

    def applies(self, prior: DiffusionPrior, is_inpainting: bool) -> bool:
        return is_inpainting

    def numbers(self) -> str:
        return EXACT

    def __call__(self, trial: Trial, num_samples: int, budget: int | None) -> Outcome:
        begun = time.perf_counter()
        index = posterior_of(trial).sample(num_samples, torch.Generator().manual_seed(trial.seed))
        samples = shipped_layers(PRIOR).compose(index.flatten(0, 1)).unflatten(0, index.shape[:2])
        return Outcome(samples, calls=0, nfe=0, seconds=time.perf_counter() - begun)


def mixture() -> VIPaint:
    """VIPaint-4 with a mixture of hierarchical guides at the NFE of one: one particle per component, fewer steps."""
    settings = default_settings(4, latent=True)
    guide = partial(
        MixtureGuide, num_components=COMPONENTS, gamma_logit=settings.gamma_logit, tau_scale=settings.tau_scale
    )
    return VIPaint(4, replace(settings, steps=settings.steps // COMPONENTS, num_particles=COMPONENTS), guide)


def methods(num_samples: int) -> dict[str, Method]:
    """The methods of the tables."""
    two, four = (default_settings(levels, latent=True) for levels in (2, 4))
    return {
        EXACT: ExactDraws(),
        "VIPaint-2": VIPaint(2),
        "VIPaint-2, L1": VIPaint(2, replace(two, perceptual_weight=0.0)),
        "VIPaint-4": VIPaint(4),
        "VIPaint-4, mixture": mixture(),
        "DPS": Held(METHODS["DPS"], nfe_per_sample(four, num_samples)),
    }


def part_scores(samples: Tensor, trial: Trial) -> pd.DataFrame:
    """The scores of the parts that the classifier sees in the samples, one row per image and slot."""
    probabilities = part_probabilities(shipped_classifier(PRIOR), samples)
    labels = draw_labels(probabilities, torch.Generator().manual_seed(trial.seed))
    return scores_of_parts(posterior_of(trial).marginals, labels)


def suite(num_samples: int) -> Suite:
    """The methods for ``num_samples`` samples per image, the four masks, and the scores of parts."""
    return Suite(methods(num_samples), TASKS, Blocks(BLOCK, draw), (image_scores, part_scores))


PLAN = Plan((PRIOR,), tuple(TASKS), tuple(methods(8)), (None,), num_images=16, num_samples=8, chunk=8)


def per_image(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method, mask and cat; seconds are per sample."""
    whole = rows.drop_duplicates(["method", "task", "image"])
    return whole.assign(seconds=whole["seconds"] / whole["num_samples"])


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means by mask and method; those of the scores are over the slots of all cats."""
    keys = ["task", "method"]
    scores = rows.groupby(keys, sort=False)[SCORE_COLUMNS].mean()
    costs: Any = per_image(rows).groupby(keys, sort=False)[["lpips", "nfe", "seconds"]].mean()
    order = [key for task in TASKS for name in PLAN.methods if (key := (task, name)) in costs.index]
    return costs[["lpips"]].join(scores).join(costs[["nfe", "seconds"]]).loc[order].reset_index()


def over_masks(rows: pd.DataFrame) -> pd.DataFrame:
    """Means by method over all masks, and the agreement of each slot where it is shown."""
    scores = rows.groupby("method")[["total_variation", "agreement"]].mean()
    agreement = rows.pivot_table(index="method", columns="slot", values="agreement")
    lpips: Any = per_image(rows).groupby("method")[["lpips"]].mean()
    order = [name for name in PLAN.methods if name in lpips.index]
    return lpips.join(scores).join(agreement).loc[order].reset_index()


def report(rows: pd.DataFrame) -> str:
    """The tables, and the paired differences between the methods that are there."""
    tables = [summary(rows).rename(columns={"nfe": "NFE"}), over_masks(rows)]
    text = []
    for method, other in COMPARED:
        for column in ("lpips", *SCORES) if {method, other} <= set(rows["method"]) else ():
            mean, error = paired(rows, column, method, other)
            text.append(f"- {column}, {method} minus {other}: {mean:+.4f} ± {error:.4f}")
    return "\n\n".join([*(table.round(4).to_markdown(index=False) for table in tables), "\n".join(text)])


if __name__ == "__main__":
    command(str(__doc__), PLAN, suite, report, "cats")
