"""``vipaint restore``: an image from fewer pixels, from a blurred picture, or from one with a hole.

The tasks of ``vipaint restore``: which options each has, and the operator they make.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from pyro_vipaint.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vipaint.models import DiffusionPrior
    from pyro_vipaint.models.measurements.operators import Operator


TASKS: dict[str, dict[str, Any]] = {  # the options of each task with their defaults
    "super-resolution": {"factor": 4, "mode": "box"},
    "deblur": {"std": None},
    "motion-deblur": {"length": None, "angle": 0.0},
    "inpaint": {"mask": None, "invert_mask": False},
}
RELATIVE_STD = 3 / 256  # of the width: the paper's 3 pixels for images of 256


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
        from pyro_vipaint._files import check_out, read_image
        from pyro_vipaint._torch import resolve_device
        from pyro_vipaint.checks import NOISE, check_image, check_noise, check_prior, check_seed, check_truth
        from pyro_vipaint.restoration import restore as run

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
            lambda callback: run(
                y, operator, loaded, levels, samples, label=label, prompt=prompt, guidance_scale=guidance_scale,
                steps=steps, beta=beta, refine_steps=refine_steps, noise=noise, device=device, seed=seed,
                callback=callback,
            ),
            true, out, seed, loaded, label, entries,
        )  # fmt: skip


def _check_simulation(simulate: bool, resize: bool, truth: Path | None) -> None:
    """Refuses options that go with --simulate only, or not with it."""
    if simulate and truth is not None:
        raise InputError("With --simulate IMAGE itself is the truth: leave --truth away.")
    if resize and not simulate:
        raise InputError("--resize goes with --simulate only: an observation has to keep its own pixels.")


def task_options(task: str, given: Mapping[str, Any], width: int) -> dict[str, Any]:
    """The options of ``task``, those ``given`` (not None) before its defaults, for images of ``width`` pixels.

    Raises:
        InputError: an unknown task, an option of another task, or one that has to be given and is not.
    """
    if task not in TASKS:
        raise InputError(f"Unknown task {task!r}: it is {', '.join(TASKS)}.")
    given = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() - TASKS[task].keys():
        raise InputError(f"{_flag(name)} does not go with the task {task}.")
    options = TASKS[task] | given
    if task == "deblur" and options["std"] is None:
        options["std"] = RELATIVE_STD * width
    for name in (name for name, value in options.items() if value is None):
        raise InputError(f"The task {task} needs {_flag(name)}.")
    return options


def task_operator(
    task: str, options: Mapping[str, Any], prior: DiffusionPrior, size: tuple[int, int] | None = None
) -> Operator:
    """A of the task for the prior's images; a mask is resized to ``size`` (H, W) if that is given.

    Raises:
        InputError: options out of range, or a mask that cannot be read or does not fit.
    """
    from pyro_vipaint._files import read_mask
    from pyro_vipaint.checks import check_mask
    from pyro_vipaint.models.measurements.blur import GaussianBlur, MotionBlur
    from pyro_vipaint.models.measurements.operators import Inpainting
    from pyro_vipaint.models.measurements.super_resolution import SuperResolution

    if task == "super-resolution":
        return SuperResolution(options["factor"], options["mode"])
    if task == "deblur":
        return GaussianBlur(options["std"])
    if task == "motion-deblur":
        return MotionBlur(options["length"], options["angle"])
    return Inpainting(check_mask(read_mask(Path(options["mask"]), options["invert_mask"], size), prior))


def simulated(truth: Tensor, operator: Operator, noise: float, seed: int) -> Tensor:
    """y = A(truth) + noise · N(0, 1), ``(N, *observation)``; not the noise with which a run of ``seed`` begins."""
    import torch

    from pyro_vipaint.checks import observed_by

    y = observed_by(operator, truth)
    other = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)))
    return y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(other))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
