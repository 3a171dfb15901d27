"""The two errors a user of the library is meant to catch, its warnings, and the checks that everything shares."""

from __future__ import annotations

import math
import operator
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from difflib import get_close_matches
from numbers import Real
from reprlib import repr as _limited
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTABLE = 10**9  # a list of more does not fit the memory
MOST_STEPS = 10**6  # of a chain, a thousand times the longest default: its times are listed before the first
MOST_RATE = 1e36  # of an optimiser, whose first steps divide it by as little as a hundredth, in float32
_SAID: ContextVar[set[str] | None] = ContextVar("warnings of the outermost call", default=None)
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def brief(value: Any) -> str:
    """A value in at most 120 characters; ``reprlib`` limits each level of a nested one alone."""
    text = _limited(value)
    return text if len(text) <= 120 else f"{text[:119]}…"


class InputError(ValueError):
    """An argument, image, mask or file cannot be used; the message is one line that says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class NonFiniteError(ArithmeticError):
    """A result is infinite or NaN; the message names the term of the bound, the parameter or the phase that is."""


@contextmanager
def one_warning_each() -> Iterator[set[str]]:
    """Within the block, a decorator too, :func:`warn_once` gives each message once; yields those given so far.

    Python's own register of warnings will not do: whoever changes a filter, as lazy imports do, empties it.
    """
    outer = _SAID.get()
    token = _SAID.set(set() if outer is None else outer)
    try:
        yield _SAID.get() or set()
    finally:
        _SAID.reset(token)


def was_said(message: str) -> bool:
    """Whether a surrounding :func:`one_warning_each` has seen the message."""
    return message in (_SAID.get() or ())


def warn_once(message: str) -> None:
    """Warns at the line that called the library, unless a surrounding :func:`one_warning_each` has seen the message."""
    said = _SAID.get()
    if said is not None and message in said:
        return
    if said is not None:
        said.add(message)
    warnings.warn(message, UserWarning, stacklevel=_depth_of_the_caller())


def _depth_of_the_caller() -> int:
    """The ``stacklevel`` of :func:`warn_once` for the nearest frame outside the library and what it calls itself by."""
    depth, frame = 2, sys._getframe(2)
    while frame.f_back is not None and _is_internal(frame.f_globals.get("__name__", "")):
        depth, frame = depth + 1, frame.f_back
    return depth


def _is_internal(module: str) -> bool:
    return module.partition(".")[0] in ("pyro_vipaint", "pyro", "torch", "contextlib")


def whole(name: str, value: Any, least: int = 1, most: float = COUNTABLE) -> int:
    """``value`` as a Python integer.

    Raises:
        InputError: it is not a whole number, less than ``least`` or more than ``most``.
    """
    found = None
    with suppress(TypeError):
        found = None if isinstance(value, bool) else operator.index(value)
    if found is None or not least <= found <= most:
        wanted = "a whole number" if found is None else f"at least {least}" if found < least else f"at most {most}"
        raise InputError(f"{name} must be {wanted}, not {brief(value)}.")
    return found


def number(
    name: str, value: Any, *, positive: bool = False, signed: bool = False, most: float = sys.float_info.max
) -> float:
    """``value`` as a float: at most ``most``, and not negative unless ``signed``; not zero either if ``positive``.

    Raises:
        InputError: it is something else.
    """
    kind = "finite" if signed else "positive and finite" if positive else "finite and not negative"
    limit = "" if most == sys.float_info.max else f" and at most {most:g}"
    found = math.nan
    with suppress(OverflowError):
        found = float(value) if isinstance(value, Real) and not isinstance(value, bool) else found
    if not -sys.float_info.max <= found <= most or (not signed and found < 0) or (positive and found == 0):
        todo = ": use its .item()" if isinstance(value, Tensor) and value.numel() == 1 else ""
        raise InputError(f"{name} must be {kind}{limit}, not {brief(value)}{todo}.")
    return found


def plain(value: Any) -> Any:
    """A tensor of one real number as that number; anything else as it is."""
    single = isinstance(value, Tensor) and value.numel() == 1 and not (value.is_complex() or value.is_meta)
    return value.item() if single else value


def row(name: str, value: Any) -> list[Any]:
    """The elements of a list, a tuple, an array, a tensor or a generator, tensors of one number as that number.

    Raises:
        InputError: it is something else.
    """
    rows = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) and getattr(value, "ndim", 1)
    instance(name, value, bool(rows), "a row of numbers")
    return [plain(each) for each in value]


def choice(kind: str, value: Any, known: Iterable[str]) -> None:
    """Refuses a ``value`` that is not among the ``known`` names.

    Raises:
        InputError: it is something else.
    """
    names = tuple(known)
    if value not in names:
        nearest = "".join(f" The nearest is {name}." for name in _nearest(str(value), names))
        listed = shorten(", ".join(names), 500, placeholder=" …")  # a prior may have a thousand classes
        raise InputError(f"There is no {kind} {brief(value)}: choose from {listed}.{nearest}")


def _nearest(value: str, names: Sequence[str]) -> list[str]:
    """At most one name: one that holds the other, as Bag and handbag, before one of similar letters."""
    lower, text = {name.lower(): name for name in names}, value.lower()
    held = [name for key, name in lower.items() if min(len(key), len(text)) >= 3 and (key in text or text in key)]
    return held[:1] or [lower[key] for key in get_close_matches(text, lower, 1)]


def instance(name: str, value: Any, usable: bool, wanted: str) -> None:
    """Refuses a ``value`` that is not ``usable``, and a class where an instance of it is meant.

    Raises:
        InputError: it is something else than ``wanted``.
    """
    if isinstance(value, type) or not usable:
        raise InputError(f"{name} must be {wanted}, not {described(value)}.")


def described(value: Any) -> str:
    """What ``value`` is, for a message: a text or a number itself, of anything else the kind."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return brief(value) if isinstance(value, (str, Real)) else type(value).__name__


def in_one_line(what: str, error: Exception) -> InputError:
    """The error of another library, which may have many lines, as an InputError that begins with ``what``."""
    if isinstance(error, InputError):
        return error
    return InputError(f"{what}: {shorten(str(error), 200, placeholder=' …') or type(error).__name__}")


def numbers(
    name: str,
    value: Any,
    shape: tuple[Any, ...] = (...,),
    *,
    least: int = 0,
    low: float = -math.inf,
    high: float = math.inf,
    integers: bool = False,
) -> Tensor:
    """``value``, a tensor of finite floats, or of ``integers``, from ``low`` to ``high``: one synchronisation.

    Of a meta or a fake tensor, which holds no numbers, type and shape are checked.

    Args:
        name, value: the argument.
        shape: its sizes; a string stands for any size, a first or last ``...`` for any further dimensions.
        least: the smallest size of its first dimension.
        low, high: the range of its elements.
        integers: whether they are whole numbers.

    Raises:
        InputError: it is something else.
    """
    kind = "integers" if integers else "floats"
    found = value.dtype if isinstance(value, Tensor) else type(value).__name__
    if found not in (WHOLE if integers else FLOATS):
        raise InputError(f"{name} must be a tensor of {kind}, not {found}.")
    known = tuple(size for size in shape if size is not ...)
    sizes = value.shape[max(value.ndim - len(known), 0) :] if shape[:1] == (...,) else value.shape
    fits = value.ndim == len(known) or (value.ndim > len(known) and known != shape)
    if not fits or any(isinstance(n, int) and n != size for n, size in zip(known, sizes, strict=False)):
        wanted = ", ".join("…" if n is ... else str(n) for n in shape)
        raise InputError(f"{name} has shape {tuple(value.shape)}, not ({wanted}).")
    if least:
        whole(f"the number of rows of {name}", len(value), least)
    usable = value.isfinite() & (value >= low) & (value <= high)
    broken = 0
    with suppress(RuntimeError):  # no numbers
        broken = int((~usable).sum())
    if broken:
        limits = "" if math.isinf(low) and math.isinf(high) else f" and from {low:g} to {high:g}"
        raise InputError(f"{name} must be finite{limits}: {broken} of {value.numel()} elements are not.")
    return value


def broadcast(shape: Sequence[int] | None = None, /, **tensors: Tensor) -> tuple[Tensor, ...]:
    """The ``tensors`` expanded against each other, or each to ``shape``.

    Raises:
        InputError: they are no tensors or do not broadcast.
    """
    for name, value in tensors.items():
        instance(name, value, isinstance(value, Tensor), "a tensor")
    try:
        values = tensors.values()
        return torch.broadcast_tensors(*values) if shape is None else tuple(value.expand(shape) for value in values)
    except RuntimeError:
        given = " and ".join(f"{name} of shape {tuple(value.shape)}" for name, value in tensors.items())
        raise InputError(f"{given} cannot be broadcast{'' if shape is None else f' to {tuple(shape)}'}.") from None


def finite(phase: str, values: Tensor, todo: str) -> Tensor:
    """``values``, the result of a ``phase``: one synchronisation at the end of a call, none in its steps.

    Raises:
        NonFiniteError: one of them is infinite or NaN; the message names the phase and says what ``todo``.
    """
    if not values.isfinite().all():
        raise NonFiniteError(f"{phase} ended in values that are infinite or NaN: {todo}.")
    return values
