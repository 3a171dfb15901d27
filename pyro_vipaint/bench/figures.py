"""The figures of the report."""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch.nn.functional import interpolate

from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.store import Store
from pyro_vipaint.bench.summary import means, rank_shares
from pyro_vipaint.plotting import to_picture

PLOTTED = {"lpips": "LPIPS", "energy": "energy score", "lpips_energy": "LPIPS energy score"}
PLOTTED_COSTS = {
    "nfe": "NFE per sample",
    "forward_equivalents": "forward equivalents per sample",
    "seconds": "seconds per image",
}


def sample_figure(records: list[dict[str, Any]], store: Store, max_images: int = 4) -> Figure:
    """For some images, side by side: truth, observation, and the first sample of every method at its largest budget.

    The cell with most images counts, where a method has several; the figure has the images that all methods have.
    """
    cells = [Cell(**record["cell"]) for record in records]
    seen = min(_seen(cell) for cell in cells)
    chosen: dict[str, Cell] = {}
    for cell in sorted(cells, key=lambda cell: (-(cell.budget or 0), -cell.stop)):
        if _seen(cell) == seen:
            chosen.setdefault(cell.method, cell)
    tensors = {method: store.tensors(cell) for method, cell in chosen.items()}
    truth, y = (next(iter(tensors.values()))[name] for name in ("truth", "observation"))
    columns = {"truth": truth, "observation": interpolate(y.float(), truth.shape[-2:], mode="nearest")}
    columns |= {method: each["samples"][0] for method, each in tensors.items()}
    rows = min(max_images, *(len(each["truth"]) for each in tensors.values()))
    figure = Figure(figsize=(1.1 * len(columns), 1.1 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for column, (name, images) in enumerate(columns.items()):
        axes[0][column].set_title(name, fontsize=8)
        for row in range(rows):
            axes[row][column].imshow(to_picture(images[row].float()), interpolation="nearest")
            axes[row][column].axis("off")
    return figure


def _seen(cell: Cell) -> tuple[int, int, str]:
    """The part of a cell that decides about its images and observations."""
    return cell.seed, cell.start, cell.images or ""


def quality_figure(rows: pd.DataFrame, cost: str = "nfe") -> Figure:
    """Scores against a column of costs: one row of panels per score, one column per task, one line per method."""
    table, tasks = means(rows), list(dict.fromkeys(rows["task"]))
    scores = [score for score in PLOTTED if table[score].notna().any()]
    figure = Figure(figsize=(2.8 * len(tasks) + 1.2, 2.4 * len(scores) + 0.4), layout="constrained")
    budgets = sorted({int(budget) for budget in table["budget"].dropna()})
    axes = figure.subplots(len(scores), len(tasks), squeeze=False)
    styles = {method: (f"C{i % 10}", "os"[i // 10 % 2]) for i, method in enumerate(dict.fromkeys(table["method"]))}
    legend = {}
    for (score, task), axis in zip(product(scores, tasks), axes.flat, strict=True):
        line: Any
        for method, line in table[table["task"] == task].groupby("method", sort=False):
            (color, marker), line = styles[method], line.sort_values(cost)
            x, y, error = (line[name] for name in (cost, score, f"{score}_se"))
            legend[method] = axis.errorbar(x, y, error, color=color, marker=marker, label=str(method))
        axis.set_xscale("log")
        if cost == "nfe":
            axis.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
        else:
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    for axis, task in zip(axes[0], tasks, strict=True):
        axis.set_title(task, fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel(PLOTTED_COSTS[cost])
    for axis, score in zip(axes[:, 0], scores, strict=True):
        axis.set_ylabel(f"{PLOTTED[score]} (lower is better)", fontsize=8)
    figure.legend(handles=[legend[method] for method in styles], loc="outside right center", fontsize=7)
    return figure


def rank_figure(records: list[dict[str, Any]], store: Store) -> Figure:
    """Ranks of the truth among the samples along smooth projections, by task and method at its largest budget.

    The band is that of exact draws: the uniform share and two standard errors over images.
    """
    cells = [Cell(**record["cell"]) for record in records]
    tasks, methods = (list(dict.fromkeys(getattr(cell, name) for cell in cells)) for name in ("task", "method"))
    figure = Figure(figsize=(1.3 * len(methods) + 0.4, 1.2 * len(tasks) + 0.4), layout="constrained")
    axes = figure.subplots(len(tasks), len(methods), squeeze=False, sharey="row")
    for (task, method), axis in zip(product(tasks, methods), axes.flat, strict=True):
        here = [cell for cell in cells if (cell.task, cell.method) == (task, method)]
        axis.set_xticks([])
        axis.tick_params(labelsize=6)
        if here:
            largest = max(cell.budget or 0 for cell in here)
            shares = rank_shares([cell for cell in here if (cell.budget or 0) == largest], store)
            images, values = shares.shape
            band = 2 * float(shares.var(0).mean() / images) ** 0.5 if images > 1 else 0.0
            axis.axhspan(1 / values - band, 1 / values + band, color="0.85")
            axis.bar(range(values), shares.mean(0).tolist(), width=1.0, color="C0", alpha=0.8)
    for axis, method in zip(axes[0], methods, strict=True):
        axis.set_title(method, fontsize=7)
    for axis, task in zip(axes[:, 0], tasks, strict=True):
        axis.set_ylabel(task, fontsize=7)
    return figure


def cost_figure(rows: pd.DataFrame) -> Figure:
    """Seconds per image, with all its samples, by method and budget."""
    table = means(rows).assign(budget=lambda frame: frame["budget"].astype("string").fillna("own settings"))
    wide = table.pivot_table(index="method", columns="budget", values="seconds", sort=False)
    figure = Figure(figsize=(6.0, 0.6 + 0.35 * len(wide)), layout="constrained")
    axes = figure.subplots()
    wide.plot.barh(ax=axes)
    axes.invert_yaxis()
    axes.set_xlabel("seconds per image")
    axes.set_ylabel("")
    axes.legend(title="NFE per sample", fontsize=7, title_fontsize=7)
    return figure


def progress_figure(records: list[dict[str, Any]]) -> Figure | None:
    """The bound on log p(y), mean over images, against SVI steps, of the longest fit of each method and task.

    ``None`` where there is no fit.
    """
    lines: dict[tuple[str, str], list[float]] = {}
    for record in records:
        key = (record["cell"]["method"], record["cell"]["task"])
        lines[key] = max(lines.get(key, []), record["bounds"], key=len)
    lines = {key: values for key, values in lines.items() if values}
    if not lines:
        return None
    figure = Figure(figsize=(6.0, 3.5), layout="constrained")
    axes = figure.subplots()
    for (method, task), values in lines.items():
        axes.plot(range(1, len(values) + 1), values, label=f"{method}, {task}", linewidth=1)
    axes.set_xlabel("SVI step")
    axes.set_ylabel("bound on log p(y), nats")
    axes.legend(fontsize=6)
    return figure
