"""Two small priors by name, pictures of their size, and what a refusal looks like."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_vipaint.models import DiffusionPrior, GaussianPrior, load_prior
from tests.pictures import half, ramp, save

SIZE = 8
PICTURES = {"black.png", "image.png", "large.png", "mask.png", "small.png"}
CLASSES = {"tiny": ("cat", "dog"), "plain": ()}
QUICK = ("--levels", "2", "--samples", "2", "--steps", "2", "--refine-steps", "2", "--device", "cpu")
WRITTEN = {".vipaint.json", "contact_sheet.png", "report.json", "sample_00.png", "sample_01.png", "samples.safetensors"}


def load_tiny(name: Any, *arguments: Any, **options: Any) -> DiffusionPrior:
    """Independent grey pixels on 8×8 for a name of ``CLASSES``; other names are loaded."""
    if name not in CLASSES:
        return load_prior(name)
    gaussian = GaussianPrior.diagonal(torch.zeros(1, SIZE, SIZE), torch.full((1, SIZE, SIZE), 0.5))
    return replace(gaussian.diffusion(), name=name, class_names=CLASSES[name])


@pytest.fixture(autouse=True)
def _tiny_priors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_vipaint.checks.load_prior", load_tiny)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of 8×8, 4×4 and 16×16, and masks of 8×8."""
    pictures = {"image": ramp(), "small": ramp(4), "large": ramp(16), "mask": half(), "black": 0 * ramp()}
    for name, pixels in pictures.items():
        save(tmp_path / f"{name}.png", pixels)
    return tmp_path


def assert_refused(result: Any, folder: Path, message: str, exit_code: int = 2) -> None:
    """One line on stderr, the exit code, and nothing new in the folder."""
    assert result.exit_code == exit_code, result.output
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert set(os.listdir(folder)) == PICTURES
