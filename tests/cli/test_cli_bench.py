"""``vipaint bench``: its lines for bad input, and that it loses nothing and repeats nothing when it is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from pyro_vipaint.cli.main import app

SMALL = ["--task", "box", "--task", "rotated-window", "--budget", "6", "--images", "2", "--samples", "1"]
SMALL += ["--chunk", "1"]
SMALL += ["--method", "DPS", "--method", "Blended", "--method", "VIPaint-2"]
SCORES = ["task", "method", "image", "lpips", "psnr", "ssim", "observation_error", "kernel_distance", "nfe"]


def command(out: Path, *options: str) -> list[str]:
    program = [sys.executable, "-m", "pyro_vipaint.cli.main", "bench"]
    return [*program, "--device", "cpu", "--out", str(out), *SMALL, *options]


def scores(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "results.parquet", columns=SCORES)


def cells(out: Path) -> dict[str, int]:
    """The finished cells and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(out, "--workers", "1"), check=True, capture_output=True)
    return out


@pytest.mark.slow
def test_the_report_is_written(undisturbed: Path) -> None:
    assert len(scores(undisturbed)) == 2 * 3 * 2
    assert "fashion32, 6 NFE per sample, 1 sample: LPIPS" in (undisturbed / "report.md").read_text()
    assert (undisturbed / "report.html").exists()


def kill_at_random(out: Path, options: list[str], times: int, chance: random.Random) -> int:
    """Starts the benchmark and kills it with SIGKILL, so often; how many cells are finished then.

    Half of the kills come after a further cell, so that the benchmark comes to an end, the others at any moment.
    """
    for number in range(times):
        before = cells(out) if out.exists() else {}
        process = subprocess.Popen(command(out, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while number % 2 and len(cells(out)) <= len(before) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 1 if number % 2 else 15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert before.items() <= cells(out).items(), "a finished cell was lost or written again"
    return len(cells(out))


ENGINES = {"one": ["--workers", "1"], "two": ["--workers", "2"], "ray": ["--engine", "ray", "--workers", "2"]}


@pytest.mark.slow
@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)
def test_killed_at_random_moments_it_ends_with_the_same_rows(
    options: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    """``KILLS`` times, by default 6; the seed of the moments is ``KILL_SEED``. The other run had one worker."""
    if "ray" in options:
        pytest.importorskip("ray")
    times, chance = int(os.environ.get("KILLS", "6")), random.Random(int(os.environ.get("KILL_SEED", "0")))
    survived = kill_at_random(tmp_path, options, times, chance)
    assert survived >= min(times // 2, 12)
    before = cells(tmp_path)
    ended = subprocess.run(command(tmp_path, *options), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    assert before.items() <= cells(tmp_path).items()
    pd.testing.assert_frame_equal(scores(tmp_path), scores(undisturbed))
    assert not [*tmp_path.glob(".*.part"), *tmp_path.glob("cells/.*.part"), *tmp_path.glob(".vipaint.new")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "colouring"], "There is no task 'colouring': choose from rotated-window"),
        (["--budget", "many"], "A budget that is not 'own' must be a whole number"),
        (["--prior", "nothing-like-it"], "nothing-like-it"),
        (["--engine", "steam"], "There is no engine 'steam': choose from local, ray."),
        (["--workers", "0"], "workers must be at least 1"),
        (["--threads", "100000000"], "threads must be at most 1024"),
        (["--seed", "9" * 18], "A seed of the benchmark must be at most"),
        (["--budget", "9" * 5000], "A budget that is not 'own' must be a whole number"),
        (["--images", "many"], "Invalid value for '--images'"),
        (["--pictures", "nowhere"], "nowhere is not a folder of pictures"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(options: list[str], message: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["bench", "--out", str(out), *options])
    assert result.exit_code == 2
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.slow
def test_failed_cells_are_reported_and_end_with_an_error(tmp_path: Path) -> None:
    """The budget is too small for VIPaint-4."""
    options = ["--method", "VIPaint-4", "--task", "box", "--budget", "1", "--images", "1", "--workers", "1"]
    result = CliRunner().invoke(app, ["bench", "--out", str(tmp_path), *options])
    assert result.exit_code == 1
    assert "The first failure: InputError: VIPaint-4 needs 5 NFE" in result.stderr
    assert (tmp_path / "report.md").exists()
    options[1:2], options[5:6] = ["Blended"], ["2"]
    again = CliRunner().invoke(app, ["bench", "--out", str(tmp_path), *options])
    assert again.exit_code == 0 and "of them failed" not in again.output, "that was another plan's cell"
