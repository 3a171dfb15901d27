"""benchmarks/overhead.py measures what it says: the demonstration, and the calls that it makes."""

from __future__ import annotations

from typing import Any

import pytest

import pyro_vipaint as vp
from benchmarks import overhead


def test_the_demonstration_is_measured_with_its_own_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a quick one: both times are positive, and as many calls are made again as the demonstration made."""
    quick = {"levels": 1, "num_samples": 1, "steps": 1, "refine_steps": 1}
    run, calls = vp.inpaint, []

    def counted(*arguments: Any, **options: Any) -> vp.InpaintingResult:
        result = run(*arguments, **{**options, **quick})
        calls.append(result.calls)
        return result

    replay = overhead.RecordingDenoiser.replay

    def replayed(recorder: overhead.RecordingDenoiser) -> None:
        calls.append(len(recorder.calls))
        replay(recorder)

    monkeypatch.setattr("pyro_vipaint.restoration.inpaint", counted)
    monkeypatch.setattr(overhead.RecordingDenoiser, "replay", replayed)
    whole, bare = overhead.demo_seconds()
    assert whole > 0 and bare > 0
    assert len(calls) == 2 and calls[0] == calls[1]
