"""Conformal intervals on held-out pictures: do they cover, also where the draws are too sure?

    python -m benchmarks.conformal --data FOLDER      # needs the files of Fashion-MNIST; resumes
    python -m benchmarks.conformal --report           # the table of the shipped rows

128 images of the Fashion test set, from number 9000 on, which no tuning has seen, with rotated windows, y = m ⊙ x, the
label given, 10 samples each: the first 64 calibrate (:func:`pyro_vipaint.diagnostics.conformalize`), the last 64 are
asked. Intervals of .9 are for the mean brightness of the left, right, upper and lower half of the hole, and for 16
smooth random projections of it. Beside them are the plain intervals of a Gaussian posterior, the mean and 1.83 (the .95
quantile of Student's t with 9 degrees of freedom) spreads of a further draw. Methods are the two presets of VIPaint-4.
Standard errors are over the 64 images; that of the calibration, of about the same size, is not in them.

``FOLDER`` has ``t10k-images-idx3-ubyte.gz`` and ``t10k-labels-idx1-ubyte.gz``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmarks.plans import RESULTS, Blocks, block_task, compute
from pyro_vipaint.bench import METHODS, Plan, Suite
from pyro_vipaint.bench.trials import Trial
from pyro_vipaint.diagnostics import Conformal, conformalize
from pyro_vipaint.diagnostics.scores import smooth_projections
from pyro_vipaint.models.measurements.masks import rotated_window
from recipes.fashion32.data import load_split

FIRST, BLOCK, NUM_SAMPLES, LEVEL = 9000, 16, 10, 0.9
STUDENT = 1.8331  # the .95 quantile of t with 9 degrees of freedom
CALIBRATION = 64  # images; as many are held out
PROJECTIONS = 16
KINDS = ("half", "projection")
TASK = "rotated window"
PLAN = Plan(
    ("fashion32",), (TASK,), ("VIPaint-4", "VIPaint-4, pictures"), (None,),
    num_images=2 * CALIBRATION, num_samples=NUM_SAMPLES, chunk=BLOCK,
)  # fmt: skip


@dataclass(frozen=True)
class HeldOut:
    """The blocks of the test set in a folder."""

    folder: Path

    def __call__(self, block: int) -> tuple[Tensor, Tensor | None, torch.Generator]:
        images, labels = _split(self.folder)
        here = slice(FIRST + block * BLOCK, FIRST + (block + 1) * BLOCK)
        return images[here], labels[here], torch.Generator().manual_seed(block)


@lru_cache(maxsize=1)
def _split(folder: Path) -> tuple[Tensor, Tensor]:
    return load_split(folder, train=False)


def halves(hidden: Tensor) -> Tensor:
    """Weights ``(4, N, C, H, W)`` of the mean over the left, right, upper and lower half of a hole ``(N, 1, H, W)``.

    Each half has its row or column through the middle of the hole's extent.
    """
    parts = []
    for dim in (3, 2):
        index = torch.arange(hidden.shape[dim]).reshape((-1, 1) if dim == 2 else (1, -1)).expand(hidden.shape)
        low = torch.where(hidden, index, hidden.shape[dim]).amin((1, 2, 3), keepdim=True)
        high = torch.where(hidden, index, -1).amax((1, 2, 3), keepdim=True)
        parts += [hidden & (2 * index <= low + high), hidden & (2 * index >= low + high)]
    weights = torch.stack(parts).float()
    return weights / weights.sum((2, 3, 4), keepdim=True)


def functionals(samples: Tensor, trial: Trial) -> pd.DataFrame:
    """One row per image and functional: the truth, mean and standard deviation of the samples."""
    assert trial.mask is not None
    truth, hidden = trial.truth.cpu(), trial.mask.cpu() == 0
    weights = halves(hidden)
    parts = torch.einsum("pn...,sn...->snp", weights, torch.cat([samples, truth.unsqueeze(0)]))
    along = {
        "half": (parts[:-1], parts[-1]),
        "projection": smooth_projections(samples, truth, hidden, num_projections=PROJECTIONS, seed=trial.start),
    }
    tables = []
    for kind, (values, known) in along.items():
        columns = {"truth": known, "mean": values.mean(0), "std": values.std(0)}
        images, numbers = known.shape
        table = pd.DataFrame({name: column.flatten().double().numpy() for name, column in columns.items()})
        index = torch.arange(images).repeat_interleave(numbers).numpy()
        tables.append(table.assign(image=index, kind=kind, number=list(range(numbers)) * images))
    return pd.concat(tables, ignore_index=True)


def suite(folder: Path) -> Suite:
    """The methods, the windows and the functionals."""
    methods = {name: METHODS[name] for name in PLAN.methods}
    images = Blocks(BLOCK, HeldOut(folder))
    return Suite(methods, {TASK: block_task(rotated_window)}, images, (functionals,))


def report(rows: pd.DataFrame) -> str:
    """One line per method and kind of functional: coverage and width of both intervals."""
    return str(pd.DataFrame(list(lines(rows))).to_markdown(index=False))


def lines(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The lines of the table."""
    for method in dict.fromkeys(rows["method"]):
        for kind in KINDS:
            here: Any = rows[(rows["method"] == method) & (rows["kind"] == kind)]
            here = here.sort_values(["image", "number"])
            calibrating, asked = here[here["image"] < CALIBRATION], here[here["image"] >= CALIBRATION]
            calibrated = calibrate(calibrating)
            spread = asked["std"] * (1 + 1 / NUM_SAMPLES) ** 0.5
            yield {
                "method": method,
                "functional": kind,
                "plain": covered(asked, STUDENT * spread),
                "width": f"{(2 * STUDENT * spread).mean():.3f}",
                "conformal": covered(asked, calibrated.scale * spread),
                "width, conformal": f"{(2 * calibrated.scale * spread).mean():.3f}",
                "scale": f"{calibrated.scale:.2f}",
            }


def calibrate(rows: Any) -> Conformal:
    """The intervals of :func:`conformalize`, which needs the draws' first two moments alone: S draws that have them."""
    names = ("truth", "mean", "std")
    truth, mean, std = (
        torch.tensor(rows[name].tolist(), dtype=torch.float64).reshape(CALIBRATION, -1) for name in names
    )
    ramp = torch.linspace(-1, 1, NUM_SAMPLES, dtype=torch.float64)
    draws = mean + ramp[:, None, None] / ramp.std() * std
    return conformalize(draws, truth, LEVEL)


def covered(rows: Any, half: Any) -> str:
    """The share of truths within ``half`` of the mean, and its standard error over images."""
    shares = ((rows["truth"] - rows["mean"]).abs() <= half).groupby(rows["image"]).mean()
    return f"{shares.mean():.3f} ± {shares.std() / len(shares) ** 0.5:.3f}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the files of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=Path("conformal"), help="folder of cells and results.parquet")
    parser.add_argument("--images", type=int, default=PLAN.num_images, help="with fewer there is no report")
    parser.add_argument("--report", action="store_true", help="run nothing and report the shipped rows")
    chosen = parser.parse_args()
    if chosen.report:
        rows = pd.read_parquet(RESULTS / "conformal.parquet")
    elif chosen.data is None:
        parser.error("--data names the folder of the test set")
    else:
        rows = compute(replace(PLAN, num_images=chosen.images), suite(chosen.data), chosen.out)
    if rows["image"].max() >= CALIBRATION:
        print(report(rows))


if __name__ == "__main__":
    main()
