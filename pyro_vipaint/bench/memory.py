"""The largest memory in use while a block runs."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

MEBIBYTE = 2**20
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Filled in when the block ends."""

    mebibytes: float = float("nan")


@contextmanager
def peak_memory(device: str) -> Iterator[Peak]:
    """On CUDA that of tensors; on a CPU of the process, on Linux since the block began, elsewhere since the start."""
    cuda, peak = torch.device(device).type == "cuda", Peak()
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            RESET.write_text("5")  # sets the high-water mark back to what is in use
    yield peak
    peak.mebibytes = torch.cuda.max_memory_allocated(device) / MEBIBYTE if cuda else _resident_peak()


def _resident_peak() -> float:
    """The high-water mark of the process in MiB."""
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MEBIBYTE if sys.platform == "darwin" else peak / 1024
