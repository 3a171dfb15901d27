"""The Gaussian prior against dense linear algebra and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_vipaint.errors import InputError
from pyro_vipaint.models import GaussianPrior
from pyro_vipaint.models.exact.gaussian import GaussianDenoiser, operator_matrix
from pyro_vipaint.models.measurements.likelihoods import Gaussian
from pyro_vipaint.models.measurements.operators import Inpainting, Matrix
from pyro_vipaint.models.priors.schedules import EDM, CosineVP, LinearVP, RectifiedFlow, Schedule, as_time
from tests.every_prior import D, covariances
from tests.statistics import assert_within

SCHEDULES: list[Schedule] = [LinearVP(), CosineVP(), EDM(), RectifiedFlow(3.0)]
DTYPES = (torch.float32, torch.float64)
KEYPOINTS = (0.55, 0.5, 0.4)
MASK = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def moments() -> tuple[Tensor, Tensor]:
    return torch.randn(D, dtype=torch.float64), covariances(torch.randn).double()


def at(schedule: Schedule, t: float) -> tuple[float, float]:
    """alpha_t and sigma_t as numbers."""
    alpha, sigma = schedule(as_time(t))
    return alpha.item(), sigma.item()


def dense_prediction_covariance(covariance: Tensor, schedule: Schedule, keypoints: Sequence[float]) -> Tensor:
    """Covariance of E[x | z_1], by the recursion Cov(z_s) = M Cov(z_t) M^T + v I with dense matrices.

    M = a I + b K_t is Eq. 3 with the regression matrix K_t of x on z_t for x_hat; a, b, v are written out afresh.
    """
    identity = torch.eye(D, dtype=torch.float64)

    def regression(t: float) -> Tensor:
        alpha, sigma = at(schedule, t)
        return alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * identity)

    alpha, sigma = at(schedule, keypoints[0])
    current = alpha**2 * covariance + sigma**2 * identity
    for t, s in pairwise(keypoints):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = at(schedule, t), at(schedule, s)
        fresh = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
        step = alpha_t / alpha_s * sigma_s**2 / sigma_t**2 * identity + alpha_s * fresh / sigma_t**2 * regression(t)
        current = step @ current @ step.T + fresh * sigma_s**2 / sigma_t**2 * identity
    last = regression(keypoints[-1])
    return last @ current @ last.T


def dense_conditional(mean: Tensor, covariance: Tensor, rows: Tensor, y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x given y = rows x + noise, in information form (inverse covariances add)."""
    precision = torch.linalg.inv(covariance) + rows.T @ rows / sigma**2
    shift = torch.linalg.solve(covariance, mean) + y @ rows / sigma**2
    return torch.linalg.solve(precision, shift.T).T, torch.linalg.inv(precision)


@every_schedule
def test_diagonal_and_full_agree(schedule: Schedule) -> None:
    """A diagonal covariance gives the same denoiser, marginal and moments by either constructor."""
    for t in (0.1, 0.6, 0.95):
        mean, std = torch.randn(D, dtype=torch.float64), 0.3 + torch.rand(D, dtype=torch.float64)
        diagonal = GaussianPrior.diagonal(mean, std, schedule)
        full = GaussianPrior.full(mean, torch.diag(std**2), schedule)
        z = torch.randn(3, 2, D, dtype=torch.float64)
        torch.testing.assert_close(diagonal.denoise(z, t), full.denoise(z, t))
        torch.testing.assert_close(diagonal.marginal(t).log_prob(z), full.marginal(t).log_prob(z))
        for ours, theirs in zip(
            diagonal.prediction_moments(KEYPOINTS), full.prediction_moments(KEYPOINTS), strict=True
        ):
            torch.testing.assert_close(ours, theirs)
        assert diagonal.sigma_data == pytest.approx(full.sigma_data)
        assert diagonal.sigma_data == pytest.approx(std.square().mean().sqrt().item())


@every_schedule
def test_marginal_is_the_diffused_prior(schedule: Schedule) -> None:
    """p(z_t) = N(alpha m, alpha^2 C + sigma^2 I)."""
    mean, covariance = moments()
    alpha, sigma = at(schedule, 0.7)
    expected = MultivariateNormal(alpha * mean, alpha**2 * covariance + sigma**2 * torch.eye(D, dtype=torch.float64))
    z = torch.randn(4, D, dtype=torch.float64)
    marginal = GaussianPrior.full(mean, covariance, schedule).marginal(0.7)
    torch.testing.assert_close(marginal.log_prob(z), expected.log_prob(z))


@every_schedule
def test_evidence_and_posterior_are_those_of_the_dense_gaussian(schedule: Schedule) -> None:
    """log p(y) = log N(y; A m, A S A^T + s^2 I) and p(x | y) in information form, on the observed rows.

    S is C itself without keypoints, and with them the covariance of E[x | z_1] by the dense recursion.
    """
    for keypoints in (None, KEYPOINTS, (0.5,)):
        mean, covariance = moments()
        prior, sigma = GaussianPrior.full(mean, covariance, schedule), 0.3
        spread = covariance if keypoints is None else dense_prediction_covariance(covariance, schedule, keypoints)
        rows = torch.eye(D, dtype=torch.float64)[MASK.bool()]
        likelihood, y = Gaussian(Inpainting(MASK), sigma), torch.randn(2, D, dtype=torch.float64)
        noise = sigma**2 * torch.eye(len(rows), dtype=torch.float64)
        evidence = MultivariateNormal(rows @ mean, rows @ spread @ rows.T + noise).log_prob(y @ rows.T)
        torch.testing.assert_close(prior.log_evidence(likelihood, y, keypoints), evidence, rtol=1e-6, atol=1e-6)
        expected_mean, expected_covariance = dense_conditional(mean, spread, rows, y @ rows.T, sigma)
        posterior = prior.posterior(likelihood, y, keypoints)
        torch.testing.assert_close(posterior.mean, expected_mean, rtol=1e-5, atol=1e-6)
        for n in range(2):
            torch.testing.assert_close(posterior.covariance_matrix[n], expected_covariance, rtol=1e-5, atol=1e-6)


@every_schedule
def test_prediction_moments_are_those_of_ancestral_samples(schedule: Schedule) -> None:
    """Mean and covariance of E[x | z_1] over 40 000 chains, each within the failure rate of tests.statistics.

    The standard error of a covariance of Gaussians is sqrt((S_ij^2 + S_ii S_jj) / n).
    """
    num = 40_000
    mean, covariance = moments()
    prior = GaussianPrior.full(mean, covariance, schedule)
    z, t = prior.marginal(KEYPOINTS[0]).sample((num,)), KEYPOINTS[0]
    for s in KEYPOINTS[1:]:
        z, t = prior.transition(z, t, s).sample(), s
    prediction = prior.denoise(z, t)
    expected_mean, spread = prior.prediction_moments(KEYPOINTS)
    variance = spread.diagonal()
    assert_within(prediction.mean(0), expected_mean, (variance / num).sqrt())
    assert_within(prediction.T.cov(), spread, ((spread**2 + variance.outer(variance)) / num).sqrt())


def test_many_levels_approach_the_prior() -> None:
    """The covariance of E[x | z_1] tends to C as the chain is refined, at first order in the number of levels."""
    mean, covariance = moments()
    prior = GaussianPrior.full(mean, covariance, LinearVP())

    def error(levels: int) -> float:
        times = torch.linspace(0.95, 0.001, levels, dtype=torch.float64).tolist()
        return (prior.prediction_moments(times)[1] - covariance).norm().item()

    errors = [error(levels) for levels in (50, 100, 200)]
    assert errors[0] > 1.6 * errors[1] > 1.6**2 * errors[2]
    assert errors[2] < 0.05 * covariance.norm().item()


def test_image_shaped_prior_uses_its_event() -> None:
    """Evidence of a diagonal prior on (1, 2, 3) images: the sum of independent Gaussians over observed pixels."""
    mean, std = torch.randn(1, 2, 3, dtype=torch.float64), 0.5 + torch.rand(1, 2, 3, dtype=torch.float64)
    mask = torch.tensor([[[1.0, 0, 1], [0, 0, 1]]])
    prior, y = GaussianPrior.diagonal(mean, std), torch.randn(4, 1, 2, 3, dtype=torch.float64)
    terms = torch.distributions.Normal(mean, (std**2 + 0.01).sqrt()).log_prob(y) * mask
    torch.testing.assert_close(prior.log_evidence(Gaussian(Inpainting(mask), 0.1), y), terms.flatten(1).sum(-1))


def test_tensors_are_made_on_the_device_of_the_prior() -> None:
    """On the device ``meta``: a tensor made on another device would raise."""
    numbers = torch.ones(4, device="meta")
    prior = GaussianPrior(EDM(), GaussianDenoiser(EDM(), numbers, numbers), (4,))
    likelihood = Gaussian(Inpainting(torch.ones(4, device="meta")), sigma=0.1)
    matrix = operator_matrix(likelihood.operator, (4,), numbers.device)
    assert matrix.device == numbers.device
    assert prior.diffusion().marginal(0.5, steps=2).sample((3,)).device == numbers.device


def test_little_noise_keeps_the_digits() -> None:
    """Evidence and posterior in float32 equal those in float64, though the covariance of y is ill conditioned."""
    for sigma in (0.05, 1e-3, 1e-4):
        grid = torch.arange(32, dtype=torch.float64)
        smooth = torch.exp(-0.5 * ((grid[:, None] - grid) / 2) ** 2)
        smooth /= smooth.sum(1, keepdim=True)
        likelihood, y = Gaussian(Matrix(smooth), sigma), torch.randn(2, 32, dtype=torch.float64) @ smooth.T
        single, double = (GaussianPrior.diagonal(torch.zeros(32, dtype=d), torch.ones(32, dtype=d)) for d in DTYPES)
        y = y.float().double()
        covariance = smooth @ smooth.T + sigma**2 * torch.eye(32)
        expected = MultivariateNormal(torch.zeros(32, dtype=torch.float64), covariance).log_prob(y)
        torch.testing.assert_close(double.log_evidence(likelihood, y), expected, rtol=1e-6, atol=0)
        found = single.log_evidence(likelihood, y.float())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)
        posterior, exact = single.posterior(likelihood, y.float()), double.posterior(likelihood, y)
        torch.testing.assert_close(posterior.mean.double(), exact.mean, rtol=0, atol=1e-2)


def test_standard_deviations_broadcast_or_are_refused() -> None:
    wide = GaussianPrior.diagonal(torch.zeros(2, 3), torch.full((2, 3), 0.5))
    for std in (torch.tensor(0.5), torch.full((3,), 0.5)):
        prior = GaussianPrior.diagonal(torch.zeros(2, 3), std)
        assert torch.equal(prior.covariance, wide.covariance) and prior.sigma_data == wide.sigma_data == 0.5
    for mean, std in ((torch.zeros(2, 3), torch.ones(2)), (torch.zeros(2), torch.zeros(2)), (torch.tensor(0.0), 1.0)):
        with pytest.raises(InputError):
            GaussianPrior.diagonal(mean, torch.as_tensor(std))
