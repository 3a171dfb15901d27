"""``vipaint inpaint``: completions of an image, or of a folder of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from pyro_vipaint.cli import options as shared
from pyro_vipaint.cli.output import run_and_write
from pyro_vipaint.errors import InputError
from pyro_vipaint.progress import progress_bar


def inpaint(
    image: Annotated[Path, typer.Argument(help="Picture whose hidden pixels have no influence; or a folder.")],
    mask: Annotated[
        Path,
        typer.Option(help="Mask picture; white means observed. For a folder also one of masks, or a name such as box."),
    ],
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
    labels: shared.Labels = None,
    keep: shared.Keep = None,
    batch: shared.Batch = None,
    engine: shared.ManyEngine = None,
    workers: shared.ManyWorkers = None,
    threads: shared.ManyThreads = None,
    address: shared.ManyAddress = None,
    retry: shared.ManyRetry = False,
) -> None:
    """Completes IMAGE, or every picture of a folder, where MASK is black.

    A run over a folder that was killed goes on when it is started again.
    """
    many = {
        "labels": labels, "keep": keep, "batch": batch, "engine": engine, "workers": workers, "threads": threads,
        "address": address, "retry": retry or None,
    }  # fmt: skip
    many = {name: value for name, value in many.items() if value is not None}
    if image.is_dir():
        if truth is not None:
            raise InputError("--truth compares one picture: omit it for a folder.")
        _folder(
            image, mask, out, prior=prior, levels=levels, preset=preset, guide=guide, num_samples=samples, label=label,
            prompt=prompt, guidance_scale=guidance_scale, steps=steps, refine_steps=refine_steps, beta=beta,
            device=device, half=half, checkpointing=checkpointing, seed=seed, resize=resize, invert_mask=invert_mask,
            soft_mask=soft_mask, grey=grey, composite=composite, overwrite=overwrite, **many,
        )  # fmt: skip
        return
    if many:
        raise InputError(f"--{next(iter(many))} goes with a folder of pictures, and {image} is none.")
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


def _folder(images: Path, mask: Path, out: Path, **options: Any) -> None:
    """Completes the pictures of a folder, and says how many failed; exit code 1 if one did."""
    from pyro_vipaint.many import inpaint_many
    from pyro_vipaint.many.work import FAILED

    with progress_bar(console=shared.console) as callback:
        frame = inpaint_many(images, mask, out=out, callback=callback, **options)
    failed = frame[frame["status"] == FAILED]
    note = f", {len(failed)} of them failed (--retry tries them again)" if len(failed) else ""
    written = f"{len(frame)} pictures{note}. Written to {out}/: images, manifest.csv, run.json"
    shared.console.print(written, soft_wrap=True, markup=False)
    if len(failed):
        first = failed.iloc[0]
        shared.errors.print(Text(f"The first failure: {first['name']}: {first['error']}"), soft_wrap=True)
        raise typer.Exit(1)
