"""A small prior by name, whose network is never asked twice for nothing, and what the page hands over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from pyro_vipaint.app import run as running
from pyro_vipaint.app.job import Job
from pyro_vipaint.models import DiffusionPrior, GaussianPrior

SIZE = 8
SHAPE = (1, SIZE, SIZE)
CLASSES = ("cat", "dog")


def tiny() -> DiffusionPrior:
    """Independent grey pixels on 8 × 8."""
    gaussian = GaussianPrior.diagonal(torch.zeros(SHAPE), torch.full(SHAPE, 0.5))
    return replace(gaussian.diffusion(), name="fashion32", class_names=CLASSES)


@pytest.fixture
def tiny_prior(monkeypatch: pytest.MonkeyPatch) -> Iterator[DiffusionPrior]:
    """It stands for ``fashion32``, in the page and in the library."""
    prior = tiny()
    running.load.cache_clear()
    monkeypatch.setattr("pyro_vipaint.checks.load_prior", lambda *_, **__: prior)
    monkeypatch.setattr("pyro_vipaint.app.run.INTERVAL", 0.0)
    yield prior
    running.load.cache_clear()


def job(**changes: Any) -> Job:
    """Two samples of a ramp whose left half is hidden, by two steps of everything."""
    image = torch.linspace(-0.8, 0.8, SIZE * SIZE).reshape(SHAPE)
    mask = (torch.arange(SIZE) >= SIZE // 2).float().expand(SHAPE)
    given: dict[str, Any] = {"levels": 2, "num_samples": 2, "steps": 2, "refine_steps": 2, "seed": 3}
    return Job(image, mask.clone(), "fashion32", **(given | changes))
