"""One cell, computed: the unit that every engine runs."""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass, field
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.methods import Outcome
from pyro_vipaint.bench.registry import Suite
from pyro_vipaint.bench.scores import SCORES_VERSION, perceptual, rank_counts
from pyro_vipaint.bench.trials import Trial, fingerprint, weights_of
from pyro_vipaint.errors import NonFiniteError

SHOWN_IMAGES, SHOWN_SAMPLES = 4, 2  # kept for the figures


@dataclass(frozen=True, eq=False)
class Record:
    """A finished cell: plain numbers, and tensors for what is computed over many cells."""

    plain: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)


def compute(cell: Cell, suite: Suite, device: str, threads: int | None) -> Record:
    """The record of a cell, with ``threads`` CPU threads; of a cell that fails, its error.

    Samples depend on the number of threads in their last digits, so that a benchmark keeps to one number.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        return _compute(cell, suite, device)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split()).replace("|", "/")
        return failed(cell, f"{type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})")


def failed(cell: Cell, error: str) -> Record:
    """The record of a cell without rows: its ``error``, one line."""
    return Record({"cell": asdict(cell), "error": error})


def _compute(cell: Cell, suite: Suite, device: str) -> Record:
    trial, method = suite.trial(cell, device), suite.methods[cell.method]
    outcome = method(trial, cell.num_samples, cell.budget)
    if not outcome.samples.isfinite().all():
        raise NonFiniteError("the samples are not finite")
    plain = {
        "cell": asdict(cell), "error": None, "rows": _rows(cell, suite, trial, outcome), "bounds": outcome.bounds,
        "weights": weights_of(cell.prior, device), "numbers": method.numbers(),
        "pictures": fingerprint(trial.truth), "scores": SCORES_VERSION, "version": version("pyro_vipaint"),
    }  # fmt: skip
    return Record(plain, _tensors(outcome, trial))


def _rows(cell: Cell, suite: Suite, trial: Trial, outcome: Outcome) -> list[dict[str, Any]]:
    """The scores of the cell beside each other, and what each image cost."""
    images = len(trial.truth)
    nfe, gradients = (number / (cell.num_samples * images) for number in (outcome.nfe, outcome.gradients))
    cost = {"calls": outcome.calls, "nfe": nfe, "gradients": gradients, "seconds": outcome.seconds / images}
    tables = [score(outcome.samples, trial) for score in suite.scores]
    scores = reduce(lambda left, right: left.merge(right, on="image"), tables)
    return [{**row, "image": cell.start + row["image"], **cost} for row in scores.to_dict("records")]


def _tensors(outcome: Outcome, trial: Trial) -> dict[str, Tensor]:
    """Features for kernel distances, samples beside each other by image, ranks by image, and a few pictures."""
    few, seen = slice(SHOWN_IMAGES), perceptual(outcome.samples, trial)
    return {
        "features": seen.features.transpose(0, 1).flatten(0, 1),
        "true_features": seen.true_features,
        "ranks": rank_counts(outcome.samples, trial),
        "samples": outcome.samples[:SHOWN_SAMPLES, few].half(),
        "truth": trial.truth[few].cpu().half(),
        "observation": trial.y[few].cpu().half(),
    }
