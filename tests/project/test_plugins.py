"""Plug-ins: found without being imported, used by name everywhere, and harmless to others where they are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import pyro_vipaint as vp
from pyro_vipaint import plugins
from pyro_vipaint.bench import METHODS, Plan
from pyro_vipaint.bench.registry import SUITE
from pyro_vipaint.bench.runner import faults
from pyro_vipaint.checks import check_guide, guide_names
from pyro_vipaint.cli.main import app
from pyro_vipaint.guides import LowRankGuide, MeanFieldGuide
from pyro_vipaint.models import load_prior
from tests.pictures import half, save

EXAMPLE = Path(__file__).parents[2] / "docs" / "example_plugin"
GOOD = """
import torch
from pyro_vipaint.models import GaussianPrior
from pyro_vipaint.bench import METHODS
from pyro_vipaint.guides import MeanFieldGuide as Guide

def prior(device):
    return GaussianPrior.diagonal(torch.zeros(1, 8, 8, device=device), torch.ones(1, 8, 8, device=device)).diffusion()

def failing(device):
    raise OSError("the disk\\nis gone")

number = 3
method = METHODS["DPS"]
folder = __file__ + "/../folder"
"""
DECLARED = {
    "good": {
        "priors": {"good": "good:prior", "failing": "good:failing", "number": "good:number", "fashion32": "good:prior"},
        "guides": {"GoodGuide": "good:Guide", "number": "good:number", "MeanFieldGuide": "good:failing"},
        "baselines": {"good": "good:method", "number": "good:number"},
    },
    "bad": {group: {"bad": "bad:anything", "absent": "bad_absent:x"} for group in plugins.GROUPS},
}


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packages on the path, as pip would leave them; importing ``bad`` ends in an error or in an exit."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "good.py").write_text(GOOD)
    (site / "bad.py").write_text("raise SystemExit('leaving')")
    for package, groups in DECLARED.items():
        info = site / f"{package}_package-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}-package\nVersion: 1.0\n")
        lines = [
            f"[pyro_vipaint.{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
            for group, points in groups.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(site))
    for name in ("good", "bad"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_plug_ins_are_found_without_being_imported() -> None:
    """By name, with their packages; an unknown group is refused."""
    for group in plugins.GROUPS:
        assert plugins.found(group).keys() >= {*DECLARED["good"][group], "bad", "absent"}
    assert plugins.package_of(plugins.found("priors")["good"]) == "good-package"
    assert "GoodGuide" in guide_names() and "good" in METHODS and "good" not in list(METHODS)
    assert not {"good", "bad"} & sys.modules.keys()
    with pytest.raises(vp.InputError, match="There is no group of plug-ins 'prior'"):
        plugins.found("prior")  # type: ignore[arg-type]


def test_a_prior_of_a_plug_in_is_one_by_its_name() -> None:
    """The names of this library come first."""
    prior = load_prior("good")
    assert (prior.name, prior.image_shape) == ("good", (1, 8, 8))
    assert load_prior("fashion32").image_shape == (1, 32, 32)


def test_guides_and_methods_by_name() -> None:
    assert check_guide("GoodGuide") is MeanFieldGuide and check_guide("MeanFieldGuide") is MeanFieldGuide
    assert check_guide("LowRankGuide") is LowRankGuide and check_guide(LowRankGuide) is LowRankGuide
    assert METHODS["good"] is METHODS["DPS"]
    plan = Plan(("fashion32",), ("box",), ("good",), (10,), num_images=1, num_samples=1)
    assert [cell.method for cell in plan.cells(lambda cell: True)] == ["good"]
    assert next(faults(plan, SUITE, "cpu"), None) is None
    image, mask = torch.zeros(1, 8, 8), (torch.arange(64).reshape(1, 8, 8) % 2).float()
    few: dict[str, Any] = {"levels": 2, "num_samples": 1, "steps": 2, "refine_steps": 2, "seed": 0, "device": "cpu"}
    named, given = (vp.inpaint(image, mask, "good", guide=guide, **few) for guide in ("GoodGuide", MeanFieldGuide))
    assert torch.equal(named.samples, given.samples)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_prior("bad"), r"bad \(priors\) of the package bad-package cannot be used: SystemExit: leaving"),
        (lambda: load_prior("absent"), "package bad-package cannot be used: ModuleNotFoundError"),
        (lambda: load_prior("failing"), "package good-package cannot be used: OSError: the disk is gone"),
        (lambda: load_prior("number"), "package good-package must be a DiffusionPrior, a folder, or a function"),
        (lambda: load_prior("good", checkpointing=True), "omit dtype, checkpointing and tile"),
        (lambda: load_prior("goood"), "use one of cats64, faces32, fashion32, .*good"),
        (lambda: check_guide("bad"), "package bad-package cannot be used"),
        (lambda: check_guide("number"), "package good-package must be a class of guides .*, not 3"),
        (lambda: check_guide("GodGuide"), "There is no guide 'GodGuide': choose from .* The nearest is GoodGuide"),
        (lambda: METHODS["bad"], "package bad-package cannot be used"),
        (lambda: METHODS["number"], "package good-package must be a Baseline"),
    ],
)
def test_a_broken_plug_in_is_one_line_with_its_package(call: Any, message: str) -> None:
    with pytest.raises(vp.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert load_prior("good").name == "good"  # the others go on


def test_priors_lists_those_of_plug_ins_and_names_the_broken_ones() -> None:
    result = CliRunner().invoke(app, ["priors"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    listed = {line.split("│")[1].strip() for line in result.stdout.splitlines() if line.startswith("│")}
    assert listed >= {"cats64", "faces32", "fashion32", "good"}
    warnings = result.stderr.splitlines()
    assert len(warnings) == 4 and all(line.startswith("Warning: The plug-in ") for line in warnings)


@pytest.mark.slow
def test_the_example_package(tmp_path: Path) -> None:
    """Installed by pip, its prior, guide and baseline run by the command line under their names."""
    target, here = tmp_path / "target", Path(__file__).parents[2]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    source = tmp_path / "example_plugin"
    subprocess.run(["cp", "-r", str(EXAMPLE), str(source)], check=True)  # pip builds beside the sources
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    environment = {**os.environ, "PYTHONPATH": f"{target}{os.pathsep}{here}", "COLUMNS": "200"}

    def vipaint(*arguments: object) -> str:
        command = [sys.executable, "-m", "pyro_vipaint.cli.main", *map(str, arguments)]
        return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout

    assert "example-waves" in vipaint("priors")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    image = save(pictures / "image.png", np.kron(half(), np.ones((4, 4), dtype=np.uint8)))
    mask = save(tmp_path / "mask.png", np.kron(half().T, np.ones((4, 4), dtype=np.uint8)))
    few = ("--levels", 2, "--samples", 2, "--steps", 3, "--refine-steps", 3, "--device", "cpu")
    named = ("--prior", "example-waves", "--guide", "ExampleGuide", "--out", tmp_path / "out")
    vipaint("inpaint", image, "--mask", mask, *named, *few)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["prior"], report["guide"], report["preset"]) == ("example-waves", "ExampleGuide", "pictures")
    plan = ("--task", "box", "--images", 1, "--samples", 2, "--budget", 4, "--workers", 1, "--device", "cpu")
    methods = ("--method", "ExampleMean", "--method", "DDNM", "--pictures", pictures, "--prior", "example-waves")
    vipaint("bench", *methods, *plan, "--out", tmp_path / "bench")
    table = (tmp_path / "bench" / "report.md").read_text()
    assert "ExampleMean" in table and "DDNM" in table
