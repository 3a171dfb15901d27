"""Seconds per sample, taken alone and interleaved.

    python -m benchmarks.seconds                                          # the methods of bench, 50 NFE, fashion32
    python -m benchmarks.seconds --methods VIPaint-2 DPS --budgets 25 50  # some methods, two budgets
    python -m benchmarks.seconds --prior faces32 --task prior-draws --images 2
    python -m benchmarks.seconds --truth --images 2 --repeats 2           # the methods of docs/truth.md; --report

The seconds in the rows of ``vipaint bench`` are those of a run that may share the machine with other workers. Here one
process runs the methods in turn, ``--repeats`` times, after a first round that warms up: what slows the machine for a
while slows all of them. Columns: the median over repeats, per sample; the smallest and the largest; the median relative
to DPS with 50 steps, which always runs. Nothing else should run on the machine.

With ``--truth`` the methods are those of :mod:`benchmarks.truth` on held-out images, each with its own numbers, and the
table is kept in benchmarks/results.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial

import pandas as pd
import torch

from benchmarks import commit, truth
from benchmarks.plans import RESULTS
from pyro_vipaint._files import write_whole
from pyro_vipaint.bench import METHODS, SUITE, TASKS, Cell
from pyro_vipaint.bench.methods import Method, Outcome
from pyro_vipaint.bench.trials import Trial

Run = Callable[[Trial, int], Outcome]
REFERENCE, REFERENCE_BUDGET = "DPS, 50", 50
ROWS = RESULTS / "seconds.parquet"


def interleaved_seconds(methods: Mapping[str, Run], trial: Trial, num_samples: int, repeats: int) -> pd.DataFrame:
    """One row per method: seconds per sample, and relative to :data:`REFERENCE`, NaN where it is missing.

    Args:
        methods: ``(trial, num_samples) -> outcome``, by name.
        trial: N images.
        num_samples: S of each; an outcome's wall time is divided by S N.
        repeats: rounds that count, after one that does not.
    """
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats + 1):
        for name, method in methods.items():
            begun = time.perf_counter()
            method(trial, num_samples)
            taken[name].append((time.perf_counter() - begun) / (num_samples * len(trial.truth)))
    seconds = pd.DataFrame({name: values[1:] for name, values in taken.items()})
    table = pd.DataFrame({"seconds": seconds.median(), "least": seconds.min(), "most": seconds.max()})
    reference = table["seconds"].get(REFERENCE, float("nan"))
    return table.assign(relative=table["seconds"] / reference).rename_axis("method").reset_index()


def at_budgets(names: list[str], budgets: list[int], trial: Trial) -> dict[str, Run]:
    """The methods of bench that are made for the trial, at each budget in NFE per sample, and the reference."""

    def run(name: str, budget: int) -> Run:
        return partial(_at, name, budget)

    asked = {f"{name}, {budget}": run(name, budget) for budget in budgets for name in names if _applies(name, trial)}
    return {REFERENCE: run("DPS", REFERENCE_BUDGET)} | asked


def _at(name: str, budget: int, trial: Trial, num_samples: int) -> Outcome:
    return METHODS[name](trial, num_samples, budget)


def _applies(name: str, trial: Trial) -> bool:
    return METHODS[name].applies(trial.prior, trial.mask is not None)


def of_truth() -> dict[str, Run]:
    """The methods of :mod:`benchmarks.truth`, each with its own numbers."""
    return {name: partial(_own, method) for name, method in truth.methods().items()}


def _own(method: Method, trial: Trial, num_samples: int) -> Outcome:
    return method(trial, num_samples, None)


def report(rows: pd.DataFrame) -> str:
    """The table in Markdown, the fastest first."""
    return rows.drop(columns="commit").sort_values("seconds").round(3).to_markdown(index=False)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default="fashion32")
    parser.add_argument("--task", choices=TASKS, default="rotated-window")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--budgets", nargs="+", type=int, default=[REFERENCE_BUDGET], help="NFE per sample")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--samples", type=int, default=10, help="per image")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--truth", action="store_true", help="the methods of docs/truth.md; the rows are kept")
    parser.add_argument("--report", action="store_true", help="measure nothing and print the rows that were kept")
    chosen = parser.parse_args()
    if chosen.report:
        print(report(pd.read_parquet(ROWS)))
        return
    torch.set_num_threads(chosen.threads)
    cell = Cell(chosen.prior, chosen.task, "", None, 0, chosen.images, chosen.samples, seed=0)
    trial = SUITE.trial(cell, chosen.device)
    methods = of_truth() if chosen.truth else at_budgets(chosen.methods, chosen.budgets, trial)
    rows = interleaved_seconds(methods, trial, chosen.samples, chosen.repeats).assign(commit=commit())
    if chosen.truth:
        write_whole(ROWS, rows.to_parquet(index=False))
    print(report(rows))


if __name__ == "__main__":
    main()
