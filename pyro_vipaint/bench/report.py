"""The report of a benchmark, as Markdown with pictures beside it and as a single HTML page."""

from __future__ import annotations

import base64
import html
import io
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyro_vipaint._folders import BENCHMARK
from pyro_vipaint.bench.figures import (
    PLOTTED,
    PLOTTED_COSTS,
    cost_figure,
    progress_figure,
    quality_figure,
    rank_figure,
    sample_figure,
)
from pyro_vipaint.bench.store import Store
from pyro_vipaint.bench.summary import COSTS, MEASURES, SCORES, means, paired

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS = "VIPaint-4"
DPI = 110
DIGITS = dict.fromkeys(MEASURES, 4) | {"psnr": 2, "ssim": 3, "NFE": 1, "seconds": 1, "kernel_distance": 2}
DIGITS |= {"gradients": 1, "forward_equivalents": 1}
HEADERS = {"nfe": "NFE"}
SECTION = ["prior", "images", "num_samples"]  # rows that agree in these share tables and figures
LEGEND = (
    "Lower is better for LPIPS (AlexNet) and the observation error, higher for PSNR and SSIM. Numbers are means over "
    "samples, then over images, ± the standard error over images. Observation error and diversity are in the units of "
    "images in [-1, 1]. The kernel distance is that of all samples to the true images, over pairs of different images. "
    "NFE are images passed through the network per sample, gradients those whose gradient was taken through it, and "
    "forward equivalents the calls without a gradient that take as long, as measured on this machine. Seconds are per "
    "image with all its samples. Energy scores are proper: on average they are least for the exact posterior. For exact"
    " draws error over spread is 1, and the coverage of 80 % intervals, of hidden pixels and of smooth projections of "
    "them, is .8; error over spread above 1 means samples that are too alike."
)
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; }}
table {{ border-collapse: collapse; margin: 1em 0; }} img {{ max-width: 100%; }}
th, td {{ border-bottom: 1px solid #ccc; padding: .2em .7em; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
</style></head><body>
{body}
</body></html>
"""


@dataclass(frozen=True, eq=False)
class Section:
    """A heading and its content; ``name`` is that of its picture, a PNG."""

    title: str
    text: str = ""
    table: pd.DataFrame | None = None
    picture: bytes = b""
    name: str = ""


def write_report(out: Path, frame: pd.DataFrame, title: str = "Benchmark") -> None:
    """Writes ``report.md``, its pictures ``figure-*.png`` and ``report.html`` into ``out``, whole or not at all."""
    sections = list(build(frame, Store(out)))
    with BENCHMARK.whole(out) as folder:
        for section in sections:
            if section.picture:
                (folder / f"{section.name}.png").write_bytes(section.picture)
        (folder / "report.md").write_text(_markdown(title, sections), encoding="utf-8")
        (folder / "report.html").write_text(_html(title, sections), encoding="utf-8")


def build(frame: pd.DataFrame, store: Store) -> Iterator[Section]:
    """The sections of the report: tables by budget and figures for each prior; at the end the cells that failed."""
    versions = ", ".join(f"{package} {version(package)}" for package in ("pyro-vipaint", "torch"))
    machine = f"{versions}, Python {platform.python_version()}, {platform.system()} on {platform.machine()}"
    yield Section("What was run", f"{machine}. {LEGEND} {batches(frame)}")
    records = [record for record in store.records() if record["error"] is None]
    done: Any = frame[frame["error"].isna()]
    for key, rows in done.groupby(SECTION, sort=False, dropna=False):
        prior, images, number = here = [None if pd.isna(value) else value for value in key]
        source = str(prior) if images is None else f"{prior} on {images}"
        for budget, part in rows.groupby("budget", sort=True, dropna=False):
            name = f"{source}, {budget_name(budget)}, {number} {'sample' if number == 1 else 'samples'}"
            yield Section(f"{name}: LPIPS", against(part), lpips_table(part))
            if part["energy"].notna().any():
                differences = [against(part, column=column) for column in PLOTTED if column != "lpips"]
                yield Section(f"{name}: posterior", " ".join(differences).strip(), posterior_table(part))
            yield Section(f"{name}: all measures", table=full_table(part))
            if part["task"].nunique() > 1:
                yield Section(f"{name}: all measures, means over the tasks", table=overall_table(part))
        behind = [record for record in records if [record["cell"][name] for name in SECTION] == here]
        yield from _figures(source, rows, behind, store)
    failed: Any = frame[frame["error"].notna()]
    if len(failed):
        columns = ["prior", "task", "budget", "method", "seed", "image", "error"]
        yield Section("Cells that failed", table=failed[columns])


def batches(rows: pd.DataFrame) -> str:
    """The sizes of the batches, on which the draws depend, and how many images are in batches of several sizes."""
    sizes: Any = (rows["stop"] - rows["start"]).rename("size")
    several = rows.assign(size=sizes).groupby([*SECTION, "budget", "task", "method", "seed", "image"], dropna=False)
    mixed = int((several["size"].nunique() > 1).sum())
    text = f"Images in one batch: {', '.join(map(str, sorted(sizes.unique())))}; draws depend on the batch."
    return f"{text} {mixed} results are means over batches of several sizes." if mixed else text


def lpips_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Methods by tasks, ``mean ± standard error``, the best of each task in bold."""
    table: Any = means(rows)
    best = table.groupby("task")["lpips"].transform("min") == table["lpips"]
    values = [
        f"**{mean:.4f}** ± {error:.4f}" if first else f"{mean:.4f} ± {error:.4f}"
        for mean, error, first in zip(table["lpips"], table["lpips_se"], best, strict=True)
    ]
    wide = table.assign(value=values).pivot(index="method", columns="task", values="value")
    order = table.groupby("method")["lpips"].mean().sort_values().index
    return wide.loc[order, list(dict.fromkeys(rows["task"]))].fillna("–").reset_index()


def posterior_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The scores of the posterior with their standard errors over images, one row per task and method."""
    table: Any = means(rows).sort_values(["task", "energy"], ignore_index=True)
    scores = ["lpips", "energy", "lpips_energy", "error_over_spread", *SCORES[-2:]]
    columns = {
        name: [f"{mean:.4f} ± {error:.4f}" for mean, error in zip(table[name], table[f"{name}_se"], strict=True)]
        for name in scores
        if table[name].notna().any()
    }
    return table[["task", "method", "count"]].assign(**columns)


def full_table(rows: pd.DataFrame) -> pd.DataFrame:
    """All measures, one row per task and method."""
    table: Any = means(rows)
    table = table[["task", "method", "count", *_measures(table)]].rename(columns=HEADERS)
    return table.sort_values(["task", "lpips"], ignore_index=True).round(DIGITS)


def overall_table(rows: pd.DataFrame) -> pd.DataFrame:
    """All measures, means over tasks, one row per method; a column ``tasks`` where methods have different ones."""
    table: Any = means(rows)
    groups = table.groupby("method")
    tasks = groups["task"].agg(lambda names: ", ".join(sorted(set(names))))
    table = groups[_measures(table)].mean().rename(columns=HEADERS)
    if tasks.nunique() > 1:
        table.insert(0, "tasks", tasks)
    return table.reset_index().sort_values("lpips", ignore_index=True).round(DIGITS)


def _measures(table: pd.DataFrame) -> list[str]:
    """The columns of measures that some row has, and of costs that every row has."""
    scores = [name for name in MEASURES if table[name].notna().any()]
    return [*scores, *(name for name in COSTS if table[name].notna().all())]


def budget_name(budget: object) -> str:
    """The name of a budget in headings."""
    return "the authors' own settings" if pd.isna(budget) else f"{budget} NFE per sample"  # pyright: ignore


def against(rows: pd.DataFrame, ours: str = OURS, column: str = "lpips") -> str:
    """Paired differences of ``ours`` to every other method over the tasks that both have; nothing if it is missing."""
    methods = dict.fromkeys(rows["method"])
    pairs = {other: paired(rows, column, ours, other) for other in methods if ours in methods and other != ours}
    differences = (f"{other} {mean:+.4f} ± {error:.4f}" for other, (mean, error) in pairs.items())
    what = "" if column == "lpips" else f"In {PLOTTED.get(column, column)}, "
    return f"{what}{ours} minus, paired over images: {'; '.join(differences)}." if pairs else ""


def _figures(prior: str, rows: pd.DataFrame, records: list[dict[str, Any]], store: Store) -> Iterator[Section]:
    """Sample grids by task, quality against each cost, ranks, time per image, the bound over SVI steps."""
    slug = re.sub(r"[\W_]", "-", f"{prior}-{rows['num_samples'].iloc[0]}")[
        -100:
    ]  # the end of a path tells folders apart

    def section(title: str, figure: Figure, name: str) -> Section:
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=DPI, format="png")
        return Section(f"{prior}{title}", picture=buffer.getvalue(), name=f"figure-{slug}-{name}")

    for task in dict.fromkeys(rows["task"]):
        here = [record for record in records if record["cell"]["task"] == task]
        yield section(f", {task}: samples", sample_figure(here, store), task)
    for cost, label in PLOTTED_COSTS.items():
        if rows[cost].notna().any():
            yield section(f": quality against {label}", quality_figure(rows, cost), f"quality-{cost}".replace("_", "-"))
    if rows["num_samples"].iloc[0] > 1:
        yield section(": ranks of the truth", rank_figure(records, store), "ranks")
    yield section(": time per image", cost_figure(rows), "time")
    bounds = progress_figure(records)
    if bounds is not None:
        yield section(": the bound over SVI steps", bounds, "bound")


def _markdown(title: str, sections: list[Section]) -> str:
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", *filter(None, [section.text])]
        if section.table is not None:
            parts.append(section.table.to_markdown(index=False))
        if section.picture:
            parts.append(f"![{section.title}]({section.name}.png)")
    return "\n\n".join(parts) + "\n"


def _html(title: str, sections: list[Section]) -> str:
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        parts += [f"<h2>{html.escape(section.title)}</h2>", f"<p>{html.escape(section.text)}</p>"]
        if section.table is not None:
            table = section.table.to_html(index=False, border=0, na_rep="–")
            parts.append(re.sub(r"\*\*(.*?)\*\*", r"<b>\1</b>", table))
        if section.picture:
            data = base64.b64encode(section.picture).decode()
            parts.append(f'<img alt="{html.escape(section.title)}" src="data:image/png;base64,{data}">')
    return PAGE.format(title=html.escape(title), body="\n".join(parts))
