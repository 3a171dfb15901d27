r"""The Gaussian mixture problems of Cardoso et al. (Monte Carlo guided diffusion, ICLR 2024), posterior included.

.. math::
    x \sim \sum_{i, j = -2}^{2} w_{ij}\, N\big((-8 i, -8 j, -8 i, -8 j, \ldots), I\big), \qquad
    y = A x + \sigma_y \epsilon

in d_x = 8, 80 or 800 dimensions, of which d_y = 1, 2 or 4 combinations are observed: weights proportional to squares of
standard normals, A a Gaussian matrix whose singular values are replaced by sorted uniforms, sigma_y a uniform number
times the largest of them, x drawn from the prior. A cell (d_x, d_y) of their table is 20 problems.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint import Gaussian
from pyro_vipaint.models import GaussianMixturePrior
from pyro_vipaint.models.exact.mixture import GaussianMixture, GaussianMixtureDenoiser
from pyro_vipaint.models.measurements.operators import Matrix
from pyro_vipaint.models.priors.kernels import expand_event
from pyro_vipaint.models.priors.schedules import Schedule, as_time

PROBLEMS = 20  # in a cell
SPACING = 8.0


@dataclass(frozen=True, eq=False)
class GMMProblem:
    """``weights`` ``(25,)`` of sum one, ``means`` ``(25, d_x)``, ``A`` ``(d_y, d_x)``, and ``sigma_y``.

    ``y`` ``(1, d_y)`` is a batch of one observation, as models and posteriors expect it.
    """

    weights: Tensor
    means: Tensor
    A: Tensor
    sigma_y: float
    y: Tensor

    def prior(self, schedule: Schedule | None = None) -> GaussianMixturePrior:
        """The mixture, on the given noise schedule."""
        return spherical_mixture(self.weights, self.means, 1.0, schedule)

    @property
    def likelihood(self) -> Gaussian:
        """y = A x + sigma_y eps."""
        return Gaussian(Matrix(self.A), self.sigma_y)

    @property
    def posterior(self) -> GaussianMixture:
        """The exact p(x given y), batch ``(1,)``."""
        return self.prior().posterior(self.likelihood, self.y)


@dataclass(frozen=True, eq=False)
class SphericalDenoiser(GaussianMixtureDenoiser):
    """The denoiser of vectors for components of one variance, by two matrix products instead of all centred samples."""

    def __call__(self, z_t: Tensor, t: Tensor | float, **condition: Any) -> Tensor:
        alpha, sigma = (expand_event(v, z_t) for v in self.schedule(as_time(t)))
        variance = self.variances.flatten()[0]
        total = alpha**2 * variance + sigma**2
        squared = alpha**2 / 2 * self.means.square().sum(-1)
        log_joint = self.log_weights + (alpha * z_t @ self.means.T - squared) / total
        gain = alpha * variance / total
        return gain * z_t + (1 - alpha * gain) * (log_joint.softmax(-1) @ self.means)


def spherical_mixture(
    weights: Tensor, means: Tensor, std: float, schedule: Schedule | None = None
) -> GaussianMixturePrior:
    """The mixture of N(m_i, std^2 I) as a prior; ``means`` ``(M, d_x)``."""
    prior = GaussianMixturePrior.diagonal(weights, means, std, schedule)
    quick = SphericalDenoiser(*(getattr(prior.denoiser, field.name) for field in fields(GaussianMixtureDenoiser)))
    return replace(prior, denoiser=quick)


def gmm_problem(dim: int, dim_y: int, seed: int, dtype: torch.dtype = torch.float32) -> GMMProblem:
    """The problem of ``seed`` in cell (d_x, d_y) = (``dim``, ``dim_y``): ``dim`` even, ``dim_y`` at most ``dim``.

    Everything is drawn in float64 on the CPU from a generator of its own, in the order weights, A, sigma_y, x, noise.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(count: int) -> Tensor:
        return torch.rand(count, generator=generator, dtype=torch.float64)

    means = grid_means(dim)
    weights = normal(len(means)).square()
    left, _, right = torch.linalg.svd(normal(dim_y, dim), full_matrices=False)
    singular = uniform(dim_y).sort(descending=True).values
    matrix = (left * singular) @ right
    sigma_y = float(uniform(1) * singular[0])
    x = means[weights.multinomial(1, generator=generator)] + normal(1, dim)
    y = x @ matrix.T + sigma_y * normal(1, dim_y)
    return GMMProblem((weights / weights.sum()).to(dtype), means.to(dtype), matrix.to(dtype), sigma_y, y.to(dtype))


def grid_means(dim: int) -> Tensor:
    """(-8i, -8j, -8i, -8j, …) for i, j from -2 to 2, ``(25, dim)``, float64."""
    steps = -SPACING * torch.arange(-2, 3, dtype=torch.float64)
    return torch.cartesian_prod(steps, steps).repeat(1, dim // 2)
