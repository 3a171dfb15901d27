"""Noise that differs between pixels, as a map or as counts of photons: closed forms, and what follows the residual."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from benchmarks.bias import BASELINES, gaussian_truth, latent_truth
from pyro_vipaint.models import DiffusionModel, EmpiricalPrior, GaussianMixturePrior, GaussianPrior
from pyro_vipaint.models.measurements.likelihoods import FLOOR
from tests.baselines.test_laws import SAMPLES, options_of
from tests.statistics import assert_within, mean_and_error

SHAPE = (1, 4, 4)
MAP = torch.linspace(0.05, 2.0, 16).reshape(SHAPE)
MASK = (torch.arange(16).reshape(SHAPE) % 3 > 0).float()
MEAN, STD = torch.linspace(-0.3, 0.4, 16).reshape(SHAPE), torch.linspace(0.2, 0.5, 16).reshape(SHAPE)
FEW = {name: options_of(name) | {"steps": 6} for name in BASELINES}
Y = 0.5 * torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))


# a map


@pytest.mark.parametrize("family", ["gaussian", "mixture"])
def test_posterior_and_evidence_with_a_map_are_those_of_each_pixel_by_itself(family: str) -> None:
    """p(x|y): precision 1/s² + 1/σ², mean (m/s² + y/σ²) over it; p(y) = N(m, s² + σ²); hidden pixels as the prior."""
    likelihood = vp.Gaussian(vp.Inpainting(MASK), sigma=MAP)
    if family == "gaussian":
        prior: Any = GaussianPrior.diagonal(MEAN, STD)
        posterior = prior.posterior(likelihood, Y)
    else:
        prior = GaussianMixturePrior.diagonal(torch.ones(1), MEAN[None], STD[None])
        posterior = prior.posterior(likelihood, Y)
    weight = MASK / MAP**2
    precision = 1 / STD**2 + weight
    expected = (MEAN / STD**2 + weight * Y) / precision
    torch.testing.assert_close(posterior.mean, expected.flatten(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(posterior.variance, (1 / precision).flatten().expand(3, -1), rtol=1e-4, atol=1e-5)
    terms = torch.distributions.Normal(MEAN, (STD**2 + MAP**2).sqrt()).log_prob(Y) * MASK
    torch.testing.assert_close(prior.log_evidence(likelihood, Y), terms.flatten(1).sum(1), rtol=1e-4, atol=1e-4)


def test_the_density_with_a_map_is_that_of_each_element() -> None:
    """Also with one map for each image, and with samples in front."""
    x = torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    for sigma in (MAP, torch.stack([MAP, 2 * MAP, 0.1 + MAP])):
        found = vp.Gaussian(vp.Inpainting(MASK), sigma)(x).log_prob(Y)
        torch.testing.assert_close(found, torch.distributions.Normal(x, sigma).log_prob(Y) * MASK)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_take_a_map_or_refuse_it(name: str) -> None:
    """A map of one value is that number; an element of enormous noise has no influence where the map is followed."""
    truth = gaussian_truth() if BASELINES[name].pixels else latent_truth()

    def images(sigma: float | Tensor, y: Tensor) -> Tensor:
        likelihood = vp.Gaussian(truth.likelihood.operator, sigma)
        return BASELINES[name].run(truth.prior, likelihood, y, SAMPLES, seed=0, **FEW[name]).samples

    sigma = truth.likelihood.sigma
    flat = torch.full(truth.y.shape[1:], float(sigma))
    if name in ("Blended", "RePaint", "ReSample"):
        with pytest.raises(vp.InputError, match="one noise level for all pixels"):
            images(flat, truth.y)
        return
    torch.testing.assert_close(images(flat, truth.y), images(sigma, truth.y), rtol=1e-3, atol=1e-3)
    vague, moved = flat.clone(), truth.y.clone()
    vague[0, 0, 0], moved[0, 0, 0, 0] = 1e6, truth.y[0, 0, 0, 0] + 1
    torch.testing.assert_close(images(vague, moved), images(vague, truth.y), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(images(flat, moved), images(flat, truth.y), atol=1e-2)


def test_start_and_refinement_follow_a_map() -> None:
    """As for the baselines: no influence of a vague pixel, and a map of one value is that number, bit for bit."""
    truth = gaussian_truth()
    z = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0))

    def images(sigma: float | Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        likelihood = vp.Gaussian(truth.likelihood.operator, sigma)
        model = DiffusionModel(truth.prior, likelihood, vp.keypoints(truth.prior, noise_levels=[1.0]))
        return vp.initial_latent(truth.prior, likelihood, y), vp.refine(model, z, y, 5, seed=0)

    flat, moved = torch.full(SHAPE, 0.1), truth.y.clone()
    moved[0, 0, 0, 0] += 1
    vague = flat.clone()
    vague[0, 0, 0] = 1e6
    for one, other in zip(images(flat, truth.y), images(0.1, truth.y), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(images(vague, moved), images(vague, truth.y), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


# counts


def test_counts_have_the_density_of_photons() -> None:
    """k log λ - λ - log k! with λ = gain (x + 1) / 2, at least FLOOR · gain, where observed; and its moments."""
    likelihood, x = vp.Poisson(vp.Inpainting(MASK), gain=40.0), torch.linspace(-1.2, 1, 16).reshape(1, *SHAPE)
    rate = 40 * ((x * MASK + 1) / 2).clamp(min=FLOOR)
    y = torch.arange(16.0).reshape(1, *SHAPE)
    expected = (y * rate.log() - rate - torch.lgamma(y + 1)) * MASK
    torch.testing.assert_close(likelihood(x).log_prob(y), expected)
    torch.manual_seed(0)
    grey = torch.zeros(4000, *SHAPE)
    residual = likelihood.residual(grey, likelihood(grey).sample()).flatten()[MASK.bool().flatten().repeat(4000)]
    mean, error = mean_and_error(residual)
    assert_within(mean, 0.0, error)
    assert_within(residual.std(), likelihood.noise_std, likelihood.noise_std / (2 * len(residual)) ** 0.5, slack=0.001)
    white = torch.full((1, *SHAPE), 40.0)
    torch.testing.assert_close(likelihood.residual(torch.ones(1, *SHAPE), white), torch.zeros(1, *SHAPE))


def test_the_posterior_of_counts_on_a_set_of_images() -> None:
    """Weights in proportion to w_m p(y | x_m), by hand from the counts."""
    images = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    likelihood = vp.Poisson(vp.Inpainting(MASK), gain=6.0)
    y = likelihood(images[1:3]).sample()
    rate = 3 * (images + 1)
    joint = ((y[:, None] * rate.log() - rate - torch.lgamma(y[:, None] + 1)) * MASK).flatten(2).sum(2) - torch.tensor(
        5.0
    ).log()
    torch.testing.assert_close(EmpiricalPrior(images).log_evidence(likelihood, y), joint.logsumexp(1))


def test_restoring_from_counts_comes_near_the_image() -> None:
    """Nearer than the prior's mean by far, for observed and hidden pixels of a correlated prior; counts are kept."""
    truth = gaussian_truth()
    x = truth.mean[None].clamp(-0.9, 0.9)
    operator = truth.likelihood.operator
    y = torch.distributions.Poisson(2000 * (x + 1) / 2).sample()
    result = vp.restore(
        y, operator, truth.prior, 2, 20, likelihood=vp.Poisson(operator, gain=2000.0), steps=60, seed=0, device="cpu"
    )
    assert torch.equal(result.observation, y * truth.observed)
    assert result.picture is not None and torch.equal(result.picture, (2 * y / 2000 - 1) * truth.observed)
    error = (result.mean - x)[0].abs()
    assert error[truth.observed].max() < 0.1 and error.mean() < 0.15 < (0.1 - x)[0].abs().max()


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_take_counts(name: str) -> None:
    """Rescaled counts are the observation: with many photons the samples are those of the image itself."""
    truth = gaussian_truth() if BASELINES[name].pixels else latent_truth()
    gain = 2e4
    y = ((truth.y + 1) / 2 * gain).round()
    counts, plain = (
        vp.Poisson(truth.likelihood.operator, gain),
        vp.Gaussian(truth.likelihood.operator, (2 / gain) ** 0.5),
    )
    options = FEW[name] | {"seed": 0}
    ours, theirs = (
        BASELINES[name].run(truth.prior, each, of, SAMPLES, **options).samples
        for each, of in ((counts, y), (plain, truth.y))
    )
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)
