"""``vipaint restore``: super-resolution, deblurring and inpainting of a picture, and the operators of these tasks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_vipaint.cli import options as shared
from pyro_vipaint.cli.output import run_and_write
from pyro_vipaint.errors import InputError, choice, number, whole

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
    image: Annotated[Path, typer.Argument(help="The damaged picture at its own size; with --simulate undamaged.")],
    task: Annotated[str, typer.Option(help=f"One of {', '.join(TASKS)}.")],
    out: shared.Out,
    factor: Annotated[
        int | None, typer.Option(help="Super-resolution: side of the image over side of IMAGE; 4 by default.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="Super-resolution: box (by default) or bicubic.")] = None,
    std: Annotated[
        float | None, typer.Option(help="Deblur: standard deviation in pixels; 3/256 of the width by default.")
    ] = None,
    length: Annotated[int | None, typer.Option(help="Motion-deblur: length of the line in pixels.")] = None,
    angle: Annotated[float | None, typer.Option(help="Motion-deblur: degrees counter-clockwise; 0 by default.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Inpaint: mask picture; white means observed.")] = None,
    invert_mask: shared.InvertMask = False,
    grey: shared.Grey = False,
    simulate: Annotated[bool, typer.Option("--simulate", help="Damage IMAGE, which is undamaged, first.")] = False,
    noise: Annotated[
        float | None,
        typer.Option(help="Noise of IMAGE, a standard deviation in units of [-1, 1]; --simulate adds 0.05 by default."),
    ] = None,
    resize: Annotated[
        bool, typer.Option("--resize", help="Resize IMAGE to the prior's size; with --simulate only.")
    ] = False,
    prior: shared.Prior = "fashion32",
    levels: shared.Levels = 4,
    preset: shared.Preset = None,
    guide: shared.Guide = None,
    samples: Annotated[int, typer.Option(help="Number of restorations.")] = 10,
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
    truth: shared.Truth = None,
    overwrite: shared.Overwrite = False,
) -> None:
    """Restores IMAGE: for super-resolution a small picture, for other tasks one of the prior's size.

    With --simulate IMAGE is undamaged: it is damaged as the task says, and the restorations are compared with it.
    """
    from pyro_vipaint._files import read_image
    from pyro_vipaint._folders import IMAGES
    from pyro_vipaint._torch import resolve_device
    from pyro_vipaint.checks import NOISE, check_image, check_prior
    from pyro_vipaint.restoration import restore as run

    preset = shared.preset_of(preset, guide)
    IMAGES.check(out, overwrite, image, mask, truth)
    if simulate and truth is not None:
        raise InputError("With --simulate IMAGE itself is the truth: omit --truth.")
    if resize and not simulate:
        raise InputError("--resize needs --simulate: an observation has to keep its own pixels.")
    loaded = check_prior(prior, resolve_device(device), half, checkpointing)
    condition, (channels, height, width) = shared.class_number(label, loaded), loaded.image_shape
    given = {
        "factor": factor, "mode": mode, "std": std, "length": length, "angle": angle,
        "mask": mask, "invert_mask": invert_mask or None,
    }  # fmt: skip
    options = task_options(task, given, width)
    size = (height, width) if resize else None
    operator, y = task_operator(task, options, loaded, size), read_image(image, channels, size, grey)
    true = None if truth is None else read_image(truth, channels, grey=grey).unsqueeze(0)
    if simulate:
        noise, true = NOISE if noise is None else number("noise", noise), check_image(y, loaded)
        y = simulated(true, operator, noise, seed)
    entries = {"task": task, **{name: str(v) if isinstance(v, Path) else v for name, v in options.items()}}
    entries |= {"image": str(image), "truth": None if truth is None else str(truth), "resize": resize, "grey": grey}
    entries |= {
        "simulated": simulate,
        "noise": noise,
        "prompt": prompt,
        "guidance_scale": guidance_scale,
        "preset": preset,
        "guide": guide,
    }
    call = partial(
        run, y, operator, loaded, levels, samples, label=condition, prompt=prompt, guidance_scale=guidance_scale,
        preset=preset, guide=guide, steps=steps, beta=beta, refine_steps=refine_steps, noise=noise,
        device=device, seed=seed,
    )  # fmt: skip
    run_and_write(call, true, out, seed, loaded, condition, entries)


def task_options(task: str, given: Mapping[str, Any], width: int) -> dict[str, Any]:
    """The options of ``task`` for images of ``width`` pixels: those ``given`` (not None), otherwise its defaults.

    Raises:
        InputError: an unknown task, an option of another task, or a missing option.
    """
    choice("task", task, TASKS)
    given = {name: value for name, value in given.items() if value is not None}
    options = TASKS[task] | given
    if task == "deblur" and options["std"] is None:
        options["std"] = RELATIVE_STD * width
    problems = [f"{_flag(name)} does not go with the task {task}." for name in given.keys() - TASKS[task].keys()]
    problems += [f"The task {task} needs {_flag(name)}." for name, value in options.items() if value is None]
    wider = [name for name in ("std", "length") if (options.get(name) or 0) > width]
    problems += [f"{_flag(name)} must be at most {width}, the width in pixels, not {options[name]}." for name in wider]
    if problems:
        raise InputError(problems[0])
    return options


def task_operator(
    task: str, options: Mapping[str, Any], prior: DiffusionPrior, size: tuple[int, int] | None = None
) -> Operator:
    """A of the task for the prior's images; a mask is resized to ``size`` (H, W) if it is given.

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
    """y = A(truth) + noise · N(0, 1), ``(N, *observation)``, from a child of ``seed``."""
    import torch

    from pyro_vipaint._torch import NOISE, SEEDS, child_seed
    from pyro_vipaint.models.measurements.operators import observed_by

    generator = torch.Generator().manual_seed(child_seed(whole("seed", seed, *SEEDS), NOISE))
    y = observed_by(operator, truth)
    return y + noise * torch.randn(y.shape, generator=generator)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
