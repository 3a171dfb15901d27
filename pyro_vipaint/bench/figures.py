"""The figures of the report."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from torch.nn.functional import interpolate

from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.store import Store
from pyro_vipaint.bench.summary import means
from pyro_vipaint.plotting import to_picture


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


def quality_figure(rows: pd.DataFrame) -> Figure:
    """LPIPS against NFE per sample, one panel per task and one line per method."""
    table, tasks = means(rows), list(dict.fromkeys(rows["task"]))
    figure = Figure(figsize=(2.8 * len(tasks) + 1.2, 2.8), layout="constrained")
    budgets = sorted({int(budget) for budget in table["budget"].dropna()})
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    styles = {method: (f"C{i % 10}", "os"[i // 10 % 2]) for i, method in enumerate(dict.fromkeys(table["method"]))}
    legend = {}
    for axis, task in zip(axes, tasks, strict=True):
        line: Any
        for method, line in table[table["task"] == task].groupby("method", sort=False):
            (color, marker), line = styles[method], line.sort_values("nfe")
            x, y, error = (line[name] for name in ("nfe", "lpips", "lpips_se"))
            legend[method] = axis.errorbar(x, y, error, color=color, marker=marker, label=str(method))
        axis.set_title(task, fontsize=9)
        axis.set_xscale("log")
        axis.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
        axis.minorticks_off()
        axis.set_xlabel("NFE per sample")
    axes[0].set_ylabel("LPIPS (lower is better)")
    figure.legend(handles=[legend[method] for method in styles], loc="outside right center", fontsize=7)
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
