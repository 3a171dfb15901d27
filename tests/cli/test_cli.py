"""The command line: one clear line for bad input, whole folders or none, reports that add up."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from pyro_vipaint._files import check_out, read_image, read_mask, whole_folder
from pyro_vipaint._torch import dtype_name
from pyro_vipaint.cli.main import app
from pyro_vipaint.demo import held_out_images, problem_for
from pyro_vipaint.models import DiffusionPrior, GaussianPrior, load_prior
from pyro_vipaint.models.measurements.masks import rotated_window
from pyro_vipaint.models.pretrained.load import weights_folder

SIZE = 8
LEVELS, SAMPLES, STEPS, REFINE_STEPS = 2, 2, 2, 2
QUICK = ("--levels", "2", "--samples", "2", "--steps", "2", "--refine-steps", "2", "--device", "cpu")
WRITTEN = {"contact_sheet.png", "report.json", "sample_00.png", "sample_01.png", "samples.safetensors"}


def tiny_prior(name: str, classes: tuple[str, ...]) -> DiffusionPrior:
    """Independent grey pixels on 8×8."""
    gaussian = GaussianPrior.diagonal(torch.zeros(1, SIZE, SIZE), torch.full((1, SIZE, SIZE), 0.5))
    return replace(gaussian.diffusion(), name=name, class_names=classes)


@pytest.fixture(autouse=True)
def tiny_priors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the names ``tiny``, with two classes, and ``plain``, with none."""
    priors = {"tiny": tiny_prior("tiny", ("cat", "dog")), "plain": tiny_prior("plain", ())}
    monkeypatch.setattr(
        "pyro_vipaint.checks.load_prior", lambda name, device, **options: priors.get(name) or load_prior(name)
    )


def ramp() -> np.ndarray:
    """Bytes ``(8, 8)``."""
    return np.linspace(20, 230, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint8)


def half() -> np.ndarray:
    """The left half is white."""
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    mask[:, : SIZE // 2] = 255
    return mask


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``image.png`` and ``mask.png`` for the tiny priors."""
    save(tmp_path / "image.png", ramp())
    save(tmp_path / "mask.png", half())
    return tmp_path


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def inpaint(folder: Path, *options: object, image: str = "image.png", mask: str = "mask.png") -> Any:
    """A quick run with the prior ``tiny`` that writes to ``folder / "out"``, unless the options say otherwise."""
    arguments = [folder / image, "--mask", folder / mask, "--out", folder / "out", "--prior", "tiny", *QUICK]
    return invoke("inpaint", *arguments, *options)


def samples(folder: Path, out: str = "out") -> Tensor:
    return load_file(folder / out / "samples.safetensors")["samples"]


def assert_refused(result: Any, folder: Path, before: set[str], message: str, exit_code: int = 2) -> None:
    """One line on stderr, the exit code, and nothing new in the folder."""
    assert result.exit_code == exit_code, result.output
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert set(os.listdir(folder)) == before


# bad input

BAD_OPTIONS: list[tuple[Sequence[object], str]] = [
    (("--samples", 0), "samples must be at least 1, not 0"),
    (("--samples", -3), "samples must be at least 1, not -3"),
    (("--levels", 0), "levels must be at least 1, not 0"),
    (("--levels", 1000), "levels must be between 1 and 100, not 1000"),
    (("--steps", 0), "steps must be at least 1, not 0"),
    (("--refine-steps", 0), "refine-steps must be at least 1, not 0"),
    (("--beta", 0), "beta must be positive and finite, not 0"),
    (("--beta", -1), "beta must be positive and finite, not -1"),
    (("--beta", "nan"), "beta must be positive and finite, not nan"),
    (("--beta", "inf"), "beta must be positive and finite, not inf"),
    (("--label", 2), "Label 2 is out of range: the prior has classes 0 to 1"),
    (("--label", -1), "Label -1 is out of range: the prior has classes 0 to 1"),
    (("--prior", "plain", "--label", 0), "The prior plain has no classes"),
    (("--prompt", "a cat"), "The prior tiny takes no text"),
    (("--guidance-scale", 3), "there is nothing to guide by"),
    (("--label", 0, "--guidance-scale", 3), "The prior tiny has no null condition to weigh class_labels against"),
    (("--label", 0, "--guidance-scale", "nan"), "guidance-scale must be finite and not negative, not nan"),
    (("--label", 0, "--guidance-scale", -1), "guidance-scale must be finite and not negative, not -1"),
    (("--prior", "no-such-prior"), "Unknown prior 'no-such-prior'"),
    (("--prior", "no/such/prior"), "Unknown prior 'no/such/prior'"),
    (("--device", "abacus"), "Device 'abacus' is not available here"),
    (("--device", "cuda:99"), "Device 'cuda:99' is not available here"),
    (("--device", "meta"), "Device 'meta' holds no numbers"),
    (("--seed", 2**70), "seed must fit into 64 bits"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=[message for _, message in BAD_OPTIONS])
def test_bad_options(folder: Path, options: Sequence[object], message: str) -> None:
    """An option that cannot be used gets one line and exit code 2, and leaves nothing."""
    before = set(os.listdir(folder))
    assert_refused(inpaint(folder, *options), folder, before, message)


def float_tiff(path: Path, row: int, column: int, value: float) -> None:
    """A picture on [0, 1] with one pixel set to ``value``; columns 0 to 3 are observed."""
    pixels = ramp().astype(np.float32) / 255
    pixels[row, column] = value
    save(path, pixels)


def truncated_png(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    content = save(path, noise).read_bytes()
    path.write_bytes(content[: len(content) // 2])


BAD_IMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "another size": ("x.png", lambda path: save(path, np.zeros((10, 12), np.uint8)), "12×10, the prior wants 8×8"),
    "a text": ("x.png", lambda path: path.write_text("not a picture"), "is not a picture that can be read"),
    "an empty file": ("x.png", lambda path: path.touch(), "is not a picture that can be read"),
    "truncated": ("x.png", truncated_png, "is not a picture that can be read"),
    "a directory": ("x.png", lambda path: path.mkdir(), "is not a picture that can be read"),
    "missing": ("x.png", lambda path: None, "does not exist"),
    "NaN": ("x.tiff", lambda path: float_tiff(path, 3, 2, math.nan), "NaN or infinite"),
    "infinite": ("x.tiff", lambda path: float_tiff(path, 3, 2, math.inf), "NaN or infinite"),
    "below zero": ("x.tiff", lambda path: float_tiff(path, 3, 2, -0.5), "has pixels from -0.5 to"),
    "too large": ("x.tiff", lambda path: float_tiff(path, 3, 2, 1e6), "has pixels from 0 to 1e+06"),
}


@pytest.mark.parametrize(("name", "make", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_bad_images(folder: Path, name: str, make: Callable[[Path], object], message: str) -> None:
    """What is not a picture of the prior's size with numbers for pixels gets one line that says so."""
    make(folder / name)
    before = set(os.listdir(folder))
    result = inpaint(folder, image=name)
    assert_refused(result, folder, before, message)
    assert ("--resize" in result.stderr) == ("wants" in message)


BAD_MASKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another size": (lambda path: save(path, np.eye(10, dtype=np.uint8) * 255), "10×10, the prior wants 8×8"),
    "all observed": (lambda path: save(path, np.full((8, 8), 255, np.uint8)), "marks every pixel as observed"),
    "all ones": (lambda path: save(path, np.ones((8, 8), np.uint8)), "marks every pixel as observed"),
    "all hidden": (lambda path: save(path, np.zeros((8, 8), np.uint8)), "hides every pixel"),
    "a text": (lambda path: path.write_text("not a picture"), "is not a picture that can be read"),
    "truncated": (truncated_png, "is not a picture that can be read"),
    "a directory": (lambda path: path.mkdir(), "is not a picture that can be read"),
    "missing": (lambda path: None, "does not exist"),
}


@pytest.mark.parametrize(("make", "message"), BAD_MASKS.values(), ids=BAD_MASKS.keys())
def test_bad_masks(folder: Path, make: Callable[[Path], object], message: str) -> None:
    """What is not a mask of the prior's size with both values gets one line that says so."""
    make(folder / "bad.png")
    before = set(os.listdir(folder))
    result = inpaint(folder, mask="bad.png")
    assert_refused(result, folder, before, message)
    assert ("--resize" in result.stderr) == ("wants" in message)


def test_a_truth_of_another_size(folder: Path) -> None:
    """A true picture that does not fit the damaged one is refused before the run."""
    save(folder / "truth.png", np.zeros((9, 7), dtype=np.uint8))
    before = set(os.listdir(folder))
    with vp.count_calls() as count:
        assert_refused(inpaint(folder, "--truth", folder / "truth.png"), folder, before, "true image is 7×9")
    assert count.calls == 0


@pytest.mark.parametrize("out", ["image.png", "image.png/out", "image.png/a/b"])
def test_out_that_cannot_be_a_folder(folder: Path, out: str) -> None:
    """An output path that is a file, or lies below one, is refused before the run."""
    before = set(os.listdir(folder))
    with vp.count_calls() as count:
        assert_refused(inpaint(folder, "--out", folder / out), folder, before, "image.png")
    assert count.calls == 0
    assert (folder / "image.png").read_bytes()[:4] == b"\x89PNG"


def test_demo_refuses_an_out_that_is_a_file(folder: Path) -> None:
    """The demonstration, too, checks its folder first."""
    result = invoke("demo", "--out", folder / "image.png")
    assert_refused(result, folder, {"image.png", "mask.png"}, "is a file: name a folder with --out")


def test_only_a_pickle(folder: Path) -> None:
    """A prior whose weights are a pickle is refused without opening it."""
    prior = folder / "pickled"
    prior.mkdir()
    (prior / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    (prior / "diffusion_pytorch_model.bin").write_bytes(b"not even a pickle")
    result = inpaint(folder, "--prior", prior)
    assert_refused(result, folder, {"image.png", "mask.png", "pickled"}, "a pickle, which is not opened")
    assert "safetensors" in result.stderr


def cut_weights(prior: Path) -> None:
    weights = prior / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def change_config(prior: Path, **changes: Any) -> None:
    config = prior / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))


BROKEN_PRIORS: dict[str, Callable[[Path], object]] = {
    "cut weights": cut_weights,
    "weights of another network": lambda prior: change_config(prior, block_out_channels=[16, 48, 96, 160]),
    "no image size": lambda prior: change_config(prior, sample_size=None),
    "another model": lambda prior: change_config(prior, _class_name="AutoencoderKL"),
    "no JSON": lambda prior: (prior / "prior.json").write_text("{"),
    "no scheduler": lambda prior: shutil.rmtree(prior / "scheduler"),
    "no such scheduler": lambda prior: (prior / "scheduler" / "scheduler_config.json").write_text(
        '{"_class_name": "NoScheduler"}'
    ),
}


@pytest.mark.parametrize("damage", BROKEN_PRIORS.values(), ids=BROKEN_PRIORS)
def test_a_broken_prior(folder: Path, damage: Callable[[Path], object]) -> None:
    """Whatever is broken in a prior's folder, it is one line that names the folder."""
    shutil.copytree(weights_folder() / "fashion32", folder / "broken")
    damage(folder / "broken")
    result = inpaint(folder, "--prior", folder / "broken")
    assert_refused(result, folder, {"image.png", "mask.png", "broken"}, str(folder / "broken"))


def test_a_hub_that_does_not_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id that cannot be fetched gets one line, whatever the hub says."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    result = inpaint(folder, "--prior", "owner/name")
    assert_refused(result, folder, {"image.png", "mask.png"}, "neither a folder here nor could it be fetched")


def test_a_fit_that_breaks(folder: Path) -> None:
    """A fit that leaves the numbers is not bad input: one line, exit code 1, nothing written."""
    result = inpaint(folder, "--beta", "1e38", "--steps", 3)
    assert_refused(result, folder, {"image.png", "mask.png"}, "non-finite at step", exit_code=1)


def test_names_are_printed_as_they_are(folder: Path) -> None:
    """Brackets in a file name are no markup, and a line break in it makes no second line."""
    result = inpaint(folder, image="[bold]shoe[/nonsense]\nsecond.png")
    assert_refused(result, folder, {"image.png", "mask.png"}, "[bold]shoe[/nonsense] second.png does not exist")


@pytest.mark.parametrize("arguments", [("inpaint",), ("inpaint", "x.png", "--samples", "two"), ("no-such-command",)])
def test_usage_errors(arguments: Sequence[str]) -> None:
    """What the command line itself cannot read ends with exit code 2 as well, and without a traceback."""
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def run_process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyro_vipaint.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


def test_one_line_on_a_narrow_terminal(folder: Path) -> None:
    """The error is one line of a real process too, on a terminal of 40 columns."""
    out = folder / ("a-very-long-name-" * 5)
    out.touch()
    result = run_process("inpaint", "i.png", "--mask", "m.png", "--out", out, COLUMNS="40")
    assert result.returncode == 2
    assert result.stderr == f"Error: {out} is a file: name a folder with --out.\n"
    assert result.stdout == ""


def test_a_real_process_is_quiet(folder: Path) -> None:
    """A good run of a real process with the shipped prior writes its files, and not a word to stderr."""
    for name in ("image", "mask"):
        save(folder / f"{name}.png", np.kron(half(), np.ones((4, 4), dtype=np.uint8)))
    pictures = ("inpaint", folder / "image.png", "--mask", folder / "mask.png")
    result = run_process(*pictures, "--out", folder / "out", "--truth", folder / "image.png", *QUICK)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert set(os.listdir(folder / "out")) == WRITTEN


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
        result = invoke("inpaint", *arguments, "--out", folder / "a" / "out", "--label", 9, "--seed", 3, *QUICK)
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
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o777 & ~umask


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
    assert Image.open(out / "contact_sheet.png").width > 500


def test_report_says_how(report: dict[str, Any]) -> None:
    """Prior, label, seed, settings and versions are in the report: enough to run it again."""
    assert (report["prior"], report["labels"], report["seed"]) == ("fashion32", [9], 3)
    assert report["num_samples"] == SAMPLES
    assert {"python", "pyro-vipaint", "torch", "pyro-ppl", "diffusers"} <= report["versions"].keys()
    settings = report["settings"]
    assert (settings["steps"], settings["refine_steps"], len(settings["noise_levels"])) == (STEPS, REFINE_STEPS, LEVELS)
    assert settings["beta"] == 1 and settings["scale"] > 0 and set(settings["lr"]) == {"mu", "tau", "gamma"}


def test_report_counts_calls(report: dict[str, Any], good_run: tuple[Path, Any, int]) -> None:
    """The network calls are the counted ones, 1 + steps (K + 1) + (K - 1) + refine_steps."""
    assert report["network_calls"] == good_run[2] == 1 + STEPS * (LEVELS + 1) + (LEVELS - 1) + REFINE_STEPS
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
    for text in ("fitting the posterior", "-log p(y) ≤", "refining the samples", "bound", "lpips", str(out)):
        assert text in result.stdout
    assert result.stderr == ""


def test_no_truth_no_comparison(folder: Path) -> None:
    """Without a truth there are no LPIPS and PSNR; without a second sample no diversity."""
    assert inpaint(folder, "--samples", 1).exit_code == 0
    (image,) = json.loads((folder / "out" / "report.json").read_text())["images"]
    assert image.keys() == {"bound", "terms", "observed_error"}
    assert json.loads((folder / "out" / "report.json").read_text())["labels"] is None


def test_a_truth_too_small_for_lpips(folder: Path) -> None:
    """Images that AlexNet cannot take are compared by PSNR alone."""
    assert inpaint(folder, "--truth", folder / "image.png").exit_code == 0
    (image,) = json.loads((folder / "out" / "report.json").read_text())["images"]
    assert "lpips" not in image and image["psnr"] > 0


def test_seeds(folder: Path) -> None:
    """The same seed gives the same samples, another one others."""
    for out, seed in (("a", 1), ("b", 1), ("c", 2), ("d", -1)):
        assert inpaint(folder, "--seed", seed, "--out", folder / out).exit_code == 0
    assert torch.equal(samples(folder, "a"), samples(folder, "b"))
    assert not torch.equal(samples(folder, "a"), samples(folder, "c"))
    assert not torch.equal(samples(folder, "a"), samples(folder, "d"))


def test_invert_mask(folder: Path) -> None:
    """``--invert-mask`` equals the inverted mask file."""
    save(folder / "inverse.png", 255 - half())
    assert inpaint(folder, "--out", folder / "a").exit_code == 0
    assert inpaint(folder, "--invert-mask", "--out", folder / "b", mask="inverse.png").exit_code == 0
    assert torch.equal(samples(folder, "a"), samples(folder, "b"))


@pytest.mark.parametrize("options", [["--half"], ["--half", "--checkpointing"], ["--checkpointing"], []])
def test_precision_and_checkpointing_reach_the_networks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """bfloat16 where the device has it, which a CPU has not."""
    made: list[dict[str, Any]] = []
    tiny = tiny_prior("tiny", ())
    monkeypatch.setattr("pyro_vipaint.checks.load_prior", lambda *_, **named: made.append(named) or tiny)
    assert inpaint(folder, *options).exit_code == 0
    monkeypatch.setattr("pyro_vipaint.checks.half_precision", lambda device: torch.bfloat16)
    assert inpaint(folder, *options).exit_code == 0
    wanted = torch.bfloat16 if "--half" in options else torch.float32
    assert [named["dtype"] for named in made] == [torch.float32, wanted]
    assert all(named["checkpointing"] == ("--checkpointing" in options) for named in made)


def test_the_report_names_the_precision(folder: Path) -> None:
    """Of the networks, as they were loaded."""
    assert dtype_name(load_prior("fashion32", dtype=torch.bfloat16)) == "bfloat16"
    assert inpaint(folder).exit_code == 0
    assert json.loads((folder / "out" / "report.json").read_text())["dtype"] == "float32"


def test_priors_lists_what_ships() -> None:
    """``vipaint priors`` names fashion32, its shape and its classes."""
    result = invoke("priors")
    assert result.exit_code == 0
    assert all(text in result.stdout for text in ("fashion32", "1×32×32", "0 T-shirt/top"))


@pytest.mark.parametrize(("prior", "shape"), [("fashion32", (1, 32, 32)), ("cats64", (3, 64, 64))])
def test_a_demo_has_a_picture_for_each_image_and_sample(
    prior: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several images each sample's file names both; the demonstration reports one entry an image."""
    images, _, labels = problem_for(prior)
    assert images.shape[1:] == shape and len(images) == 4
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
    assert set(os.listdir(tmp_path / "out")) == pictures | {"contact_sheet.png", "report.json", "samples.safetensors"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["images"]) == len(images)
    assert report.get("labels") == (None if labels is None else labels.tolist())


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
    """Files of an earlier run are replaced, its surplus samples go, and what is not ours stays."""
    assert inpaint(folder, "--samples", 3).exit_code == 0
    before = (folder / "out" / "report.json").read_bytes()
    (folder / "out" / "notes.txt").write_text("mine")
    (folder / "out" / "sample_plan.png").write_text("mine too")
    assert inpaint(folder).exit_code == 0
    assert set(os.listdir(folder / "out")) == WRITTEN | {"notes.txt", "sample_plan.png"}
    assert (folder / "out" / "notes.txt").read_text() == "mine"
    assert (folder / "out" / "report.json").read_bytes() != before
    assert set(os.listdir(folder)) == {"image.png", "mask.png", "out"}


def interrupt(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def no_space(*arguments: Any, **options: Any) -> None:
    raise OSError(28, "No space left on device")


PLACES = {"fit": "pyro_vipaint.restoration.fit", "refine": "pyro_vipaint.restoration.refine"}
WRITERS = {
    "sheet": "matplotlib.figure.Figure.savefig",
    "tensors": "safetensors.torch.save",
    "report": "json.dumps",
}


@pytest.mark.parametrize("place", [*PLACES.values(), *WRITERS.values()], ids=[*PLACES, *WRITERS])
@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
def test_an_interrupted_run(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str, exists: bool) -> None:
    """Wherever a run is interrupted, it leaves nothing new and nothing changed."""
    if exists:
        (folder / "out").mkdir()
        (folder / "out" / "report.json").write_text("old")
    before = set(os.listdir(folder))
    monkeypatch.setattr(place, interrupt)
    assert inpaint(folder).exit_code not in (0, 2)
    assert set(os.listdir(folder)) == before
    if exists:
        assert os.listdir(folder / "out") == ["report.json"]
        assert (folder / "out" / "report.json").read_text() == "old"


@pytest.mark.parametrize("place", WRITERS.values(), ids=WRITERS)
def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """An error while writing is one line with exit code 1, and folders made for the run go again."""
    monkeypatch.setattr(place, no_space)
    result = inpaint(folder, "--out", folder / "a" / "b" / "out")
    assert_refused(result, folder, {"image.png", "mask.png"}, "No space left on device", exit_code=1)


@pytest.mark.parametrize("message", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory"])
def test_no_memory_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    def no_memory(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError(message) if "CUDA" in message else RuntimeError(message)

    monkeypatch.setattr(PLACES["refine"], no_memory)
    result = inpaint(folder)
    assert_refused(result, folder, {"image.png", "mask.png"}, "Not enough memory: ask for fewer --samples", exit_code=1)


def test_an_old_report_does_not_vouch_for_new_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between two files of an existing folder, it has no report."""
    (tmp_path / "report.json").write_text("old")
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path) as temporary:
        for name in ("a.png", "report.json"):
            (temporary / name).write_text("new")
    assert os.listdir(tmp_path) == []


def test_whole_folder_gives_all_or_nothing(tmp_path: Path) -> None:
    """The files appear when the block has ended well, and at no time before."""
    with whole_folder(tmp_path / "a" / "out") as temporary:
        (temporary / "one.txt").write_text("1")
        assert not (tmp_path / "a" / "out").exists()
    assert os.listdir(tmp_path / "a") == ["out"] and os.listdir(tmp_path / "a" / "out") == ["one.txt"]
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "b" / "out") as temporary:
        (temporary / "one.txt").write_text("1")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["a"]


def test_check_out_takes_what_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is there, one that is not yet, and one in a folder that is not yet are all fine."""
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path, tmp_path / "new", tmp_path / "new" / "er", Path("relative"), Path(".")):
        check_out(out)
    assert os.listdir(tmp_path) == []


def test_check_out_refuses_a_folder_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without the right to write is refused before the run."""

    def forbidden(*arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", forbidden)
    with pytest.raises(vp.InputError, match="cannot be written"):
        check_out(tmp_path / "new")


def test_check_out_refuses_what_would_fail_at_the_end(tmp_path: Path) -> None:
    """A link to nothing, and a folder in the place of a file of results."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "out" / "report.json").mkdir(parents=True)
    for out in ("link", "link/below"):
        with pytest.raises(vp.InputError, match="link to nothing"):
            check_out(tmp_path / out)
    with pytest.raises(vp.InputError, match="a folder where a result belongs"):
        check_out(tmp_path / "out")


def test_pictures_of_the_user_are_not_taken_for_results(folder: Path) -> None:
    """Pictures that no report of an earlier run tells of stay; one of the run itself may not lie where results go."""
    out = folder / "out"
    out.mkdir()
    (out / "sample_03.png").write_text("mine")
    assert inpaint(folder).exit_code == 0 and (out / "sample_03.png").read_text() == "mine"
    shutil.copyfile(folder / "image.png", out / "sample_01.png")
    result = invoke("inpaint", out / "sample_01.png", "--mask", folder / "mask.png", "--out", out)
    assert result.exit_code == 2 and "would be replaced by the results: choose another --out" in result.stderr
    assert (out / "sample_01.png").read_bytes() == (folder / "image.png").read_bytes()
    (folder / "link.png").symlink_to(out / "sample_01.png")
    with pytest.raises(vp.InputError, match="would be replaced"):
        check_out(out, folder / "link.png")


def test_results_can_be_read_by_others(folder: Path) -> None:
    """Every file has the mode that the user's mask leaves."""
    before = os.umask(0o022)
    try:
        assert inpaint(folder).exit_code == 0
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (folder / "out").iterdir()} == {0o644}


def test_a_job_that_is_ended_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM, in the middle of the writing; afterwards the signal does what it did."""

    def end(*arguments: Any, **options: Any) -> None:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, "nobody would handle it"
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(WRITERS["sheet"], end)
    assert inpaint(folder).exit_code == 128 + signal.SIGTERM
    assert set(os.listdir(folder)) == {"image.png", "mask.png"}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# pictures


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16", "F"])
def test_modes_of_pictures(folder: Path, mode: str) -> None:
    """Colour, transparency, palettes and deeper greys are converted: the samples are those of the grey picture."""
    assert inpaint(folder, "--out", folder / "a").exit_code == 0
    if mode == "I;16":
        save(folder / "other.tiff", ramp().astype(np.uint16) * 257)
    elif mode == "F":
        save(folder / "other.tiff", ramp().astype(np.float32) / 255)
    else:
        Image.open(folder / "image.png").convert(mode).save(folder / "other.png")
    other = next(path.name for path in folder.glob("other*"))
    assert inpaint(folder, "--out", folder / "b", image=other).exit_code == 0
    torch.testing.assert_close(samples(folder, "a"), samples(folder, "b"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["1", "RGB", "RGBA", "P", "0 and 1", "I;16", "F"])
def test_modes_of_masks(tmp_path: Path, mode: str) -> None:
    """A mask file may have one bit, a palette, colours, deeper greys, or bytes that are 0 and 1."""
    expected = torch.from_numpy(half() > 0).float().unsqueeze(0)
    pixels = {"0 and 1": half() // 255, "I;16": half().astype(np.uint16) * 257, "F": half().astype(np.float32) / 255}
    path = save(tmp_path / "mask.tiff", pixels.get(mode, half()))
    if mode not in pixels:
        path = tmp_path / "mask.png"
        Image.fromarray(half()).convert(mode).save(path)
    assert torch.equal(read_mask(path), expected)
    assert torch.equal(read_mask(path, invert=True), 1 - expected)


def test_masks_that_are_neither_white_nor_black(tmp_path: Path) -> None:
    """Transparent in places, whatever the colours say below, or not a number: with the flag a NaN would be observed."""
    picture = Image.fromarray(half()).convert("RGBA")
    picture.putalpha(Image.fromarray(half()))
    picture.save(tmp_path / "mask.png")
    with pytest.raises(vp.InputError, match="transparent in places: save the mask in black and white"):
        read_mask(tmp_path / "mask.png")
    values = half().astype(np.float32) / 255
    values[0, 0] = np.nan
    save(tmp_path / "mask.tiff", values)
    for invert in (False, True):
        with pytest.raises(vp.InputError, match="NaN or infinite: a mask is black and white"):
            read_mask(tmp_path / "mask.tiff", invert)


def test_a_colour_palette_is_its_colours(tmp_path: Path) -> None:
    """The indices of a palette are not its greys."""
    picture = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    picture.putpalette([255, 255, 255, 0, 0, 0])
    assert picture.mode == "P"
    picture.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png", 1).tolist() == [[[1.0, -1.0]]]
    assert read_mask(tmp_path / "p.png").tolist() == [[[1.0, 0.0]]]


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_become_minus_one_to_one(tmp_path: Path, channels: int) -> None:
    """0, 127.5 and 255 are -1, 0 and 1, in every channel."""
    path = save(tmp_path / "x.png", np.array([[0, 51, 255]], dtype=np.uint8))
    image = read_image(path, channels)
    assert image.shape == (channels, 1, 3)
    torch.testing.assert_close(image, torch.tensor([-1.0, -0.6, 1.0]).expand(channels, 1, 3))
    deep = save(tmp_path / "x.tiff", np.array([[0, 0.2, 1]], dtype=np.float32))
    torch.testing.assert_close(read_image(deep, channels), image)


def test_channels_keep_their_order(tmp_path: Path) -> None:
    """Red is the first channel."""
    path = save(tmp_path / "x.png", np.array([[[255, 0, 51]]], dtype=np.uint8))
    torch.testing.assert_close(read_image(path, 3).flatten(), torch.tensor([1.0, -1.0, -0.6]))


def test_nan_in_the_hole(folder: Path) -> None:
    """NaN may mark hidden pixels: the samples are the same as with any other filling."""
    float_tiff(folder / "nan.tiff", 3, 6, math.nan)
    float_tiff(folder / "black.tiff", 3, 6, 0.0)
    for name in ("nan", "black"):
        assert inpaint(folder, "--out", folder / name, image=f"{name}.tiff").exit_code == 0
    assert torch.equal(samples(folder, "nan"), samples(folder, "black"))


def test_resize(folder: Path) -> None:
    """``--resize`` fits a 64×48 RGB picture and masks of any size to the prior's."""
    colours = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    save(folder / "large.png", colours)
    save(folder / "large-mask.png", half().repeat(3, 0).repeat(5, 1))
    result = inpaint(folder, "--resize", "--truth", folder / "large.png", image="large.png", mask="large-mask.png")
    assert result.exit_code == 0, result.output
    tensors = load_file(folder / "out" / "samples.safetensors")
    assert tensors["samples"].shape == (2, 1, 1, SIZE, SIZE)
    assert torch.equal(tensors["mask"][0], read_mask(folder / "mask.png"))


@pytest.mark.parametrize("size", [(8, 8), (12, 12), (21, 10), (30, 30), (47, 33)])
def test_resizing_keeps_hidden_pixels_out_of_observed_ones(tmp_path: Path, size: tuple[int, int]) -> None:
    """Pictures that differ in the hole alone are equal on the observed pixels of the resized mask."""
    mask = rotated_window(30, seed=4)[0, 0].numpy().astype(bool)
    generator = np.random.default_rng(0)
    observed, hole = (generator.integers(0, 256, (30, 30), dtype=np.uint8) for _ in range(2))
    save(tmp_path / "mask.png", mask.astype(np.uint8) * 255)
    save(tmp_path / "a.png", observed)
    save(tmp_path / "b.png", np.where(mask, observed, hole))
    a, b = (read_image(tmp_path / name, 1, size) for name in ("a.png", "b.png"))
    seen = read_mask(tmp_path / "mask.png", size=size).bool()
    assert 0.25 < seen.float().mean() < 0.75
    assert torch.equal(a[seen], b[seen]) and not torch.equal(a, b)
    inverse = read_mask(tmp_path / "mask.png", invert=True, size=size).bool()
    assert not (seen & inverse).any()


def test_pictures_are_turned_as_the_camera_says(tmp_path: Path) -> None:
    """The EXIF orientation of a photograph is applied, as picture viewers do."""
    picture = Image.fromarray(np.array([[0, 255], [0, 255], [0, 255]], dtype=np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be shown after a quarter turn clockwise
    picture.save(tmp_path / "x.png", exif=exif)
    expected = [[-1.0] * 3, [1.0] * 3]
    assert read_image(tmp_path / "x.png", 1)[0].tolist() == expected
