"""The mixture benchmark: its problems follow the stated law, and its posterior is the one that sampling finds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from benchmarks.gmm_problem import GMMProblem, gmm_problem, grid_means
from pyro_vipaint.models import GaussianMixturePrior
from tests.statistics import assert_within, mean_and_error

SEEDS = 400


@pytest.fixture(scope="module")
def many() -> list[GMMProblem]:
    """Problems of the cell (8, 4) in double precision."""
    return [gmm_problem(8, 4, seed, torch.float64) for seed in range(SEEDS)]


def assert_uniform(values: Tensor) -> None:
    """Mean 1/2 and variance 1/12 of independent uniforms (whose fourth central moment is 1/80)."""
    assert ((values > 0) & (values < 1)).all()
    assert_within(values.mean(), 0.5, (1 / 12 / len(values)) ** 0.5)
    assert_within((values - 0.5).square().mean(), 1 / 12, ((1 / 80 - 1 / 144) / len(values)) ** 0.5)


@pytest.mark.parametrize(("dim", "dim_y"), [(8, 1), (8, 4), (80, 2)])
def test_a_seed_is_a_problem(dim: int, dim_y: int) -> None:
    """The same numbers for the same seed, whatever the global generator does; others for another seed."""
    torch.manual_seed(0)
    one = gmm_problem(dim, dim_y, 3)
    state = torch.get_rng_state()
    again, other = gmm_problem(dim, dim_y, 3), gmm_problem(dim, dim_y, 4)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was touched"
    for name in ("weights", "means", "A", "y"):
        assert torch.equal(getattr(one, name), getattr(again, name))
        assert getattr(one, name).dtype == torch.float32
    assert one.sigma_y == again.sigma_y != other.sigma_y
    assert not torch.equal(one.A, other.A) and not torch.equal(one.weights, other.weights)
    assert one.A.shape == (dim_y, dim) and one.y.shape == (1, dim_y) and one.means.shape == (25, dim)


def test_means_stand_on_the_grid() -> None:
    """(-8i, -8j) for i, j in -2 … 2, once each, repeated over the coordinates."""
    means = grid_means(8)
    pairs = {(float(a), float(b)) for a, b in means[:, :2]}
    assert pairs == {(-8.0 * i, -8.0 * j) for i in range(-2, 3) for j in range(-2, 3)}
    assert torch.equal(means, means[:, :2].repeat(1, 4))


def test_weights_are_squares_of_normals(many: list[GMMProblem]) -> None:
    """Positive, of sum one; normalised chi-squares are Dirichlet(1/2, …), whose E[w^2] = .75 / (12.5 · 13.5)."""
    weights = torch.stack([problem.weights for problem in many])
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(SEEDS, dtype=torch.float64))
    square, error = mean_and_error(weights.square().mean(1))
    assert_within(square, 0.75 / (12.5 * 13.5), error)
    mean, error = mean_and_error(weights)
    assert_within(mean, 1 / 25, error)


def test_singular_values_and_noise_are_uniform(many: list[GMMProblem]) -> None:
    """Singular values in (0, 1), each order statistic of four uniforms where it should be; sigma_y / s_1 uniform."""
    singular = torch.stack([torch.linalg.svdvals(problem.A) for problem in many])
    assert (singular.diff(dim=1) < 0).all()
    assert_uniform(singular.flatten())
    mean, error = mean_and_error(singular)
    assert_within(mean, torch.tensor([0.8, 0.6, 0.4, 0.2], dtype=torch.float64), error)
    assert_uniform(torch.tensor([problem.sigma_y for problem in many], dtype=torch.float64) / singular[:, 0])


def test_row_space_has_no_preferred_direction(many: list[GMMProblem]) -> None:
    """The projection onto the row space of A has expectation (4 / 8) I."""
    projections = torch.stack([torch.linalg.pinv(problem.A) @ problem.A for problem in many])
    mean, error = mean_and_error(projections)
    assert_within(mean, 0.5 * torch.eye(8, dtype=torch.float64), error)


def test_observations_come_from_the_evidence() -> None:
    """With d_y = 1, the distribution function of p(y) at y is uniform over problems."""
    ranks = []
    for seed in range(SEEDS):
        problem = gmm_problem(8, 1, seed, torch.float64)
        centre = problem.means @ problem.A[0]
        spread = (problem.A.square().sum() + problem.sigma_y**2).sqrt()
        ranks.append((problem.weights * Normal(centre, spread).cdf(problem.y[0, 0])).sum())
    assert_uniform(torch.stack(ranks))


def test_matrix_products_give_the_denoiser_of_the_library() -> None:
    problem = gmm_problem(8, 2, 0, torch.float64)
    prior = problem.prior()
    exact = GaussianMixturePrior.diagonal(problem.weights, problem.means, 1.0)
    z = 40 * torch.randn(5, 1, 8, dtype=torch.float64)
    for t in (0.1, 0.6, 1.0):
        assert torch.allclose(prior.denoise(z, t), exact.denoise(z, t), atol=1e-9)
