"""The demonstration: held-out Fashion-MNIST images, rotated-window masks, the embedded prior."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vipaint.masks import rotated_window
from pyro_vipaint.models.pretrained import weights_folder

DEMO_IMAGES = (0, 1, 2, 28)  # ankle boot, pullover, trousers, another boot
MASK_SEED = 3


def held_out_images() -> tuple[Tensor, Tensor]:
    """The 64 shipped held-out images ``(64, 1, 32, 32)`` in [-1, 1] and their labels ``(64,)``."""
    from safetensors.torch import load_file

    tensors = load_file(weights_folder() / "fashion32" / "held_out.safetensors")
    return tensors["images"].unsqueeze(1).float() / 127.5 - 1, tensors["labels"].long()


def demo_problem() -> tuple[Tensor, Tensor, Tensor]:
    """``(images, masks, labels)`` of the demonstration."""
    images, labels = held_out_images()
    index = torch.tensor(DEMO_IMAGES)
    return images[index], rotated_window(images.shape[-1], len(index), seed=MASK_SEED), labels[index]
