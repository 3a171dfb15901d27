"""The two errors a user of the library is meant to catch."""

from __future__ import annotations


class InputError(ValueError):
    """An argument, image, mask or file cannot be used; the message is one line that says what to do."""


class NonFiniteError(ArithmeticError):
    """A fit became infinite or NaN; the message names the term of the bound in which it did."""
