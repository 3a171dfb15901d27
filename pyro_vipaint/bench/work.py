"""One cell, computed: the unit that every engine runs."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.memory import peak_memory
from pyro_vipaint.bench.methods import Outcome
from pyro_vipaint.bench.problems import Problem, load_problem, weights_of
from pyro_vipaint.bench.registry import METHODS
from pyro_vipaint.bench.scores import SCORES_VERSION, score
from pyro_vipaint.bench.weights import fingerprint
from pyro_vipaint.errors import NonFiniteError
from pyro_vipaint.metrics import alexnet_features

SHOWN_IMAGES, SHOWN_SAMPLES = 4, 2  # that are kept to be looked at


@dataclass(frozen=True, eq=False)
class Record:
    """A finished cell: plain numbers, and tensors for what is computed over many cells."""

    plain: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)


def compute(cell: Cell, device: str, threads: int | None) -> Record:
    """The record of a cell, with ``threads`` CPU threads; of a cell that fails, its error.

    Samples depend on the number of threads in their last digits, so that a benchmark keeps to one number.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        return _compute(cell, device)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
        text = " ".join(str(error).split()).replace("|", "/")
        return failed(cell, f"{type(error).__name__}: {text} ({where})")


def failed(cell: Cell, error: str) -> Record:
    """The record of a cell without rows: its ``error``, one line."""
    return Record({"cell": asdict(cell), "error": error})


def _compute(cell: Cell, device: str) -> Record:
    problem = load_problem(cell, device)
    with peak_memory(device) as peak:
        outcome = METHODS[cell.method](problem, cell.num_samples, cell.budget, cell.seed)
    if not outcome.samples.isfinite().all():
        raise NonFiniteError("the samples are not finite")
    images = len(problem.truth)
    cost = {
        "calls": outcome.calls,
        "nfe": outcome.nfe / (cell.num_samples * images),
        "seconds": outcome.seconds / images,
        "peak_memory": peak.mebibytes,
    }
    rows = [{"image": cell.start + i, **row, **cost} for i, row in enumerate(score(outcome.samples, problem))]
    made_with = {
        "weights": weights_of(cell.prior, device), "numbers": METHODS[cell.method].numbers(),
        "pictures": fingerprint(problem.truth), "scores": SCORES_VERSION, "version": version("pyro_vipaint"),
    }  # fmt: skip
    plain = {"cell": asdict(cell), "error": None, "rows": rows, "bounds": outcome.bounds, **made_with}
    return Record(plain, _tensors(outcome, problem))


def _tensors(outcome: Outcome, problem: Problem) -> dict[str, Tensor]:
    """Features for kernel distances, samples beside each other by image, and a few pictures."""
    few = slice(SHOWN_IMAGES)
    return {
        "features": alexnet_features(outcome.samples.transpose(0, 1)).flatten(0, 1),
        "true_features": alexnet_features(problem.truth).cpu(),
        "samples": outcome.samples[:SHOWN_SAMPLES, few].half(),
        "truth": problem.truth[few].cpu().half(),
        "observation": problem.y[few].cpu().half(),
    }


def worker(device: str, threads: int | None) -> Callable[[Cell], Record]:
    """:func:`compute` with everything fixed but the cell."""
    return partial(compute, device=device, threads=threads)
