"""Freed memory kept for the next tensor, in a process that is this library's own: a command that runs VIPaint.

By default glibc gives the memory of large tensors back to the system as soon as they are freed, and the system hands it
out again page by page, zeroed. A decoder frees and asks for the same hundred megabytes at every call: for cats64 on a
CPU, with its gradient, a sixth of its time. Kept, memory stays at its peak until the process ends. A library does not
decide that for a notebook, where :func:`keep_freed_memory` may be called, nor for ``vipaint bench``, which reports the
peak of every cell.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to keep what is freed; whether there is one to tell."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, LARGEST))
