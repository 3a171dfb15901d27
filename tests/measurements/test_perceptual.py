"""The perceptual likelihood: both factors by hand, and the bound of a fit."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from pyro import poutine

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.metrics import lpips_distance
from pyro_vipaint.models import DiffusionModel, GaussianPrior
from pyro_vipaint.models.measurements.masks import rotated_window

SIZE, SCALE = 32, 0.2


def images(*leading: int, seed: int = 0) -> torch.Tensor:
    """Smooth random images, ``(*leading, 3, 32, 32)`` in [-1, 1]."""
    noise = torch.randn(*leading, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    flat = torch.nn.functional.interpolate(noise.reshape(-1, 3, 4, 4), size=SIZE, mode="bicubic")
    return flat.tanh().reshape(*leading, 3, SIZE, SIZE)


@pytest.fixture
def mask() -> torch.Tensor:
    return rotated_window(SIZE, 2, seed=1)


def test_the_log_density_is_both_factors_by_hand(mask: torch.Tensor) -> None:
    x, y = images(4, 2), mask * images(2, seed=1)
    found = vp.Perceptual(vp.Inpainting(mask), SCALE, weight=50.0)(x).log_prob(y)
    error = (mask * (y - x)).abs().sum((-3, -2, -1)) / SCALE
    observed = 3 * mask.sum((-3, -2, -1))
    by_hand = -error - observed * torch.tensor(2 * SCALE).log() - 50 * lpips_distance(mask * x, y)
    assert torch.allclose(found, by_hand, rtol=1e-5)


def test_the_two_terms_have_the_ratio_of_the_released_code(mask: torch.Tensor) -> None:
    """There the loss is 100 (mean |y - A(x)| / .64 + LPIPS), the mean over all elements of an image."""
    x, y = images(2), mask * images(2, seed=1)
    likelihood = vp.Perceptual(vp.Inpainting(mask), SCALE)
    exact = vp.Perceptual(vp.Inpainting(mask), SCALE, weight=0.0)(y).log_prob(y)
    loss = exact - likelihood(x).log_prob(y)
    theirs = (mask * (y - x)).abs().mean((-3, -2, -1)) / 0.64 + lpips_distance(mask * x, y)
    assert torch.allclose(loss / theirs, (loss / theirs)[0].expand(2), rtol=1e-4)


def test_it_draws_what_the_laplace_likelihood_draws(mask: torch.Tensor) -> None:
    x, operator = images(2), vp.Inpainting(mask)
    torch.manual_seed(0)
    drawn = vp.Perceptual(operator, SCALE)(x).expand([3, 2]).sample()
    torch.manual_seed(0)
    assert torch.equal(drawn, vp.Laplace(operator, SCALE)(x).to_event(3).expand([3, 2]).sample())


@pytest.mark.parametrize("arguments", [{"weight": -1.0}, {"scale": 0.0}])
def test_unusable_numbers_are_refused(mask: torch.Tensor, arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        vp.Perceptual(vp.Inpainting(mask), **arguments)


def model_of(likelihood: vp.Laplace) -> DiffusionModel:
    prior = GaussianPrior.diagonal(torch.zeros(3, SIZE, SIZE), torch.full((3, SIZE, SIZE), 0.5))
    return DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=(2.0, 0.5)))


def test_a_fit_reports_the_laplace_bound_less_the_weighted_distance(mask: torch.Tensor) -> None:
    """On the same draw the difference is the weighted distance, so the bound is never above Laplace's."""
    y, operator, weight = mask * images(2), vp.Inpainting(mask), 500.0
    bounds, observed = [], torch.empty(0)
    for likelihood in (vp.Laplace(operator, SCALE), vp.Perceptual(operator, SCALE, weight)):
        model = model_of(likelihood)
        guide = HierarchicalGuide(model, y)
        torch.manual_seed(2)
        trace = poutine.trace(poutine.replay(model, poutine.trace(guide).get_trace(y))).get_trace(y)
        bounds.append(trace.log_prob_sum())
        z: Any = trace.nodes["z_1"]["value"]
        observed = operator.A(model.reconstruct(z))
    distance = lpips_distance(observed, y).sum()
    assert distance > 0
    assert torch.isclose(bounds[0] - bounds[1], weight * distance, rtol=1e-3)


@pytest.mark.slow
def test_a_fit_moves_towards_the_image_and_counts_the_same_calls(mask: torch.Tensor) -> None:
    y = mask * images(2)
    distances, calls = [], []
    for weight in (0.0, 20000.0):
        model = model_of(vp.Perceptual(vp.Inpainting(mask), 1.0, weight))
        guide = HierarchicalGuide(model, torch.zeros(2, 3, SIZE, SIZE), gamma_logit=0.0)
        fit = vp.fit(model, guide, y, vp.BetaELBO(), steps=40, lr=0.05, seed=3)
        with torch.no_grad():
            x = mask * model.reconstruct(vp.sample(guide, y, 4, seed=4))
        distances.append(lpips_distance(x, y).mean())
        calls.append(fit.calls)
    assert calls[0] == calls[1] == 40 * 2  # the marginal of this prior costs none
    assert distances[1] < 0.8 * distances[0]


def test_hidden_pixels_of_the_observation_have_no_influence(mask: torch.Tensor) -> None:
    model = model_of(vp.Perceptual(vp.Inpainting(mask), SCALE))
    y = mask * images(2)
    spoilt = torch.where(mask != 0, y, torch.nan)
    densities = []
    for observation in (y, spoilt):
        pyro.set_rng_seed(5)
        densities.append(poutine.trace(model).get_trace(observation).log_prob_sum())
    assert torch.equal(*densities)
