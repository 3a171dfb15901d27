"""A smoke test of the installed package: no checkout on the path, no network.

Run it with an environment that holds the wheel, from any folder outside the checkout:
`python -I smoke.py`. It imports the package, loads the shipped prior, inpaints a shipped image once
through the Python interface and once through the command line, and looks at what came out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # whatever is not shipped must not be fetched

import torch
from PIL import Image
from safetensors.torch import load_file

import pyro_vipaint as vp
import pyro_vipaint.guides
import pyro_vipaint.models


def check_names() -> None:
    """The root folders of the checkout are installed below `pyro_vipaint`, and nowhere else."""
    for name in ("guides", "models"):
        assert importlib.util.find_spec(name) is None, f"{name} is importable as a top-level name"
    for package in (vp, pyro_vipaint.guides, pyro_vipaint.models):
        path = Path(str(package.__file__)).resolve()
        assert Path(sys.prefix).resolve() in path.parents, f"{package.__name__} comes from {path}, not from the wheel"
    assert files("pyro_vipaint").joinpath("py.typed").is_file(), "py.typed is missing from the wheel"


def shipped_image() -> torch.Tensor:
    """The first of the 64 held-out images that ship with the prior, uint8, (32, 32)."""
    path = files("pyro_vipaint.models").joinpath("weights", "fashion32", "held_out.safetensors")
    return load_file(str(path))["images"][0]


def check_python(image: torch.Tensor, mask: torch.Tensor) -> None:
    prior = pyro_vipaint.models.load_prior("fashion32")
    assert tuple(prior.event_shape) == (1, 32, 32)
    result = vp.inpaint(
        image[None] / 127.5 - 1,
        mask[None].float(),
        prior="fashion32",
        levels=2,
        num_samples=2,
        steps=2,
        refine_steps=2,
        seed=0,
    )
    assert result.samples.shape == (2, 1, 1, 32, 32), result.samples.shape
    assert torch.isfinite(result.samples).all()


def check_command_line(image: torch.Tensor, mask: torch.Tensor, folder: Path) -> None:
    vipaint = str(Path(sys.executable).with_name("vipaint"))
    Image.fromarray(image.numpy()).save(folder / "image.png")
    Image.fromarray((mask * 255).numpy()).save(folder / "mask.png")
    options = "--mask mask.png --levels 2 --samples 1 --steps 1 --seed 0 --device cpu --out out".split()
    subprocess.run([vipaint, "priors"], check=True, cwd=folder)
    subprocess.run([vipaint, "inpaint", "image.png", *options], check=True, cwd=folder)
    out = folder / "out"
    with Image.open(out / "contact_sheet.png") as sheet:
        sheet.verify()
    samples = load_file(str(out / "samples.safetensors"))
    assert all(torch.isfinite(sample).all() for sample in samples.values())
    assert json.loads((out / "report.json").read_text(encoding="utf-8")), "report.json is empty"


def main() -> None:
    check_names()
    image = shipped_image()
    mask = torch.zeros(32, 32, dtype=torch.uint8)
    mask[:, :16] = 1  # the left half is observed
    check_python(image, mask)
    with tempfile.TemporaryDirectory() as folder:
        check_command_line(image, mask, Path(folder))
    print("smoke test: the installed package works")


if __name__ == "__main__":
    main()
