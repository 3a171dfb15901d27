"""The command line: one clear line for bad input, whole folders or none, reports that add up."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

import pyro_vipaint as vp
from pyro_vipaint._files import read_image, read_mask
from pyro_vipaint._torch import dtype_name
from pyro_vipaint.cli.main import app
from pyro_vipaint.demo import DEMOS, demo_problem, held_out_images
from pyro_vipaint.metrics import seam
from pyro_vipaint.models import load_prior
from pyro_vipaint.models.measurements.masks import rotated_window
from pyro_vipaint.settings import PRESETS
from tests.cli.conftest import PICTURES, QUICK, SIZE, WRITTEN, assert_refused, load_tiny
from tests.pictures import half, save

LEVELS, SAMPLES, STEPS, REFINE_STEPS = 2, 2, 2, 2  # those of QUICK


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def inpaint(folder: Path, *options: object, image: str = "image.png", mask: str = "mask.png") -> Any:
    """A quick run with the prior ``tiny`` that writes to ``folder / "out"``, unless the options say otherwise."""
    arguments = [folder / image, "--mask", folder / mask, "--out", folder / "out", "--prior", "tiny", *QUICK]
    return invoke("inpaint", *arguments, *options)


def samples(folder: Path, out: str = "out") -> Tensor:
    return load_file(folder / out / "samples.safetensors")["samples"]


# bad input


def test_bad_input_is_one_line(folder: Path) -> None:
    """Exit code 2, no network call, and nothing new: of the command itself, the library, and the files."""
    refusals: list[tuple[Sequence[object], str]] = [
        (("--samples", 0), "samples must be at least 1, not 0"),
        (("--label", 2), "whole number from 0 to 1"),
        (("--label", "dogg"), "There is no class 'dogg': choose from cat, dog. The nearest is dog."),
        (("--label", "9" * 5000), "There is no class '999"),
        (("--label", "cat", "--prior", "plain"), "The prior plain has no classes: omit the label."),
        (
            ("--preset", "picture"),
            "There is no preset 'picture': choose from inference, pictures. The nearest is pictures.",
        ),
        (("--samples", "ten"), "Invalid value for '--samples': "),
        (("--sample", 10), "No such option: --sample"),
        (("--seed", 2**70), "seed must be at most 18446744073709551615"),
        (("--device", "abacus"), "Device 'abacus' is not available here"),
        (("--prior", "no-such-prior"), "Unknown prior 'no-such-prior'"),
        (("--mask", folder / "no.png"), "no.png does not exist"),
        (("--truth", __file__), "cannot be read as a picture"),
        (("--out", folder / "image.png"), "cannot be written"),
        (("--out", folder), "lies in the folder of the results"),
    ]
    for options, message in refusals:
        with vp.count_calls() as count:
            assert_refused(inpaint(folder, *options), folder, message)
        assert count.calls == 0
    assert_refused(invoke("demo", "--prior", "tiny"), folder, "There is no demonstration of the prior 'tiny'")
    assert_refused(invoke("demo", "--out", folder), folder, "which no .vipaint.json of such results lists")


def test_pictures_of_another_size(folder: Path) -> None:
    """The line names the option that resizes them; a truth is compared with the picture before the run."""
    assert_refused(inpaint(folder, mask="image.png"), folder, "image.png has grey areas, as a photograph has")
    for named in ({"image": "large.png"}, {"mask": "black.png", "image": "large.png"}):
        assert_refused(inpaint(folder, **named), folder, "resize it (command line: --resize)")
    with vp.count_calls() as count:
        assert_refused(inpaint(folder, "--truth", folder / "large.png"), folder, "true image has shape (1, 16, 16)")
    assert count.calls == 0


def test_a_fit_that_breaks(folder: Path) -> None:
    """A fit that leaves the numbers is not bad input: one line, exit code 1, nothing written."""
    result = inpaint(folder, "--beta", "1e38", "--steps", 3, "--preset", "pictures")
    assert_refused(result, folder, "non-finite at step", exit_code=1)


def test_names_are_printed_as_they_are(folder: Path) -> None:
    """Brackets in a file name are no markup, and a line break in it makes no second line."""
    result = inpaint(folder, image="[bold]shoe[/nonsense]\nsecond.png")
    assert_refused(result, folder, "[bold]shoe[/nonsense] second.png does not exist")


def run_process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyro_vipaint.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


@pytest.mark.slow
def test_one_line_on_a_narrow_terminal(folder: Path) -> None:
    """The error of a real process is one line on a terminal of 40 columns."""
    out = folder / ("a-very-long-name-" * 5)
    out.touch()
    result = run_process("inpaint", "i.png", "--mask", "m.png", "--out", out, COLUMNS="40")
    assert result.returncode == 2
    assert result.stderr == f"Error: {out} cannot be written (Not a directory): name another folder with --out.\n"
    assert result.stdout == ""


@pytest.mark.slow
def test_a_real_process_is_quiet(folder: Path) -> None:
    """A good run of a real process with the shipped prior writes its files, and not a word to stderr.

    Two halves are no piece of clothing: without ``--no-check`` one line says so.
    """
    for name in ("image", "mask"):
        save(folder / f"{name}.png", np.kron(half(), np.ones((4, 4), dtype=np.uint8)))
    pictures = ("inpaint", folder / "image.png", "--mask", folder / "mask.png")
    told = run_process(*pictures, "--out", folder / "out", *QUICK)
    assert told.stderr.count("\n") == 1 and "was not made for pictures like this one" in told.stderr
    result = run_process(*pictures, "--no-check", "--out", folder / "out", "--truth", folder / "image.png", *QUICK)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert set(os.listdir(folder / "out")) == WRITTEN


@pytest.mark.slow
def test_a_closed_output_does_not_end_the_run(folder: Path) -> None:
    """As with ``| head``: whatever becomes of the lines, the files are written."""
    for name in ("image", "mask"):
        save(folder / f"{name}.png", np.kron(half(), np.ones((4, 4), dtype=np.uint8)))
    pictures = [str(folder / "image.png"), "--mask", str(folder / "mask.png"), "--out", str(folder / "out")]
    command = [sys.executable, "-m", "pyro_vipaint.cli.main", "inpaint", *pictures, *QUICK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        lines = process.stderr.read().splitlines()
        assert [line for line in lines if not line.startswith(b"Warning: ")] == []  # the picture is unfamiliar
    assert process.returncode == 0 and set(os.listdir(folder / "out")) == WRITTEN


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_its_code(folder: Path, number: signal.Signals) -> None:
    """130 for SIGINT; SIGTERM ends the process itself, which shells report as 143. No traceback, nothing written."""
    command = ["demo", "--prior", "cats64", "--out", str(folder / "out"), "--device", "cpu"]
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += f"from pyro_vipaint.cli.main import app; print('ready', flush=True); app({command})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(5)
        process.send_signal(number)
        lines = process.stderr.read().splitlines()
        assert [line for line in lines if not line.startswith(b"Warning: ")] == []  # the picture is unfamiliar
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM)
    assert set(os.listdir(folder)) == PICTURES


@pytest.mark.slow
def test_help_needs_no_diffusers() -> None:
    """``--help`` loads neither diffusers nor LPIPS nor pandas."""
    code = (
        "import sys; from typer.testing import CliRunner; from pyro_vipaint.cli.main import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "print(*{'diffusers', 'lpips', 'torchvision', 'pandas'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


# a good run


@pytest.fixture(scope="module")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, int]:
    """A quick run of the shipped prior with a truth: its output folder, its output, the network calls counted."""
    folder = tmp_path_factory.mktemp("good")
    truth = held_out_images()[0][0]
    mask = rotated_window(32, seed=1)[0]
    damaged = torch.where(mask != 0, truth, 0.0)
    for name, pixels in {"truth": truth, "image": damaged, "mask": 2 * mask - 1}.items():
        save(folder / f"{name}.png", ((pixels[0] + 1) * 127.5).round().byte().numpy())
    arguments = [folder / "image.png", "--mask", folder / "mask.png", "--truth", folder / "truth.png"]
    with vp.count_calls() as count:
        result = invoke(
            "inpaint", *arguments, "--out", folder / "a" / "out", "--label", "ankle Boot", "--seed", 3, *QUICK
        )
    assert result.exit_code == 0, result.output
    return folder / "a" / "out", result, count.calls


@pytest.fixture(scope="module")
def report(good_run: tuple[Path, Any, int]) -> dict[str, Any]:
    """The report, read by a parser that knows no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((good_run[0] / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)


def test_exactly_these_files(good_run: tuple[Path, Any, int]) -> None:
    """The folder holds the promised files and nothing else, and neither does the one around it."""
    out, _, _ = good_run
    assert set(os.listdir(out)) == WRITTEN
    assert os.listdir(out.parent) == ["out"]


def test_pictures_equal_the_tensors(good_run: tuple[Path, Any, int]) -> None:
    """Each PNG is its sample, rounded to bytes; observation and mask are those of the files."""
    out, _, _ = good_run
    tensors = load_file(out / "samples.safetensors")
    assert tensors["samples"].shape == (2, 1, 1, 32, 32)
    for s in range(SAMPLES):
        picture = np.asarray(Image.open(out / f"sample_{s:02d}.png").convert("L"), dtype=np.float32)
        np.testing.assert_allclose(picture, (tensors["samples"][s, 0, 0].numpy() + 1) * 127.5, atol=0.501)
    mask = read_mask(out.parents[1] / "mask.png")
    assert torch.equal(tensors["mask"][0], mask)
    assert torch.equal(tensors["observation"][0], read_image(out.parents[1] / "image.png", 1) * mask)
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > 500


def test_report_says_how(report: dict[str, Any], good_run: tuple[Path, Any, int]) -> None:
    """Prior, label, seed, settings and versions are in the report: enough to run it again."""
    assert (report["prior"], report["labels"], report["seed"]) == ("fashion32", [9], 3)
    assert report["num_samples"] == SAMPLES
    assert {"python", "pyro-vipaint", "torch", "pyro-ppl", "diffusers"} <= report["versions"].keys()
    settings = report["settings"]
    numbers = (settings["steps"], settings["refine_steps"], 1 + len(settings["noise_levels"]))
    assert numbers == (STEPS, REFINE_STEPS, LEVELS) and report["preset"] == "inference"
    assert settings["beta"] == 1 and settings["sigma"] > 0 and set(settings["lr"]) == {"tau", "other"}
    assert settings["twist"].startswith("Wiener(") and "MMPS(iterations=2)" in settings["correction"]
    assert report["network_calls"] == STEPS * LEVELS + (LEVELS - 1) + REFINE_STEPS
    assert good_run[2] == report["network_calls"] + 1  # the check of the picture
    assert report["nfe"] >= report["network_calls"]
    assert report["seconds"] > 0


def test_report_measures_what_was_written(report: dict[str, Any], good_run: tuple[Path, Any, int]) -> None:
    """The bound is minus the sum of its terms; errors and PSNR are those of the tensors in the folder."""
    (image,) = report["images"]
    assert image["terms"].keys() == {"z_2", "z_1", "y"}
    assert image["bound"] == pytest.approx(-sum(image["terms"].values()), rel=1e-5)
    tensors = load_file(good_run[0] / "samples.safetensors")
    x, y, mask = tensors["samples"], tensors["observation"], tensors["mask"]
    error = ((x - y).abs() * mask).sum((1, 2, 3, 4)) / mask.sum()
    assert image["observed_error"] == pytest.approx(float(error.mean()), rel=1e-4)
    truth = read_image(good_run[0].parents[1] / "truth.png", 1)
    decibels = [-10 * math.log10(float((sample - truth).square().mean()) / 4) for sample in x]
    assert image["psnr"] == pytest.approx(sum(decibels) / len(decibels), rel=1e-4)
    assert 0 < image["lpips"] < 2
    assert image["hidden_std"] >= 0


def test_the_terminal_shows_progress_and_table(good_run: tuple[Path, Any, int]) -> None:
    """Both phases and the table are on stdout; stderr is empty."""
    out, result, _ = good_run
    for text in ("fitting the posterior", "bound on log p(y)", "refining the samples", "bound", "lpips", str(out)):
        assert text in result.stdout
    assert result.stderr == ""


def test_the_report_of_a_plain_run(folder: Path) -> None:
    """Without a truth no LPIPS and PSNR, without a second sample no diversity; the precision of the networks."""
    assert inpaint(folder, "--samples", 1).exit_code == 0
    report = json.loads((folder / "out" / "report.json").read_text())
    (image,) = report["images"]
    assert image.keys() == {"bound", "terms", "observed_error", "seam"}
    assert (report["labels"], report["dtype"]) == (None, "float32")
    assert dtype_name(load_prior("fashion32", dtype=torch.bfloat16)) == "bfloat16"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_preset_reaches_the_run(folder: Path, preset: str) -> None:
    """The first is the default: the same samples."""
    assert inpaint(folder, *(("--preset", preset) if preset == "pictures" else ())).exit_code == 0
    report, image, mask = (
        json.loads((folder / "out" / "report.json").read_text()),
        folder / "image.png",
        read_mask(folder / "mask.png"),
    )
    numbers: dict[str, Any] = {"levels": 2, "num_samples": 2, "steps": 2, "refine_steps": 2, "seed": 0, "device": "cpu"}
    expected = vp.inpaint(read_image(image, 1), mask, load_tiny("tiny"), preset=preset, **numbers)
    assert torch.equal(samples(folder), expected.samples)
    assert report["preset"] == preset and report["settings"]["correction"] == (
        None if preset == "pictures" else "MMPS(iterations=2)"
    )


def test_invert_mask(folder: Path) -> None:
    """``--invert-mask`` equals the inverted mask file."""
    save(folder / "inverse.png", 255 - half())
    assert inpaint(folder, "--out", folder / "a").exit_code == 0
    assert inpaint(folder, "--invert-mask", "--out", folder / "b", mask="inverse.png").exit_code == 0
    assert torch.equal(samples(folder, "a"), samples(folder, "b"))


@pytest.mark.parametrize("options", [["--half"], ["--checkpointing"]])
def test_precision_and_checkpointing_reach_the_networks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """bfloat16 where the device has it, which a CPU has not."""
    made: list[dict[str, Any]] = []
    tiny = load_tiny("tiny")
    monkeypatch.setattr("pyro_vipaint.checks.load_prior", lambda *_, **named: made.append(named) or tiny)
    assert inpaint(folder, *options).exit_code == 0
    monkeypatch.setattr("pyro_vipaint.checks.half_precision", lambda device: torch.bfloat16)
    assert inpaint(folder, *options).exit_code == 0
    wanted = torch.bfloat16 if "--half" in options else torch.float32
    assert [named["dtype"] for named in made] == [torch.float32, wanted]
    assert all(named["checkpointing"] == ("--checkpointing" in options) for named in made)


def test_priors_lists_what_ships() -> None:
    """``vipaint priors`` names fashion32, its shape and its classes."""
    result = invoke("priors")
    assert result.exit_code == 0
    assert all(text in result.stdout for text in ("fashion32", "1×32×32", "0 T-shirt/top"))


@pytest.mark.parametrize("prior", DEMOS)
def test_a_demo_has_a_picture_for_each_image_and_sample(
    prior: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several images the file of each sample names both; the report has one entry per image."""
    images, masks, labels = demo_problem(prior)
    assert len(images) == len(masks) == 4
    run = vp.inpaint
    monkeypatch.setattr(
        "pyro_vipaint.restoration.inpaint",
        lambda *args, **options: run(
            *args, **{**options, "levels": 1, "num_samples": 1, "steps": 1, "refine_steps": 1}
        ),
    )
    result = invoke("demo", "--prior", prior, "--out", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 0, result.output
    pictures = {f"image_{n:02d}_sample_00.png" for n in range(len(images))}
    assert set(os.listdir(tmp_path / "out")) == pictures | WRITTEN - {"sample_00.png", "sample_01.png"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["images"]) == len(images)
    assert report["labels"] == (None if labels is None else labels.tolist())


@pytest.mark.slow
def test_the_demo_of_cats_takes_no_more_than_three_minutes(tmp_path: Path) -> None:
    """The whole of it, as it is called, on two cores (36 s alone on AMD EPYC): four cats, ten completions each."""
    begun = time.perf_counter()
    result = invoke("demo", "--prior", "cats64", "--out", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert time.perf_counter() - begun < 180
    assert len(list((tmp_path / "out").glob("image_*_sample_*.png"))) == 4 * 10


# the folder: whole or not at all


def test_an_existing_folder(folder: Path) -> None:
    """Files of an earlier run are replaced, its surplus samples are removed, and other files stay."""
    assert inpaint(folder, "--samples", 3).exit_code == 0
    before = (folder / "out" / "report.json").read_bytes()
    (folder / "out" / "notes.txt").write_text("mine")
    (folder / "out" / "plan.png").write_text("mine too")
    assert inpaint(folder).exit_code == 0
    assert set(os.listdir(folder / "out")) == WRITTEN | {"notes.txt", "plan.png"}
    assert (folder / "out" / "notes.txt").read_text() == "mine"
    assert (folder / "out" / "report.json").read_bytes() != before
    assert set(os.listdir(folder)) == PICTURES | {"out"}


def interrupt(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def no_space(*arguments: Any, **options: Any) -> None:
    raise OSError(28, "No space left on device")


PLACES = {
    "refine": "pyro_vipaint.results.approximation.refine",
    "sheet": "matplotlib.figure.Figure.savefig",
    "report": "pyro_vipaint.cli.output._plain",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_an_interrupted_run_leaves_everything_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Nothing new without a folder, and nothing changed in one with earlier results."""
    (folder / "old").mkdir()
    (folder / "old" / "report.json").write_text("old")
    monkeypatch.setattr(place, interrupt)
    for options in (("--out", folder / "out"), ("--out", folder / "old", "--overwrite")):
        assert inpaint(folder, *options).exit_code == 130
    assert set(os.listdir(folder)) == PICTURES | {"old"}
    assert os.listdir(folder / "old") == ["report.json"]
    assert (folder / "old" / "report.json").read_text() == "old"


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while writing is one line with exit code 1."""
    monkeypatch.setattr(PLACES["sheet"], no_space)
    result = inpaint(folder)
    assert_refused(result, folder, "No space left on device", exit_code=1)


def test_a_fault_of_the_program_is_one_line_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the exception, its place, and how to see more; the environment variable shows the traceback."""

    def broken(*arguments: Any, **options: Any) -> None:
        raise LookupError("[red]no\nluck")

    monkeypatch.setattr(PLACES["refine"], broken)
    wanted = "LookupError in test_cli.py:"
    assert_refused(inpaint(folder), folder, wanted, exit_code=1)
    assert "[red]no luck. This is a fault of vipaint; VIPAINT_TRACEBACK=1" in inpaint(folder).stderr
    monkeypatch.setenv("VIPAINT_TRACEBACK", "1")
    assert isinstance(inpaint(folder).exception, LookupError)


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PLACES["refine"], lambda *_, **__: warnings.warn("two\nlines", stacklevel=1) or no_space())
    assert inpaint(folder).stderr.splitlines()[0] == "Warning: two lines"


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: Any, **options: Any) -> None:
        raise ModuleNotFoundError("No module named 'transformers'")

    monkeypatch.setattr(PLACES["refine"], missing)
    assert_refused(inpaint(folder), folder, "No module named 'transformers': install the package.")


@pytest.mark.parametrize("message", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory"])
def test_no_memory_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    def no_memory(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError(message) if "CUDA" in message else RuntimeError(message)

    monkeypatch.setattr(PLACES["refine"], no_memory)
    result = inpaint(folder)
    assert_refused(result, folder, "Not enough memory: ask for fewer --samples", exit_code=1)


def test_results_can_be_read_by_others(folder: Path) -> None:
    """Every file has the mode that the user's mask leaves."""
    before = os.umask(0o022)
    try:
        assert inpaint(folder).exit_code == 0
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (folder / "out").iterdir()} == {0o644}


# pictures


def test_resize(folder: Path) -> None:
    """``--resize`` fits a 64×48 RGB picture and masks of any size to the prior's."""
    colours = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    save(folder / "large.png", colours)
    save(folder / "large-mask.png", half().repeat(3, 0).repeat(5, 1))
    options = ("--resize", "--grey", "--truth", folder / "large.png")
    result = inpaint(folder, *options, image="large.png", mask="large-mask.png")
    assert result.exit_code == 0, result.output
    tensors = load_file(folder / "out" / "samples.safetensors")
    assert tensors["samples"].shape == (2, 1, 1, SIZE, SIZE)
    assert torch.equal(tensors["mask"][0], read_mask(folder / "mask.png"))


def test_a_grey_mask_is_noise_when_told_so(folder: Path) -> None:
    """The samples are those of the library with the floats of the mask; without the option it is refused."""
    grey = half()
    grey[:, 4:] = np.linspace(0, 160, 4)
    save(folder / "grey.png", grey)
    result = inpaint(folder, mask="grey.png")
    assert result.exit_code == 2 and "let grey mean noise with vipaint inpaint --soft-mask" in result.stderr
    assert inpaint(folder, "--soft-mask", mask="grey.png").exit_code == 0
    weights = read_mask(folder / "grey.png", soft=True)
    assert weights[0, 0].tolist() == pytest.approx([1] * 4 + [0, 53 / 255, 106 / 255, 160 / 255], abs=1e-6)
    prior = load_tiny("tiny")
    expected = vp.inpaint(
        read_image(folder / "image.png", 1), weights, prior, 2, 2, steps=2, refine_steps=2, seed=0, device="cpu"
    )
    assert torch.equal(samples(folder), expected.samples)
    assert json.loads((folder / "out" / "report.json").read_text())["soft_mask"] is True


def test_a_soft_mask_keeps_its_mean_and_its_sides(folder: Path) -> None:
    """Resized, a weight is the mean of those it covers; inverted, one minus it; almost black and white are both."""
    save(folder / "grey.png", np.array([[0, 255, 5, 250], [100, 200, 0, 0]], dtype=np.uint8))
    weights = read_mask(folder / "grey.png", soft=True)
    assert weights[0, 0].tolist() == [0, 1, 0, 1]
    assert torch.equal(read_mask(folder / "grey.png", True, soft=True), 1 - weights)
    small = read_mask(folder / "grey.png", size=(1, 2), soft=True)
    torch.testing.assert_close(small, weights.reshape(1, 2, 2, 2).mean((1, 3))[None])


def test_colour_is_refused_or_made_grey_when_told_so(folder: Path) -> None:
    """A picture in colour whose channels are equal is grey; bench, which says so, takes both."""
    red = np.stack([half(), 0 * half(), 0 * half()], -1)
    save(folder / "red.png", red)
    save(folder / "equal.png", np.stack([half()] * 3, -1))
    save(folder / "black.png", half())
    result = inpaint(folder, image="red.png")
    assert result.exit_code == 2 and "red.png is in colour, the prior is grey: --grey makes it grey." in result.stderr
    assert not (folder / "out").exists()
    assert inpaint(folder, "--grey", image="red.png").exit_code == 0
    assert torch.equal(read_image(folder / "equal.png", 1, grey=False), read_image(folder / "black.png", 1))
    with pytest.raises(vp.InputError, match=r"black.png is grey, the prior is in colour: --grey gives it three equal"):
        read_image(folder / "black.png", 3, grey=False)
    assert torch.equal(read_image(folder / "black.png", 3), read_image(folder / "equal.png", 3, grey=False))


def test_composites_and_their_seams(folder: Path) -> None:
    """Observed pixels are the picture's, the report has the seam before and after."""
    assert inpaint(folder).exit_code == 0
    plain, before = samples(folder), json.loads((folder / "out" / "report.json").read_text())
    assert inpaint(folder, "--composite").exit_code == 0
    pasted, after = samples(folder), json.loads((folder / "out" / "report.json").read_text())
    weights, picture = read_mask(folder / "mask.png"), read_image(folder / "image.png", 1)
    torch.testing.assert_close(pasted, torch.where(weights > 0, picture, plain))
    (first,), (second,) = before["images"], after["images"]
    assert first["seam"] == pytest.approx(float(seam(plain, weights).mean()))
    assert second["seam"] == pytest.approx(float(seam(pasted, weights).mean()))
    assert second["seam_uncomposited"] == first["seam"] and "seam_uncomposited" not in first


def test_check_prior(folder: Path) -> None:
    """A table and a verdict; exit code 1 where the prior does not fit, 2 where there are no pictures."""
    pictures = folder / "pictures"
    pictures.mkdir()
    empty = invoke("check-prior", pictures, "--prior", "tiny")
    assert empty.exit_code == 2 and "holds no pictures" in empty.stderr
    values = np.random.default_rng(0).normal(127.5, 64, (8, 8, 8)).clip(0, 255).astype(np.uint8)
    for number, pixels in enumerate(values):
        save(pictures / f"{number}.png", pixels)
    result = invoke("check-prior", pictures, "--prior", "tiny", "--device", "cpu")
    assert result.exit_code == 0 and "tiny fits these 8 pictures" in result.stdout, result.output
    for number, pixels in enumerate(values):
        save(pictures / f"{number}.png", 128 + pixels // 2)
    result = invoke("check-prior", pictures, "--prior", "tiny", "--device", "cpu")
    assert result.exit_code == 1 and "the pictures are on [0, 1]" in result.stdout, result.output
    assert invoke("check-prior", folder / "image.png").exit_code == 2
