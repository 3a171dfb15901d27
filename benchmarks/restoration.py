"""``restore`` against DPS on held-out images at equal NFE per sample: a plan of :mod:`pyro_vipaint.bench`.

    python -m benchmarks.restoration                                          # all tasks
    python -m benchmarks.restoration --tasks super-resolution --images 8

Images 4 and further, which the defaults of ``restore`` were not tuned on; a clean image is damaged, noise of standard
deviation .05 added, and its class label given to both methods. DPS has the zeta of ``restore``'s own refinement.
Columns: LPIPS and PSNR, means over samples and images; error on y; standard deviation over samples. docs/tuning.md has
the record of what was tuned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

import pyro_vipaint as vp
from benchmarks.plans import command
from pyro_vipaint.bench import METHODS, Cell, Plan, Suite
from pyro_vipaint.bench.report import full_table
from pyro_vipaint.bench.tasks import Task
from pyro_vipaint.bench.trials import Trial, load_trial
from pyro_vipaint.checks import NOISE
from pyro_vipaint.models.measurements.operators import Operator

FIRST = 4  # images before it were tuned on
BUDGET = 56  # NFE per sample


def always(operator: Operator, size: int, seeds: Sequence[int]) -> Operator:
    """The operator of all images."""
    return operator


def load(cell: Cell, task: Task, device: str) -> Trial:
    """The trial of a cell whose images are counted from :data:`FIRST`."""
    return load_trial(replace(cell, start=cell.start + FIRST, stop=cell.stop + FIRST), task, device)


OPERATORS: dict[str, Operator] = {
    "super-resolution": vp.SuperResolution(4),
    "bicubic": vp.SuperResolution(4, "bicubic"),
    "deblur": vp.GaussianBlur(1.0),
    "deblur, the paper's std": vp.GaussianBlur(3 * 32 / 256),
    "motion-deblur": vp.MotionBlur(7, 45.0),
}
TASKS = {name: Task(partial(always, operator), NOISE, False) for name, operator in OPERATORS.items()}
PLAN = Plan(("fashion32",), tuple(TASKS), ("VIPaint-4", "DPS"), (BUDGET,), num_images=4)


def suite(num_samples: int) -> Suite:
    """The methods of ``vipaint bench`` on these tasks."""
    return Suite(METHODS, TASKS, load)


def report(rows: pd.DataFrame) -> str:
    """All measures, one row per task and method."""
    return full_table(rows).to_markdown(index=False)


if __name__ == "__main__":
    command(str(__doc__), PLAN, suite, report, "restoration")
