"""Runs a plan: computes the cells that are missing, and then the table."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any

import pandas as pd

from pyro_vipaint._files import write_whole
from pyro_vipaint._folders import BENCHMARK, TABLE
from pyro_vipaint._torch import SEEDS
from pyro_vipaint.bench.cost import gradient_ratio
from pyro_vipaint.bench.draws import MOST
from pyro_vipaint.bench.engines import Engine
from pyro_vipaint.bench.grid import Cell, Plan
from pyro_vipaint.bench.registry import SUITE, Suite
from pyro_vipaint.bench.scores import SCORES_VERSION
from pyro_vipaint.bench.store import Store
from pyro_vipaint.bench.summary import add_kernel_distance
from pyro_vipaint.bench.trials import SEEDS_APART, fingerprint, warm_prior, weights_of
from pyro_vipaint.errors import InputError, choice, whole
from pyro_vipaint.metrics import takes_lpips
from pyro_vipaint.progress import Callback, Progress

# More than these is taken for a slip; images beyond the first limit would have seeds of the next seed's images.
LIMITS = {"num_images": SEEDS_APART, "num_samples": 10_000, "chunk": SEEDS_APART}
LARGEST_BUDGET = 1_000_000  # NFE per sample
LARGEST_SEED = SEEDS[1] // SEEDS_APART - 1  # whose images have seeds that torch takes
NEEDED = {"filelock": "filelock", "pyarrow": "pyarrow", "skimage": "scikit-image", "tabulate": "tabulate"}


def run(
    plan: Plan,
    out: Path,
    engine: Engine,
    device: str,
    callback: Callback | None = None,
    retry: bool = False,
    finish: Callable[[pd.DataFrame], None] | None = None,
    suite: Suite = SUITE,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Computes the cells of ``plan`` that ``out`` lacks, and writes and returns the table ``out``/results.parquet.

    A run that was killed goes on when it is started again: a finished cell is never computed twice. The table is of all
    cells in the folder, also of those of other plans. Files among the cells that are damaged or no cells are ignored,
    with a warning; what is missing for the plan is computed again.

    Args:
        plan: what to run.
        out: folder of cells and table.
        engine: where to run; see :func:`pyro_vipaint.bench.engines.engine`.
        device: of the priors.
        callback: called with the :class:`pyro_vipaint.progress.Progress` of the cells, first with the finished ones.
        retry: whether cells of the plan that failed are computed again.
        finish: called with the table, while no other run may write into ``out`` yet.
        suite: what the names in the plan stand for.
        overwrite: whether ``out`` may hold other files, of which those with names of results are replaced.

    Raises:
        InputError: a name that does not exist, a number out of range, nothing that applies, too few images, a package
            that is missing; other files in ``out``, results of other weights, pictures or settings, or another run that
            writes there.
    """
    BENCHMARK.check(out, overwrite)
    fault = next(faults(plan, suite, device), None)
    if fault is not None:
        raise InputError(fault)
    cells = applicable(plan, device, suite)
    BENCHMARK.claim(out)
    store = Store(out)
    suite = suite.keeping(store.folder)
    with store.locked():
        _warn_of(store.strangers())
        _check_origin(store, plan, suite, device)
        if retry:
            store.forget_failures(cells)
        _compute_missing(store, cells, engine, suite, device, callback or (lambda progress: None))
        frame = add_kernel_distance(store.table(), store)
        write_whole(out / TABLE, frame.to_parquet(index=False))
        if finish is not None:
            finish(frame)
    return frame


def _warn_of(strangers: list[str]) -> None:
    if strangers:
        names = shorten(", ".join(strangers), 300, placeholder="…")
        text = f"Not read, as damaged or not of this benchmark: {names}. Cells of the plan are computed again."
        warnings.warn(text, stacklevel=3)


def _compute_missing(
    store: Store, cells: list[Cell], engine: Engine, suite: Suite, device: str, report: Callback
) -> None:
    finished_before = store.finished()
    missing = [cell for cell in cells if cell not in finished_before]
    for cell in dict.fromkeys(replace(cell, method="", budget=None) for cell in missing):
        if suite.tasks[cell.task].draws is not None:
            suite.trial(cell, device)  # the workers read what is drawn here
    ratios = {cell.prior: gradient_ratio(cell.prior, device) for cell in missing} | store.gradient_ratios()
    there = len(cells) - len(missing)
    report(Progress("bench", there, len(cells)))
    with closing(engine(missing, suite)) as finished:  # an interrupted engine ends its workers
        for number, (cell, record) in enumerate(finished, 1):
            store.write(cell, replace(record, plain=record.plain | {"gradient_ratio": ratios[cell.prior]}))
            report(Progress("bench", there + number, len(cells), note=f"{cell.method}, {cell.task}, {cell.prior}"))


def applicable(plan: Plan, device: str, suite: Suite = SUITE) -> list[Cell]:
    """The cells of the plan, without methods that are not made for the prior or the task."""

    def applies(cell: Cell) -> bool:
        prior, task = warm_prior(cell.prior, device), suite.tasks[cell.task]
        return suite.methods[cell.method].applies(prior, task.is_inpainting)

    return list(dict.fromkeys(plan.cells(applies)))


def faults(plan: Plan, suite: Suite, device: str) -> Iterator[str]:
    """The reasons why a plan cannot be run; each of them rests on the ones before.

    Raises:
        InputError: a name or a number that cannot be used, or too few images.
    """
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        yield f"The benchmark needs {', '.join(missing)}: pip install 'pyro-vipaint[bench]'."
    for name in ("priors", "tasks", "methods", "budgets", "seeds"):
        values = getattr(plan, name)
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            yield f"The {name} of a plan must be a tuple of one or more, not {values!r}."
    for kind, names, known in (("task", plan.tasks, suite.tasks), ("method", plan.methods, suite.methods)):
        for name in names:
            if name not in known:
                choice(kind, name, [*known, *getattr(known, "plugged_in", ())])
    for name, most in LIMITS.items():
        whole(name.removeprefix("num_"), getattr(plan, name), most=most)
    for budget in plan.budgets:
        if budget is not None:
            whole("A budget", budget, most=LARGEST_BUDGET)
    for seed in plan.seeds:
        whole("A seed of the benchmark", seed, 0, LARGEST_SEED)
    given = [task for task in plan.tasks if suite.tasks[task].draws is None]
    if len(given) < len(plan.tasks):
        whole("images that are drawn from a prior", plan.num_images, most=MOST)
        if plan.images is not None:
            yield "A task that draws its images from the prior takes no pictures: omit one of the two."
    for name in plan.priors:
        *_, height, width = shape = warm_prior(name, device).image_shape
        if not takes_lpips(shape):
            yield f"LPIPS cannot take the images of {name}: 1 or 3 channels and 31 pixels or more."
        if height != width and any(suite.tasks[task].is_inpainting for task in plan.tasks):
            yield f"The masks of the benchmark are square, the images of {name} are {width}×{height}."
        if given:
            last = Cell(name, given[0], "", None, plan.num_images - 1, plan.num_images, 1, 0, plan.images)
            suite.trial(last, device)
    if not applicable(plan, device, suite):
        yield "None of these methods is made for such a prior and task."


def _check_origin(store: Store, plan: Plan, suite: Suite, device: str) -> None:
    """Refuses results of other weights, pictures or scores of the same names, or of other settings."""
    for record in store.records():
        cell = Cell(**record["cell"])
        if record["error"] is not None or cell.prior not in plan.priors:
            continue
        made_with: dict[str, tuple[str, Any]] = {
            f"weights of {cell.prior}": ("weights", weights_of(cell.prior, device)),
            "scores, as another version defines them": ("scores", SCORES_VERSION),
        }
        if cell.method in plan.methods:
            made_with[f"settings of {cell.method}"] = ("numbers", suite.methods[cell.method].numbers())
        task = _task_of_pictures(suite, plan, cell)
        if task is not None and cell.images == plan.images and cell.stop <= plan.num_images:
            anywhere = replace(cell, task=task, method="", budget=None, num_samples=1, seed=0)
            made_with["pictures"] = ("pictures", _pictures_of(suite, anywhere, device))
        for what, (entry, current) in made_with.items():
            if record.get(entry) != current:
                raise InputError(f"{store.out} has results of other {what}: choose another folder.")


def _task_of_pictures(suite: Suite, plan: Plan, cell: Cell) -> str | None:
    """A task with the true images of the cell's, the same one for many cells; ``None`` where there is none."""
    draws = suite.tasks[cell.task].draws if cell.task in suite.tasks else None
    names = (name for name in (*plan.tasks, cell.task) if name in suite.tasks)
    return next((name for name in names if suite.tasks[name].draws == draws), None)


@lru_cache(maxsize=64)
def _pictures_of(suite: Suite, cell: Cell, device: str) -> str:
    """The fingerprint of the true images of a cell."""
    return fingerprint(suite.trial(cell, device).truth)
