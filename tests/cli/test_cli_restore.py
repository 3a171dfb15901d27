"""``vipaint restore``: one clear line for bad input, whole folders or none, reports that add up."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import pyro_vipaint as vp
from pyro_vipaint._files import read_image
from pyro_vipaint.cli.main import app
from pyro_vipaint.cli.restore import RELATIVE_STD, simulated
from tests.cli.conftest import QUICK, SIZE, WRITTEN, assert_refused


def restore(folder: Path, task: str, *options: object, image: str = "image.png") -> Any:
    """A quick run that writes to ``folder / "out"``, unless the options say otherwise."""
    arguments = (folder / image, "--task", task, "--out", folder / "out", "--prior", "tiny", *QUICK, *options)
    return CliRunner().invoke(app, ["restore", *(str(argument) for argument in arguments)])


def report_of(folder: Path, out: str = "out") -> dict[str, Any]:
    return json.loads((folder / out / "report.json").read_text(encoding="utf-8"))


# good runs

RUNS: list[tuple[str, tuple[object, ...], str, dict[str, Any]]] = [
    ("super-resolution", ("--factor", 2, "--mode", "bicubic"), "small.png", {"factor": 2, "mode": "bicubic"}),
    ("deblur", ("--std", 0.8), "image.png", {"std": 0.8}),
    ("motion-deblur", ("--length", 3, "--angle", 30), "image.png", {"length": 3, "angle": 30.0}),
    ("inpaint", ("--mask", "mask.png", "--invert-mask"), "image.png", {"invert_mask": True}),
]


@pytest.mark.parametrize(("task", "options", "image", "expected"), RUNS)
def test_a_damaged_picture(
    folder: Path, monkeypatch: pytest.MonkeyPatch, task: str, options: Sequence[object], image: str, expected: Any
) -> None:
    """The promised files, images of the prior's size, the picture as the observation, and the task in the report."""
    monkeypatch.chdir(folder)
    with vp.count_calls() as count:
        result = restore(folder, task, *options, image=image)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert set(os.listdir(folder / "out")) == WRITTEN
    tensors = load_file(folder / "out" / "samples.safetensors")
    assert tensors["samples"].shape == (2, 1, 1, SIZE, SIZE)
    seen = tensors.get("mask", torch.ones(1))
    assert torch.equal(tensors["observation"][0], read_image(folder / image, 1) * seen[0])
    assert ("mask" in tensors) == (task == "inpaint")
    assert task != "inpaint" or seen[0, 0, 0].tolist() == [0.0] * 4 + [1.0] * 4
    report = report_of(folder)
    assert report["task"] == task and report["simulated"] is False and report["noise"] is None
    assert {name: report[name] for name in expected} == expected
    assert report["network_calls"] == count.calls == 2 + 2  # K = 1 without a covariance


def test_the_report_measures_what_was_written(folder: Path) -> None:
    """The error is |y - A(x)|, the spread that of all pixels, and PSNR against the truth that was given."""
    options = ("--factor", 2, "--truth", folder / "image.png")
    assert restore(folder, "super-resolution", *options, image="small.png").exit_code == 0
    tensors = load_file(folder / "out" / "samples.safetensors")
    x, y = tensors["samples"], tensors["observation"]
    (entry,) = report_of(folder)["images"]
    assert entry.keys() == {"bound", "terms", "observed_error", "std", "psnr"}
    assert entry["observed_error"] == pytest.approx(float((vp.SuperResolution(2).A(x) - y).abs().mean()), rel=1e-5)
    assert entry["std"] == pytest.approx(float(x.std(0).mean()), rel=1e-5)
    error = (x - read_image(folder / "image.png", 1)).square().mean((-3, -2, -1))
    assert entry["psnr"] == pytest.approx(float((-10 * (error / 4).log10()).mean()), rel=1e-5)


@pytest.mark.parametrize("noise", [None, 0.0])
def test_simulate_damages_the_picture_and_compares_with_it(folder: Path, noise: float | None) -> None:
    """y = A(x) + noise, the paper's 0.05 if not given; the same in every run of a seed."""
    given = () if noise is None else ("--noise", noise)
    for out in ("a", "b"):
        result = restore(folder, "super-resolution", "--factor", 2, "--simulate", *given, "--out", folder / out)
        assert result.exit_code == 0, result.output
    first, second = (load_file(folder / out / "samples.safetensors") for out in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    expected = 0.05 if noise is None else noise
    difference = first["observation"][0] - vp.SuperResolution(2).A(read_image(folder / "image.png", 1))
    assert (float(difference.std()) > 0) == (expected > 0) and float(difference.std()) < 2 * expected + 1e-6
    assert report_of(folder, "a")["noise"] == expected
    assert report_of(folder, "a")["images"][0]["psnr"] > 0


def test_simulated_noise_has_its_size_and_its_seed() -> None:
    truth, operator = torch.zeros(1, 1, 128, 128), vp.GaussianBlur(1.0)
    y = simulated(truth, operator, 0.3, seed=1)
    assert abs(float(y.std()) - 0.3) < 5 * 0.3 / (2 * 128**2) ** 0.5
    assert torch.equal(y, simulated(truth, operator, 0.3, seed=1))
    assert not torch.equal(y, simulated(truth, operator, 0.3, seed=2))


@pytest.mark.parametrize("seed", [0, 2**64 - 1, -1])
def test_simulated_noise_is_not_what_a_run_of_its_seed_draws(seed: int) -> None:
    torch.manual_seed(seed)
    first = torch.randn(1, 1, 16, 16)
    y = simulated(torch.zeros(1, 1, 16, 16), vp.GaussianBlur(1.0), 1.0, seed)
    correlation = float((y * first).mean() / (y.std() * first.std()))
    assert abs(correlation) < 5 / 16  # five standard errors


def test_resize_takes_any_picture(folder: Path) -> None:
    result = restore(folder, "deblur", "--simulate", "--noise", 0, "--resize", image="large.png")
    assert result.exit_code == 0, result.output
    x = read_image(folder / "large.png", 1, (SIZE, SIZE))
    y = load_file(folder / "out" / "samples.safetensors")["observation"][0]
    torch.testing.assert_close(y, vp.GaussianBlur(RELATIVE_STD * SIZE).A(x))


def test_the_task_inpaint_equals_the_command_inpaint(folder: Path) -> None:
    """The same hole, seed and picture give the same samples as ``vipaint inpaint``."""
    assert restore(folder, "inpaint", "--mask", folder / "mask.png").exit_code == 0
    arguments = [folder / "image.png", "--mask", folder / "mask.png", "--out", folder / "b", "--prior", "tiny", *QUICK]
    assert CliRunner().invoke(app, ["inpaint", *map(str, arguments)]).exit_code == 0
    one, other = (load_file(folder / out / "samples.safetensors") for out in ("out", "b"))
    assert torch.equal(one["observation"], other["observation"])
    assert torch.equal(one["samples"], other["samples"])
    assert "hidden_std" in report_of(folder)["images"][0]


# bad input

BAD: list[tuple[str, tuple[object, ...], str]] = [
    ("sharpen", (), "There is no task 'sharpen': choose from super-resolution, deblur, motion-deblur, inpaint"),
    ("super-resolution", ("--simulate", "--factor", 3), "factor 3 of super-resolution does not divide a side of 8"),
    ("super-resolution", ("--std", 1), "--std does not go with the task super-resolution"),
    ("deblur", ("--invert-mask",), "--invert-mask does not go with the task deblur"),
    ("deblur", ("--noise", "nan"), "noise must be finite and not negative, not nan"),
    ("deblur", ("--resize",), "--resize needs --simulate"),
    ("deblur", ("--simulate", "--truth", "x.png"), "IMAGE itself is the truth"),
    ("deblur", ("--truth", "{folder}/small.png"), "The true image has shape (1, 4, 4)"),
    ("deblur", ("--simulate", "--seed", 2**70), "seed must be at most 18446744073709551615"),
    ("motion-deblur", (), "The task motion-deblur needs --length"),
    ("inpaint", ("--mask", "{folder}/black.png"), "The mask must hold 0"),
]


def test_refused_in_one_line(folder: Path) -> None:
    """One line on stderr, exit code 2, no network call, and nothing new in the folder."""
    for task, options, message in BAD:
        with vp.count_calls() as count:
            result = restore(folder, task, *(str(option).format(folder=folder) for option in options))
        assert_refused(result, folder, message)
        assert count.calls == 0
    for options, message in (((), "the operator makes (1, 8, 8)"), (("--simulate",), "resize it")):
        assert_refused(restore(folder, "deblur", *options, image="large.png"), folder, message)
