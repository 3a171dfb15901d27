"""The mixture prior against quadrature, Bayes' rule, its own automatic derivative, and the Gaussian prior."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import pyro_vipaint as vp
from pyro_vipaint.errors import InputError
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, GaussianMixturePrior, GaussianPrior
from pyro_vipaint.models.measurements.operators import Matrix
from pyro_vipaint.models.priors.schedules import EDM, CosineVP, LinearVP, RectifiedFlow, Schedule, as_time, time_of
from tests.statistics import STANDARD_ERRORS, assert_within, mean_and_error

D, M = 5, 3
SCHEDULES: list[Schedule] = [LinearVP(), CosineVP(), EDM(), RectifiedFlow(3.0)]
MASK = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
KINDS = ["one std", "std each", "full", "full for all"]

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
every_kind = pytest.mark.parametrize("kind", KINDS)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def covariances(*leading: int) -> Tensor:
    """Correlated covariances with condition numbers below a hundred."""
    factor = normal(*leading, D, D)
    return factor @ factor.mT / D + 0.1 * torch.eye(D, dtype=torch.float64)


def build(kind: str = "full", schedule: Schedule | None = None) -> GaussianMixturePrior:
    """Three components in five dimensions, float64."""
    weights, means = 0.2 + uniform(M), 2 * normal(M, D)
    if kind.startswith("full"):
        spread = covariances() if kind == "full for all" else covariances(M)
        return GaussianMixturePrior.full(weights, means, spread, schedule)
    std = 0.7 if kind == "one std" else 0.3 + uniform(M, D)
    return GaussianMixturePrior.diagonal(weights, means, std, schedule)


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
@every_kind
@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
def test_tweedie(schedule: Schedule, kind: str, t: float) -> None:
    """x_hat = (z + sigma^2 ∇ log p(z_t)) / alpha, the gradient by automatic differentiation of the marginal."""
    prior = build(kind, schedule)
    alpha, sigma = (v.item() for v in schedule(as_time(t)))
    z = prior.marginal(t).sample((6,)).requires_grad_()
    (score,) = torch.autograd.grad(prior.marginal(t).log_prob(z).sum(), z)
    # the difference below cancels to about alpha, which a rectified flow ends at 1e-5
    torch.testing.assert_close(alpha * prior.denoise(z, t), z + sigma**2 * score, rtol=1e-9, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("t", [0.3, 0.8])
def test_denoiser_and_marginal_are_the_integrals_over_x(schedule: Schedule, t: float) -> None:
    """In one dimension, by quadrature over x: p(z) = ∫ p(x) N(z; alpha x, sigma^2) dx, and the mean of x under it."""
    prior = GaussianMixturePrior.diagonal(
        torch.tensor([1.0, 3.0, 0.5]).double(), torch.tensor([[-2.0], [0.5], [3.0]]).double(), 0.4, schedule
    )
    alpha, sigma = (v.item() for v in schedule(as_time(t)))
    x = torch.linspace(-6, 7, 20_001, dtype=torch.float64)
    z = torch.linspace(-4, 5, 9, dtype=torch.float64)[:, None]
    joint = log_density(prior, x[:, None]).exp() * Normal(alpha * x, sigma).log_prob(z).exp()
    density = torch.trapezoid(joint, x)
    torch.testing.assert_close(prior.marginal(t).log_prob(z), density.log(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(prior.denoise(z, t)[:, 0], torch.trapezoid(joint * x, x) / density, rtol=1e-6, atol=1e-6)


def test_posterior_and_evidence_are_those_of_a_grid() -> None:
    """In two dimensions seen through one combination, by summing p(x) p(y | x) over a fine grid."""
    prior = GaussianMixturePrior.full(
        torch.tensor([1.0, 2.0]).double(),
        torch.tensor([[-1.0, 1.0], [1.5, 0.0]]).double(),
        torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.3, -0.1], [-0.1, 0.6]]]).double(),
    )
    matrix, sigma, y = torch.tensor([[0.8, -0.5]]).double(), 0.4, torch.tensor([[0.3], [-1.5]]).double()
    axis = torch.linspace(-6, 7, 521, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    joint = log_density(prior, x) + Normal(x @ matrix.T, sigma).log_prob(y.T).T  # (2 observations, grid)
    cell = 2 * math.log(float(axis[1] - axis[0]))
    likelihood = vp.Gaussian(Matrix(matrix), sigma)
    evidence = joint.logsumexp(1) + cell
    torch.testing.assert_close(prior.log_evidence(likelihood, y), evidence, rtol=1e-6, atol=1e-6)
    posterior, weights = prior.posterior(likelihood, y), joint.softmax(1)
    torch.testing.assert_close(posterior.mean, weights @ x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(posterior.variance, weights @ x**2 - (weights @ x) ** 2, rtol=1e-6, atol=1e-6)
    density = joint[0] - evidence[0]
    torch.testing.assert_close(posterior.log_prob(x[::97, None])[:, 0], density[::97], rtol=1e-6, atol=1e-6)


@every_kind
def test_bayes(kind: str) -> None:
    """log p(x | y) = log p(x) + log p(y | x) - log p(y) wherever x is, for a mask and for a matrix."""
    prior, x, sigma = build(kind), 2 * normal(4, D), 0.3
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
    mean, std, covariance = normal(1, D), 0.3 + uniform(D), covariances()
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
    """Events of shape (1, 2, 3) give the same numbers as the same pixels in a row."""
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
def test_leading_dimensions_and_times_equal_a_loop(kind: str) -> None:
    """Each latent is denoised by itself, at its own time."""
    prior, z, t = build(kind), normal(3, 2, D), uniform(3, 2)
    together = prior.denoise(z, t)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(together[i, j], prior.denoise(z[i, j], t[i, j].item()))


@every_kind
def test_a_split_component_changes_nothing(kind: str) -> None:
    """Weights need not be normalised, and two halves of a component are that component."""
    prior = build(kind)
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
    num, prior, y = 20_000, build(kind), normal(2, D)
    for exact in (prior.posterior(vp.Gaussian(vp.Inpainting(MASK), 0.5), y), prior.marginal(0.3)):
        draws = exact.sample((num,))
        assert draws.shape == (num, *exact.mean.shape)
        mean, error = mean_and_error(draws)
        assert_within(mean, exact.mean, error)
        variance, error = mean_and_error((draws - exact.mean) ** 2)
        assert_within(variance, exact.variance, error)


def test_data_std_is_that_of_draws() -> None:
    """The root of the variance of x averaged over coordinates, components' distances included."""
    prior = build("std each")
    draws = prior.marginal(0.0).sample((40_000,))  # EDM's noise at 0 is 0.002
    value, error = mean_and_error((draws - draws.mean(0)).square().mean(1))
    assert_within(value, prior.sigma_data**2, error)


@every_kind
def test_single_precision_agrees_with_double(kind: str) -> None:
    """From hardly any noise to all of it, and for observations with hardly any noise; the dtype is kept."""
    prior = build(kind)
    denoiser = prior.denoiser
    small = GaussianMixturePrior.diagonal(denoiser.log_weights.exp().float(), denoiser.means.float(), 0.7)
    large = GaussianMixturePrior.diagonal(small.denoiser.log_weights.exp().double(), small.denoiser.means.double(), 0.7)
    if denoiser.vectors is not None:
        spread = ((denoiser.vectors * denoiser.variances[:, None]) @ denoiser.vectors.mT).float()
        small = GaussianMixturePrior.full(denoiser.log_weights.exp().float(), denoiser.means.float(), spread)
        large = GaussianMixturePrior.full(
            small.denoiser.log_weights.exp().double(), small.denoiser.means.double(), spread.double()
        )
    for t in (0.0, 0.5, 1.0):
        z = large.marginal(t).sample((8,)).float()
        assert small.denoise(z, t).dtype == torch.float32
        torch.testing.assert_close(small.denoise(z, t).double(), large.denoise(z.double(), t), rtol=1e-3, atol=1e-3)
        difference = small.marginal(t).log_prob(z).double() - large.marginal(t).log_prob(z.double())
        assert difference.abs().max() < 1e-2
    y, likelihood = torch.randn(2, D), vp.Gaussian(vp.Inpainting(MASK), 1e-3)
    assert small.posterior(likelihood, y).sample().dtype == torch.float32
    torch.testing.assert_close(
        small.posterior(likelihood, y).mean.double(), large.posterior(likelihood, y.double()).mean, rtol=1e-3, atol=1e-3
    )


def test_hidden_pixels_are_not_read() -> None:
    """Whatever y holds where the mask is 0, NaN included, evidence and posterior stay the same."""
    prior, likelihood, y = build(), vp.Gaussian(vp.Inpainting(MASK), 0.3), normal(2, D)
    other = torch.where(MASK.bool(), y, torch.nan)
    torch.testing.assert_close(prior.log_evidence(likelihood, y), prior.log_evidence(likelihood, other))
    torch.testing.assert_close(prior.posterior(likelihood, y).mean, prior.posterior(likelihood, other).mean)


def test_where_nothing_is_observed_the_evidence_is_one() -> None:
    """log p of no number is 0 for each image, and the posterior's weights are the prior's."""
    prior, likelihood, y = build(), vp.Gaussian(vp.Inpainting(torch.zeros(D)), 0.3), normal(2, D)
    torch.testing.assert_close(prior.log_evidence(likelihood, y), torch.zeros_like(y[:, 0]), atol=1e-6, rtol=0)
    weights = prior.posterior(likelihood, y).mixture_distribution.probs
    torch.testing.assert_close(weights[0], prior.denoiser.log_weights.exp().to(weights), atol=1e-6, rtol=0)


def test_the_estimated_marginal_is_a_lower_bound() -> None:
    """``diffusion()``: the mean estimate lies below the exact log density, by a fraction of a nat on a fine grid."""
    prior = build("std each", EDM(sigma_max=40.0))
    t = time_of(prior.schedule, 1.0)
    for z in prior.marginal(t).sample((3,)):
        bound, error = mean_and_error(prior.diffusion().marginal(t).log_prob(z.expand(40_000, 1, D))[:, 0])
        exact = prior.marginal(t).log_prob(z)
        assert bound < exact + STANDARD_ERRORS * error
        assert exact - bound < 0.3 + STANDARD_ERRORS * error
        assert error < 0.1, "the comparison is too noisy to mean anything"


@pytest.mark.parametrize(("estimated", "calls"), [(False, 3), (True, 4)])
def test_the_model_runs_on_it(estimated: bool, calls: int) -> None:
    """An SVI step of three levels costs K calls with the exact marginal, K + 1 with the estimated; gradients exist."""
    exact = GaussianMixturePrior.diagonal(torch.ones(M), 2 * torch.randn(M, D), 0.5)
    prior: DiffusionPrior = exact.diffusion() if estimated else exact
    y, likelihood = torch.randn(2, 2), vp.Gaussian(Matrix(torch.randn(2, D)), 0.2)
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=[4.0, 1.0, 0.3]))
    guide = HierarchicalGuide(model, vp.initial_latent(prior, likelihood, y))
    with vp.count_calls() as count:
        vp.BetaELBO(num_particles=7).differentiable_loss(model, guide, y).backward()
    assert (count.calls, count.nfe) == (calls, calls * 14)
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert model(num_images=5).shape == (5, 2)


def test_what_is_no_mixture_is_refused() -> None:
    """Weights, spreads and shapes that make no sense raise InputError."""
    means = torch.zeros(2, D)
    for weights in (torch.tensor([1.0, 0.0]), torch.tensor([1.0, -1.0]), torch.ones(3), torch.tensor([1.0, torch.nan])):
        with pytest.raises(InputError, match="weights"):
            GaussianMixturePrior.diagonal(weights, means, 1.0)
    with pytest.raises(InputError, match="standard deviations"):
        GaussianMixturePrior.diagonal(torch.ones(2), means, torch.zeros(2, D))
    with pytest.raises(InputError, match="positive definite"):
        GaussianMixturePrior.full(torch.ones(2), means, -torch.eye(D))
    with pytest.raises(InputError, match="do not go together"):
        GaussianMixturePrior.diagonal(torch.ones(2), means, torch.ones(D + 1))
    with pytest.raises(InputError, match="do not go together"):
        GaussianMixturePrior.full(torch.ones(2), means, torch.eye(D + 1))
    with pytest.raises(InputError, match="one covariance"):
        GaussianMixturePrior.full(torch.ones(2), means, torch.eye(D).expand(3, D, D))


def test_what_has_no_closed_form_is_refused() -> None:
    """A Laplace likelihood, and a mask for each image: D of them would broadcast over the columns of the matrix."""
    prior, y = build(), normal(D, D)
    for ask in (prior.log_evidence, prior.posterior):
        with pytest.raises(InputError, match="not of Laplace"):
            ask(vp.Laplace(vp.Inpainting(MASK)), y)  # pyright: ignore[reportArgumentType]
        for count in (2, D):
            with pytest.raises(InputError, match="each image alone"):
                ask(vp.Gaussian(vp.Inpainting(MASK.expand(count, D))), y[:count])
    alone, shared = vp.Gaussian(vp.Inpainting(MASK[None])), vp.Gaussian(vp.Inpainting(MASK))
    torch.testing.assert_close(prior.log_evidence(alone, y[:1]), prior.log_evidence(shared, y[:1]))


class Foreign(torch.nn.Module):
    """A linear operator with weights of its own, in float32 as those of other libraries are."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(*matrix.T.shape, bias=False)
        self.linear.weight.data = matrix
        self.requires_grad_(False)

    def A(self, x: Tensor) -> Tensor:
        return self.linear(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y @ self.linear.weight


def test_operators_of_others_compute_in_their_own_precision() -> None:
    """The evidence and the posterior are those of the same matrix as one of our operators."""
    matrix, means = torch.randn(2, 3), torch.randn(2, 3)
    prior = GaussianMixturePrior.diagonal(torch.ones(2), means, torch.tensor(0.5))
    single = GaussianPrior.diagonal(means[0], torch.tensor(0.5))
    ours, y = vp.Gaussian(Matrix(matrix)), torch.randn(4, 2)
    for operator in (Foreign(matrix), vp.Compose(vp.Inpainting(torch.ones(2)), Foreign(matrix))):
        theirs = vp.Gaussian(operator)
        for each in (prior, single):
            torch.testing.assert_close(each.log_evidence(theirs, y), each.log_evidence(ours, y), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(each.posterior(theirs, y).mean, each.posterior(ours, y).mean)
