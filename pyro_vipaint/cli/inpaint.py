"""``vipaint inpaint``: completions of an image."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pyro_vipaint.cli import options as shared
from pyro_vipaint.cli.output import run_and_write


def inpaint(
    image: Annotated[Path, typer.Argument(help="Picture with a hole; hidden pixels have no influence.")],
    mask: Annotated[Path, typer.Option(help="Mask picture; white means observed.")],
    out: shared.Out,
    prior: shared.Prior = "fashion32",
    levels: shared.Levels = 4,
    preset: shared.Preset = None,
    guide: shared.Guide = None,
    samples: Annotated[int, typer.Option(help="Number of completions.")] = 10,
    label: shared.Label = None,
    prompt: shared.Prompt = None,
    guidance_scale: shared.Guidance = None,
    steps: shared.Steps = None,
    refine_steps: shared.RefineSteps = None,
    beta: shared.Beta = None,
    device: shared.Device = "auto",
    half: shared.Half = False,
    checkpointing: shared.Checkpointing = False,
    seed: shared.Seed = 0,
    resize: Annotated[bool, typer.Option("--resize", help="Resize picture and mask to the prior's size.")] = False,
    invert_mask: shared.InvertMask = False,
    soft_mask: shared.SoftMask = False,
    grey: shared.Grey = False,
    composite: Annotated[
        bool, typer.Option("--composite", help="Paste the observed pixels into the samples; the report has the seam.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Warn of a picture that the prior was not made for.")
    ] = True,
    truth: shared.Truth = None,
    overwrite: shared.Overwrite = False,
) -> None:
    """Completes IMAGE where MASK is black."""
    from pyro_vipaint._files import read_image, read_mask
    from pyro_vipaint._folders import IMAGES
    from pyro_vipaint._torch import resolve_device
    from pyro_vipaint.checks import check_prior
    from pyro_vipaint.restoration import inpaint as run

    preset = shared.preset_of(preset, guide)
    IMAGES.check(out, overwrite, image, mask, truth)
    loaded = check_prior(prior, resolve_device(device), half, checkpointing)
    channels, height, width = loaded.image_shape
    size, number = (height, width) if resize else None, shared.class_number(label, loaded)
    true = None if truth is None else read_image(truth, channels, size, grey).unsqueeze(0)
    pixels, weights = read_image(image, channels, size, grey), read_mask(mask, invert_mask, size, soft_mask)
    entries = {"image": str(image), "mask": str(mask), "truth": None if truth is None else str(truth)}
    entries |= {"invert_mask": invert_mask, "resize": resize}
    entries |= {"soft_mask": soft_mask, "grey": grey, "composite": composite, "check": check}
    entries |= {"prompt": prompt, "guidance_scale": guidance_scale, "preset": preset, "guide": guide}
    call = partial(
        run, pixels, weights, loaded, levels, samples,
        label=number, prompt=prompt, guidance_scale=guidance_scale, preset=preset, guide=guide, steps=steps,
        beta=beta, refine_steps=refine_steps, device=device, seed=seed, check=check,
    )  # fmt: skip
    run_and_write(call, true, out, seed, loaded, number, entries, weights if composite else None)
