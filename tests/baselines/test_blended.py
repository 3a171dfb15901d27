"""Blended: RePaint's law, the prior's own chain, and latent space. What is pasted is tested with RePaint."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from benchmarks.bias import GaussianTruth, gaussian_truth
from pyro_vipaint.baselines import BaselineResult, blended
from pyro_vipaint.baselines.repaint import repaint
from pyro_vipaint.baselines.replacement import latent_mask
from pyro_vipaint.models import DiffusionPrior, GaussianPrior
from pyro_vipaint.models.priors.codecs import AutoencoderCodec
from tests.baselines.chains import unconditional_chain
from tests.pipelines import IMAGE, LATENT, random_vae
from tests.statistics import assert_within


def run(truth: GaussianTruth, num_samples: int = 4000, **options: Any) -> BaselineResult:
    return blended(truth.prior, truth.likelihood, truth.y, num_samples, **{"seed": 0, **options})


def test_with_the_noise_of_ddpm_it_is_repaint_without_jumps() -> None:
    """The same law by another route: means and spreads of the hidden pixels agree."""
    truth, draws = gaussian_truth(), 4000
    first = run(truth, draws, steps=40, eta=1.0).samples[:, 0]
    second = repaint(truth.prior, truth.likelihood, truth.y, draws, 40, resamples=1, seed=1).samples[:, 0]
    std = second.std(0)
    assert_within(first.mean(0), second.mean(0), std * (2 / draws) ** 0.5 + 1e-6)
    assert_within(first.std(0), std, std / draws**0.5 + 1e-6)


def test_nothing_observed_is_the_priors_own_chain() -> None:
    """Deterministic after the first noise; NaN where nothing is seen does not matter."""
    truth = gaussian_truth()
    likelihood, y = vp.Gaussian(vp.Inpainting(torch.zeros(1, 4, 4)), 0.1), torch.full_like(truth.y, torch.nan)
    torch.manual_seed(4)
    expected = unconditional_chain(truth.prior, y, 3, 8)
    assert torch.allclose(blended(truth.prior, likelihood, y, 3, 8, seed=4).samples, expected, atol=1e-6)


def test_observed_pixels_are_the_observation_and_everything_observed_is_the_image() -> None:
    truth = gaussian_truth()
    for method, steps in product((blended, repaint), (1, 5)):
        samples = method(truth.prior, truth.likelihood, truth.y, 3, steps, seed=0).samples[:, 0]
        assert torch.equal(samples[:, truth.observed], truth.y[:, truth.observed].expand(3, -1))
    seen = vp.Gaussian(vp.Inpainting(torch.ones(1, 4, 4)), 0.1)
    image = blended(truth.prior, seen, truth.y, 2, 4, seed=0).samples
    assert torch.equal(image, truth.y.expand(2, *truth.y.shape))


def latent_prior() -> DiffusionPrior:
    codec = AutoencoderCodec(random_vae(), scaling_factor=0.7, shift_factor=0.2)
    gaussian = GaussianPrior.diagonal(torch.zeros(LATENT), torch.ones(LATENT))
    return replace(gaussian.diffusion(), codec=codec)


def half_observed() -> tuple[vp.Gaussian, Tensor]:
    """The left half and one column more, so that a column of latents is observed in part; NaN where hidden."""
    mask = torch.zeros(1, *IMAGE[1:])
    mask[..., :9] = 1
    y = torch.rand(2, *IMAGE) * 2 - 1
    return vp.Gaussian(vp.Inpainting(mask), 0.1), torch.where(mask.bool(), y, torch.nan)


def test_a_latent_is_known_where_all_pixels_below_are() -> None:
    observed = torch.ones(1, 3, 4, 8, dtype=torch.bool)
    observed[0, 1, 3, 4] = False
    expected = torch.ones(1, 1, 2, 4, dtype=torch.bool)
    expected[0, 0, 1, 2] = False
    assert torch.equal(latent_mask(observed, (4, 2, 4)), expected)


@pytest.mark.parametrize("method", [blended, repaint])
def test_in_latent_space_known_latents_are_those_of_the_filled_image(method: Any) -> None:
    """The last latent, caught at the decoder, is the encoded observation where it is known; no call is added."""
    likelihood, y = half_observed()
    caught: list[Tensor] = []
    prior = latent_prior()
    result = method(replace(prior, codec=Watched(prior.codec, caught)), likelihood, y, 3, 4, seed=0)
    assert result.calls == 4
    assert result.samples.shape == (3, 2, *IMAGE) and result.samples.isfinite().all()
    filling, image, known, last = caught
    visible = likelihood.operator.mask.bool()  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(image[..., :9], y[..., :9].expand(3, -1, -1, -1, -1))
    assert torch.allclose(image[..., 9:], prior.decode(filling).clamp(-1, 1)[..., 9:])
    columns = latent_mask(visible, LATENT)[0, 0]
    assert columns.tolist() == [True] * 4 + [False] * 4
    assert torch.equal(last[..., columns], known[..., columns])
    assert not torch.isclose(last[..., ~columns], known[..., ~columns]).any(dim=-1).all()


class Watched:
    """A codec that notes what it decodes, and what it encodes and to what."""

    def __init__(self, codec: Any, caught: list[Tensor]) -> None:
        self.codec, self.caught = codec, caught

    def encode(self, x: Tensor) -> Tensor:
        z = self.codec.encode(x)
        self.caught += [x, z]
        return z

    def decode(self, z: Tensor) -> Tensor:
        self.caught.append(z)
        return self.codec.decode(z)

    def image_shape(self, event_shape: torch.Size) -> torch.Size:
        return self.codec.image_shape(event_shape)
