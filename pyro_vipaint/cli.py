"""``vipaint``: completions and restorations of an image from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pyro_vipaint.cli_bench import bench
from pyro_vipaint.cli_restore import restore
from pyro_vipaint.cli_results import (
    Beta,
    Checkpointing,
    Guidance,
    Half,
    InvertMask,
    Label,
    Levels,
    Prior,
    Prompt,
    RefineSteps,
    Steps,
    Truth,
    run_and_write,
)
from pyro_vipaint.cli_shared import Device, Out, Seed, console, one_line_errors

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Inpainting by VIPaint with a diffusion prior.")
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
        from pyro_vipaint.demo import problem_for
        from pyro_vipaint.devices import resolve_device
        from pyro_vipaint.files import check_out
        from pyro_vipaint.inputs import check_prior

        check_out(out)
        images, masks, labels = problem_for(prior)
        loaded = check_prior(prior, resolve_device(device))
        _run_and_write(
            images, masks, images, out, seed, {}, prior=loaded, label=labels, device=device, levels=4, num_samples=10
        )


@app.command()
def inpaint(
    image: Annotated[Path, typer.Argument(help="Picture with a hole; hidden pixels are not looked at.")],
    mask: Annotated[Path, typer.Option(help="Mask picture: white means observed.")],
    out: Out,
    prior: Prior = "fashion32",
    levels: Levels = 4,
    samples: Annotated[int, typer.Option(help="Number of completions.")] = 10,
    label: Label = None,
    prompt: Prompt = None,
    guidance_scale: Guidance = None,
    steps: Steps = None,
    refine_steps: RefineSteps = None,
    beta: Beta = None,
    device: Device = "auto",
    half: Half = False,
    checkpointing: Checkpointing = False,
    seed: Seed = 0,
    resize: Annotated[bool, typer.Option("--resize", help="Fit picture and mask to the prior's size.")] = False,
    invert_mask: InvertMask = False,
    truth: Truth = None,
) -> None:
    """Completes IMAGE where MASK is black."""
    with one_line_errors():
        from pyro_vipaint.devices import resolve_device
        from pyro_vipaint.files import check_out, read_image, read_mask
        from pyro_vipaint.inputs import check_prior

        check_out(out, image, mask, truth)
        loaded = check_prior(prior, resolve_device(device), half, checkpointing)
        channels, height, width = loaded.image_shape
        size = (height, width) if resize else None
        entries = {
            "image": str(image), "mask": str(mask), "invert_mask": invert_mask, "resize": resize,
            "truth": None if truth is None else str(truth),
        }  # fmt: skip
        _run_and_write(
            read_image(image, channels, size), read_mask(mask, invert_mask, size),
            None if truth is None else read_image(truth, channels, size).unsqueeze(0), out, seed, entries,
            prior=loaded, label=label, prompt=prompt, guidance_scale=guidance_scale, device=device, levels=levels,
            num_samples=samples, steps=steps, beta=beta, refine_steps=refine_steps,
        )  # fmt: skip


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


def _run_and_write(
    images: Any, masks: Any, truth: Any, out: Path, seed: int, entries: dict[str, Any], **arguments: Any
) -> None:
    """Runs :func:`inpaint` and writes what comes of it; ``entries`` go into the report."""
    from pyro_vipaint.inpainting import inpaint as run
    from pyro_vipaint.inputs import check_truth

    check_truth(truth, images.shape)
    entries = entries | {name: arguments.get(name) for name in ("prompt", "guidance_scale")}
    run_and_write(
        lambda progress: run(images, masks, seed=seed, progress=progress, **arguments),
        truth, out, seed, arguments["prior"], arguments["label"], entries,
    )  # fmt: skip


if __name__ == "__main__":
    app()
