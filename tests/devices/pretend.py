"""A pretended accelerator: tensors that say they lie on it, are computed on the CPU, and are watched.

``FakeTensorMode`` has no values, so that a program that reads one cannot go on, and on a build with CUDA it has no
gradients without a driver. Here every tensor is a real one of the CPU. The storages that a program has put on the
device are known by name; ``tensor.device`` answers accordingly, an operation on tensors of both places raises, and
what would make the host wait is counted:

- a *sync*: a number, a shape or a tensor of the device that the host needs (``item``, ``nonzero``, ``cpu``);
- a *copy*: a tensor of the host that the device needs (``to``, ``new_tensor``, an index). From pageable memory the
  host waits for it too, and ``torch.cuda.set_sync_debug_mode`` counts it.

A zero-dimensional tensor of the host goes along as an argument of a kernel, without either. MPS has no float64.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import one_hot
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

parse_to = torch._C._nn._parse_to  # pyright: ignore[reportAttributeAccessIssue]
HOST = torch.device("cpu")
WAITING = {  # operations whose result the host has to wait for, by the name in aten
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal",
    "_linalg_check_errors", "repeat_interleave", "bincount",
}  # fmt: skip
FROM_HOST = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor)
MOVES = (Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.type_as)
PASSIVE = {"copy_", "_to_copy"}  # between places


_PLACES: dict[str, dict[int, StorageWeakRef]] = {}  # beyond one block: the library keeps constants on the device


class WrongDevice(AssertionError):
    """An operation on tensors of both places, or on numbers that the device does not have."""


class Accelerator:
    """Where the tensors of a program lie, and how often the host waits for the device.

    Attributes:
        device: the pretended one.
        waits: number of waits by (``sync`` or ``copy``, the place in the sources).
    """

    def __init__(self, kind: str) -> None:
        self.device = torch.device(kind, 0)
        self.waits: Counter[tuple[str, str]] = Counter()
        self.born: list[bool] = []  # whether what an operation creates from nothing lies on the device, innermost last
        self._places = _PLACES.setdefault(kind, {})

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is a tensor on the device."""
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            return False
        place = self._places.get(value.untyped_storage()._cdata)
        return place is not None and not place.expired()

    def put(self, value: Any) -> Any:
        """``value``, whose tensors now lie on the device."""
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor):
                if self.device.type == "mps" and tensor.dtype in (torch.float64, torch.complex128):
                    raise WrongDevice(f"MPS has no float64: {place_in_the_sources()}")
                storage = tensor.untyped_storage()
                self._places[storage._cdata] = StorageWeakRef(storage)
        return value

    def taken_off(self, value: Any) -> Any:
        """``value``, whose tensors now lie on the host."""
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor):
                self._places.pop(tensor.untyped_storage()._cdata, None)
        return value

    def wait(self, kind: str) -> None:
        """Counts one wait at the innermost line of this project or of Pyro."""
        self.waits[kind, place_in_the_sources()] += 1

    def is_here(self, device: Any) -> bool:
        return torch.device(device).type == self.device.type


def place_in_the_sources() -> str:
    """The innermost line of the running program that belongs to this project or to Pyro, not to the tests."""
    frame = sys._getframe(1)
    found = "?"
    while frame is not None:
        path = frame.f_code.co_filename
        if any(part in path for part in ("pyro_vipaint", "/guides/", "/models/", "/pyro/")) and "/tests/" not in path:
            return f"{'/'.join(path.split('/')[-3:])}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return found


class _Functions(TorchFunctionMode):
    """What a program asks of PyTorch by name: where a tensor lies, moves, and tensors made from nothing."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__()
        self.accelerator = accelerator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        here, kwargs = self.accelerator, dict(kwargs or {})
        held = here.holds(args[0]) if args else False
        if func == Tensor.device.__get__:  # pyright: ignore[reportAttributeAccessIssue]
            return here.device if held else func(*args)
        if func in (Tensor.is_cuda.__get__, Tensor.is_mps.__get__, Tensor.is_cpu.__get__):  # pyright: ignore
            return func.__self__.__name__ == f"is_{(here.device if held else HOST).type}"
        if func is parse_to:  # how nn.Module.to reads its arguments
            device, *others = func(*args, **kwargs)
            return (here.device if held else device, *others)
        if func in MOVES:
            return self._moved(func, args, kwargs)
        if held and func in (Tensor.numpy, Tensor.__array__):
            raise WrongDevice(f"a tensor on {here.device} has no numpy array: {place_in_the_sources()}")
        if held and func is Tensor.tolist:
            here.wait("sync")
        return self._run(func, args, kwargs)

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        here, device = self.accelerator, kwargs.get("device")
        explicit = device is not None
        on = here.is_here(device) if explicit else any(map(here.holds, tree_leaves((args, kwargs))))
        if explicit:
            kwargs["device"] = HOST
        if on and kwargs.get("generator") is not None:
            raise WrongDevice(f"a generator of the host draws on {here.device}: {place_in_the_sources()}")
        if on and func in FROM_HOST and not here.holds(args[func is Tensor.new_tensor]):
            here.wait("copy")
            return here.put(func(*args, **kwargs).clone())
        waits = here.waits.copy() if func is one_hot else here.waits  # which looks at its argument on the CPU alone
        here.born.append(on)
        try:
            result = func(*args, **kwargs)
        finally:
            here.born.pop()
        here.waits = waits
        return here.put(result) if explicit and on else result

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """``to`` and its relatives: an own storage on the other side, and the wait for it."""
        here, (tensor, *rest) = self.accelerator, args
        target = {Tensor.cpu: HOST, Tensor.cuda: here.device}.get(func, kwargs.pop("device", None))
        dtype = kwargs.pop("dtype", None) or tensor.dtype
        for value in [*rest, kwargs.pop("other", None)]:
            if isinstance(value, (str, torch.device)):
                target = value
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, Tensor):
                target, dtype = here.device if here.holds(value) else HOST, value.dtype
        leaves = here.holds(tensor)
        if target is None or here.is_here(target) == leaves:
            return self._run(Tensor.to, (tensor, dtype), kwargs)
        here.wait("sync" if leaves else "copy")
        moved = self._run(Tensor.to, (tensor, dtype), {**kwargs, "copy": True})
        return here.taken_off(moved) if leaves else here.put(moved)


class _Operations(TorchDispatchMode):
    """Every operation, those of a backward pass too."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__()
        self.accelerator = accelerator

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # there is nothing to compile, and its import takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self._watched(func, args, kwargs or {})

    def _watched(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        here, name = self.accelerator, func.overloadpacket.__name__
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        held = [here.holds(tensor) for tensor in tensors]
        on = any(held) or (not tensors and bool(here.born) and here.born[-1])
        if any(held):
            self._check(name, args, tensors, held)
        result = func(*args, **kwargs)
        return here.put(result) if on else result

    def _check(self, name: str, args: Any, tensors: list[Tensor], held: list[bool]) -> None:
        here = self.accelerator
        strangers = [tensor for tensor, on in zip(tensors, held, strict=True) if not on and tensor.ndim > 0]
        indices = name in ("index", "index_put", "index_put_", "_index_put_impl_")
        if name in PASSIVE and not all(held):
            here.wait("copy" if held[0] else "sync")
        elif indices and held[0]:
            for index in args[1]:
                if index is not None and not here.holds(index):
                    here.wait("copy")
                elif index is not None and index.dtype == torch.bool and not (name != "index" and args[2].numel() == 1):
                    here.wait("sync")
        elif strangers or (name in ("cat", "stack", "mm", "bmm") and not all(held)):
            raise WrongDevice(f"{name} of tensors on {here.device} and on the host: {place_in_the_sources()}")
        elif name in WAITING:
            here.wait("sync")


@contextmanager
def pretended(kind: str = "cuda") -> Iterator[Accelerator]:
    """A block with an accelerator of this kind; its random numbers are those of the CPU."""
    accelerator = Accelerator(kind)
    states: dict[str, Callable[..., Any]] = {
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
    }
    with ExitStack() as stack:
        for name, value in states.items():
            stack.enter_context(patch.object(getattr(torch, kind), name, value))
        if kind == "mps":
            stack.enter_context(patch.object(torch.backends.mps, "is_available", lru_cache(lambda: True)))
        stack.enter_context(_Operations(accelerator))
        stack.enter_context(_Functions(accelerator))
        yield accelerator
