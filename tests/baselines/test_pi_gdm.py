"""Pi-GDM: exact on independent pixels, its bias on correlated ones, its noiseless form, and what must not change it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.baselines import pi_gdm
from pyro_vipaint.baselines.pi_gdm import pi_gdm_calls
from pyro_vipaint.models import GaussianPrior
from pyro_vipaint.models.priors.schedules import EDM, LinearVP, RectifiedFlow, Schedule
from tests.baseline_truth import GaussianTruth, gaussian_truth, measure_bias
from tests.latent_truth import latent_truth, unconditional_chain
from tests.problems import Unscaled

SAMPLES, STD = 2000, 0.3
Y = 0.3 * torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(1, 4, 4)
MASK[..., :2] = 1


def independent_prior(schedule: Schedule | None = None) -> GaussianPrior:
    """Independent pixels of one standard deviation, each with its own mean."""
    mean = torch.linspace(-0.2, 0.3, 16).reshape(1, 4, 4)
    return GaussianPrior.diagonal(mean, torch.full((1, 4, 4), STD), schedule)


def images(truth: GaussianTruth, y: Tensor | None = None, steps: int = 20) -> Tensor:
    return pi_gdm(truth.prior, truth.likelihood, truth.y if y is None else y, 3, steps, seed=0).samples


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("schedule", [EDM(), LinearVP(), RectifiedFlow()])
def test_on_independent_pixels_it_is_the_chain_of_the_exact_posterior(schedule: Schedule, eta: float) -> None:
    """Number for number, at every step size: the posterior is a prior with another mean and standard deviation."""
    prior, likelihood = independent_prior(schedule), vp.Gaussian(vp.Inpainting(MASK), sigma=0.2)
    exact = prior.posterior(likelihood, MASK * Y[:1])
    mean, std = (moment[0].reshape(1, 4, 4) for moment in (exact.mean, exact.stddev))
    torch.manual_seed(0)
    expected = unconditional_chain(GaussianPrior.diagonal(mean, std, schedule), Y[:1], 5, 12, eta)
    ours = pi_gdm(prior, likelihood, MASK * Y[:1], 5, 12, eta=eta, seed=0).samples
    assert torch.allclose(ours, expected, atol=2e-4)


def test_the_bias_is_the_documented_one() -> None:
    """The defaults; the Monte-Carlo error of each figure is below 1 / sqrt(2000) = .022."""
    bias = measure_bias(gaussian_truth(), lambda truth: pi_gdm(truth.prior, truth.likelihood, truth.y, SAMPLES, seed=0))
    measured = (bias.mean_observed, bias.mean_hidden, bias.std_observed, bias.std_hidden)
    assert measured == pytest.approx((0.16, 0.11, 0.96, 0.92), abs=0.05)


def test_an_observation_without_information_leaves_the_priors_own_chain() -> None:
    truth = gaussian_truth()
    torch.manual_seed(0)
    expected = unconditional_chain(truth.prior, truth.y, 3, 20, eta=1.0)
    blind = replace(truth, likelihood=replace(truth.likelihood, sigma=1e4))
    assert torch.allclose(images(blind), expected, atol=1e-4)
    assert not torch.allclose(images(truth), expected, atol=1e-2)


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
    laplace = vp.Laplace(truth.likelihood.operator, scale=truth.likelihood.sigma / 2**0.5)
    assert torch.allclose(pi_gdm(truth.prior, laplace, truth.y, 3, 20, seed=0).samples, images(truth), atol=1e-5)


def test_it_is_the_same_on_every_schedule() -> None:
    preserving, exploding = images(gaussian_truth(LinearVP())), images(gaussian_truth(Unscaled(LinearVP())))
    assert torch.allclose(preserving, exploding, atol=1e-3)


def test_a_sample_depends_neither_on_its_neighbours_nor_on_hidden_elements() -> None:
    truth = gaussian_truth()
    alone = images(truth, torch.cat([truth.y, truth.y]))[:, 0]
    beside = images(truth, torch.cat([truth.y, 100 + truth.y]))[:, 0]
    assert torch.allclose(alone, beside, atol=1e-5)
    hidden = torch.where(truth.observed, truth.y, torch.nan)
    assert torch.equal(images(truth, hidden), images(truth))


def test_calls_are_steps_and_each_is_reported() -> None:
    truth, steps = gaussian_truth(), []
    with vp.count_calls() as count:
        result = pi_gdm(truth.prior, truth.likelihood, truth.y, 3, 7, callback=steps.append)
    assert result.calls == count.calls == pi_gdm_calls(7) == 7
    assert result.nfe == 21
    assert steps == list(range(7))


def test_a_latent_prior_is_refused() -> None:
    truth = latent_truth()
    with pytest.raises(vp.InputError, match="pixel prior"):
        pi_gdm(truth.prior, truth.likelihood, truth.y)
