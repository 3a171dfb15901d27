"""PyTorch at the edge of a call: devices, gradients, seeds.

Devices are chosen where a call enters the library; inside, tensors stay where the inputs are. Randomness enters as one
seed, from which child seeds are derived, and leaves the caller's generators as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vipaint.errors import InputError, whole

# The purposes of child seeds, as the bits of a seed that they flip. What judges a fit needs draws of its own: those
# from the fit's seed would be its training noise again. The noise of a simulated observation must not be what the
# method draws from the same seed.
JUDGING = NOISE = 2**31
DIRECTIONS = 2**30
SEEDS = (-(2**63), 2**64 - 1)  # the least and the largest that torch takes


def child_seed(seed: int, purpose: int) -> int:
    """The seed of the random numbers for a ``purpose`` within a call that has a ``seed``."""
    return seed ^ purpose


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Runs the block from ``seed``, of 64 bits, and restores the global generators after it; ``None`` does nothing."""
    if seed is None:
        yield
        return
    with preserved():
        torch.manual_seed(whole("seed", seed, *SEEDS))
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


@contextmanager
def gradients() -> Iterator[None]:
    """Switches gradients on inside the block, also below ``torch.no_grad()``, where sampling usually runs.

    Raises:
        InputError: below ``torch.inference_mode()``, whose tensors never have gradients.
    """
    if torch.is_inference_mode_enabled():
        raise InputError("this needs gradients, which torch.inference_mode() rules out: use torch.no_grad() instead.")
    with torch.enable_grad():
        yield


def resolve_device(name: str | torch.device, prior: Any = None) -> torch.device:
    """A device by its own name, or by ``auto``: where a loaded ``prior`` lies, otherwise CUDA, then MPS, then CPU.

    Raises:
        InputError: no such device here, or the prior lies on another one.
    """
    home = device_of(prior)
    if name == "auto":
        gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
        return home or torch.device(gpu or "cpu")
    device = torch.device("meta")  # holds no numbers
    with suppress(RuntimeError, AssertionError, TypeError):
        device = torch.empty(0, device=name).device
    if device.type == "meta":
        raise InputError(f"Device {str(name)!r} is not available here: use auto or cpu.")
    if home not in (None, device):
        raise InputError(f"The prior lies on {home}, not on {device}: load it with device={str(device)!r}.")
    return device


def device_of(part: Any) -> torch.device | None:
    """The device of the tensors of a network, or of a dataclass around one (a prior); ``None`` without tensors."""
    return next((tensor.device for _, tensor in tensors_of(part)), None)


def dtype_name(part: Any) -> str:
    """The data type of the tensors of a network, or of a dataclass around one, such as ``float32``."""
    return next((str(tensor.dtype).removeprefix("torch.") for _, tensor in tensors_of(part)), "unknown")


def has_values(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor can be read: a meta or a fake tensor has a shape and no numbers."""
    try:
        tensor.reshape(-1)[:1].tolist()
    except RuntimeError:
        return False
    return True


def tensors_of(part: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a network, or of a dataclass around one, with their names in the network, in a fixed order."""
    if isinstance(part, Tensor):
        yield "", part
    elif isinstance(part, nn.Module):
        yield from sorted(part.state_dict().items())
    elif is_dataclass(part):
        for field in fields(part):
            yield from tensors_of(getattr(part, field.name))


def half_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it, which are CUDA devices since Ampere; float32 elsewhere.

    CPUs and older GPUs accept bfloat16 as well, but gain little or become slower.
    """
    has = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has else torch.float32
