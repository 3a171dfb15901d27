"""Freed memory is kept: the system hands out a page once, not at every tensor."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pyro_vipaint.allocator import keep_freed_memory

CODE = """
import resource, sys, torch
from pyro_vipaint.allocator import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
for _ in range(20):
    tensors = [torch.ones(2**21) for _ in range(6)]
    del tensors
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
PAGES = 20 * 6 * 2**23 // 4096  # that all tensors together have
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # always, which glibc's own threshold, being dynamic, may come not to


def faults(choice: str) -> tuple[bool, int]:
    """In a process of its own: whether memory is kept, and how many pages the system handed out."""
    command, environment = [sys.executable, "-c", CODE, choice], os.environ | GIVES_BACK
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    kept, count = done.stdout.split()
    return kept == "1", int(count)


def test_pages_are_handed_out_once() -> None:
    """One round of six tensors is a twentieth of all pages; importing torch costs as many again."""
    kept, few = faults("keep")
    if not kept:
        pytest.skip("no glibc here")
    _, many = faults("leave")
    assert many - few > PAGES / 2


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
