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
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
