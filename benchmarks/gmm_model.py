r"""The K-level model of a Gaussian mixture problem, in the coordinates where measurement and posterior are diagonal.

**Coordinates.** With A = U diag(s) V^T, x is replaced by V^T x and y by U^T y: element i of y then sees element i of x,
times s_i. Isotropic noise stays isotropic, so a denoiser D becomes V^T D(V z) and costs what it did. A guide that is
diagonal here has its spreads and its gamma along the row space of A; in the coordinates of x a diagonal guide is
as narrow in every element as along the observed directions.

**Variances.** The transitions and the likelihood at T_s have matched variances (:class:`MatchedPrior`). c_t is averaged
over draws of the prior, element by element, and its NFE are counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import pyro_vipaint as vp
from benchmarks.gmm_problem import GMMProblem, spherical_mixture
from pyro_vipaint.models import DiffusionModel, MatchedPrior, Matrix, denoising_errors
from pyro_vipaint.models.measurements.predictive import mean_shift, predictive, remaining_variance
from pyro_vipaint.models.priors.schedules import EDM

SCHEDULE = EDM(sigma_max=5000.0)  # covers 80 dimensions, whose means lie up to 143 from the origin, at every level used
LEVELS = 12
START, STOP = 4.0, 0.06  # noise levels at T_e and T_s, in units of the prior's largest standard deviation
ERROR_DRAWS = 2000  # draws of the prior behind c_t


@dataclass(frozen=True, eq=False)
class DiagonalProblem:
    """A problem in diagonal coordinates.

    ``model`` is the K-level model; ``y`` ``(1, d_y)``; ``rotation`` V, ``(d_x, d_x)``; ``nfe`` what c_t has cost.
    """

    model: DiffusionModel
    y: Tensor
    rotation: Tensor
    nfe: int

    @property
    def prior(self) -> MatchedPrior:
        """The mixture with its denoising errors."""
        prior = self.model.prior
        assert isinstance(prior, MatchedPrior)
        return prior

    def variance(self, t: float) -> Tensor:
        """c_t, element by element."""
        c = self.prior.variance(t)
        assert isinstance(c, Tensor)
        return c

    def condition(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of x ~ N(``x``, ``c``) given y, elementwise; ``x`` ``(..., d_x)``, ``c`` ``(d_x,)``."""
        likelihood: Any = self.model.likelihood
        shift = mean_shift(likelihood, c, self.y - likelihood.operator.A(x), x)
        assert shift is not None
        return x + shift, remaining_variance(likelihood, c, x)

    def log_likelihood(self, x: Tensor, c: Tensor) -> Tensor:
        """log N(y; A x, sigma_y^2 + A c A^T), for ``x`` ``(..., d_x)``, of leading shape."""
        of_y = predictive(self.model.likelihood, c)
        assert of_y is not None
        return of_y(x).log_prob(self.y)

    @torch.no_grad()
    def finish(self, z: Tensor) -> Tensor:
        """Samples of x, in the problem's coordinates, from z_Ts ``(n, d_x)``: one evaluation each.

        x ~ N(x_hat, c_Ts) given y: exact once T_s is below the level at which the modes part.
        """
        t = self.model.keypoints[-1]
        mean, variance = self.condition(self.prior.denoise(z, t), self.variance(t))
        return (mean + variance.sqrt() * torch.randn_like(mean)) @ self.rotation.T


def diagonal_problem(problem: GMMProblem, levels: int = LEVELS) -> DiagonalProblem:
    """The ``levels``-level model of ``problem``, noise levels in geometric progression from T_e to T_s."""
    left, singular, right = torch.linalg.svd(problem.A.double(), full_matrices=True)
    rotation, singular = right.T.to(problem.means), singular.to(problem.means)
    prior = spherical_mixture(problem.weights, problem.means @ rotation, 1.0, SCHEDULE)
    largest = largest_std(problem)
    times = vp.keypoints(prior, noise_levels=geometric(START * largest, STOP * largest, levels))
    x = prior.marginal(0.0).sample(torch.Size([ERROR_DRAWS]))
    with vp.count_calls() as count:
        errors = denoising_errors(prior, x, times, per_element=True, batch_size=ERROR_DRAWS)
    operator = Matrix(torch.eye(len(singular), len(rotation)).to(singular) * singular[:, None])
    model = DiffusionModel(MatchedPrior(prior, errors), vp.Gaussian(operator, problem.sigma_y), times)
    y = problem.y @ left.to(problem.y)
    return DiagonalProblem(model, y, rotation, count.nfe)


def largest_std(problem: GMMProblem) -> float:
    """The prior's standard deviation along the direction in which it is largest."""
    centred = problem.means - problem.weights @ problem.means
    between = centred.T @ (problem.weights[:, None] * centred)
    return float((torch.linalg.eigvalsh(between.double())[-1] + 1).sqrt())


def geometric(first: float, last: float, count: int) -> Sequence[float]:
    """``count`` numbers from ``first`` to ``last`` in geometric progression."""
    step = math.log(last / first) / (count - 1)
    return [first * math.exp(step * i) for i in range(count)]
