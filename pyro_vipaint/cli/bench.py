"""``vipaint bench``: the comparison of methods."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from pyro_vipaint.cli.options import DIGITS, Device, Out, Overwrite, console, errors
from pyro_vipaint.errors import whole
from pyro_vipaint.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd

    from pyro_vipaint.bench import Plan

OWN = "own"  # the budget that means the authors' settings


def bench(
    out: Out,
    prior: Annotated[list[str] | None, typer.Option(help="May be repeated; fashion32 by default.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="May be repeated; all masks by default. An unknown name lists all tasks.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="May be repeated; all applicable ones by default. An unknown name lists all methods."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help=f"NFE per sample, or {OWN} for the authors' settings; 100 by default. May be repeated."),
    ] = None,
    images: Annotated[int, typer.Option(help="Number of images.")] = 16,
    samples: Annotated[int, typer.Option(help="Samples per image.")] = 4,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated; 0 by default.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder of pictures to use as true images.")] = None,
    chunk: Annotated[int, typer.Option(help="Largest number of images in one batch.")] = 16,
    engine: Annotated[str, typer.Option(help="local, or ray for a Ray cluster.")] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Number of processes; by default one per core, or one on a GPU.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads per process.")] = 1,
    address: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster; by default one is started here.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed cells again.")] = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Compares methods at equal NFE. A run that was killed continues where it stopped when it is started again."""
    from pyro_vipaint._torch import resolve_device
    from pyro_vipaint.bench import METHODS, Plan, run, write_report
    from pyro_vipaint.bench import engine as make_engine
    from pyro_vipaint.engines import default_workers
    from pyro_vipaint.models.measurements.masks import MASKS

    target = str(resolve_device(device))
    plan = Plan(
        tuple(prior or ["fashion32"]), tuple(task or MASKS), tuple(method or METHODS),
        tuple(_budget(text) for text in budget or ["100"]), images, samples, tuple(seed or [0]), chunk,
        None if pictures is None else str(pictures.resolve()),
    )  # fmt: skip
    number = default_workers(workers, target, threads)
    chosen = make_engine(engine, number, target, threads, address)
    with progress_bar(console=console) as callback:
        frame = run(
            plan, out, chosen, target, callback, retry, lambda table: write_report(out, table), overwrite=overwrite
        )
    if _print_summary(frame, plan, out):
        raise typer.Exit(1)


def _budget(text: str) -> int | None:
    number = int(text) if text.isdecimal() and len(text) <= DIGITS else text
    return None if text == OWN else whole(f"A budget that is not {OWN!r}", number, 0)


def _print_summary(frame: pd.DataFrame, plan: Plan, out: Path) -> bool:
    """Prints what was written and the failed cells of the plan; returns whether there are any."""
    asked = {"prior": plan.priors, "task": plan.tasks, "method": plan.methods, "seed": plan.seeds}
    rows = [row for row in frame.to_dict("records") if all(row[name] in values for name, values in asked.items())]
    failed = [row["error"] for row in rows if isinstance(row["error"], str)]
    note = f", {len(failed)} of them failed (--retry runs them again)" if failed else ""
    console.print(
        f"{len(frame)} rows{note}. Written to {out}/: results.parquet, report.md, report.html", soft_wrap=True
    )
    if failed:
        errors.print(Text(f"The first failure: {failed[0]}"), soft_wrap=True)
    return bool(failed)
