"""Randomness enters at the edge: one seed, and the caller's generator state is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
