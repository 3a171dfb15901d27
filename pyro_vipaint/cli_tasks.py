"""The tasks of ``vipaint restore``: which options each has, and the operator they make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vipaint.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vipaint.models import DiffusionPrior
    from pyro_vipaint.operators import Operator

TASKS: dict[str, dict[str, Any]] = {  # the options of each task with their defaults
    "super-resolution": {"factor": 4, "mode": "box"},
    "deblur": {"std": None},
    "motion-deblur": {"length": None, "angle": 0.0},
    "inpaint": {"mask": None, "invert_mask": False},
}
RELATIVE_STD = 3 / 256  # of the width: the paper's 3 pixels for images of 256


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
    from pyro_vipaint.files import read_mask
    from pyro_vipaint.inputs import check_mask
    from pyro_vipaint.operators import GaussianBlur, Inpainting, MotionBlur, SuperResolution

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

    from pyro_vipaint.inputs import observed_by

    y = observed_by(operator, truth)
    other = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)))
    return y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(other))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
