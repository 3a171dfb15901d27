"""Gradients through the network are counted: against hand counts, and against a denoiser that counts itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint import baselines
from pyro_vipaint.corrections import DPS, MMPS, TMPD
from pyro_vipaint.guides import HierarchicalGuide, TwistedGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior
from tests.problems import LIKELIHOOD, Y, four_pixels

SAMPLES, IMAGES, STEPS = 3, 2, 4
BOTH = torch.cat([Y, Y + 0.2])
TIMES = (0.9, 0.6, 0.3)
ENTRIES: list[int] = []  # images of each backward pass through a Counting denoiser


class Passed(torch.autograd.Function):
    """The identity; its gradient, which passes it again, is counted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ENTRIES.append(gradient[..., 0, 0, 0].numel())
        return Passed.apply(gradient)  # pyright: ignore


def counting() -> DiffusionPrior:
    """A prior that counts the gradients itself, with a marginal that is estimated as with a network."""
    ENTRIES.clear()
    prior = four_pixels().diffusion()
    denoiser = prior.denoiser
    return replace(prior, denoiser=lambda z, t, **condition: Passed.apply(denoiser(z, t, **condition)))


def baseline(method: Callable[..., Any], prior: DiffusionPrior) -> int:
    return method(prior, LIKELIHOOD, BOTH, SAMPLES, steps=STEPS, seed=0).gradients


def refinement(options: dict[str, Any], prior: DiffusionPrior) -> int:
    model = DiffusionModel(prior, LIKELIHOOD, TIMES)
    with vp.count_calls() as count:
        vp.refine(model, torch.randn(SAMPLES, IMAGES, 1, 2, 2), BOTH, STEPS, **options)
    return count.gradients


def fitted(make: Callable[[DiffusionModel], Any], prior: DiffusionPrior) -> int:
    model = DiffusionModel(prior, LIKELIHOOD, TIMES)
    with vp.count_calls() as count:
        vp.fit(model, make(model), BOTH, vp.BetaELBO(num_particles=SAMPLES), steps=STEPS, seed=0)
    return count.gradients


def weighed(prior: DiffusionPrior) -> int:
    model = DiffusionModel(prior, LIKELIHOOD, TIMES)
    return vp.smc(model, TwistedGuide(model, correction=MMPS()), BOTH, SAMPLES, seed=0).gradients


CALLS = {  # gradients per sample and image
    "DPS": (partial(baseline, baselines.dps), STEPS - 1),
    "PiGDM": (partial(baseline, baselines.pi_gdm), STEPS),
    "MMPS, one iteration": (partial(baseline, partial(baselines.mmps, iterations=1)), STEPS),
    "MMPS, three iterations": (partial(baseline, partial(baselines.mmps, iterations=3)), 3 * STEPS),
    "DDNM": (partial(baseline, baselines.ddnm), 0),
    "refinement": (partial(refinement, {}), STEPS - 1),
    "refinement by TMPD": (partial(refinement, {"correction": TMPD()}), 2 * STEPS),
    "fit": (partial(fitted, lambda model: HierarchicalGuide(model, torch.zeros(IMAGES, 1, 2, 2))), STEPS * 4),
    "SMC": (weighed, len(TIMES) - 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_counted(name: str) -> None:
    """K + 1 in an SVI step; a method's prediction of the image may need a gradient that no later step uses."""
    run, expected = CALLS[name]
    found = run(counting())
    assert found == expected * SAMPLES * IMAGES == sum(ENTRIES)


@pytest.mark.parametrize("correction", [DPS(0.05), TMPD()])
def test_a_gradient_of_a_gradient_passes_the_call_twice(correction: Any) -> None:
    """The fit of a twisted guide differentiates its corrections."""
    found = fitted(lambda model: TwistedGuide(model, correction=correction), counting())
    assert found == sum(ENTRIES)


def test_a_gradient_with_respect_to_the_prediction_is_none_through_the_network() -> None:
    prior, z = counting(), torch.randn(IMAGES, 1, 2, 2, requires_grad=True)
    with vp.count_calls() as outer:
        with vp.count_calls() as count:
            x_hat = prior.denoise(z, 0.5)
        torch.autograd.grad(x_hat.square().sum(), x_hat, retain_graph=True)
        assert (count.nfe, count.gradients) == (IMAGES, 0)
        torch.autograd.grad(x_hat.square().sum(), z)
    assert count.gradients == outer.gradients == IMAGES
