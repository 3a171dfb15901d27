"""``vipaint restore``: an image from fewer pixels, from a blurred picture, or from one with a hole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
from pyro_vipaint.cli_shared import Device, Out, Seed, one_line_errors
from pyro_vipaint.cli_tasks import TASKS, simulated, task_operator, task_options
from pyro_vipaint.errors import InputError


def restore(
    image: Annotated[Path, typer.Argument(help="The damaged picture at its own size; undamaged with --simulate.")],
    task: Annotated[str, typer.Option(help=f"One of {', '.join(TASKS)}.")],
    out: Out,
    factor: Annotated[int | None, typer.Option(help="Super-resolution: sides of the image over IMAGE's; 4.")] = None,
    mode: Annotated[str | None, typer.Option(help="Super-resolution: box (the default) or bicubic.")] = None,
    std: Annotated[float | None, typer.Option(help="Deblur: of the Gaussian, pixels; 3/256 of the width.")] = None,
    length: Annotated[int | None, typer.Option(help="Motion-deblur: length of the line, pixels.")] = None,
    angle: Annotated[float | None, typer.Option(help="Motion-deblur: degrees counter-clockwise; 0.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Inpaint: mask picture, white means observed.")] = None,
    invert_mask: InvertMask = False,
    simulate: Annotated[bool, typer.Option("--simulate", help="IMAGE is undamaged: damage it first.")] = False,
    noise: Annotated[
        float | None, typer.Option(help="Std of IMAGE's noise, images in [-1, 1]; --simulate adds it, 0.05.")
    ] = None,
    resize: Annotated[bool, typer.Option("--resize", help="With --simulate: fit to the prior's size.")] = False,
    prior: Prior = "fashion32",
    levels: Levels = 4,
    samples: Annotated[int, typer.Option(help="Number of restorations.")] = 10,
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
    truth: Truth = None,
) -> None:
    """Restores IMAGE: for super-resolution the small picture, otherwise one of the prior's size.

    With --simulate IMAGE is an undamaged picture of the prior's size: it is damaged as the task says, with noise, and
    the restorations are compared with it.
    """
    with one_line_errors():
        from pyro_vipaint.devices import resolve_device
        from pyro_vipaint.files import check_out, read_image
        from pyro_vipaint.inputs import check_image, check_noise, check_prior, check_seed, check_truth
        from pyro_vipaint.restoring import NOISE
        from pyro_vipaint.restoring import restore as run

        check_out(out, image, mask, truth)
        _check_simulation(simulate, resize, truth)
        check_seed(seed)
        loaded = check_prior(prior, resolve_device(device), half, checkpointing)
        channels, height, width = loaded.image_shape
        given = {
            "factor": factor, "mode": mode, "std": std, "length": length, "angle": angle,
            "mask": mask, "invert_mask": invert_mask or None,
        }  # fmt: skip
        options = task_options(task, given, width)
        size = (height, width) if resize else None
        operator, y = task_operator(task, options, loaded, size), read_image(image, channels, size)
        true = None if truth is None else read_image(truth, channels).unsqueeze(0)
        if simulate:
            noise, true = check_noise(NOISE if noise is None else noise), check_image(y, loaded)
            y = simulated(true, operator, noise, seed)
        check_truth(true, loaded.image_shape)
        entries = {"task": task, **{name: str(v) if isinstance(v, Path) else v for name, v in options.items()}}
        entries |= {"image": str(image), "truth": None if truth is None else str(truth), "resize": resize}
        entries |= {"simulated": simulate, "noise": noise, "prompt": prompt, "guidance_scale": guidance_scale}
        run_and_write(
            lambda progress: run(
                y, operator, loaded, levels, samples, label=label, prompt=prompt, guidance_scale=guidance_scale,
                steps=steps, beta=beta, refine_steps=refine_steps, noise=noise, device=device, seed=seed,
                progress=progress,
            ),
            true, out, seed, loaded, label, entries,
        )  # fmt: skip


def _check_simulation(simulate: bool, resize: bool, truth: Path | None) -> None:
    """Refuses options that go with --simulate only, or not with it."""
    if simulate and truth is not None:
        raise InputError("With --simulate IMAGE itself is the truth: leave --truth away.")
    if resize and not simulate:
        raise InputError("--resize goes with --simulate only: an observation has to keep its own pixels.")
