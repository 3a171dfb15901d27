"""The demonstrations of the embedded priors: held-out images and rotated-window masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.cats.parts import class_labels, shipped_layers
from pyro_vipaint.errors import choice
from pyro_vipaint.models.measurements.masks import rotated_window
from pyro_vipaint.models.pretrained.load import weights_folder

DEMO_IMAGES = (0, 1, 2, 28)  # ankle boot, pullover, trousers, another boot
DEMO_CATS = ((1, 4, 9, 2, 4), (6, 1, 5, 8, 10), (12, 5, 2, 3, 8), (3, 9, 11, 6, 1))  # body, fur, eyes, mouth, accessory
DEMO_FACES = ((0, 5, 2, 0, 3, 0), (2, 11, 4, 1, 5, 17), (3, 16, 1, 2, 0, 28), (1, 2, 3, 3, 1, 40))  # skin, …, hair
MASK_SEED = 3


def held_out_images() -> tuple[Tensor, Tensor]:
    """The 64 shipped held-out images ``(64, 1, 32, 32)`` in [-1, 1] of ``fashion32`` and their labels ``(64,)``."""
    from safetensors.torch import load_file

    tensors = load_file(weights_folder() / "fashion32" / "held_out.safetensors")
    return tensors["images"].unsqueeze(1).float() / 127.5 - 1, tensors["labels"].long()


def held_out_cats() -> Tensor:
    """Four cats ``(4, 3, 64, 64)`` in [-1, 1] of combinations that the training of ``cats64`` left out."""
    return shipped_layers().compose(torch.tensor(DEMO_CATS))


def _fashion() -> tuple[Tensor, Tensor]:
    images, labels = held_out_images()
    index = torch.tensor(DEMO_IMAGES)
    return images[index], labels[index]


def _faces() -> tuple[Tensor, Tensor | None]:
    index = torch.tensor(DEMO_FACES)
    return shipped_layers("faces32").compose(index), class_labels("faces32", index)


DEMOS: dict[str, Callable[[], tuple[Tensor, Tensor | None]]] = {  # by prior: images and labels
    "fashion32": _fashion,
    "cats64": lambda: (held_out_cats(), None),
    "faces32": _faces,
}


def demo_problem(prior: str = "fashion32") -> tuple[Tensor, Tensor, Any]:
    """``(images, masks, labels)`` of the demonstration of an embedded prior; the labels are None without classes.

    Raises:
        InputError: the prior has no demonstration.
    """
    choice("demonstration of the prior", prior, DEMOS)
    images, labels = DEMOS[prior]()
    return images, rotated_window(images.shape[-1], len(images), seed=MASK_SEED), labels
