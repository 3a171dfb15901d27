"""Where the guide's means start: the data where they speak, the prior's mean elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.models import GaussianPrior
from pyro_vipaint.models.measurements.operators import Matrix
from tests.problems import diagonal_problem

SIGMA_MAX = 80.0  # of the EDM schedule: z_1 = x + 80 eps tells next to nothing about x


def test_hidden_elements_start_at_the_priors_mean_and_observed_ones_at_the_data() -> None:
    """At z_1 = 0 a Gaussian's estimate is m sigma^2 / (v + sigma^2), in closed form."""
    problem = diagonal_problem(images=3)
    y = problem.y.clone()
    y[:, 6:] = torch.nan  # hidden
    with vp.count_calls() as count:
        start = vp.initial_latent(problem.prior, problem.likelihood, y)
    variance = problem.prior.covariance.diag()
    mean = problem.prior.mean * SIGMA_MAX**2 / (variance + SIGMA_MAX**2)
    assert torch.allclose(start[:, :6], problem.y[:, :6], atol=1e-6)
    assert torch.allclose(start[:, 6:], mean[6:].expand(3, -1), atol=1e-6)
    assert (count.calls, count.nfe) == (1, 3)


def test_a_linear_operator_is_met_exactly() -> None:
    """For a wide matrix A of full rank the start explains the data, and differs from the mean in A's row space only."""
    torch.manual_seed(0)
    matrix, mean = torch.randn(2, 5), torch.randn(5)
    prior = GaussianPrior.diagonal(mean, torch.ones(5))
    likelihood, y = vp.Gaussian(Matrix(matrix), 0.1), torch.randn(4, 2)
    start = vp.initial_latent(prior, likelihood, y)
    assert torch.allclose(start @ matrix.T, y, atol=1e-4)
    moved = start - mean * SIGMA_MAX**2 / (1 + SIGMA_MAX**2)
    row_space = torch.linalg.pinv(matrix) @ matrix
    assert torch.allclose(moved @ row_space, moved, atol=1e-4)


@dataclass(frozen=True)
class AdjointOnly:
    """A linear map without a pseudo-inverse, that is not one of ours."""

    matrix: Tensor

    def A(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix


@pytest.mark.parametrize("scale", [0.01, 2.0, 300.0])
def test_without_a_pseudo_inverse_it_is_the_least_squares_solution_whatever_the_scale(scale: float) -> None:
    """Two rows: two steps of conjugate gradients are exact."""
    torch.manual_seed(0)
    matrix = torch.randn(2, 5)
    prior = GaussianPrior.diagonal(torch.randn(5), torch.ones(5))
    y = torch.randn(4, 2)
    with vp.count_calls() as count:
        start = vp.initial_latent(prior, vp.Gaussian(AdjointOnly(scale * matrix), 0.1), scale * y)
    assert torch.allclose(start, vp.initial_latent(prior, vp.Gaussian(Matrix(matrix), 0.1), y), atol=1e-4)
    assert count.calls == 1
