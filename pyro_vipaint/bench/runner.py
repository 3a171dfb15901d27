"""Runs a plan: what is missing of it, and then the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from pyro_vipaint.bench.engines import Engine
from pyro_vipaint.bench.grid import Cell, Plan
from pyro_vipaint.bench.problems import load_images, pictures_of, warm_prior, weights_of
from pyro_vipaint.bench.registry import METHODS
from pyro_vipaint.bench.scores import SCORES_VERSION
from pyro_vipaint.bench.store import Store
from pyro_vipaint.bench.summary import add_kernel_distance
from pyro_vipaint.bench.tasks import TASKS
from pyro_vipaint.errors import InputError
from pyro_vipaint.metrics import takes_lpips
from pyro_vipaint.progress import Callback, Progress

NEEDED = {"filelock": "filelock", "pyarrow": "pyarrow", "skimage": "scikit-image", "tabulate": "tabulate"}


def run(
    plan: Plan,
    out: Path,
    engine: Engine,
    device: str,
    callback: Callback | None = None,
    retry: bool = False,
    finish: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Computes the cells of ``plan`` that ``out`` lacks and writes ``out``/results.parquet; its table.

    Killed at any moment and started again it goes on: a finished cell is never computed twice. The table is of all
    cells in the folder, also of those of other plans.

    Args:
        plan: what to run.
        out: folder of cells and table.
        engine: where to run; see :func:`pyro_vipaint.bench.engines.engine`.
        device: of the priors.
        callback: called with the :class:`pyro_vipaint.progress.Progress` of the cells, first with what is there.
        retry: whether cells of the plan that failed are computed again.
        finish: called with the table, while no other run may write into ``out`` yet.

    Raises:
        InputError: a name that does not exist, nothing that applies, too few images, a package that is missing; results
            of other weights, pictures or settings in ``out``, or another run that writes there.
    """
    check(plan, device)
    cells = applicable(plan, device)
    if not cells:
        raise InputError("None of these methods is made for such a prior and task.")
    store = Store(out)
    with store.locked():
        store.sweep()
        _check_origin(store, plan, device)
        if retry:
            store.forget_failures(cells)
        _compute_missing(store, cells, engine, callback or (lambda progress: None))
        frame = add_kernel_distance(store.table(), store)
        store.write_table(frame)
        if finish is not None:
            finish(frame)
    return frame


def _compute_missing(store: Store, cells: list[Cell], engine: Engine, report: Callback) -> None:
    missing = [cell for cell in cells if not store.has(cell)]
    there = len(cells) - len(missing)
    report(Progress("bench", there, len(cells)))
    with closing(engine(missing)) as finished:  # interrupted here, it ends its workers
        for number, (cell, record) in enumerate(finished, 1):
            store.write(cell, record)
            note = f"{cell.method}, {cell.task}, {cell.prior}"
            report(Progress("bench", there + number, len(cells), note=note))


def applicable(plan: Plan, device: str) -> list[Cell]:
    """The cells of the plan, without methods that are not made for the prior or the task."""

    def applies(cell: Cell) -> bool:
        return METHODS[cell.method].applies(warm_prior(cell.prior, device), TASKS[cell.task].is_inpainting)

    return list(dict.fromkeys(plan.cells(applies)))


def check(plan: Plan, device: str) -> None:
    """Refuses a plan that cannot be run, before anything is computed."""
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise InputError(f"The benchmark needs {', '.join(missing)}: pip install 'pyro-vipaint[bench]'.")
    _check_names("task", plan.tasks, TASKS)
    _check_names("method", plan.methods, METHODS)
    for name in ("num_images", "num_samples", "chunk"):
        if getattr(plan, name) < 1:
            raise InputError(f"{name.removeprefix('num_')} must be at least 1, not {getattr(plan, name)}.")
    if any(budget is not None and budget < 1 for budget in plan.budgets):
        raise InputError("A budget must be at least 1 network evaluation a sample.")
    if any(seed < 0 for seed in plan.seeds):
        raise InputError("A seed of the benchmark must not be negative.")
    for name in plan.priors:
        prior = warm_prior(name, device)
        if not takes_lpips(prior.image_shape):
            raise InputError(f"LPIPS cannot take the images of {name}: 1 or 3 channels and 31 pixels or more.")
        load_images(name, prior, plan.images, plan.num_images)
        *_, height, width = prior.image_shape
        if height != width and any(TASKS[task].is_inpainting for task in plan.tasks):
            raise InputError(f"The masks of the benchmark are square, the images of {name} are {width}×{height}.")


def _check_origin(store: Store, plan: Plan, device: str) -> None:
    """Refuses to go on with results of other weights, pictures or scores of the same names, or of other settings."""
    for record in store.records():
        cell = Cell(**record["cell"])
        if record["error"] is not None or cell.prior not in plan.priors:
            continue
        made_with: dict[str, tuple[str, Any]] = {
            f"weights of {cell.prior}": ("weights", weights_of(cell.prior, device)),
            "scores, as another version defines them": ("scores", SCORES_VERSION),
        }
        if cell.method in plan.methods:
            made_with[f"settings of {cell.method}"] = ("numbers", METHODS[cell.method].numbers())
        if cell.images == plan.images and cell.stop <= plan.num_images:
            current = pictures_of(cell.prior, device, cell.images, cell.start, cell.stop)
            made_with["pictures"] = ("pictures", current)
        for what, (entry, current) in made_with.items():
            if record.get(entry) != current:
                raise InputError(f"{store.out} has results of other {what}: choose another folder.")


def _check_names(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"There is no {kind} {name!r}: choose from {', '.join(known)}.")
