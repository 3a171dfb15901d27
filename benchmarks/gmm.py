"""Guides, DPS and sequential Monte Carlo against the exact posterior of Gaussian mixtures, paired over problems.

    python -m benchmarks.gmm                     # (8, 80) × (1, 2, 4), 20 problems each; resumes
    python -m benchmarks.gmm --dims 8 --only Mix # the methods whose names begin so, in some of the cells
    python -m benchmarks.gmm --report            # only the tables of the rows that are there

Rows are per problem and method. Columns: ``distance``, sliced Wasserstein-1 to exact draws; ``modes``, the number of
modes with a weight of 5 % or more, and ``hit``, how many of them were drawn; ``misplaced``, the total variation between
the shares of the 25 modes; ``effective``, the effective sample size where there are weights; ``nfe`` per sample;
``seconds`` per problem.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.progress import track
from torch import Tensor

from benchmarks.gmm_methods import (
    BASELINE_STEPS,
    BASELINES,
    FAMILIES,
    FINE_LEVELS,
    FINE_PARTICLES,
    SAMPLES,
    TWISTED_STEPS,
    Drawn,
    Method,
    dps_with,
    exact,
    family,
    in_pixels,
    mixture,
    nfe_of_mixture,
    smc_with,
    twisted,
)
from benchmarks.gmm_model import LEVELS
from benchmarks.gmm_problem import PROBLEMS, GMMProblem, gmm_problem
from pyro_vipaint._files import write_whole
from pyro_vipaint._torch import seeded
from pyro_vipaint.bench.summary import paired
from pyro_vipaint.diagnostics import sliced_wasserstein

RESULTS = Path(__file__).parent / "results" / "gmm.parquet"
DIMS, DIMS_Y = (8, 80), (1, 2, 4)
DIRECTIONS = 100
LARGE_WEIGHT = 0.05  # modes below it do not count
BASELINE = "DPS, 100 steps"
Z = 1.96  # Cardoso et al. give mean ± 1.96 standard errors
KEYS = ["dim", "dim_y", "seed", "method"]

Entry = Callable[[pd.DataFrame, str], str]
"""``(rows of one cell, method) -> the text of the method's entry in a table``."""


def methods() -> dict[str, Method]:
    """The methods, by the name of the first row that each writes; the cheap ones come first."""
    return {
        "exact": exact,
        BASELINE: dps_with(100, 1.0, BASELINE),
        "DPS, equal": dps_with(nfe_of_mixture(), 0.3, "DPS, equal"),
        **{
            f"{name}, {BASELINE_STEPS} steps": in_pixels(method, BASELINE_STEPS, f"{name}, {BASELINE_STEPS} steps")
            for name, method in BASELINES.items()
        },
        f"SMC, {LEVELS} levels": smc_with(LEVELS, SAMPLES),
        f"SMC, {FINE_LEVELS} levels": smc_with(FINE_LEVELS, FINE_PARTICLES),
        "TwistedGuide, SMC": twisted("TwistedGuide, SMC"),
        "TwistedGuide fitted, SMC": twisted("TwistedGuide fitted, SMC", TWISTED_STEPS),
        "Mixture": mixture,
        **{name: family(name) for name in FAMILIES},
    }


def run_all(path: Path, dims: Sequence[int], dims_y: Sequence[int], problems: int, table: dict[str, Method]) -> None:
    """Runs every method of ``table`` on every problem that ``path`` lacks, and adds its rows to ``path`` at once."""
    rows = pd.read_parquet(path) if path.exists() else pd.DataFrame(columns=KEYS)
    done = set(rows[KEYS].itertuples(index=False, name=None))
    cells = [(dim, dim_y) for dim in dims for dim_y in dims_y]
    work = [(*cell, seed, name) for cell in cells for seed in range(problems) for name in table]
    for dim, dim_y, seed, name in track([item for item in work if item not in done], description="gmm"):
        problem = gmm_problem(dim, dim_y, seed)
        cell = {"dim": dim, "dim_y": dim_y, "seed": seed}
        with seeded(seed):
            new = pd.DataFrame([cell | judge(problem, drawn, seed) for drawn in table[name](problem)])
        rows = pd.concat([rows, new], ignore_index=True) if len(rows) else new
        write_whole(path, rows.to_parquet(index=False))


def judge(problem: GMMProblem, drawn: Drawn, seed: int) -> dict[str, Any]:
    """The scores of one row; exact draws and directions are the same for every method."""
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
        "effective": math.nan if drawn.effective is None else drawn.effective,
        "nfe": float(drawn.nfe),
        "seconds": round(float(drawn.seconds), 2),
    }


def mode_shares(problem: GMMProblem, samples: Tensor) -> Tensor:
    """The share of ``samples`` ``(n, d_x)`` in each of the 25 modes: a sample belongs to its most probable component.

    y has no influence: p(m | x, y) = p(m | x).
    """
    log_joint = problem.weights.log() - 0.5 * (samples[:, None] - problem.means).square().sum(-1)
    return torch.bincount(log_joint.argmax(-1), minlength=len(problem.weights)) / len(samples)


def report(frame: pd.DataFrame) -> str:
    """All tables in Markdown, each below its title: one row per method, one column per cell (d_x, d_y)."""
    several = frame[frame["modes"] > 1]
    tables = [
        ("Sliced Wasserstein-1 distance to exact draws, mean ± 1.96 standard errors", frame, distance),
        (f"The same minus that of {BASELINE} on the same problems, mean ± standard error", frame, difference),
        ("Distance where several modes have a weight of 5 % or more (number of such problems)", several, mean),
        ("Problems in which each mode of weight 5 % or more was drawn at least once", frame, all_hit),
        ("Weight in the wrong mode: total variation between the shares of the 25 modes", frame, misplaced),
        ("NFE per sample; seconds per problem", frame, cost),
    ]
    return "\n".join(f"**{title}**\n\n{table(rows, entry)}\n" for title, rows, entry in tables)


def table(frame: Any, entry: Entry) -> str:
    """One table: methods in the order in which they first appear."""
    names = sorted(set(zip(frame["dim"], frame["dim_y"], strict=True)))
    cells = [frame[(frame["dim"] == dim) & (frame["dim_y"] == dim_y)] for dim, dim_y in names]
    lines = [
        "| method | " + " | ".join(f"{dim}, {dim_y}" for dim, dim_y in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for method in dict.fromkeys(frame["method"]):
        entries = (entry(cell, method) if (cell["method"] == method).any() else "" for cell in cells)
        lines.append(f"| {method} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def distance(cell: pd.DataFrame, method: str) -> str:
    """Mean ± 1.96 standard errors, and the number of problems where some are missing."""
    values = cell[cell["method"] == method]["distance"]
    count = "" if len(values) == PROBLEMS else f" ({len(values)} problems)"
    return f"{values.mean():.2f} ± {Z * float(values.std() / math.sqrt(len(values))):.2f}{count}"


def difference(cell: pd.DataFrame, method: str) -> str:
    """Mean ± standard error of the paired difference to the baseline; nothing where the baseline is missing."""
    mean, error = paired(cell, "distance", method, BASELINE, unit="seed", shared=())
    return "" if math.isnan(mean) else f"{mean:+.2f} ± {error:.2f}"


def mean(cell: pd.DataFrame, method: str) -> str:
    """Mean distance and the number of problems."""
    values = cell[cell["method"] == method]["distance"]
    return f"{values.mean():.2f} ({len(values)})"


def all_hit(cell: pd.DataFrame, method: str) -> str:
    """Share of the problems."""
    rows = cell[cell["method"] == method]
    return f"{(rows['hit'] == rows['modes']).mean():.0%}"


def misplaced(cell: pd.DataFrame, method: str) -> str:
    """Mean total variation."""
    return f"{cell[cell['method'] == method]['misplaced'].mean():.3f}"


def cost(cell: pd.DataFrame, method: str) -> str:
    """Mean costs."""
    rows = cell[cell["method"] == method]
    return f"{rows['nfe'].mean():.0f}; {rows['seconds'].mean():.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    parser.add_argument("--dims-y", type=int, nargs="+", default=DIMS_Y)
    parser.add_argument("--problems", type=int, default=PROBLEMS)
    parser.add_argument("--only", nargs="+", default=[""], help="run the methods whose names begin with one of these")
    parser.add_argument("--report", action="store_true", help="run nothing, print the tables")
    arguments = parser.parse_args()
    if not arguments.report:
        chosen = {name: run for name, run in methods().items() if name.startswith(tuple(arguments.only))}
        run_all(arguments.out, arguments.dims, arguments.dims_y, arguments.problems, chosen)
    print(report(pd.read_parquet(arguments.out)))
