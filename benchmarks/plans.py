"""What the benchmarks that are plans of :mod:`pyro_vipaint.bench` share: images in blocks, costs, the command line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pyro_vipaint import Inpainting
from pyro_vipaint.bench import Cell, Plan, Suite, engine, run
from pyro_vipaint.bench.methods import Method, Outcome
from pyro_vipaint.bench.tasks import Task
from pyro_vipaint.bench.trials import Trial, warm_prior
from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.progress import progress_bar
from pyro_vipaint.settings import Settings

RESULTS = Path(__file__).parent / "results"
Masks = Callable[..., Tensor]
Draw = Callable[[int], tuple[Tensor, Tensor | None, torch.Generator]]


@dataclass(frozen=True)
class Blocks:
    """Loads trials from blocks of images; a method has the seed ``cell.start``.

    Attributes:
        size: images in a block; no cell crosses its border.
        draw: ``block -> images (size, C, H, W), labels (size,) or None, the generator of the noise``.
    """

    size: int
    draw: Draw

    def __call__(self, cell: Cell, task: Task, device: str) -> Trial:
        """The trial of a cell: the masks of a block come from one seed, the number of the block."""
        block, first = divmod(cell.start, self.size)
        here = slice(first, first + cell.stop - cell.start)
        images, labels, generator = self.draw(block)
        noisy = images + task.noise * torch.randn(images.shape, generator=generator)
        operator = task.operator(images.shape[-1], [block] * self.size)
        assert isinstance(operator, Inpainting)
        mask = operator.mask[here]
        condition = {} if labels is None else {"class_labels": labels[here]}
        prior = warm_prior(cell.prior, device)
        y = noisy[here] * mask
        return Trial(prior, images[here], y, Inpainting(mask), task.noise, condition, cell.start).to(device)


def block_task(masks: Masks, noise: float = 0.0) -> Task:
    """Inpainting whose masks ``masks(size, num, seed=…)`` of a block are drawn together."""
    return Task(partial(_block_operator, masks), noise, is_inpainting=True)


def _block_operator(masks: Masks, size: int, seeds: Sequence[int]) -> Inpainting:
    return Inpainting(masks(size, len(seeds), seed=seeds[0]))


@dataclass(frozen=True)
class Held:
    """A method that is held to a ``budget`` of its own, whatever that of the plan is."""

    method: Method
    budget: int

    def applies(self, prior: DiffusionPrior, is_inpainting: bool) -> bool:
        return self.method.applies(prior, is_inpainting)

    def numbers(self) -> str:
        return f"{self.method.numbers()} at {self.budget}"

    def __call__(self, trial: Trial, num_samples: int, budget: int | None) -> Outcome:
        return self.method(trial, num_samples, self.budget)


def nfe_per_sample(settings: Settings, num_samples: int) -> int:
    """NFE of one sample of VIPaint, rounded up, with its share of the fit."""
    levels, fitted = settings.levels, settings.twist is None
    fit = fitted + settings.steps * (levels + fitted) * settings.num_particles
    drawn = settings.drawn(num_samples)
    return math.ceil((fit + drawn * (levels - 1 + settings.refine_steps)) / num_samples)


def command(text: str, plan: Plan, suite: Callable[[int], Suite], report: Callable[[Any], str], shipped: str) -> None:
    """Runs what is missing of a plan and prints its report.

    Args:
        text: the description of the command.
        plan: its defaults.
        suite: of ``num_samples`` samples per image.
        report: ``rows -> tables``.
        shipped: name of the rows in benchmarks/results and of the folder for new ones.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help=f"folder of cells and results.parquet; {shipped} if not given")
    parser.add_argument("--images", type=int, default=plan.num_images)
    parser.add_argument("--samples", type=int, default=plan.num_samples, help="per image")
    parser.add_argument("--only", nargs="+", default=[""], help="run the methods whose names begin with one of these")
    parser.add_argument("--tasks", nargs="+", choices=plan.tasks, default=plan.tasks, help="run and report these")
    parser.add_argument("--report", action="store_true", help="run nothing; without --out, report the shipped rows")
    chosen = parser.parse_args()
    if chosen.report:
        rows = pd.read_parquet(RESULTS / f"{shipped}.parquet" if chosen.out is None else chosen.out / "results.parquet")
    else:
        methods = tuple(name for name in plan.methods if name.startswith(tuple(chosen.only)))
        smaller = replace(
            plan, tasks=tuple(chosen.tasks), methods=methods, num_images=chosen.images, num_samples=chosen.samples
        )
        rows = compute(smaller, suite(chosen.samples), chosen.out or Path(shipped))
    print(report(rows[rows["task"].isin(chosen.tasks)]))


def compute(plan: Plan, suite: Suite, out: Path) -> pd.DataFrame:
    """The rows of a plan, on the CPU, in this process."""
    with progress_bar() as callback:
        return run(plan, out, engine("local", 1, "cpu", None), "cpu", callback, suite=suite)
