"""The demonstrations, one an embedded prior: held-out images and rotated-window masks."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vipaint.cats.parts import shipped_layers
from pyro_vipaint.errors import InputError
from pyro_vipaint.models.measurements.masks import rotated_window
from pyro_vipaint.models.pretrained.load import weights_folder

DEMO_IMAGES = (0, 1, 2, 28)  # ankle boot, pullover, trousers, another boot
DEMO_CATS = ((1, 4, 9, 2, 4), (6, 1, 5, 8, 10), (12, 5, 2, 3, 8), (3, 9, 11, 6, 1))  # body, fur, eyes, mouth, accessory
MASK_SEED = 3


def held_out_images() -> tuple[Tensor, Tensor]:
    """The 64 shipped held-out images ``(64, 1, 32, 32)`` in [-1, 1] of ``fashion32`` and their labels ``(64,)``."""
    from safetensors.torch import load_file

    tensors = load_file(weights_folder() / "fashion32" / "held_out.safetensors")
    return tensors["images"].unsqueeze(1).float() / 127.5 - 1, tensors["labels"].long()


def held_out_cats() -> Tensor:
    """Four cats ``(4, 3, 64, 64)`` in [-1, 1] of combinations that the training of ``cats64`` left out."""
    return shipped_layers().compose(torch.tensor(DEMO_CATS))


def demo_problem() -> tuple[Tensor, Tensor, Tensor]:
    """``(images, masks, labels)`` of the demonstration of ``fashion32``."""
    images, labels = held_out_images()
    index = torch.tensor(DEMO_IMAGES)
    return images[index], rotated_window(images.shape[-1], len(index), seed=MASK_SEED), labels[index]


def cats_problem() -> tuple[Tensor, Tensor, None]:
    """``(images, masks, no labels)`` of the demonstration of ``cats64``."""
    images = held_out_cats()
    return images, rotated_window(images.shape[-1], len(images), seed=MASK_SEED), None


def problem_for(prior: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """The demonstration of the embedded prior of that name.

    Raises:
        InputError: there is none.
    """
    problems = {"fashion32": demo_problem, "cats64": cats_problem}
    if prior not in problems:
        raise InputError(f"There is a demonstration of {' and of '.join(problems)}, not of {prior!r}.")
    return problems[prior]()
