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
    with torch.random.fork_rng(), _fork_mps():
        torch.manual_seed(seed)
        yield


@contextmanager
def _fork_mps() -> Iterator[None]:
    """Restores the generator of Apple's GPUs, which ``fork_rng`` leaves alone and ``manual_seed`` does not."""
    if not torch.backends.mps.is_available():
        yield
        return
    state = torch.mps.get_rng_state()
    try:
        yield
    finally:
        torch.mps.set_rng_state(state)
