"""``vipaint inpaint``: completions of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vipaint.cli.options import (
    Beta,
    Checkpointing,
    Device,
    Guidance,
    Half,
    InvertMask,
    Label,
    Levels,
    Out,
    Prior,
    Prompt,
    RefineSteps,
    Seed,
    Steps,
    Truth,
    one_line_errors,
)
from pyro_vipaint.cli.output import run_and_write


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
        from pyro_vipaint._files import check_out, read_image, read_mask
        from pyro_vipaint._torch import resolve_device
        from pyro_vipaint.checks import check_prior

        check_out(out, image, mask, truth)
        loaded = check_prior(prior, resolve_device(device), half, checkpointing)
        channels, height, width = loaded.image_shape
        size = (height, width) if resize else None
        entries = {
            "image": str(image), "mask": str(mask), "invert_mask": invert_mask, "resize": resize,
            "truth": None if truth is None else str(truth),
        }  # fmt: skip
        complete_and_write(
            read_image(image, channels, size), read_mask(mask, invert_mask, size),
            None if truth is None else read_image(truth, channels, size).unsqueeze(0), out, seed, entries,
            prior=loaded, label=label, prompt=prompt, guidance_scale=guidance_scale, device=device, levels=levels,
            num_samples=samples, steps=steps, beta=beta, refine_steps=refine_steps,
        )  # fmt: skip


def complete_and_write(
    images: Any, masks: Any, truth: Any, out: Path, seed: int, entries: dict[str, Any], **arguments: Any
) -> None:
    """Runs :func:`inpaint` and writes what comes of it; ``entries`` go into the report."""
    from pyro_vipaint.checks import check_truth
    from pyro_vipaint.restoration import inpaint as run

    check_truth(truth, images.shape)
    entries = entries | {name: arguments.get(name) for name in ("prompt", "guidance_scale")}
    run_and_write(
        lambda callback: run(images, masks, seed=seed, callback=callback, **arguments),
        truth, out, seed, arguments["prior"], arguments["label"], entries,
    )  # fmt: skip
