"""Choosing a device at the edge; inside the library tensors stay where the inputs are."""

from __future__ import annotations

import torch

from pyro_vipaint.errors import InputError


def resolve_device(name: str) -> torch.device:
    """``auto`` (CUDA, then MPS, then CPU) or a device's own name.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"Device {name!r} is not available here: use auto or cpu.") from error
