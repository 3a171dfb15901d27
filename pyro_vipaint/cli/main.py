"""``vipaint``: completions and restorations of an image from the command line."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from pyro_vipaint.cli.app import app as page
from pyro_vipaint.cli.bench import bench
from pyro_vipaint.cli.check_prior import check_prior
from pyro_vipaint.cli.convert import convert
from pyro_vipaint.cli.inpaint import inpaint
from pyro_vipaint.cli.options import Device, Out, Overwrite, Preset, Seed, console, errors, one_line_errors, preset_of
from pyro_vipaint.cli.output import run_and_write
from pyro_vipaint.cli.restore import restore
from pyro_vipaint.errors import InputError


class Commands(TyperGroup):
    """The commands; every problem ends the process with one line and an exit code."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Runs the command of the arguments and, in ``standalone_mode``, ends the process."""
        with one_line_errors() if standalone_mode else nullcontext():
            code = super().main(*args, standalone_mode=False, **extra)
        return sys.exit(code or 0) if standalone_mode else code


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    help="Inpainting and restoration by VIPaint with diffusion priors.",
)
app.command()(inpaint)
app.command()(restore)
app.command()(bench)
app.command()(check_prior)
app.command()(page)
app.command()(convert)


@app.command()
def demo(
    out: Out = Path("demo-output"),
    seed: Seed = 0,
    device: Device = "auto",
    prior: Annotated[str, typer.Option(help="fashion32, faces32, or cats64 for a latent prior.")] = "fashion32",
    preset: Preset = None,
    overwrite: Overwrite = False,
) -> None:
    """Completes held-out images with a shipped prior and shows the bound that was reached."""
    from pyro_vipaint._folders import IMAGES
    from pyro_vipaint._torch import resolve_device
    from pyro_vipaint.checks import check_prior as loaded_prior
    from pyro_vipaint.demo import demo_problem
    from pyro_vipaint.restoration import inpaint as run

    preset = preset_of(preset, None)
    IMAGES.check(out, overwrite)
    images, masks, labels = demo_problem(prior)
    loaded = loaded_prior(prior, resolve_device(device))
    call = partial(run, images, masks, loaded, label=labels, preset=preset, device=device, seed=seed)
    run_and_write(call, images, out, seed, loaded, labels, {"prompt": None, "guidance_scale": None, "preset": preset})


@app.command()
def priors() -> None:
    """Lists the priors that ship with the library, and those of plug-ins."""
    from pyro_vipaint import plugins
    from pyro_vipaint.models import embedded_priors, load_prior

    table = Table("name", "shape", "classes", "noise levels")
    shipped = embedded_priors()
    for name in (*shipped, *(plugins.found("priors").keys() - set(shipped))):
        try:
            prior = load_prior(name)
        except InputError as error:  # of a plug-in, which does not hide the others
            errors.print(Text.assemble(("Warning: ", "bold yellow"), str(error)), soft_wrap=True)
            continue
        low, high = prior.noise_range
        classes = ", ".join(f"{i} {label}" for i, label in enumerate(prior.class_names))
        table.add_row(name, "×".join(map(str, prior.image_shape)), classes, f"{low:g} to {high:g}")
    console.print(table)


if __name__ == "__main__":
    app()
