"""Pi-GDM: exact on independent pixels, its noiseless form, and its use of the noise level."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from benchmarks.bias import GaussianTruth, gaussian_truth, latent_truth
from pyro_vipaint.baselines import pi_gdm
from pyro_vipaint.models import GaussianPrior
from pyro_vipaint.models.priors.schedules import EDM, LinearVP, RectifiedFlow, Schedule
from tests.baselines.chains import unconditional_chain

STD = 0.3
Y = 0.3 * torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(1, 4, 4)
MASK[..., :2] = 1


def independent_prior(schedule: Schedule | None = None) -> GaussianPrior:
    """Independent pixels of one standard deviation, each with its own mean."""
    mean = torch.linspace(-0.2, 0.3, 16).reshape(1, 4, 4)
    return GaussianPrior.diagonal(mean, torch.full((1, 4, 4), STD), schedule)


def images(truth: GaussianTruth) -> Tensor:
    return pi_gdm(truth.prior, truth.likelihood, truth.y, 3, 20, seed=0).samples


MAP = torch.linspace(0.05, 1.0, 16).reshape(1, 4, 4)


@pytest.mark.parametrize(
    ("schedule", "eta", "sigma"),
    [(EDM(), 1.0, 0.2), (LinearVP(), 0.0, 0.2), (RectifiedFlow(), 1.0, 0.2), (LinearVP(), 0.0, MAP), (EDM(), 1.0, MAP)],
)
def test_on_independent_pixels_it_is_the_chain_of_the_exact_posterior(
    schedule: Schedule, eta: float, sigma: float | Tensor
) -> None:
    """Number for number, at every step size: the posterior is a prior with another mean and standard deviation."""
    prior, likelihood = independent_prior(schedule), vp.Gaussian(vp.Inpainting(MASK), sigma)
    exact = prior.posterior(likelihood, MASK * Y[:1])
    mean, std = (moment[0].reshape(1, 4, 4) for moment in (exact.mean, exact.stddev))
    torch.manual_seed(0)
    expected = unconditional_chain(GaussianPrior.diagonal(mean, std, schedule), Y[:1], 5, 12, eta)
    ours = pi_gdm(prior, likelihood, MASK * Y[:1], 5, 12, eta=eta, seed=0).samples
    assert torch.allclose(ours, expected, atol=2e-4)


def test_without_noise_observed_pixels_are_the_observation() -> None:
    likelihood = vp.Gaussian(vp.Inpainting(MASK), sigma=1e-5)
    x = pi_gdm(independent_prior(), likelihood, MASK * Y, 3, 10, seed=0).samples
    assert torch.allclose((x * MASK), (Y * MASK).expand_as(x), atol=1e-4)


def test_an_operator_without_a_mask_is_fitted_exactly() -> None:
    """On independent pixels x_hat' = x_hat + A^+ (y - A x_hat), so that A x_hat' = y."""
    operator = vp.SuperResolution(2)
    y = operator.A(Y)
    x = pi_gdm(independent_prior(), vp.Gaussian(operator, sigma=0.2), y, 3, 10, seed=0).samples
    assert torch.allclose(operator.A(x), y.expand(3, *y.shape), atol=1e-4)
    assert x.std(0).mean() > 0.1


def test_a_laplace_likelihood_counts_by_its_standard_deviation() -> None:
    truth = gaussian_truth()
    laplace = vp.Laplace(truth.likelihood.operator, scale=float(truth.likelihood.sigma) / 2**0.5)
    assert torch.allclose(pi_gdm(truth.prior, laplace, truth.y, 3, 20, seed=0).samples, images(truth), atol=1e-5)


def test_a_latent_prior_is_refused() -> None:
    truth = latent_truth()
    with pytest.raises(vp.InputError, match="pixel prior"):
        pi_gdm(truth.prior, truth.likelihood, truth.y)
