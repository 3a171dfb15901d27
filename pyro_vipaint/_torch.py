"""Choosing a device at the edge; inside the library tensors stay where the inputs are.

Gradients where the caller has switched them off.

Randomness enters at the edge: one seed, and the caller's generator state is left as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vipaint.errors import InputError


def resolve_device(name: str | torch.device) -> torch.device:
    """``auto`` (CUDA, then MPS, then CPU) or a device's own name.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"Device {str(name)!r} is not available here: use auto or cpu.") from error
    if device.type == "meta":
        raise InputError("Device 'meta' holds no numbers: use auto or cpu.")
    return device


def half_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it, which are CUDA devices since Ampere; float32 elsewhere.

    CPUs and older GPUs take bfloat16 as well, and gain little or lose much.
    """
    has = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has else torch.float32


def device_of(part: Any) -> torch.device | None:
    """Where the tensors of a network lie, or of a dataclass around one (a prior); ``None`` where there are none."""
    return next((tensor.device for _, tensor in tensors_of(part)), None)


def dtype_name(part: Any) -> str:
    """What the numbers of a network, or of a dataclass around one, are: ``float32`` or the like."""
    return next((str(tensor.dtype).removeprefix("torch.") for _, tensor in tensors_of(part)), "unknown")


def tensors_of(part: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a network, or of a dataclass around one, with their names in the network, in a fixed order."""
    if isinstance(part, Tensor):
        yield "", part
    elif isinstance(part, nn.Module):
        yield from sorted(part.state_dict().items())
    elif is_dataclass(part):
        for field in fields(part):
            yield from tensors_of(getattr(part, field.name))


def device_for(prior: Any, name: str | torch.device) -> torch.device:
    """The device of a run: ``auto`` is where a loaded prior lies, and any other name must agree with it.

    Raises:
        InputError: no such device here, or the prior lies on another one.
    """
    home = device_of(prior)
    if home is None:
        return resolve_device(name)
    if name == "auto":
        return home
    target = resolve_device(name)
    if target != home:
        raise InputError(f"The prior lies on {home}, not on {target}: load it with device={str(target)!r}.")
    return target


@contextmanager
def gradients() -> Iterator[None]:
    """Gradients inside, also below ``torch.no_grad()``, where sampling usually runs.

    Raises:
        InputError: below ``torch.inference_mode()``, whose tensors never have any.
    """
    if torch.is_inference_mode_enabled():
        raise InputError("this needs gradients, which torch.inference_mode() rules out: use torch.no_grad() instead.")
    with torch.enable_grad():
        yield


JUDGING, DIRECTIONS = 2**31, 2**30
"""Bits of a seed that what judges a fit flips: draws from the fit's own seed would be its training noise again."""


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Runs the block from ``seed`` and restores the global generators after it; ``None`` changes nothing."""
    if seed is None:
        yield
        return
    with preserved():
        torch.manual_seed(seed)
        yield


@contextmanager
def preserved() -> Iterator[None]:
    """Leaves the global generators as they were, that of Apple's GPUs too, which ``fork_rng`` does not know."""
    state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with torch.random.fork_rng():
            yield
    finally:
        if state is not None:
            torch.mps.set_rng_state(state)
