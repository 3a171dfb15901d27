"""Soft masks: a weight between 0 and 1 is a noise level, and 0 and 1 are the hard masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pyro_vipaint as vp
from pyro_vipaint.models import GaussianPrior, soft_inpainting

SHAPE = (1, 6, 6)
SIGMA = 0.1
MASK = (torch.arange(36).reshape(SHAPE) / 35).float()  # 0, …, 1
IMAGE = torch.linspace(-0.9, 0.9, 36).flip(0).reshape(SHAPE)
MEAN, STD = torch.linspace(-0.3, 0.4, 36).reshape(SHAPE), torch.linspace(0.2, 0.5, 36).reshape(SHAPE)
PRIOR = GaussianPrior.diagonal(MEAN, STD)
QUICK: dict[str, Any] = {"levels": 1, "num_samples": 2, "refine_steps": 3, "device": "cpu", "seed": 0}


def test_the_posterior_under_a_soft_mask_weighs_each_pixel() -> None:
    """The precision of a pixel is 1/s² + m/σ², its mean (μ/s² + m y/σ²) over it: at m = 0 those of the prior."""
    posterior = PRIOR.posterior(soft_inpainting(MASK, SIGMA), IMAGE[None])
    precision = 1 / STD**2 + MASK / SIGMA**2
    expected = (MEAN / STD**2 + MASK * IMAGE / SIGMA**2) / precision
    torch.testing.assert_close(posterior.mean, expected.flatten()[None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(posterior.variance, (1 / precision).flatten()[None], rtol=1e-4, atol=1e-6)


def test_its_density_is_the_weighted_one_up_to_a_constant() -> None:
    """Differences of log densities between images are m times those of a hard mask."""
    likelihood, hard = soft_inpainting(MASK, SIGMA), vp.Gaussian(vp.Inpainting(torch.ones(SHAPE)), SIGMA)
    x, y = torch.stack([IMAGE, 0.5 * IMAGE])[:, None], IMAGE[None]
    found, full = (each(x).log_prob(y) for each in (likelihood, hard))
    torch.testing.assert_close(found[0] - found[1], MASK * (full[0] - full[1]), rtol=1e-4, atol=1e-3)


def test_the_limits_are_the_hard_masks() -> None:
    """A weight close to 0 or 1 gives the posterior of the hard mask; of 0 and 1 alone it has one number sigma."""
    hard = (MASK > 0.5).float()
    for soft in (hard.clamp(2e-4, 1), hard.clamp(0, 1 - 1e-4)):
        nearly = PRIOR.posterior(soft_inpainting(soft, SIGMA), IMAGE[None]).mean
        exact = PRIOR.posterior(soft_inpainting(hard, SIGMA), IMAGE[None]).mean
        torch.testing.assert_close(nearly, exact, rtol=0, atol=5e-3)
    likelihood = soft_inpainting(hard, SIGMA)
    assert likelihood.sigma == SIGMA and torch.equal(likelihood.operator.mask, hard)  # type: ignore[attr-defined]


@pytest.mark.parametrize("preset", ["inference", "pictures"])
def test_inpaint_with_a_soft_mask_is_restore_with_the_map(preset: str) -> None:
    """Bit for bit, with noise stated too; and a hard mask of floats is one of bool."""
    diffusion = PRIOR.diffusion()
    for noise in (None, 0.2):
        result = vp.inpaint(IMAGE, MASK, diffusion, noise=noise, preset=preset, **QUICK)
        likelihood = soft_inpainting(MASK, 0.05 if noise is None else noise)
        y = torch.where(MASK > 0, IMAGE, 0.0)[None]
        expected = vp.restore(y, likelihood.operator, diffusion, likelihood=likelihood, preset=preset, **QUICK)
        assert torch.equal(result.samples, expected.samples)
    one, other = (vp.inpaint(IMAGE, m, diffusion, preset=preset, **QUICK) for m in ((MASK > 0.5).float(), MASK > 0.5))
    assert torch.equal(one.samples, other.samples)


@pytest.mark.parametrize("weight", [0.05, 0.5])
def test_samples_follow_a_pixel_as_closely_as_its_weight_says(weight: float) -> None:
    """On independent pixels the spread of the samples is that of the exact posterior with sigma / sqrt(m)."""
    flat = GaussianPrior.diagonal(torch.zeros(SHAPE), torch.full(SHAPE, 0.5))
    result = vp.inpaint(0 * IMAGE, torch.full(SHAPE, weight), flat.diffusion(), 1, 200, device="cpu", seed=0, noise=0.2)
    exact = (1 / (1 / 0.25 + weight / 0.04)) ** 0.5
    assert abs(float(result.std.mean()) / exact - 1) < 0.1


@pytest.mark.parametrize(
    "arguments",
    [(MASK + 0.5,), (MASK - 0.5,), (MASK * torch.nan,), ([0.5],), (MASK, 0.0), (MASK, -1.0)],
)
def test_other_masks_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(vp.InputError):
        soft_inpainting(*arguments)
