"""The tables of docs/results.md, from the shipped rows.

    python -m benchmarks.tables

For each file of ``vipaint bench`` in benchmarks/results, budget and kind of task: LPIPS, the paired differences of both
VIPaints, and all measures, by task where there are two tasks or fewer, else their means over the tasks; for ``SKEWED``
priors also medians. The tables omit time, since not all rows were made on an idle machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pyro_vipaint.bench import TASKS
from pyro_vipaint.bench.report import against, budget_name, full_table, lpips_table, overall_table

RESULTS = Path(__file__).parent / "results"
FEW = 2
SKEWED = ("cats64",)  # few images, whose hidden parts were guessed or missed, decide the means


def parts(path: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of a file by table, each with its title."""
    frame = pd.read_parquet(path)
    frame["mask"] = [TASKS[task].is_inpainting for task in frame["task"]]
    done: Any = frame[frame["error"].isna()]
    for (prior, budget, mask), rows in done.groupby(["prior", "budget", "mask"], dropna=False):
        yield f"{prior}, {'masks' if mask else 'restoration'}, {budget_name(budget)}", rows


def tables(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The tables of the rows of one part."""
    few = rows["task"].nunique() <= FEW
    full = full_table(rows).drop(columns="count") if few else overall_table(rows)
    found = [lpips_table(rows), full.drop(columns="seconds", errors="ignore")]
    return found if few or not rows["prior"].isin(SKEWED).all() else [*found, medians(rows)]


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """LPIPS, methods by tasks: medians over images, methods in the order of :func:`lpips_table`."""
    table = rows.pivot_table(index="method", columns="task", values="lpips", aggfunc="median")
    table = table.loc[list(lpips_table(rows)["method"])].round(4).astype(object)
    return table.where(table.notna(), "–").reset_index()


if __name__ == "__main__":
    for file in sorted(RESULTS.glob("bench-*.parquet")):
        for name, rows in parts(file):
            first, *others = (table.to_markdown(index=False) for table in tables(rows))
            differences = [text for ours in ("VIPaint-2", "VIPaint-4") if (text := against(rows, ours))]
            print("\n\n".join([f"## {name}", first, *differences, *others]), end="\n\n")
