"""The two errors a user of the library is meant to catch, and the checks of single numbers that everything shares."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from numbers import Real
from textwrap import shorten
from typing import Any


class InputError(ValueError):
    """An argument, image, mask or file cannot be used; the message is one line that says what to do."""


class NonFiniteError(ArithmeticError):
    """A fit became infinite or NaN; the message names the term of the bound in which it did."""


def whole(name: str, value: Any, least: int = 1, most: float = math.inf) -> int:
    """``value`` as a Python integer.

    Raises:
        InputError: it is not a whole number, less than ``least`` or more than ``most``.
    """
    found = None
    with suppress(TypeError):
        found = operator.index(value)
    if found is None or not least <= found <= most:
        wanted = "a whole number" if found is None else f"at least {least}" if found < least else f"at most {most}"
        raise InputError(f"{name} must be {wanted}, not {value!r}.")
    return found


def number(name: str, value: Any, *, positive: bool = False, signed: bool = False) -> float:
    """``value`` as a float: finite, and not negative unless ``signed``; not zero either if ``positive``.

    Raises:
        InputError: it is something else.
    """
    kind = "finite" if signed else "positive and finite" if positive else "finite and not negative"
    real = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not real or (not signed and value < 0) or (positive and value <= 0):
        raise InputError(f"{name} must be {kind}, not {value!r}.")
    return float(value)


def choice(kind: str, value: Any, known: Iterable[str]) -> None:
    """Refuses a ``value`` that is not among the ``known`` names.

    Raises:
        InputError: it is something else.
    """
    names = tuple(known)
    if value not in names:
        nearest = "".join(f" The nearest is {name}." for name in get_close_matches(str(value), names, 1))
        listed = shorten(", ".join(names), 500, placeholder=" …")  # a prior may have a thousand classes
        raise InputError(f"There is no {kind} {value!r}: choose from {listed}.{nearest}")
