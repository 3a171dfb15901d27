"""Laws that hold for every baseline of METHODS; a new entry is tested without a change here."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from benchmarks.bias import (
    BASELINES,
    OTHER_SETTINGS,
    ROWS,
    GaussianTruth,
    gaussian_truth,
    latent_truth,
    read_table,
    row,
)
from pyro_vipaint.baselines import BaselineResult
from pyro_vipaint.models.measurements.operators import Matrix
from pyro_vipaint.models.priors.denoisers import Denoiser
from pyro_vipaint.models.priors.schedules import LinearVP, Schedule
from pyro_vipaint.progress import Progress
from tests.problems import Unscaled

SAMPLES = 3
SMALL: dict[str, dict[str, Any]] = {
    "RePaint": {"jump_length": 3, "resamples": 2},
    "CoPaint": {"lr": 1e-3},  # so small a rate that L never rises
    "CoPaint-TT": {"lr": 1e-3, "tau": 3},
    "PSLD": {"omega": 0.1},
    "ReSample": {"steps": 40, "pixel_iterations": 300, "latent_iterations": 100},  # 40 steps have both kinds of descent
}
LONG = ("CoPaint-TT", "DAPS", "DDSMC", "MGDM", *OTHER_SETTINGS)
OSCILLATING = ("DPS", "PSLD", "ReSample")  # rounding makes their samples differ

every_baseline = pytest.mark.parametrize("name", BASELINES)


def options_of(name: str) -> dict[str, Any]:
    """Few steps that run every part of the method."""
    return {"steps": 12} | SMALL.get(name, {})


def truth_of(name: str, schedule: Schedule | None = None) -> GaussianTruth:
    return gaussian_truth(schedule) if BASELINES[name].pixels else latent_truth(schedule)


def run(name: str, truth: GaussianTruth, y: Tensor | None = None, **options: Any) -> BaselineResult:
    y = truth.y if y is None else y
    options = {"seed": 0} | options_of(name) | options
    return BASELINES[name].run(truth.prior, truth.likelihood, y, SAMPLES, **options)


@dataclass(frozen=True)
class Counting:
    """A denoiser that notes how many images each call has."""

    denoiser: Denoiser
    images: list[int]

    def __call__(self, z_t: Tensor, t: Tensor, **condition: Any) -> Tensor:
        self.images.append(z_t.shape[:-3].numel())
        return self.denoiser(z_t, t, **condition)


@every_baseline
def test_calls_are_those_announced_and_each_step_is_reported(name: str) -> None:
    truth, images = truth_of(name), []
    prior = replace(truth.prior, denoiser=Counting(truth.prior.denoiser, images))
    seen: list[Progress] = []
    result = run(name, replace(truth, prior=prior), torch.cat([truth.y, truth.y]), callback=seen.append)
    method, options = BASELINES[name], options_of(name)
    announced = method.calls(
        **{key: options[key] for key in signature(method.calls).parameters.keys() & options.keys()}
    )
    assert result.calls == len(images) == announced
    once = name == "Warm start"  # its start is one for all samples of an image
    assert result.nfe == sum(images) == 2 * (SAMPLES * (result.calls - once) + once)
    assert [progress.step for progress in seen] == list(range(1, len(seen) + 1))
    assert {(progress.phase, progress.total) for progress in seen} == {(method.run.__name__, len(seen))}
    assert result.samples.shape == (SAMPLES, 2, 1, 4, 4) and not result.samples.requires_grad


@every_baseline
def test_a_seed_fixes_every_bit_and_leaves_the_generator_alone(name: str) -> None:
    truth, before = truth_of(name), torch.get_rng_state()
    first = run(name, truth).samples
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, run(name, truth).samples)
    assert not torch.allclose(first, run(name, truth, seed=1).samples, atol=1e-3)


@every_baseline
def test_a_sample_depends_neither_on_its_neighbours_nor_on_hidden_elements(name: str) -> None:
    truth = truth_of(name)
    alone = run(name, truth, torch.cat([truth.y, truth.y])).samples
    beside = run(name, truth, torch.cat([truth.y, 5 + truth.y])).samples
    assert torch.allclose(alone[:, 0], beside[:, 0], atol=1e-5)
    assert not torch.allclose(alone[:, 1], beside[:, 1], atol=1e-2)
    assert beside.abs().max() <= 1, "an image is clamped, whatever is observed"
    hidden = torch.where(truth.observed, truth.y, torch.nan)
    assert torch.equal(run(name, truth, hidden).samples, run(name, truth).samples)


@every_baseline
def test_the_same_options_mean_the_same_on_every_schedule(name: str) -> None:
    """Variance preserving and variance exploding: z and z / alpha, with the same noise levels at the same times."""
    preserving, exploding = (run(name, truth_of(name, each)).samples for each in (LinearVP(), Unscaled(LinearVP())))
    assert torch.allclose(preserving, exploding, atol=1e-3)


@dataclass(frozen=True)
class ByClass:
    """A prediction that is shifted by the class of each image."""

    denoiser: Denoiser

    def __call__(self, z_t: Tensor, t: Tensor, **condition: Any) -> Tensor:
        shift = condition["class_labels"].expand(z_t.shape[:-3])
        return self.denoiser(z_t, t) + shift.reshape(*shift.shape, 1, 1, 1)


@every_baseline
def test_conditions_reach_every_call_image_by_image(name: str) -> None:
    truth = truth_of(name)
    truth = replace(truth, prior=replace(truth.prior, denoiser=ByClass(truth.prior.denoiser)))
    y, labels = torch.cat([truth.y, truth.y]), torch.zeros(2)
    alike = run(name, truth, y, class_labels=labels).samples
    apart = run(name, truth, y, class_labels=labels + torch.tensor([0.0, 0.4])).samples
    assert torch.allclose(alike[:, 0], apart[:, 0], atol=1e-5)
    hidden = ~truth.observed
    assert ((apart - alike)[:, 1][:, hidden].abs().mean()) > 0.05


def test_unsuitable_steps_priors_and_operators_are_refused() -> None:
    for name, method in BASELINES.items():
        truth = truth_of(name)
        with pytest.raises(vp.InputError, match="steps must be at least 1, not 0"):
            run(name, truth, steps=0)
        if not method.pixels:
            with pytest.raises(vp.InputError, match="needs a latent prior"):
                run(name, gaussian_truth())
        if method.only_inpainting:
            with pytest.raises(vp.InputError, match="needs an inpainting mask, not Matrix"):
                run(name, replace(truth, likelihood=vp.Gaussian(Matrix(torch.eye(4)), 0.1)))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in ROWS])
def test_the_bias_is_that_of_the_table(name: str) -> None:
    """The seed is the same, so that only rounding differs, and Monte-Carlo error where rounding changes samples."""
    tolerance = 0.05 if name.startswith(OSCILLATING) else 0.02
    assert astuple(row(name)) == pytest.approx(astuple(read_table()[name]), abs=tolerance)


def test_the_table_has_a_row_for_every_baseline() -> None:
    assert list(read_table()) == list(ROWS)
