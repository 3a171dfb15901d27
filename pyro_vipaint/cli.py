"""``vipaint``: completions of an image from the command line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pyro_vipaint.errors import InputError, NonFiniteError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Inpainting by VIPaint with a diffusion prior.")
console, errors = Console(), Console(stderr=True)

Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Bad input ends with one line and exit code 2, a fit that broke or a full disk with exit code 1."""
    try:
        yield
    except InputError as error:
        _print_error(error)
        raise typer.Exit(2) from None
    except (NonFiniteError, OSError) as error:
        _print_error(error)
        raise typer.Exit(1) from None


def _print_error(error: Exception) -> None:
    """The message in one line, however narrow the terminal, with brackets in file names left as they are."""
    message = " ".join(str(error).split())
    errors.print(Text.assemble(("Error: ", "bold red"), message), soft_wrap=True)


@app.command()
def demo(
    out: Out = Path("demo-output"),
    seed: Seed = 0,
    device: Device = "auto",
    prior: Annotated[str, typer.Option(help="fashion32, or cats64 for a latent prior.")] = "fashion32",
) -> None:
    """Completes held-out images with a prior that ships, and shows the bound that was reached."""
    with _one_line_errors():
        from pyro_vipaint.demo import problem_for
        from pyro_vipaint.files import check_out

        check_out(out)
        images, masks, labels = problem_for(prior)
        _run_and_write(
            images, masks, images, out, seed, prior=prior, label=labels, device=device, levels=4, num_samples=10
        )


@app.command()
def inpaint(
    image: Annotated[Path, typer.Argument(help="Picture with a hole; hidden pixels are not looked at.")],
    mask: Annotated[Path, typer.Option(help="Mask picture: white means observed.")],
    out: Out,
    prior: Annotated[str, typer.Option(help="Shipped name, folder or hub id.")] = "fashion32",
    levels: Annotated[int, typer.Option(help="K, the number of latent levels.")] = 4,
    samples: Annotated[int, typer.Option(help="Number of completions.")] = 10,
    label: Annotated[int | None, typer.Option(help="Class, for class-conditional priors.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Text, for priors that take it.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Weight of label or prompt; 1 is none.")] = None,
    steps: Annotated[int | None, typer.Option(help="SVI steps, K + 1 network calls each.")] = None,
    refine_steps: Annotated[int | None, typer.Option(help="Refinement steps, one network call each.")] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the prior side; 1 is the true bound.")] = None,
    device: Device = "auto",
    seed: Seed = 0,
    resize: Annotated[bool, typer.Option("--resize", help="Fit picture and mask to the prior's size.")] = False,
    invert_mask: Annotated[bool, typer.Option("--invert-mask", help="White means hidden instead.")] = False,
    truth: Annotated[Path | None, typer.Option(help="The undamaged picture, to be compared with.")] = None,
) -> None:
    """Completes IMAGE where MASK is black."""
    with _one_line_errors():
        from pyro_vipaint.devices import resolve_device
        from pyro_vipaint.files import check_out, read_image, read_mask
        from pyro_vipaint.inputs import check_prior

        check_out(out)
        loaded = check_prior(prior, resolve_device(device))
        channels, height, width = loaded.image_shape
        size = (height, width) if resize else None
        _run_and_write(
            read_image(image, channels, size), read_mask(mask, invert_mask, size),
            None if truth is None else read_image(truth, channels, size).unsqueeze(0), out, seed,
            prior=loaded, label=label, prompt=prompt, guidance_scale=guidance_scale, device=device, levels=levels,
            num_samples=samples, steps=steps, beta=beta, refine_steps=refine_steps,
        )  # fmt: skip


@app.command()
def priors() -> None:
    """Lists the priors that ship with the library."""
    with _one_line_errors():
        from pyro_vipaint.models import embedded_priors, load_prior

        table = Table("name", "shape", "classes", "noise levels")
        for name in embedded_priors():
            prior = load_prior(name)
            low, high = prior.noise_range
            classes = ", ".join(f"{i} {label}" for i, label in enumerate(prior.class_names))
            table.add_row(name, "×".join(map(str, prior.image_shape)), classes, f"{low:g} to {high:g}")
        console.print(table)


def _run_and_write(images: Any, masks: Any, truth: Any, out: Path, seed: int, **arguments: Any) -> None:
    """Runs VIPaint with progress bars, prints the table, writes the folder."""
    from pyro_vipaint.files import build_report, write_result
    from pyro_vipaint.inpainting import inpaint as run
    from pyro_vipaint.inputs import check_truth

    check_truth(truth, images)
    with _progress_bars() as progress, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Encountered (NaN|[+-]inf)")  # Pyro's; the error that follows says where
        result = run(images, masks, seed=seed, progress=progress, **arguments)
    prior, label = arguments["prior"], arguments["label"]
    labels = None if label is None else ([label] if isinstance(label, int) else label.tolist())
    with console.status("measuring and writing"):
        report = build_report(result, truth, seed, prior if isinstance(prior, str) else prior.name, labels)
        report |= {name: arguments.get(name) for name in ("prompt", "guidance_scale")}
        write_result(out, result, report, truth)
    _print_table(report, out)


@contextmanager
def _progress_bars() -> Iterator[Callable[[str, int, int, float | None], None]]:
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
        f"{report['seconds']:.1f} s. bound: nats on log p(y), higher is better; lpips: lower is better."
    )
    written = f"Written to {out}/: contact_sheet.png, the samples, samples.safetensors, report.json"
    console.print(written, soft_wrap=True, markup=False)


if __name__ == "__main__":
    app()
