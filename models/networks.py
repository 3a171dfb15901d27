"""A model of diffusers as a frozen function of ``(z, timestep, **condition)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DiffusersNetwork:
    """A UNet or transformer in its own dtype: ``z`` and conditions are cast to it, the output to the dtype of ``z``.

    The timestep is not: half precision would round 999 to 1000. The models embed it in float32.
    """

    module: Any

    def __call__(self, z: Tensor, timestep: Tensor, **condition: Any) -> Tensor:
        dtype = self.module.dtype
        cast = {name: value.to(dtype) if _is_float(value) else value for name, value in condition.items()}
        return self.module(z.to(dtype), timestep=timestep, **cast, return_dict=False)[0].to(z.dtype)


def freeze(module: Any, checkpointing: bool) -> None:
    """``module`` without gradients of its weights, in evaluation mode; ``checkpointing`` recomputes its activations.

    Recomputation (Chen et al. 2016) trades about a third more time for the memory of all but a block's activations. It
    is diffusers' own, active wherever gradients are.
    """
    module.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    if checkpointing:
        # VQModel is made of the blocks of AutoencoderKL, which can; only its class does not say so.
        module._supports_gradient_checkpointing = True
        module.enable_gradient_checkpointing()


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
