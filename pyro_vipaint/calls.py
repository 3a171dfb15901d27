"""Network calls, the cost of every method, and how they are counted.

A *call* is one pass of a batch through the denoiser; the *NFE* (number of function evaluations) counts the images of
these batches. Both are counted in :meth:`DiffusionPrior.denoise`, which every call passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class CallCount:
    """Network calls and NFE of a :func:`count_calls` block."""

    calls: int = 0
    nfe: int = 0


_OPEN: ContextVar[tuple[CallCount, ...]] = ContextVar("open_call_counts", default=())


@contextmanager
def count_calls() -> Iterator[CallCount]:
    """Counts the denoiser calls inside the block; blocks nest, and each counts for itself.

    >>> with count_calls() as count:
    ...     pass
    >>> count.calls
    0
    """
    count = CallCount()
    token = _OPEN.set((*_OPEN.get(), count))
    try:
        yield count
    finally:
        _OPEN.reset(token)


def record_call(nfe: int) -> None:
    """Adds one call on ``nfe`` images to every open count."""
    for count in _OPEN.get():
        count.calls += 1
        count.nfe += nfe
