"""What the benchmarks of pictures painted from parts share: held-out pictures, masks, exact draws, scores, tables.

Functions that take the ``name`` of a shipped prior are completed by ``functools.partial`` for a plan.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmarks.plans import block_task
from pyro_vipaint.bench.methods import Outcome
from pyro_vipaint.bench.summary import paired
from pyro_vipaint.bench.trials import Trial
from pyro_vipaint.cats.classifier import draw_labels, part_probabilities, shipped_classifier
from pyro_vipaint.cats.parts import PER_CLASS, class_labels, draw_parts, shipped_layers
from pyro_vipaint.cats.posterior import given_class
from pyro_vipaint.cats.scores import part_scores as scores_of_parts
from pyro_vipaint.diagnostics import PartsPosterior, parts_posterior
from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.models.measurements.masks import box, random_large, rotated_window

BLOCK = 16  # pictures drawn together
SIGMA = 0.05  # of the observation's noise, images in [-1, 1]
EXACT = "exact draws"
IMAGE_COLUMNS = ("energy", "lpips_energy", "lpips", "coverage_projections", "nfe", "gradients", "seconds")


def draw(name: str, block: int) -> tuple[Tensor, Tensor | None, torch.Generator]:
    """The pictures of a block, their labels, and the generator that goes on with their noise; one seed per block."""
    layers, generator = shipped_layers(name), torch.Generator().manual_seed(block)
    index = draw_parts(layers, BLOCK, held_out=True, generator=generator)
    return layers.compose(index), class_labels(name, index), generator


def lower_third(size: int, num: int = 1, seed: int = 0) -> Tensor:
    """Only the lowest third is observed; ``seed`` has no effect."""
    mask = torch.zeros(num, 1, size, size)
    mask[:, :, size - size // 3 :] = 1
    return mask


TASKS = {
    "rotated window": block_task(rotated_window, SIGMA),
    "box": block_task(box, SIGMA),
    "random": block_task(random_large, SIGMA),
    "lower third": block_task(lower_third, SIGMA),
}


def posterior_of(name: str, trial: Trial) -> PartsPosterior:
    """The exact posterior over the parts of a trial's pictures, given their labels where the prior has classes."""
    assert trial.mask is not None
    posterior = parts_posterior(shipped_layers(name), trial.y, trial.mask, trial.noise)
    labels = trial.condition.get("class_labels")
    return posterior if labels is None else given_class(posterior, labels, PER_CLASS[name])


@dataclass(frozen=True)
class ExactDraws:
    """Pictures of parts drawn from the exact posterior, without the prior of that ``name``."""

    name: str

    def applies(self, prior: DiffusionPrior, is_inpainting: bool) -> bool:
        return is_inpainting

    def numbers(self) -> str:
        return EXACT

    def __call__(self, trial: Trial, num_samples: int, budget: int | None) -> Outcome:
        begun = time.perf_counter()
        index = posterior_of(self.name, trial).sample(num_samples, torch.Generator().manual_seed(trial.seed))
        samples = shipped_layers(self.name).compose(index.flatten(0, 1)).unflatten(0, index.shape[:2])
        return Outcome(samples, calls=0, nfe=0, seconds=time.perf_counter() - begun)


def part_scores(name: str, samples: Tensor, trial: Trial) -> pd.DataFrame:
    """The scores of the parts that the classifier sees in the samples, one row per image and slot."""
    probabilities = part_probabilities(shipped_classifier(name), samples)
    labels = draw_labels(probabilities, torch.Generator().manual_seed(trial.seed))
    return scores_of_parts(posterior_of(name, trial).marginals, labels)


def per_image(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method, mask and picture; seconds are per sample."""
    whole = rows.drop_duplicates(["method", "task", "image"])
    return whole.assign(seconds=whole["seconds"] / whole["num_samples"])


def differences(rows: pd.DataFrame, compared: Sequence[tuple[str, str]], columns: Sequence[str]) -> str:
    """A line for each pair of methods that are there and each column, paired over pictures."""
    text = []
    for method, other in compared:
        for column in columns if {method, other} <= set(rows["method"]) else ():
            mean, error = paired(rows, column, method, other)
            text.append(f"- {column}, {method} minus {other}: {mean:+.4f} ± {error:.4f}")
    return "\n".join(text)


def with_excess(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the excess of the total variation of each slot."""
    return rows.assign(excess=rows["total_variation"] - rows["total_variation_exact"])


def summary(rows: pd.DataFrame, keys: list[str], methods: Sequence[str]) -> pd.DataFrame:
    """By method, or mask and method: scores of parts over all slots, others over pictures; no empty columns."""
    slots: Any = with_excess(rows).groupby(keys, sort=False)
    sums, means = slots[["coverage", "coverage_exact"]].sum(), slots[["excess", "agreement"]].mean()
    pictures: Any = per_image(rows).groupby(keys, sort=False)
    images, moments = pictures[list(IMAGE_COLUMNS)].mean(), pictures[["squared_error", "variance"]].sum()
    table = means.assign(coverage=sums["coverage"] / sums["coverage_exact"]).join(images)
    table.insert(6, "error/spread", moments["squared_error"] / moments["variance"])
    return in_order(table.dropna(axis=1, how="all"), methods).reset_index()


def report(rows: pd.DataFrame, methods: Sequence[str], compared: Sequence[tuple[str, str]]) -> str:
    """The tables over all masks and by mask, and paired differences."""
    tables = [summary(rows, keys, methods).rename(columns={"nfe": "NFE"}) for keys in (["method"], ["task", "method"])]
    text = differences(with_excess(rows), compared, ("excess", "energy", "lpips_energy"))
    return "\n\n".join([*(table.round(4).to_markdown(index=False) for table in tables), text])


def in_order(table: Any, methods: Sequence[str]) -> Any:
    """The rows of a table by method, or by mask and method, in the order of the plan."""
    if table.index.nlevels == 1:
        return table.loc[[name for name in methods if name in table.index]]
    return table.loc[[key for task in TASKS for name in methods if (key := (task, name)) in table.index]]
