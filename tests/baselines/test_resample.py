"""ReSample: hard data consistency, stochastic resampling, and its cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from benchmarks.bias import GaussianTruth, latent_truth
from pyro_vipaint.baselines import resample
from pyro_vipaint.baselines.resample import Descent, consistent, stochastic_resample, third_of_hard_step
from pyro_vipaint.models.priors.schedules import EDM, LinearVP
from tests.baselines.chains import unconditional_chain
from tests.statistics import assert_within, mean_and_error

STEPS = 40


def images(truth: GaussianTruth, **options: Any) -> Tensor:
    return resample(truth.prior, truth.likelihood, truth.y, 3, STEPS, seed=0, **options).samples


def rms_residuals(truth: GaussianTruth, x: Tensor) -> Tensor:
    """Root mean square residual of each sample over the observed pixels."""
    return (x - truth.y)[..., truth.observed].square().mean(-1).sqrt()


def test_without_zeta_and_resampling_it_is_the_priors_own_chain() -> None:
    truth = latent_truth()
    torch.manual_seed(0)
    expected = unconditional_chain(truth.prior, truth.y, 3, STEPS)
    off = {"zeta": 0.0, "variance_factor": 0.0, "pixel_iterations": 0, "latent_iterations": 0}
    assert torch.allclose(images(truth, **off), expected, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.1, 0.03])
def test_the_images_fit_the_observation_as_well_as_its_noise_permits(sigma: float) -> None:
    """And no better: a sample that starts outside the noise level stops at its edge, one step inside."""
    truth = latent_truth()
    likelihood = replace(truth.likelihood, sigma=sigma)
    residuals = rms_residuals(truth, images(replace(truth, likelihood=likelihood), zeta=0.0, latent_lr=1e-3))
    assert (residuals <= sigma * 1.001).all()
    assert (residuals >= sigma - 2e-3).any()
    assert (rms_residuals(truth, images(truth, zeta=0.0, latent_iterations=0, pixel_iterations=0)) > 0.1).any()


def test_a_laplace_likelihood_stops_at_its_own_standard_deviation() -> None:
    truth = latent_truth()
    laplace = vp.Laplace(truth.likelihood.operator, scale=0.1 / 2**0.5)
    x = resample(truth.prior, laplace, truth.y, 3, STEPS, seed=0).samples
    assert torch.allclose(x, images(truth), atol=1e-5)


@pytest.mark.parametrize("schedule", [LinearVP(), EDM()])
def test_resampling_draws_from_the_product_of_both_normals(schedule: LinearVP | EDM) -> None:
    """Precisions add: 1 / v_t of the chain's z'_s and 1 / (1 - abar_s) of z*, in variance-preserving coordinates."""
    prior, t, s, factor, draws = latent_truth(schedule).prior, 0.6, 0.55, 40.0, 20000
    (a_t, b_t), (a_s, b_s) = (tuple(float(v) for v in schedule(torch.tensor(u, dtype=torch.float64))) for u in (t, s))
    c = (a_s**2 + b_s**2) ** 0.5
    signal_t, signal_s = a_t**2 / (a_t**2 + b_t**2), a_s**2 / (a_s**2 + b_s**2)
    chain = factor * (1 - signal_s) / signal_t * (1 - signal_t / signal_s)
    variance = 1 / (1 / chain + 1 / (1 - signal_s))
    z, z_star = 0.7 * c, -0.4
    mean = variance * (z / c / chain + signal_s**0.5 * z_star / (1 - signal_s))
    torch.manual_seed(0)
    drawn = stochastic_resample(prior, torch.full((draws,), z), torch.full((draws,), z_star), t, s, factor) / c
    estimate, error = mean_and_error(drawn)
    assert_within(estimate, mean, error)
    assert_within(drawn.var(), variance, variance * (2 / draws) ** 0.5)


def test_hard_steps_are_the_authors() -> None:
    """500 steps: every tenth from number 330 on; pixels down to number 166, latents below, and none at 0."""
    thirds = {index: third_of_hard_step(500, index) for index in range(500)}
    assert [index for index, third in thirds.items() if third == 2] == list(range(170, 335, 10))
    assert [index for index, third in thirds.items() if third == 3] == list(range(10, 166, 10))


def test_every_decoding_is_counted() -> None:
    """40 steps: 39 with DPS, one with pixel descent (number 20), one with latent descent (number 10) as at the end."""
    truth = latent_truth()
    without = resample(truth.prior, truth.likelihood, truth.y, 3, STEPS, latent_iterations=0, pixel_iterations=0)
    assert without.decodings == STEPS - 1 + 1 + 1
    strict = vp.Gaussian(truth.likelihood.operator, sigma=1e-6)
    never = resample(truth.prior, strict, truth.y, 3, STEPS, latent_iterations=7, pixel_iterations=3)
    assert never.decodings == without.decodings + 2 * 7


def test_no_image_is_made_of_a_sample_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """One observation is fitted at the start and one is out of reach: the decoder is called for the second only."""
    truth = latent_truth()
    codec, decoded = type(truth.prior.codec), []
    plain = codec.decode
    monkeypatch.setattr(codec, "decode", lambda self, z: decoded.append(len(z.flatten(0, -3))) or plain(self, z))
    z_hat = torch.zeros(3, 2, *truth.prior.event_shape)
    fitting = plain(truth.prior.codec, z_hat[0, :1])
    descent = Descent(False, 1e-3, 4, float(truth.likelihood.noise_std))
    z_star = consistent(truth.prior, truth.likelihood, z_hat, torch.cat([fitting, fitting + 100]), descent)
    assert decoded == [6, 3, 3, 3]
    assert torch.equal(z_star[:, 0], z_hat[:, 0])
    assert (z_star[:, 1] != 0).any()
