"""Guides, DPS and sequential Monte Carlo against the exact posterior of Gaussian mixtures, in pairs.

python -m benchmarks.gmm                     # (8, 80) × (1, 2, 4), 20 problems each; resumes where it stopped
python -m benchmarks.gmm --dims 8 --only Mix # some of it
python -m benchmarks.gmm --report             # only the tables of what is there
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import torch
from rich.progress import track
from torch import Tensor

from benchmarks.gmm_methods import (
    FAMILIES,
    FINE_LEVELS,
    FINE_PARTICLES,
    SAMPLES,
    Drawn,
    Method,
    dps_with,
    evaluations_of_mixture,
    exact,
    family,
    mixture,
    smc_with,
)
from benchmarks.gmm_model import LEVELS
from benchmarks.gmm_problem import PROBLEMS, GMMProblem, gmm_problem
from benchmarks.gmm_report import BASELINE, report
from benchmarks.rows import append_rows, read_rows
from pyro_vipaint._torch import seeded
from pyro_vipaint.diagnostics import sliced_wasserstein

RESULTS = Path(__file__).parent / "results" / "gmm.jsonl"
DIMS, DIMS_Y = (8, 80), (1, 2, 4)
DIRECTIONS = 100
LARGE_WEIGHT = 0.05  # modes below it are not counted


def methods() -> dict[str, Method]:
    """By name, the first of the rows that it writes. The cheap ones come first."""
    return {
        "exact": exact,
        BASELINE: dps_with(100, 1.0, BASELINE),
        "DPS, equal": dps_with(evaluations_of_mixture(), 0.3, "DPS, equal"),
        f"SMC, {LEVELS} levels": smc_with(LEVELS, SAMPLES),
        f"SMC, {FINE_LEVELS} levels": smc_with(FINE_LEVELS, FINE_PARTICLES),
        "Mixture": mixture,
        **{name: family(name) for name in FAMILIES},
    }


def run_all(path: Path, dims: Sequence[int], dims_y: Sequence[int], problems: int, table: dict[str, Method]) -> None:
    """Runs every method of ``table`` on every problem that ``path`` lacks, a JSON line a problem and row."""
    done = {(row["dim"], row["dim_y"], row["seed"], row["method"]) for row in read_rows(path)}
    cells = [(dim, dim_y) for dim in dims for dim_y in dims_y]
    work = [(*cell, seed, name) for cell in cells for seed in range(problems) for name in table]
    for dim, dim_y, seed, name in track([item for item in work if item not in done], description="gmm"):
        problem = gmm_problem(dim, dim_y, seed)
        with seeded(seed):
            rows = [judge(problem, drawn, seed) for drawn in table[name](problem)]
        cell = {"dim": dim, "dim_y": dim_y, "seed": seed}
        append_rows(path, *(cell | row for row in rows))  # at once: the first of a method says that all are there


def judge(problem: GMMProblem, drawn: Drawn, seed: int) -> dict[str, Any]:
    """One line: the distance to exact draws and along directions that are the same for every method, and the modes."""
    with seeded(10_000 + seed):
        reference = problem.posterior.sample(torch.Size([SAMPLES]))[:, 0]
    weights = problem.posterior.mixture_distribution.probs[0]
    share = mode_shares(problem, drawn.samples)
    large = weights >= LARGE_WEIGHT
    return {
        "method": drawn.name,
        "distance": sliced_wasserstein(drawn.samples, reference, DIRECTIONS, seed=seed),
        "modes": int(large.sum()),
        "hit": int((share[large] > 0).sum()),
        "misplaced": float((share - weights).abs().sum() / 2),
        "effective": drawn.effective,
        "nfe": drawn.nfe,
        "seconds": round(drawn.seconds, 2),
    }


def mode_shares(problem: GMMProblem, samples: Tensor) -> Tensor:
    """The share of ``samples`` ``(n, d_x)`` in each of the 25 modes: a sample belongs to its most probable component.

    y does not matter: p(m | x, y) = p(m | x).
    """
    log_joint = problem.weights.log() - 0.5 * (samples[:, None] - problem.means).square().sum(-1)
    return torch.bincount(log_joint.argmax(-1), minlength=len(problem.weights)) / len(samples)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    parser.add_argument("--dims-y", type=int, nargs="+", default=DIMS_Y)
    parser.add_argument("--problems", type=int, default=PROBLEMS)
    parser.add_argument("--only", nargs="+", default=[""], help="run the methods whose name begins so")
    parser.add_argument("--report", action="store_true", help="print the tables of what is there, run nothing")
    arguments = parser.parse_args()
    if not arguments.report:
        chosen = {name: run for name, run in methods().items() if name.startswith(tuple(arguments.only))}
        run_all(arguments.out, arguments.dims, arguments.dims_y, arguments.problems, chosen)
    print(report(pandas.DataFrame(read_rows(arguments.out))))
