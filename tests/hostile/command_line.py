"""Hostile command lines, in this process and in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from pyro_vipaint.cli.main import app
from pyro_vipaint.errors import InputError
from tests.cli.conftest import QUICK, load_tiny
from tests.hostile.harness import Case
from tests.pictures import half, ramp, save


class FailedError(Exception):
    """Exit code 1: not the user's fault."""


def answered(code: int, stdout: str, stderr: str) -> str:
    """The output of a command, or the error that its exit code stands for, with its line."""
    if "Traceback" in stdout + stderr:
        raise AssertionError("a traceback")
    if code == 0:
        return stdout
    message = stderr.removesuffix("\n").removeprefix("Error: ")
    raise {1: FailedError, 2: InputError}.get(code, RuntimeError)(
        message if stderr.startswith("Error: ") else f"not an error line:\n{stderr}"
    )


def vipaint(*arguments: object) -> str:
    """A command in this process, with the small priors ``tiny`` and ``plain``."""
    with patch("pyro_vipaint.checks.load_prior", load_tiny):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return answered(result.exit_code, result.stdout, result.stderr)


def process(*arguments: object, **environment: str) -> str:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "pyro_vipaint.cli.main", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60, check=False
    )
    return answered(done.returncode, done.stdout, done.stderr)


def pictures(folder: Path) -> None:
    """Pictures and masks that are right, and some that are not."""
    for name, pixels in {
        "image": ramp(),
        "small": ramp(4),
        "large": ramp(16),
        "mask": half(),
        "black": 0 * ramp(),
    }.items():
        save(folder / f"{name}.png", pixels)
    save(folder / "white.png", 0 * ramp() + 255)
    save(folder / "photo.png", ramp())
    save(folder / "wide.png", np.kron(ramp(), np.ones((3, 4), np.uint8)))
    Image.fromarray(np.stack([ramp()] * 3, -1)).save(folder / "colour.png")
    (folder / "text.txt").write_text("not a picture")
    (folder / "folder").mkdir()
    (folder / "folder" / "mine.txt").write_text("mine")


Run = Callable[..., str]


def inpaint(
    folder: Path, *options: object, image: str = "image.png", mask: str = "mask.png", run: Run = vipaint
) -> str:
    paths = [folder / image, "--mask", folder / mask, "--out", folder / "out"]
    return run("inpaint", *paths, "--prior", "tiny", *QUICK, *options)


def folder_of(folder: Path) -> None:
    """Pictures of which one is broken, in a folder of their own."""
    pictures(folder)
    (folder / "many" / "deep").mkdir(parents=True)
    save(folder / "many" / "a.png", ramp())
    save(folder / "many" / "deep" / "b.png", ramp())
    (folder / "many" / "broken.png").write_text("not a picture")


def many(folder: Path, *options: object, mask: object = "mask.png", run: Run = vipaint) -> str:
    paths = [folder / "many", "--mask", folder / str(mask), "--out", folder / "out"]
    return run("inpaint", *paths, "--prior", "tiny", *QUICK, *options)


def restore(folder: Path, *options: object, image: str = "small.png", run: Run = vipaint) -> str:
    return run("restore", folder / image, "--out", folder / "out", "--prior", "tiny", *QUICK, *options)


def bench(folder: Path, *options: object, run: Run = vipaint) -> str:
    small = (
        "--task",
        "box",
        "--method",
        "DPS",
        "--budget",
        2,
        "--images",
        1,
        "--samples",
        1,
        "--workers",
        1,
        "--device",
        "cpu",
    )
    return run("bench", "--out", folder / "out", *small, *options)


OPTIONS: dict[str, tuple[tuple[object, ...], str]] = {
    "samples 0": (("--samples", 0), "samples"),
    "samples -1": (("--samples", -1), "samples"),
    "samples 1.5": (("--samples", 1.5), "samples"),
    "samples a word": (("--samples", "ten"), "samples"),
    "samples empty": (("--samples", ""), "samples"),
    "samples 10^30": (("--samples", 10**30), "samples|memory"),
    "levels 0": (("--levels", 0), "levels"),
    "levels 1000": (("--levels", 1000), "levels"),
    "levels NaN": (("--levels", "nan"), "levels"),
    "steps 0": (("--steps", 0), "steps"),
    "steps 1e3": (("--steps", "1e3"), "steps"),
    "refine-steps 0": (("--refine-steps", 0), "refine"),
    "refine-steps -5": (("--refine-steps", -5), "refine"),
    "beta 0": (("--beta", 0), "beta"),
    "beta -1": (("--beta", -1), "beta"),
    "beta NaN": (("--beta", "nan"), "beta"),
    "beta infinite": (("--beta", "inf"), "beta"),
    "beta a word": (("--beta", "one"), "beta"),
    "beta 1e999": (("--beta", "1e999"), "beta"),
    "seed 2^64": (("--seed", 2**64), "seed"),
    "seed -2^64": (("--seed", -(2**64)), "seed"),
    "seed 0.5": (("--seed", 0.5), "seed"),
    "seed a word": (("--seed", "random"), "seed"),
    "device unknown": (("--device", "abacus"), "device"),
    "device cuda:99": (("--device", "cuda:99"), "device"),
    "device empty": (("--device", ""), "device"),
    "device meta": (("--device", "meta"), "device"),
    "prior unknown": (("--prior", "fashion"), "fashion32"),
    "prior empty": (("--prior", ""), "prior"),
    "prior a file": (("--prior", __file__), "prior"),
    "prior the root": (("--prior", "/"), "prior|unet|config"),
    "prior an unreachable hub id": (("--prior", "nobody/nothing"), "hub"),
    "label too large": (("--label", 2), "0 to 1|cat"),
    "label -1": (("--label", -1), "0 to 1|cat|label"),
    "label 10^30": (("--label", 10**30), "0 to 1|cat|label"),
    "label an unknown word": (("--label", "Bagg"), "cat|label"),
    "label 0.5": (("--label", 0.5), "label|class"),
    "label of a prior without classes": (("--prior", "plain", "--label", 0), "class"),
    "prompt without text": (("--prompt", "a cat"), "text"),
    "guidance without a label": (("--guidance-scale", 2), "guid"),
    "guidance NaN": (("--label", 0, "--guidance-scale", "nan"), "guid"),
    "guidance without a null label": (("--label", 0, "--guidance-scale", 2), "null|guid"),
    "an unknown option": (("--smaples", 3), "smaples"),
    "an option without a value": (("--samples",), "samples"),
    "a surplus argument": (("another.png",), "another"),
    "truth a text": (("--truth", __file__), "picture"),
    "truth missing": (("--truth", "nowhere.png"), "exist"),
    "mask missing": (("--mask", "nowhere.png"), "exist"),
    "mask a folder": (("--mask", "/"), "mask|picture|file"),
    "out a file": (("--out", __file__), "writ|folder"),
    "out below a file": (("--out", f"{__file__}/x"), "writ|folder"),
    "out in /proc": (("--out", "/proc/x"), "writ"),
    "out with a name too long": (("--out", "/tmp/" + "x" * 300), "writ|long"),
    "out empty": (("--out", ""), "out|folder|holds"),
}
FILES: dict[str, tuple[dict[str, Any], tuple[object, ...], str]] = {
    "image missing": ({"image": "none.png"}, (), "exist"),
    "image with a line break in its name": ({"image": "a\nb.png"}, (), "exist"),
    "image a text": ({"image": "text.txt"}, (), "picture"),
    "image a folder": ({"image": "folder"}, (), "picture|file"),
    "image large": ({"image": "large.png"}, (), "resize"),
    "image wide": ({"image": "wide.png"}, (), "resize"),
    "mask large": ({"mask": "large.png"}, (), "resize|mask"),
    "mask black": ({"mask": "black.png"}, (), "mask|black|observ"),
    "mask white": ({"mask": "white.png"}, (), "mask|white|hid"),
    "mask a photo": ({"mask": "photo.png"}, (), "mask|black and white"),
    "mask a text": ({"mask": "text.txt"}, (), "picture|mask"),
    "mask black, inverted twice": ({"mask": "black.png"}, ("--invert-mask",), "mask|white|hid"),
}
TASKS: dict[str, tuple[dict[str, Any], tuple[object, ...], str]] = {
    "no task": ({}, (), "task"),
    "task unknown": ({}, ("--task", "sharpen"), "deblur"),
    "task empty": ({}, ("--task", ""), "deblur"),
    "factor 0": ({}, ("--task", "super-resolution", "--factor", 0), "factor"),
    "factor 1": ({}, ("--task", "super-resolution", "--factor", 1), "factor"),
    "factor 3": ({}, ("--task", "super-resolution", "--factor", 3), "divide"),
    "factor -2": ({}, ("--task", "super-resolution", "--factor", -2), "factor"),
    "factor 10^30": ({}, ("--task", "super-resolution", "--factor", 10**30), "factor|divide"),
    "mode unknown": ({}, ("--task", "super-resolution", "--factor", 2, "--mode", "lanczos"), "bicubic"),
    "std 0": ({"image": "image.png"}, ("--task", "deblur", "--std", 0), "std"),
    "std NaN": ({"image": "image.png"}, ("--task", "deblur", "--std", "nan"), "std"),
    "std 1e9": ({"image": "image.png"}, ("--task", "deblur", "--std", "1e9"), "std"),
    "length missing": ({"image": "image.png"}, ("--task", "motion-deblur"), "length"),
    "length 0": ({"image": "image.png"}, ("--task", "motion-deblur", "--length", 0), "length"),
    "length 10^6": ({"image": "image.png"}, ("--task", "motion-deblur", "--length", 10**6), "length"),
    "length 10^18": ({"image": "image.png"}, ("--task", "motion-deblur", "--length", 10**18), "length"),
    "angle infinite": ({"image": "image.png"}, ("--task", "motion-deblur", "--length", 3, "--angle", "inf"), "angle"),
    "an option of another task": ({}, ("--task", "super-resolution", "--factor", 2, "--std", 1), "std"),
    "mask of another task": ({}, ("--task", "deblur", "--mask", __file__), "mask"),
    "inpaint without a mask": ({"image": "image.png"}, ("--task", "inpaint"), "mask"),
    "resize without simulate": ({}, ("--task", "super-resolution", "--factor", 2, "--resize"), "simulate"),
    "simulate with a truth": (
        {"image": "image.png"},
        ("--task", "super-resolution", "--factor", 2, "--simulate", "--truth", __file__), "truth",
    ),
    "noise -1": ({}, ("--task", "super-resolution", "--factor", 2, "--noise", -1), "noise"),
    "noise NaN": ({}, ("--task", "super-resolution", "--factor", 2, "--noise", "nan"), "noise"),
    "an image of the size of the prior": (
        {"image": "image.png"}, ("--task", "super-resolution", "--factor", 2), "shape|simulate|size",
    ),
    "simulate of a large image": (
        {"image": "large.png"}, ("--task", "super-resolution", "--factor", 2, "--simulate"), "resize",
    ),
}  # fmt: skip
BENCH: dict[str, tuple[tuple[object, ...], str]] = {
    "task unknown": (("--task", "bix"), "box"),
    "method unknown": (("--method", "DSP"), "DPS"),
    "method empty": (("--method", ""), "DPS"),
    "prior unknown": (("--prior", "fashion"), "fashion32"),
    "budget 0": (("--budget", 0), "budget"),
    "budget -1": (("--budget", -1), "budget"),
    "budget a word": (("--budget", "all"), "budget"),
    "budget 10^30": (("--budget", 10**30), "budget"),
    "budget a digit of another script": (("--budget", "²"), "budget"),
    "images 0": (("--images", 0), "images"),
    "images 10^9": (("--images", 10**9), "images"),
    "samples 0": (("--samples", 0), "samples"),
    "samples 10^9": (("--samples", 10**9), "samples"),
    "seed -1": (("--seed", -1), "seed"),
    "seed 2^63": (("--seed", 2**63), "seed"),
    "seed 2^80": (("--seed", 2**80), "seed"),
    "chunk 0": (("--chunk", 0), "chunk"),
    "engine unknown": (("--engine", "slurm"), "local"),
    "workers 0": (("--workers", 0), "workers"),
    "workers 10^6": (("--workers", 10**6), "workers"),
    "threads 0": (("--threads", 0), "threads"),
    "threads 10^6": (("--threads", 10**6), "threads"),
    "address without ray": (("--address", "localhost:1"), "ray"),
    "pictures missing": (("--pictures", "/nowhere"), "folder"),
    "pictures a file": (("--pictures", __file__), "folder"),
    "device unknown": (("--device", "abacus"), "device"),
    "out a file": (("--out", __file__), "writ|folder"),
}


MANY: dict[str, tuple[tuple[object, ...], str]] = {
    "batch 0": (("--batch", 0), "batch"),
    "batch 10^9": (("--batch", 10**9), "batch"),
    "batch a word": (("--batch", "all"), "batch"),
    "engine unknown": (("--engine", "slurm"), "local"),
    "workers 0": (("--workers", 0), "workers"),
    "workers 10^6": (("--workers", 10**6), "workers"),
    "threads 0": (("--threads", 0), "threads"),
    "address without ray": (("--address", "localhost:1"), "ray"),
    "keep unknown": (("--keep", "some"), "all"),
    "labels missing": (("--labels", "/nowhere.csv"), "exist"),
    "labels a folder": (("--labels", "/"), "file"),
    "labels a program": (("--labels", __file__), "columns"),
    "label and labels": (("--label", 0, "--labels", __file__), "label"),
    "label unknown": (("--label", "Bagg"), "cat|label"),
    "mask unknown": (("--mask", "bix"), "box"),
    "mask a text": (("--mask", __file__), "picture"),
    "truth": (("--truth", __file__), "truth"),
    "samples 0": (("--samples", 0), "samples"),
    "seed 2^64": (("--seed", 2**64), "seed"),
    "guide of the whole batch": (("--guide", "FlowGuide", "--batch", 2), "batch"),
    "guidance without a null label": (("--label", 0, "--guidance-scale", 2), "null|guid"),
    "prior unknown": (("--prior", "fashion"), "fashion32"),
    "device unknown": (("--device", "abacus"), "device"),
    "out a file": (("--out", __file__), "writ|folder"),
}
ALONE: dict[str, tuple[object, ...]] = {
    name: (f"--{name}", value) for name, value in {"workers": 2, "batch": 2, "engine": "local", "keep": "all"}.items()
}


def some_done(folder: Path, output: str) -> bool:
    """Every picture has its row, the broken one too, which ends the command with 1, and the others their results."""
    rows = (folder / "out" / "manifest.csv").read_text().splitlines()
    return len(rows) == 3 and (folder / "out" / "images" / "deep" / "b" / "report.json").exists()


def without_the_broken(folder: Path) -> None:
    folder_of(folder)
    (folder / "many" / "broken.png").unlink()


def commands() -> Iterator[Case]:
    for name, (options, says) in MANY.items():
        yield Case(f"inpaint a folder: {name}", lambda f, o=options: many(f, *o), says, folder_of)
    for name, options in ALONE.items():
        yield Case(f"inpaint: {name} without a folder", lambda f, o=options: inpaint(f, *o), "folder", pictures)

    for name, (options, says) in OPTIONS.items():
        yield Case(f"inpaint: {name}", lambda f, o=options: inpaint(f, *o), says, pictures)
    for name, (files, options, says) in FILES.items():
        yield Case(f"inpaint: {name}", lambda f, p=files, o=options: inpaint(f, *o, **p), says, pictures)
    for name, (files, options, says) in TASKS.items():
        yield Case(f"restore: {name}", lambda f, p=files, o=options: restore(f, *o, **p), says, pictures)
    for name, (options, says) in BENCH.items():
        yield Case(f"bench: {name}", lambda f, o=options: bench(f, *o), says, pictures)


def in_order(folder: Path, output: str) -> bool:
    """The results are there, and what lay there before is as it was."""
    return (folder / "out" / "report.json").exists() and (folder / "folder" / "mine.txt").read_text() == "mine"


CASES = [
    *commands(),
    Case("no such command", lambda f: vipaint("inpant"), "inpant"),
    Case("demo: prior unknown", lambda f: vipaint("demo", "--prior", "mnist", "--out", f / "out"),
         "fashion32|demonstration"),
    Case("demo: seed too large", lambda f: vipaint("demo", "--seed", 2**64, "--out", f / "out"), "seed"),
    Case("demo: device unknown", lambda f: vipaint("demo", "--device", "abacus", "--out", f / "out"), "device"),
    Case("demo: out with files", lambda f: vipaint("demo", "--out", f / "folder"), "overwrite", pictures),
    Case("inpaint: beta so large that it breaks",
         lambda f: inpaint(f, "--preset", "pictures", "--beta", "1e38", "--steps", 3), "step",
         pictures,
         error=FailedError, calls=99),
    Case("inpaint a folder: without pictures", lambda f: vipaint("inpaint", f / "folder", "--mask", f / "mask.png",
         "--out", f / "out", "--prior", "tiny", *QUICK), "pictures", pictures),
    Case("inpaint a folder: into itself", lambda f: many(f, "--out", f / "many" / "out"), "other|lie", folder_of),
    Case("inpaint a folder: masks are missing", lambda f: many(f, mask="folder"), "pictures", folder_of),
    Case("inpaint a folder: works", lambda f: many(f, "--batch", 2, "--steps", 1), arrange=without_the_broken,
         works=some_done),
    Case("inpaint: a colour picture (works)", lambda f: inpaint(f, image="colour.png"), arrange=pictures,
         works=in_order),
    Case("inpaint: resized (works)", lambda f: inpaint(f, "--resize", image="wide.png"), arrange=pictures,
         works=in_order),
    Case("inpaint: the largest seed (works)", lambda f: inpaint(f, "--seed", 2**64 - 1), arrange=pictures,
         works=in_order),
    Case("inpaint: a class by name (works)", lambda f: inpaint(f, "--label", "dog"), arrange=pictures, works=in_order),
    Case("inpaint: inverted (works)", lambda f: inpaint(f, "--invert-mask"), arrange=pictures, works=in_order),
    Case("restore: super-resolution (works)", lambda f: restore(f, "--task", "super-resolution", "--factor", 2),
         arrange=pictures, works=in_order),
    Case("restore: a long motion (works)",
         lambda f: restore(f, "--task", "motion-deblur", "--length", 8, "--simulate", image="image.png"),
         arrange=pictures, works=in_order),
]  # fmt: skip

# Processes of their own: start-up takes longer than two seconds, so the time limit is theirs alone (see the tests).
PROCESSES = [
    Case("no arguments at all", lambda f: process("inpaint"), "argument|option", pictures),
    Case("samples a word", lambda f: inpaint(f, "--samples", "ten", run=process), "samples", pictures),
    Case("image missing", lambda f: inpaint(f, "--prior", "fashion32", image="none.png", run=process),
         "exist", pictures),
    Case("a terminal of 20 columns", lambda f: inpaint(f, "--prior", "fashion32", image="none.png",
         run=lambda *a: process(*a, COLUMNS="20")),
         "exist", pictures),
    Case("a locale of ASCII", lambda f: inpaint(f, "--prior", "fashion32", image="kätzchen.png",
         run=lambda *a: process(*a, LC_ALL="C",
         PYTHONIOENCODING="ascii")),
         "exist", pictures),
    Case("no home", lambda f: inpaint(f, "--prior", "nobody", run=lambda *a: process(*a, HOME="/nonexistent")),
         "prior", pictures),
    Case("out a file", lambda f: inpaint(f, "--out", f / "text.txt", run=process), "writ", pictures),
    Case("out with files", lambda f: inpaint(f, "--out", f / "folder", run=process), "overwrite", pictures),
    Case("an unknown prior", lambda f: inpaint(f, "--prior", "mnist", run=process), "fashion32", pictures),
    Case("restore: an unknown task", lambda f: restore(f, "--task", "sharpen", "--prior", "fashion32", run=process),
         "deblur", pictures),
    Case("bench: an unknown method", lambda f: bench(f, "--method", "DSP", run=process), "DPS", pictures),
    Case("demo: an unknown prior", lambda f: process("demo", "--prior", "mnist", "--out", f / "out"), "fashion32"),
]  # fmt: skip
