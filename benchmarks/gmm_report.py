"""The tables of the Gaussian mixture benchmark, in Markdown: a row a method, a column a cell (d_x, d_y)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas

from benchmarks.gmm_problem import PROBLEMS

BASELINE = "DPS, 100 steps"
Z = 1.96  # Cardoso et al. give mean ± 1.96 standard errors

Entry = Callable[[pandas.DataFrame], str]  # the rows of one method in one cell, in words


def report(frame: pandas.DataFrame) -> str:
    """All tables, each below its title."""
    tables = [
        ("Sliced Wasserstein-1 distance to exact draws, mean ± 1.96 standard errors", frame, distance),
        (f"The same minus that of {BASELINE} on the same problems, mean ± standard error", with_pairs(frame), paired),
        ("Distance where several modes have a weight of 5 % or more (number of such problems)", several(frame), mean),
        ("Problems in which each mode of weight 5 % or more was drawn at least once", frame, all_hit),
        ("Weight in the wrong mode: total variation between the shares of the 25 modes", frame, misplaced),
        ("NFE per sample; seconds a problem", frame, cost),
    ]
    return "\n".join(f"**{title}**\n\n{table(rows, entry)}\n" for title, rows, entry in tables)


def table(frame: pandas.DataFrame, entry: Entry) -> str:
    """One table: methods in the order in which they first appear."""
    cells = sorted(set(zip(frame["dim"], frame["dim_y"], strict=True)))
    lines = [
        "| method | " + " | ".join(f"{dim}, {dim_y}" for dim, dim_y in cells) + " |",
        "|---" * (len(cells) + 1) + "|",
    ]
    for method, rows in frame.groupby("method", sort=False):
        groups = [rows[(rows["dim"] == dim) & (rows["dim_y"] == dim_y)] for dim, dim_y in cells]
        lines.append(f"| {method} | " + " | ".join(entry(group) if len(group) else "" for group in groups) + " |")
    return "\n".join(lines)


def distance(rows: pandas.DataFrame) -> str:
    """Mean ± 1.96 standard errors, and the number of problems where it is not all of them."""
    count = "" if len(rows) == PROBLEMS else f" ({len(rows)} problems)"
    return f"{rows['distance'].mean():.2f} ± {Z * standard_error(rows['distance']):.2f}{count}"


def paired(rows: pandas.DataFrame) -> str:
    """Mean ± standard error of the differences of :func:`with_pairs`."""
    return f"{rows['difference'].mean():+.2f} ± {standard_error(rows['difference']):.2f}"


def mean(rows: pandas.DataFrame) -> str:
    """Mean distance and the number of problems."""
    return f"{rows['distance'].mean():.2f} ({len(rows)})"


def all_hit(rows: pandas.DataFrame) -> str:
    """Share of the problems."""
    return f"{(rows['hit'] == rows['modes']).mean():.0%}"


def misplaced(rows: pandas.DataFrame) -> str:
    """Mean total variation."""
    return f"{rows['misplaced'].mean():.3f}"


def cost(rows: pandas.DataFrame) -> str:
    """Means."""
    return f"{rows['NFE'].mean():.0f}; {rows['seconds'].mean():.1f}"


def several(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The rows of problems whose posterior has several modes."""
    return frame[frame["modes"] > 1]


def with_pairs(frame: pandas.DataFrame) -> pandas.DataFrame:
    """``frame`` with ``difference``: the distance minus the baseline's on the same problem, where it has been run."""
    key = ["dim", "dim_y", "seed"]
    baseline = frame[frame["method"] == BASELINE].set_index(key)["distance"].rename("baseline")
    pairs = frame.join(baseline, on=key).dropna(subset="baseline")
    return pairs.assign(difference=pairs["distance"] - pairs["baseline"])


def standard_error(values: pandas.Series) -> float:
    """Of the mean."""
    return float(values.std() / math.sqrt(len(values)))
