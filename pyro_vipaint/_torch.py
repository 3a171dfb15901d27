"""PyTorch at the edge of a call: devices, gradients, seeds.

Devices are chosen where a call enters the library; inside, tensors stay where the inputs are. Randomness enters as one
seed, from which child seeds are derived, and leaves the caller's generators as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_vipaint.errors import InputError, whole

# The purposes of child seeds, as the bits of a seed that they flip. What judges a fit needs draws of its own: those
# from the fit's seed would be its training noise again. The noise of a simulated observation must not be what the
# method draws from the same seed, nor may that of a simulated truth.
JUDGING = NOISE = 2**31
DIRECTIONS = 2**30
TRUTH = 2**29
SEEDS = (-(2**63), 2**64 - 1)  # the least and the largest that torch takes
Value = TypeVar("Value")


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
    """Leaves the global generators as they were: those of all GPUs, since ``torch.manual_seed`` sets all of them.

    ``fork_rng`` warns where it has to find several GPUs by itself, and does not know Apple's.
    """
    state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        if state is not None:
            torch.mps.set_rng_state(state)


def random_state(device: torch.device) -> Tensor:
    """The state of the global generator of a device."""
    return torch.mps.get_rng_state() if device.type == "mps" else torch.cuda.get_rng_state(device)


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Sets the global generator of a device to a state of :func:`random_state`."""
    torch.mps.set_rng_state(state) if device.type == "mps" else torch.cuda.set_rng_state(state, device)


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
    elif is_dataclass(part) and not isinstance(part, type):
        for field in fields(part):
            yield from tensors_of(getattr(part, field.name))


def fingerprint(part: Any) -> str:
    """16 hexadecimal digits of all numbers in a tensor or in the networks of a prior, the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in tensors_of(part):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def widest(device: torch.device) -> torch.dtype:
    """float64, but float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def precise(device: torch.device) -> torch.device:
    """The device itself, but the CPU for MPS, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def double(value: Tensor) -> Tensor:
    """``value`` in float64, on its device if that has float64 (:func:`precise`)."""
    return value.to(precise(value.device)).double()


def moved(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """``value`` on a device in a dtype; a number of the CPU goes along as an argument of a kernel.

    A GPU waits for nothing then; a copy from the CPU would make the CPU wait until the GPU has caught up.
    """
    if value.ndim or value.device == device or value.device.type != "cpu":
        return value.to(device, dtype)
    return torch.full((), value.item(), device=device, dtype=dtype)


_KEPT: Any = WeakTensorKeyDictionary()  # tensor -> (its version, {what is made of it: the result})


def kept(source: Tensor, make: Callable[..., Value], *args: Any) -> Value:
    """``make(source, *args)``, made once for as long as ``source`` lives and is not changed in place.

    The result must not be ``source`` itself. What needs gradients, or is an inference tensor, is made every time.
    """
    if source.requires_grad or source.is_inference():
        return make(source, *args)
    version, made = _KEPT.get(source, (None, {}))
    if version != source._version:
        version, made = _KEPT[source] = source._version, {}
    key = (make, *args)
    if key not in made:
        with torch.inference_mode(False):
            made[key] = make(source, *args)
    return made[key]


def on_device(source: Tensor, device: torch.device) -> Tensor:
    """``source``, a constant of a model, on a device: copied there once (:func:`kept`)."""
    return source if source.device == device else kept(source, Tensor.to, device)


def cached(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``function`` with its last results kept; they are no inference tensors, which could never have gradients."""

    @lru_cache(maxsize=32)
    @wraps(function)
    def outside_inference(*args: Any) -> Tensor:
        with torch.inference_mode(False):
            return function(*args)

    return outside_inference


def half_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it, which are CUDA devices since Ampere; float32 elsewhere.

    CPUs and older GPUs accept bfloat16 as well, but gain little or become slower.
    """
    has = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has else torch.float32
