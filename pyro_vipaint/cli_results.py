"""What the commands that run VIPaint share: common options, progress bars, the table, the folder of results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pyro_vipaint.allocator import keep_freed_memory
from pyro_vipaint.cli_shared import console

Report = Callable[[str, int, int, float | None], None]

Prior = Annotated[str, typer.Option(help="Shipped name, folder or hub id.")]
Levels = Annotated[int, typer.Option(help="K, the number of latent levels.")]
Label = Annotated[int | None, typer.Option(help="Number of a class, for class-conditional priors; see vipaint priors.")]
Prompt = Annotated[str | None, typer.Option(help="Text, for priors that take it.")]
Guidance = Annotated[float | None, typer.Option(help="Weight of label or prompt; 1 is none.")]
Half = Annotated[bool, typer.Option("--half", help="Networks in bfloat16, where the device has it.")]
Checkpointing = Annotated[bool, typer.Option("--checkpointing", help="Recompute activations: less memory, more time.")]
Steps = Annotated[int | None, typer.Option(help="SVI steps, K + 1 network calls each.")]
RefineSteps = Annotated[int | None, typer.Option(help="Refinement steps, one network call each.")]
Beta = Annotated[float | None, typer.Option(help="Weight of the prior side; 1 is the true bound.")]
InvertMask = Annotated[bool, typer.Option("--invert-mask", help="White means hidden instead.")]
Truth = Annotated[Path | None, typer.Option(help="The undamaged picture, to be compared with.")]


def run_and_write(
    run: Callable[[Report], Any],
    truth: Any,
    out: Path,
    seed: int,
    prior: Any,
    label: Any,
    entries: dict[str, Any],
) -> None:
    """Runs VIPaint with progress bars, prints the table, writes the folder.

    The precision of the ``prior``, a loaded one, and ``entries`` go into the report as well.
    """
    from pyro_vipaint.devices import dtype_name
    from pyro_vipaint.files import build_report, write_result

    keep_freed_memory()
    with _progress_bars() as progress, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Encountered (NaN|[+-]inf)")  # Pyro's; the error that follows says where
        result = run(progress)
    labels = None if label is None else ([label] if isinstance(label, int) else label.tolist())
    with console.status("measuring and writing"):
        report = build_report(result, truth, seed, prior.name, labels) | entries | {"dtype": dtype_name(prior)}
        write_result(out, result, report, truth)
    _print_table(report, out)


@contextmanager
def _progress_bars() -> Iterator[Report]:
    """One bar a phase; the fit's shows the bound on -log p(y), summed over images."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    titles = {"fit": "fitting the posterior", "refine": "refining the samples"}
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bars:
        tasks: dict[str, Any] = {}

        def report(phase: str, step: int, total: int, bound: float | None) -> None:
            note = "" if bound is None else f"-log p(y) ≤ {bound:.1f} nats"
            if phase not in tasks:
                tasks[phase] = bars.add_task(titles[phase], total=total, note=note)
            bars.update(tasks[phase], completed=step, note=note)

        yield report


def _print_table(report: dict[str, Any], out: Path) -> None:
    import pandas

    frame = pandas.DataFrame(report["images"]).drop(columns="terms")
    table = Table("image", *frame.columns, title=f"{report['num_samples']} samples an image")
    for index, row in frame.iterrows():
        table.add_row(str(index), *(f"{value:.4g}" for value in row))
    console.print(table)
    console.print(
        f"{report['network_calls']} network calls on {report['network_evaluations']} images in all, "
        f"{report['seconds']:.1f} s. bound: nats on log p(y), higher is better"
        f"{'; lpips: lower is better' if 'lpips' in frame else ''}."
    )
    written = f"Written to {out}/: contact_sheet.png, the samples, samples.safetensors, report.json"
    console.print(written, soft_wrap=True, markup=False)
