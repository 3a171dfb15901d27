"""``vipaint``: completions and restorations of an image from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pyro_vipaint.cli.bench import bench
from pyro_vipaint.cli.inpaint import complete_and_write, inpaint
from pyro_vipaint.cli.options import (
    Device,
    Out,
    Seed,
    console,
    one_line_errors,
)
from pyro_vipaint.cli.restore import restore

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Inpainting by VIPaint with a diffusion prior.")
app.command()(inpaint)
app.command()(restore)
app.command()(bench)


@app.command()
def demo(
    out: Out = Path("demo-output"),
    seed: Seed = 0,
    device: Device = "auto",
    prior: Annotated[str, typer.Option(help="fashion32, or cats64 for a latent prior.")] = "fashion32",
) -> None:
    """Completes held-out images with a prior that ships, and shows the bound that was reached."""
    with one_line_errors():
        from pyro_vipaint._files import check_out
        from pyro_vipaint._torch import resolve_device
        from pyro_vipaint.checks import check_prior
        from pyro_vipaint.demo import problem_for

        check_out(out)
        images, masks, labels = problem_for(prior)
        loaded = check_prior(prior, resolve_device(device))
        complete_and_write(
            images, masks, images, out, seed, {}, prior=loaded, label=labels, device=device, levels=4, num_samples=10
        )


@app.command()
def priors() -> None:
    """Lists the priors that ship with the library."""
    with one_line_errors():
        from pyro_vipaint.models import embedded_priors, load_prior

        table = Table("name", "shape", "classes", "noise levels")
        for name in embedded_priors():
            prior = load_prior(name)
            low, high = prior.noise_range
            classes = ", ".join(f"{i} {label}" for i, label in enumerate(prior.class_names))
            table.add_row(name, "×".join(map(str, prior.image_shape)), classes, f"{low:g} to {high:g}")
        console.print(table)


if __name__ == "__main__":
    app()
