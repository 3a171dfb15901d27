"""The methods are compared fairly: budgets are kept, and every method gets the noise and the weight that it should."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from benchmarks.plans import Held
from pyro_vipaint.bench import METHODS
from pyro_vipaint.bench.methods import Baseline, Method, VIPaint
from pyro_vipaint.bench.trials import Trial
from pyro_vipaint.models import DataCovariance, DiffusionPrior, GaussianPrior, Operator, load_prior
from pyro_vipaint.settings import budget_settings

SIDE = 8
BASELINES = {name: method for name, method in METHODS.items() if isinstance(method, Baseline)}


def trial_of(prior: DiffusionPrior, operator: Operator, noise: float = 0.0, num: int = 2) -> Trial:
    truth = torch.rand(num, *prior.image_shape) * 2 - 1
    y = operator.A(truth)
    return Trial(prior, truth, y + noise * torch.randn(y.shape), operator, noise, {}, seed=5)


def half_seen(num: int = 2) -> vp.Inpainting:
    return vp.Inpainting((torch.arange(SIDE) < SIDE // 2).float().expand(num, 1, SIDE, SIDE))


def small_prior() -> DiffusionPrior:
    """An exact prior whose marginal is estimated as with a network."""
    return GaussianPrior.diagonal(torch.zeros(1, SIDE, SIDE), torch.ones(1, SIDE, SIDE)).diffusion()


class Counting:
    """A denoiser that records the number of images in each call."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.batches = denoiser, []

    def __call__(self, z_t: Tensor, t: Tensor, **condition: Any) -> Tensor:
        self.batches.append(z_t.reshape(-1, 1, SIDE, SIDE).shape[0])
        return self.denoiser(z_t, t, **condition)


@pytest.mark.parametrize("levels", [2, 4])
def test_a_budgeted_vipaint_spends_two_fifths_on_its_fit(levels: int) -> None:
    """Calls of the fit are on N images, later ones on S × N. A step of the fit is K + 1 calls; one call precedes it."""
    prior, budget, samples, images = small_prior(), 30, 4, 2
    counting = Counting(prior.denoiser)
    trial = trial_of(replace(prior, denoiser=counting), half_seen())
    outcome = VIPaint(levels, "pictures")(trial, samples, budget)
    assert set(counting.batches) == {images, samples * images}
    fit = counting.batches.count(images) - 1
    assert fit == (levels + 1) * len(outcome.bounds)
    assert 0.4 * budget * samples - (levels + 1) < fit <= 0.4 * budget * samples
    assert outcome.nfe == sum(counting.batches)
    assert budget - 1 < outcome.nfe / (samples * images) <= budget


@pytest.mark.parametrize("levels", [1, 4])
def test_a_budgeted_vipaint_without_a_fit_refines(levels: int) -> None:
    """Its one step measures the bound with K calls on N images; later ones are on S × N."""
    prior, budget, samples, images = small_prior(), 30, 4, 2
    known = DataCovariance(torch.eye(64)[:3].reshape(3, *prior.event_shape), torch.ones(3), 0.2)
    counting = Counting(prior.denoiser)
    prior = replace(prior, denoiser=counting, data_covariance=known)
    outcome = VIPaint(levels)(trial_of(prior, half_seen()), samples, budget)
    assert counting.batches.count(images) == levels and len(outcome.bounds) == 1
    assert outcome.nfe == sum(counting.batches) and budget - 1 < outcome.nfe / (samples * images) <= budget


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("budget", [25, 250])
def test_steps_of_baselines_fill_the_budget(name: str, budget: int) -> None:
    method = BASELINES[name]
    chosen = method.at(budget, latent=not method.pixels)
    steps = chosen.pop("steps")
    options = {key: value for key, value in chosen.items() if key in signature(method.calls).parameters}
    assert method.calls(steps, **options) <= budget < method.calls(steps + 1, **options)


def spied(method: Method) -> tuple[Baseline, dict[str, Any]]:
    """The baseline with a run that records its arguments."""
    seen: dict[str, Any] = {}

    def run(
        prior: Any, likelihood: Any, y: Tensor, num_samples: int, steps: int = 1000, *, zeta: float = 0.5, seed: Any
    ) -> Any:
        seen.update(sigma=likelihood.sigma, steps=steps, zeta=zeta, seed=seed)
        return SimpleNamespace(samples=torch.zeros(1), calls=0, nfe=0, seconds=0.0, gradients=0)

    assert isinstance(method, Baseline)
    return replace(method, run=run), seen


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_baselines_know_the_noise_or_assume_the_papers(noise: float) -> None:
    """Without noise the likelihood has the .05 of the paper."""
    dps, seen = spied(METHODS["DPS"])
    dps(trial_of(small_prior(), half_seen(), noise), 1, None)
    assert seen == {"sigma": noise or 0.05, "steps": 1000, "zeta": 0.5, "seed": 5}


def test_a_baseline_has_the_zeta_of_its_budget_task_and_prior() -> None:
    """Masks: 1, and 2.5 below 40 NFE. Super-resolution by 4, whose norm is 1/4: 2 / (1/4) as VIPaint."""
    dps, seen = spied(METHODS["DPS"])
    small, restored = trial_of(small_prior(), half_seen()), trial_of(small_prior(), vp.SuperResolution(4), 0.05)
    for trial, budget, zeta in ((small, 40, 1.0), (small, 39, 2.5), (restored, 100, 8.0), (restored, 30, 8.0)):
        dps(trial, 1, budget)
        assert seen["zeta"] == pytest.approx(zeta, rel=1e-4) and seen["steps"] == budget


def test_a_latent_baseline_has_a_zeta_of_its_own() -> None:
    """4 for DPS on latents, over the operator's norm of 1/4."""
    dps, seen = spied(METHODS["DPS"])
    dps(trial_of(load_prior("cats64"), vp.SuperResolution(4), 0.05, num=1), 1, 30)
    assert seen["zeta"] == pytest.approx(16.0, rel=1e-4)


def test_a_held_method_keeps_to_its_own_budget() -> None:
    dps, seen = spied(METHODS["DPS"])
    Held(dps, 26)(trial_of(small_prior(), half_seen()), 1, None)
    assert (seen["steps"], seen["zeta"]) == (26, 2.5)


def test_a_budget_that_is_too_small_for_vipaint_is_refused() -> None:
    """The error states the least budget, which is enough."""
    for levels in (1, 2, 4, 7):
        for samples in (1, 3, 10):
            with pytest.raises(vp.InputError) as error:
                budget_settings(levels, 1, samples)
            least = int(str(error.value).split(" needs ")[1].split()[0])
            assert budget_settings(levels, least, samples).refine_steps >= 1
            with pytest.raises(vp.InputError, match=f"needs {least} "):
                budget_settings(levels, least - 1, samples)


def test_methods_apply_to_their_priors_and_tasks() -> None:
    prior = small_prior()
    assert not METHODS["PSLD"].applies(prior, True) and not METHODS["RePaint"].applies(prior, False)
    assert METHODS["VIPaint-4"].applies(prior, False) and METHODS["RePaint"].applies(prior, True)
