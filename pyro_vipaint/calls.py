"""Network calls, the cost of every method, and how they are counted.

A *call* is one pass of a batch through the denoiser; the *NFE* (number of network evaluations) counts the images of
these batches. A *gradient* is a vector-Jacobian product of a call, a backward pass through the denoiser, counted in
images too. One call may have none, one (DPS) or several (MMPS). A gradient of a gradient passes the call and its first
gradient, and counts as two. All are counted in :meth:`DiffusionPrior.denoise`, which every call passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class CallCount:
    """Network calls of a :func:`count_calls` block, their images, and the images of the gradients through them."""

    calls: int = 0
    nfe: int = 0
    gradients: int = 0


_OPEN: ContextVar[tuple[CallCount, ...]] = ContextVar("open_call_counts", default=())


@contextmanager
def count_calls() -> Iterator[CallCount]:
    """Counts the denoiser calls inside the block, and the gradients that are taken through them, at any time.

    Blocks nest, and each counts for itself.

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


def record_gradients(output: Tensor, nfe: int) -> None:
    """Adds ``nfe`` gradients to every open count whenever a backward pass enters the call that made ``output``.

    The hook is one of the graph's node: one of the tensor would also count gradients with respect to ``output``.
    """
    if _OPEN.get():
        _watch(output, nfe, _OPEN.get())


def _watch(output: Tensor, nfe: int, counts: tuple[CallCount, ...]) -> None:
    """The counts are those of the call: a GPU's backward pass runs in a thread that has no open ones."""

    def entered(gradients: tuple[Tensor | None, ...]) -> None:
        for count in counts:
            count.gradients += nfe
        for gradient in gradients if torch.is_grad_enabled() else ():  # as with create_graph=True
            if gradient is not None:
                _watch(gradient, nfe, counts)

    if output.grad_fn is not None:
        output.grad_fn.register_prehook(entered)
