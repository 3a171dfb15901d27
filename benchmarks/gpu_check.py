"""One check of a machine with a GPU, within six minutes: is it right, how often does it wait, what does it cost?

    make gpu-check                                  # python -m benchmarks.gpu_check
    make gpu-check ARGS="--device cpu --tiny"       # the check itself, tried without a GPU in a minute

1. The tests marked ``cuda``: every guide with every objective, every baseline, operator, likelihood, exact prior and
   diagnostic has the law that it has on the CPU, within the Monte-Carlo error at the failure rate of the suite, and
   waits for the device no more often in a step than ``tests/devices/programs.py`` says, by CUDA's own count.
2. Wall time of an SVI step, of a refinement step and of the demonstration of ``fashion32``, each over that of its
   network calls alone, repeated at the same batch sizes, the two interleaved: medians, in float32, TF32 and bfloat16.

3. :mod:`benchmarks.gpu_speed`: an SVI step with a compiled network, with CUDA graphs, at batches of 1 to 256, over its
   network calls alone; no wait in the hot loop; the seconds of VIPaint-4 with ten samples of one picture.
4. :mod:`benchmarks.full_size`: memory and time of a step with the published networks at full width.

``--parts`` chooses among them. Two more take longer and are asked for: ``--truth``, the tables of
:mod:`benchmarks.truth` on ten times the draws of the priors, and ``--train "recipes.NAME.train --data …"``, which
trains a prior by its recipe, for ``--longest`` seconds at most (a recipe that is stopped goes on where it was).

The record is written as JSON after each part: ``device``, ``versions``, ``tiny``, ``tests`` (counts and seconds),
``times`` (one entry for each work and precision, in seconds), ``speed``, ``full_size``, ``truth``, ``train``. What
needs CUDA, fails, or finds no time left has an entry ``skipped`` or ``error`` that says so. Parts 3 and 4 end when the
six minutes do. The exit status is 1 if a test fails, or if none has run where they were asked for.
No part of this has run on a GPU yet: on CUDA every figure is still to be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyro
import torch
from rich.console import Console
from rich.table import Table

import pyro_vipaint as vp
from benchmarks.gpu_speed import seconds
from benchmarks.overhead import RecordingDenoiser
from pyro_vipaint._files import write_whole
from pyro_vipaint.demo import demo_problem
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, load_prior
from pyro_vipaint.settings import default_settings

ROOT = Path(__file__).parent.parent
LONGEST = 240  # seconds of the tests
WHOLE = 360  # seconds of all parts that are not asked for
COMMANDS = {"speed": ["benchmarks.gpu_speed"], "full-size": ["benchmarks.full_size", "--here"]}
SECONDS = {"speed": 100, "full-size": 120}  # of them, at most
PARTS = ("tests", "times", *COMMANDS)
PRECISIONS = {"float32": torch.float32, "TF32": torch.float32, "bfloat16": torch.bfloat16}
TINY_RUN = {"levels": 1, "num_samples": 1, "steps": 1, "refine_steps": 1}


@dataclass(frozen=True)
class Cost:
    """Median seconds of a work, in all and of its network calls alone; ``steps`` are in one run of it."""

    work: str
    precision: str
    seconds: float
    network: float
    steps: int

    @property
    def ratio(self) -> float:
        return self.seconds / self.network


@dataclass(frozen=True)
class Size:
    """How much is timed."""

    images: int
    particles: int
    levels: int
    steps: int
    repeats: int
    run: dict[str, Any]


SIZES = {False: Size(4, 5, 4, 10, 5, {}), True: Size(1, 1, 2, 1, 1, TINY_RUN)}


def run_tests(device: str, tiny: bool) -> dict[str, float]:
    """The tests marked ``cuda`` in a process of their own: how many passed, failed and were skipped, and seconds."""
    begun = time.perf_counter()
    variables = {"VIPAINT_TEST_DEVICE": device, "VIPAINT_TEST_TINY": str(int(tiny))}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "tests/devices", "-m", "cuda", "-q", f"--junitxml={report}"]
        try:
            subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, timeout=LONGEST, check=False)
            counts = ElementTree.parse(report).getroot()[0].attrib
        except (subprocess.TimeoutExpired, FileNotFoundError, ElementTree.ParseError):
            counts = {"tests": 1, "failures": 1, "errors": 0, "skipped": 0}
    failed, skipped = int(counts["failures"]) + int(counts["errors"]), int(counts["skipped"])
    passed = int(counts["tests"]) - failed - skipped
    return {"passed": passed, "failed": failed, "skipped": skipped, "seconds": time.perf_counter() - begun}


@contextmanager
def precision(name: str) -> Iterator[torch.dtype]:
    """Convolutions and products of matrices in this precision; yields the dtype of the network."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = name == "TF32"
    try:
        yield PRECISIONS[name]
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def works(prior: DiffusionPrior, device: torch.device, size: Size) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed on the images of the demonstration, by name, with the number of its steps."""
    images, masks, labels = (value.to(device) for value in demo_problem())
    y, masks, labels = ((value[: size.images]) for value in (images * masks, masks, labels))
    settings = default_settings(size.levels, preset="pictures")
    likelihood, condition = settings.likelihood(vp.Inpainting(masks)), {"class_labels": labels}
    model = DiffusionModel(prior, likelihood, settings.keypoints(prior), **condition)
    guide = HierarchicalGuide(model, vp.initial_latent(prior, likelihood, y, **condition))
    elbo, z = vp.BetaELBO(1.0, size.particles), vp.sample(guide, y, size.particles)

    def demonstration() -> object:
        pictures, holes, classes = demo_problem()
        pictures, holes, classes = (value[: size.images] for value in (pictures, holes, classes))
        return vp.inpaint(pictures, holes, prior, label=classes, device=str(device), seed=0, **size.run)

    return {
        "SVI step": (lambda: vp.fit(model, guide, y, elbo, size.steps), size.steps),
        "refinement step": (lambda: vp.refine(model, z, y, size.steps + 1), size.steps + 1),
        "demonstration": (demonstration, 1),
    }


def costs(device: torch.device, size: Size) -> Iterator[Cost]:
    """Every work in every precision; a first run of each is not counted."""
    for name in PRECISIONS:
        with precision(name) as dtype:
            loaded = load_prior("fashion32", device, dtype=dtype)
            recorder = RecordingDenoiser(loaded.denoiser)
            prior = replace(loaded, denoiser=recorder)
            for work, (function, steps) in works(prior, device, size).items():
                pairs = []
                for _ in range(size.repeats + 1):
                    recorder.calls.clear()
                    pairs.append((seconds(function, device), seconds(recorder.replay, device)))
                whole, bare = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
                yield Cost(work, name, whole / steps, bare / steps, steps)


def named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def lines_of(command: list[str], limit: float) -> list[dict[str, Any]]:
    """The lines of JSON that ``python -m command`` prints within ``limit`` seconds, and one more if it fails."""
    if limit <= 0:
        return [{"skipped": "no time was left"}]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=out, stderr=errors)
        try:
            status = process.wait(limit)
            ended = "" if status == 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = f"stopped after {limit:.0f} s"
        out.seek(0)
        errors.seek(0)
        found = [json.loads(line) for line in out if line.startswith("{") and line.endswith("}\n")]
        last = [line.strip() for line in errors if line.strip()][-1:]
    return [*found, {"error": ": ".join([ended, *last])[:300]}] if ended else found


def run_long(command: list[str], limit: float) -> dict[str, Any]:
    """Runs ``python -m command``, whose output is shown, for ``limit`` seconds at most."""
    begun = time.perf_counter()
    try:
        status: int | str = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, timeout=limit, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        status = f"stopped after {limit:.0f} s"
    return {"command": " ".join(command), "status": status, "seconds": time.perf_counter() - begun}


def time_table(device: torch.device, tiny: bool, console: Console) -> list[dict[str, Any]]:
    """Part 2, printed."""
    times = list(costs(device, SIZES[tiny]))
    table = Table("work", "precision", "seconds", "network alone", "ratio")
    for cost in times:
        table.add_row(cost.work, cost.precision, f"{cost.seconds:.4f}", f"{cost.network:.4f}", f"{cost.ratio:.3f}")
    console.print(table)
    return [{**asdict(cost), "ratio": cost.ratio} for cost in times]


def truth_command(device: str, tiny: bool, folder: Path) -> list[str]:
    """The tables of truth at ten times the draws; one draw and one method in a trial."""
    few = ["--plans", "fashion32", "--only", "DPS, 50", "--images", "1"] if tiny else ["--images", "640"]
    return ["benchmarks.truth", "--device", device, "--workers", "1", "--out", str(folder), *few]


def parts(arguments: argparse.Namespace, console: Console) -> Iterator[tuple[str, Any]]:
    """The entries of the record, one after the other."""
    begun, device, tiny = time.perf_counter(), torch.device(arguments.device), arguments.tiny
    common = ["--device", arguments.device, *(["--tiny"] if tiny else [])]
    if "tests" in arguments.parts:
        tests = run_tests(arguments.device, tiny)
        console.print("{passed} tests passed, {failed} failed, {skipped} skipped, {seconds:.0f} s".format(**tests))
        yield "tests", tests
    if "times" in arguments.parts:
        yield "times", time_table(device, tiny, console)
    for name, command in COMMANDS.items():
        if name in arguments.parts:
            found = lines_of([*command, *common], min(SECONDS[name], WHOLE - (time.perf_counter() - begun)))
            for row in found:
                console.print(row, soft_wrap=True)
            yield name.replace("-", "_"), found
    if arguments.truth:
        command = truth_command(arguments.device, tiny, arguments.out.with_suffix(".truth"))
        yield "truth", run_long(command, arguments.longest)
    if arguments.train:
        yield "train", run_long(shlex.split(arguments.train), arguments.longest)


def parsed() -> argparse.Namespace:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, …, or cpu to try the check itself")
    parser.add_argument("--tiny", action="store_true", help="fewer tests, one image, one repeat")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--truth", action="store_true", help="also the tables of truth on ten times the draws")
    parser.add_argument("--train", help="also a recipe, e.g. 'recipes.fashion32.train --data FOLDER'")
    parser.add_argument("--longest", type=float, default=3600.0, help="seconds of --truth and of --train at most")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"), help="the JSON file")
    arguments = parser.parse_args()
    if arguments.train and not arguments.train.startswith("recipes."):
        parser.error("--train takes a module of recipes, as recipes/README.md names them.")
    return arguments


def main() -> int:
    """The command."""
    arguments, console = parsed(), Console(width=120, highlight=False)
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        console.print("There is no CUDA device here: try the check itself with --device cpu --tiny.")
        return 2
    record: dict[str, Any] = {
        "device": named(device),
        "versions": {"torch": torch.__version__, "pyro": pyro.__version__, "cuda": torch.version.cuda},
        "tiny": arguments.tiny,
    }
    for name, found in parts(arguments, console):
        record[name] = found
        write_whole(arguments.out, (json.dumps(record, indent=2) + "\n").encode())
    tests = record.get("tests", {"failed": 0, "passed": 1})
    return int(tests["failed"] > 0 or not tests["passed"])


if __name__ == "__main__":
    sys.exit(main())
