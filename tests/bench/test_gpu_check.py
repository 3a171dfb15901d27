"""benchmarks/gpu_check.py, tried on the CPU: the tests run, every work is timed in every precision, all is recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_check


@pytest.mark.slow
def test_the_check_of_a_gpu_is_tried_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "check.json"
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--device", "cpu", "--tiny", "--out", str(out)])
    assert gpu_check.main() == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["tests"]["passed"] > 40 and record["tests"]["failed"] == 0
    assert {(time["work"], time["precision"]) for time in record["times"]} == {
        (work, precision)
        for work in ("SVI step", "refinement step", "demonstration")
        for precision in gpu_check.PRECISIONS
    }
    assert all(time["seconds"] > 0 and time["network"] > 0 for time in record["times"])


def test_tests_that_do_not_run_are_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that writes no report, as after a crash of the driver, counts as a failure."""
    monkeypatch.setattr(gpu_check.subprocess, "run", lambda *_, **__: None)
    counts = gpu_check.run_tests("cpu", tiny=True)
    assert (counts["passed"], counts["failed"]) == (0, 1)
