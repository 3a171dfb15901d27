"""The mixture prior against quadrature, Bayes' rule and the Gaussian prior."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import pyro_vipaint as vp
from pyro_vipaint.errors import InputError
from pyro_vipaint.models import GaussianMixturePrior, GaussianPrior
from pyro_vipaint.models.measurements.operators import Matrix
from pyro_vipaint.models.priors.schedules import Schedule, as_time
from tests.every_prior import ONE_OF_EACH, D, covariances, mixture
from tests.statistics import assert_within, mean_and_error

MASK = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
KINDS = ["one std", "std each", "full", "full for all"]

every_schedule = pytest.mark.parametrize("schedule", ONE_OF_EACH, ids=lambda schedule: repr(schedule)[:40])
every_kind = pytest.mark.parametrize("kind", KINDS)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def log_density(prior: GaussianMixturePrior, x: Tensor) -> Tensor:
    """log p(x) of the clean mixture, ``x`` ``(B, D)``, a sum over components written out."""
    denoiser, total = prior.denoiser, torch.zeros(len(x), dtype=torch.float64)
    for m in range(len(denoiser.means)):
        own = min(m, len(denoiser.variances) - 1)
        covariance = torch.diag(denoiser.variances[own].flatten())
        if denoiser.vectors is not None:
            covariance = denoiser.vectors[own] @ covariance @ denoiser.vectors[own].T
        component = MultivariateNormal(denoiser.means[m].flatten(), covariance)
        total = total + denoiser.log_weights[m].exp() * component.log_prob(x).exp()
    return total.log()


@every_schedule
def test_denoiser_and_marginal_are_the_integrals_over_x(schedule: Schedule) -> None:
    """In one dimension, by quadrature over x: p(z) = ∫ p(x) N(z; alpha x, sigma^2) dx, and the mean of x under it."""
    for t in (0.3, 0.8):
        prior = GaussianMixturePrior.diagonal(
            torch.tensor([1.0, 3.0, 0.5]).double(), torch.tensor([[-2.0], [0.5], [3.0]]).double(), 0.4, schedule
        )
        alpha, sigma = (v.item() for v in schedule(as_time(t)))
        x = torch.linspace(-6, 7, 20_001, dtype=torch.float64)
        z = torch.linspace(-4, 5, 9, dtype=torch.float64)[:, None]
        joint = log_density(prior, x[:, None]).exp() * Normal(alpha * x, sigma).log_prob(z).exp()
        density = torch.trapezoid(joint, x)
        torch.testing.assert_close(prior.marginal(t).log_prob(z), density.log(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            prior.denoise(z, t)[:, 0], torch.trapezoid(joint * x, x) / density, rtol=1e-6, atol=1e-6
        )


@every_kind
def test_bayes(kind: str) -> None:
    """log p(x | y) = log p(x) + log p(y | x) - log p(y) at every x, for a mask and for a matrix."""
    prior, x, sigma = mixture(kind)(), 2 * normal(4, D), 0.3
    matrix = normal(2, D)
    for likelihood, rows in (
        (vp.Gaussian(vp.Inpainting(MASK), sigma), torch.eye(D, dtype=torch.float64)[MASK.bool()]),
        (vp.Gaussian(Matrix(matrix), sigma), matrix),
    ):
        y = likelihood.operator.A(2 * normal(3, D))
        seen = y[:, MASK.bool()] if len(rows) == 3 else y
        log_likelihood = Normal((x @ rows.T)[:, None], sigma).log_prob(seen).sum(-1)
        expected = log_density(prior, x)[:, None] + log_likelihood - prior.log_evidence(likelihood, y)
        posterior = prior.posterior(likelihood, y)
        torch.testing.assert_close(posterior.log_prob(x[:, None].expand(4, 3, D)), expected, rtol=1e-6, atol=1e-6)


@every_kind
def test_one_component_is_the_gaussian_prior(kind: str) -> None:
    """Denoiser, marginal, evidence, posterior and sigma_data of GaussianPrior."""
    mean, std, covariance = normal(1, D), 0.3 + uniform(D), covariances(normal)
    one = torch.ones(1, dtype=torch.float64)
    if kind.startswith("full"):
        ours = GaussianMixturePrior.full(one, mean, covariance if kind == "full for all" else covariance[None])
        theirs = GaussianPrior.full(mean[0], covariance)
    else:
        std = std if kind == "std each" else torch.full((D,), 0.7, dtype=torch.float64)
        ours = GaussianMixturePrior.diagonal(one, mean, 0.7 if kind == "one std" else std)
        theirs = GaussianPrior.diagonal(mean[0], std)
    z, y, likelihood = normal(3, 2, D), normal(2, D), vp.Gaussian(vp.Inpainting(MASK), 0.3)
    torch.testing.assert_close(ours.denoise(z, 0.4), theirs.denoise(z, 0.4))
    torch.testing.assert_close(ours.marginal(0.4).log_prob(z), theirs.marginal(0.4).log_prob(z))
    torch.testing.assert_close(ours.log_evidence(likelihood, y), theirs.log_evidence(likelihood, y))
    assert ours.sigma_data == pytest.approx(theirs.sigma_data)
    mine, exact = ours.posterior(likelihood, y), theirs.posterior(likelihood, y)
    torch.testing.assert_close(mine.mean, exact.mean)
    torch.testing.assert_close(mine.component_distribution.covariance_matrix[:, 0], exact.covariance_matrix)


def test_images_and_vectors_are_one_prior() -> None:
    """Events of shape (1, 2, 3) give the same numbers as vectors of the same pixels."""
    weights, means, std = uniform(2), normal(2, 1, 2, 3), 0.3 + uniform(2, 1, 2, 3)
    image = GaussianMixturePrior.diagonal(weights, means, std)
    vector = GaussianMixturePrior.diagonal(weights, means.flatten(1), std.flatten(1))
    mask, z, y = torch.tensor([[[1.0, 0, 1], [0, 0, 1]]]), normal(4, 1, 2, 3), normal(2, 1, 2, 3)
    torch.testing.assert_close(image.denoise(z, 0.4).flatten(1), vector.denoise(z.flatten(1), 0.4))
    torch.testing.assert_close(image.marginal(0.4).log_prob(z), vector.marginal(0.4).log_prob(z.flatten(1)))
    seen, row = vp.Gaussian(vp.Inpainting(mask), 0.1), vp.Gaussian(vp.Inpainting(mask.flatten()), 0.1)
    torch.testing.assert_close(image.log_evidence(seen, y), vector.log_evidence(row, y.flatten(1)))
    torch.testing.assert_close(image.posterior(seen, y).mean, vector.posterior(row, y.flatten(1)).mean)


@every_kind
def test_a_split_component_changes_nothing(kind: str) -> None:
    """Weights need not be normalised, and two halves of a component are that component."""
    prior = mixture(kind)()
    denoiser = prior.denoiser
    twice = torch.tensor([0, 1, 2, 2])
    variances = denoiser.variances if len(denoiser.variances) == 1 else denoiser.variances[twice]
    weights = 7 * denoiser.log_weights.exp()[twice] * torch.tensor([1.0, 1.0, 0.3, 0.7]).double()
    if denoiser.vectors is None:
        split = GaussianMixturePrior.diagonal(weights, denoiser.means[twice], variances.sqrt())
    else:
        vectors = denoiser.vectors if len(variances) == 1 else denoiser.vectors[twice]
        spread = (vectors * variances[:, None]) @ vectors.mT
        split = GaussianMixturePrior.full(weights, denoiser.means[twice], spread)
    z, y, likelihood = normal(3, D), normal(2, D), vp.Gaussian(vp.Inpainting(MASK), 0.3)
    torch.testing.assert_close(split.denoise(z, 0.4), prior.denoise(z, 0.4))
    torch.testing.assert_close(split.log_evidence(likelihood, y), prior.log_evidence(likelihood, y))
    torch.testing.assert_close(split.posterior(likelihood, y).variance, prior.posterior(likelihood, y).variance)
    assert split.sigma_data == pytest.approx(prior.sigma_data)


@every_kind
def test_draws_have_the_moments_of_the_density(kind: str) -> None:
    """Mean and variance of posterior draws for each of two observations, and of draws of the marginal."""
    num, prior, y = 20_000, mixture(kind)(), normal(2, D)
    for exact in (prior.posterior(vp.Gaussian(vp.Inpainting(MASK), 0.5), y), prior.marginal(0.3)):
        draws = exact.sample((num,))
        assert draws.shape == (num, *exact.mean.shape)
        mean, error = mean_and_error(draws)
        assert_within(mean, exact.mean, error)
        variance, error = mean_and_error((draws - exact.mean) ** 2)
        assert_within(variance, exact.variance, error)


def test_sigma_data_is_that_of_draws() -> None:
    """The root of the variance of x averaged over coordinates, between components included."""
    prior = mixture("std each")()
    draws = prior.marginal(0.0).sample((40_000,))  # EDM's noise at 0 is 0.002
    value, error = mean_and_error((draws - draws.mean(0)).square().mean(1))
    assert_within(value, prior.sigma_data**2, error)


def test_parts_that_do_not_fit_are_refused() -> None:
    """Unusable weights, spreads and shapes raise InputError."""
    means = torch.zeros(2, D)
    for weights in (torch.tensor([1.0, 0.0]), torch.tensor([1.0, -1.0]), torch.ones(3), torch.tensor([1.0, torch.nan])):
        with pytest.raises(InputError, match="positive weight"):
            GaussianMixturePrior.diagonal(weights, means, 1.0)
    with pytest.raises(InputError, match="standard deviations must be positive"):
        GaussianMixturePrior.diagonal(torch.ones(2), means, torch.zeros(2, D))
    with pytest.raises(InputError, match="positive definite"):
        GaussianMixturePrior.full(torch.ones(2), means, -torch.eye(D))
    with pytest.raises(InputError, match="broadcast to the means"):
        GaussianMixturePrior.diagonal(torch.ones(2), means, torch.ones(D + 1))
    with pytest.raises(InputError, match="fit the means"):
        GaussianMixturePrior.full(torch.ones(2), means, torch.eye(D + 1))
    with pytest.raises(InputError, match="one covariance"):
        GaussianMixturePrior.full(torch.ones(2), means, torch.eye(D).expand(3, D, D))


class Foreign(torch.nn.Module):
    """A linear operator with float32 weights of its own, as in other libraries."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(*matrix.T.shape, bias=False)
        self.linear.weight.data = matrix
        self.requires_grad_(False)

    def A(self, x: Tensor) -> Tensor:
        return self.linear(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y @ self.linear.weight


def test_operators_of_other_libraries_compute_in_their_own_precision() -> None:
    """Evidence and posterior equal those with the same matrix as an operator of this library."""
    matrix, means = torch.randn(2, 3), torch.randn(2, 3)
    prior = GaussianMixturePrior.diagonal(torch.ones(2), means, torch.tensor(0.5))
    single = GaussianPrior.diagonal(means[0], torch.tensor(0.5))
    ours, y = vp.Gaussian(Matrix(matrix)), torch.randn(4, 2)
    for operator in (Foreign(matrix), vp.Compose(vp.Inpainting(torch.ones(2)), Foreign(matrix))):
        theirs = vp.Gaussian(operator)
        for each in (prior, single):
            torch.testing.assert_close(each.log_evidence(theirs, y), each.log_evidence(ours, y), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(each.posterior(theirs, y).mean, each.posterior(ours, y).mean)
