r"""The K-level model of a Gaussian mixture problem, in the coordinates where measurement and posterior are diagonal.

**Coordinates.** With A = U diag(s) V^T, x is replaced by V^T x and y by U^T y: element i of y then sees element i of x,
times s_i. Isotropic noise stays isotropic, so a denoiser D becomes V^T D(V z) and costs what it did. A guide that is
diagonal here has its spreads and its gamma along the row space of A; in the coordinates of x a diagonal guide is
as narrow in every element as along the observed directions.

**Variances.** Eq. 3 puts the denoiser's estimate in place of z_0 and omits its uncertainty, so that the chain is too
narrow between distant levels. Here the variance is matched (Bao et al. 2022, "Analytic-DPM"):

.. math::
    p_\theta(z_s \mid z_t) = N(a z_t + b \hat x, \; v_{st} + b^2 c_t), \quad
    p(y \mid z_1) = N(A \hat x, \; \sigma_y^2 + A c_1 A^T), \quad c_t = E[(x - \hat x(z_t))^2]

element by element, (a, b, v_st) those of the bridge. c_t is the denoising error, of which a network's training loss is
an estimate; here it is averaged over draws of the prior, and its NFE are counted. The likelihood is no longer
over-confident at T_s, and T_s can be high.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.distributions import Normal
from torch import Tensor

import pyro_vipaint as vp
from benchmarks.gmm_problem import GMMProblem, spherical_mixture
from pyro_vipaint.models import DiffusionModel, GaussianMixturePrior
from pyro_vipaint.models.measurements.operators import Matrix
from pyro_vipaint.models.priors.kernels import Time, bridge_coefficients
from pyro_vipaint.models.priors.schedules import EDM, as_time

SCHEDULE = EDM(sigma_max=5000.0)  # covers 80 dimensions, whose means lie up to 143 from the origin, at every level used
LEVELS = 12
START, STOP = 4.0, 0.06  # noise levels at T_e and T_s, in units of the prior's largest standard deviation
ERROR_DRAWS = 2000  # draws of the prior behind c_t


@dataclass(frozen=True)
class MatchedPrior(GaussianMixturePrior):
    """The mixture with transitions of matched variance; ``errors`` holds c_t, ``(d_x,)``, by time."""

    errors: Mapping[float, Tensor] = field(default_factory=dict)

    def transition(self, z_t: Tensor, t: Time, s: Time, **condition: Any) -> Normal:
        """p(z_s given z_t) for a level t of the model: one network call."""
        return self.matched(z_t, self.denoise(z_t, t, **condition), self.errors[float(t)], t, s)

    def matched(self, z_t: Tensor, x: Tensor, c: Tensor, t: Time, s: Time) -> Normal:
        """N(a z_t + b x, v_st + b^2 c): z_s given z_t where z_0 has mean ``x`` and variance ``c``, without a call."""
        a, b, variance = (float(v) for v in bridge_coefficients(self.schedule, t, s))
        std = (variance + b**2 * c).sqrt()
        return Normal(a * z_t + b * x, std.expand(z_t.shape), validate_args=False)


@dataclass(frozen=True, eq=False)
class ElementwiseGaussian:
    """y = A(x) + v, v ~ N(0, std²), with one ``std`` for each element of y."""

    operator: Matrix
    std: Tensor

    def __call__(self, x: Tensor) -> Normal:
        mean = self.operator.A(x)
        return Normal(mean, self.std.expand(mean.shape), validate_args=False)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """y - A(x)."""
        return y - self.operator.A(x)


@dataclass(frozen=True, eq=False)
class DiagonalProblem:
    """A problem in diagonal coordinates.

    ``model`` is the K-level model; ``y`` ``(1, d_y)``; ``singular`` ``(d_y,)`` the singular values of A; ``sigma_y``
    the noise of y; ``rotation`` V, ``(d_x, d_x)``; ``nfe`` what c_t has cost.
    """

    model: DiffusionModel
    y: Tensor
    singular: Tensor
    sigma_y: float
    rotation: Tensor
    nfe: int

    @property
    def prior(self) -> MatchedPrior:
        """The mixture with its denoising errors."""
        prior = self.model.prior
        assert isinstance(prior, MatchedPrior)
        return prior

    def condition(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of x ~ N(``x``, ``c``) given y, element by element; ``x`` ``(..., d_x)``, ``c`` ``(d_x,)``.

        This is linear-Gaussian conditioning in the row space of A; unseen elements are left alone.
        """
        seen = len(self.singular)
        gain = c[:seen] * self.singular / (self.sigma_y**2 + self.singular**2 * c[:seen])
        mean, variance = x.clone(), c.clone()
        mean[..., :seen] += gain * (self.y - self.singular * x[..., :seen])
        variance[:seen] -= gain * self.singular * c[:seen]
        return mean, variance.clamp(min=0)

    def log_likelihood(self, x: Tensor, c: Tensor) -> Tensor:
        """log N(y; A x, sigma_y^2 + A c A^T), for ``x`` ``(..., d_x)``, of leading shape."""
        seen = len(self.singular)
        std = (self.sigma_y**2 + self.singular**2 * c[:seen]).sqrt()
        return Normal(self.singular * x[..., :seen], std).log_prob(self.y).sum(-1)

    @torch.no_grad()
    def finish(self, z: Tensor) -> Tensor:
        """Samples of x, in the problem's coordinates, from z_Ts ``(n, d_x)``: one evaluation each.

        x ~ N(x_hat, c_Ts) given y: exact once T_s is below the level at which the modes part.
        """
        t = self.model.keypoints[-1]
        mean, variance = self.condition(self.prior.denoise(z, t), self.prior.errors[t])
        return (mean + variance.sqrt() * torch.randn_like(mean)) @ self.rotation.T


def diagonal_problem(problem: GMMProblem, levels: int = LEVELS) -> DiagonalProblem:
    """The ``levels``-level model of ``problem``, noise levels in geometric progression from T_e to T_s."""
    left, singular, right = torch.linalg.svd(problem.A.double(), full_matrices=True)
    rotation, singular = right.T.to(problem.means), singular.to(problem.means)
    prior = spherical_mixture(problem.weights, problem.means @ rotation, 1.0, SCHEDULE)
    largest = largest_std(problem)
    times = vp.keypoints(prior, noise_levels=geometric(START * largest, STOP * largest, levels))
    with vp.count_calls() as count:
        errors = {t: denoising_error(prior, t) for t in times}
    matched = MatchedPrior(
        prior.schedule, prior.denoiser, prior.event_shape, sigma_data=prior.sigma_data, errors=errors
    )
    operator = Matrix(torch.eye(len(singular), len(rotation)).to(singular) * singular[:, None])
    std = (problem.sigma_y**2 + singular**2 * errors[times[-1]][: len(singular)]).sqrt()
    model = DiffusionModel(matched, ElementwiseGaussian(operator, std), times)
    y = problem.y @ left.to(problem.y)
    return DiagonalProblem(model, y, singular, problem.sigma_y, rotation, count.nfe)


@torch.no_grad()
def denoising_error(prior: GaussianMixturePrior, t: float) -> Tensor:
    """c_t of each element, ``(d_x,)``, in squared units of x: ERROR_DRAWS NFE."""
    x = prior.marginal(0.0).sample(torch.Size([ERROR_DRAWS]))
    _, sigma = prior.schedule(as_time(t))
    z = x + float(sigma) * torch.randn_like(x)
    return (x - prior.denoise(z, t)).square().mean(0)


def largest_std(problem: GMMProblem) -> float:
    """The prior's standard deviation along the direction in which it is largest."""
    centred = problem.means - problem.weights @ problem.means
    between = centred.T @ (problem.weights[:, None] * centred)
    return float((torch.linalg.eigvalsh(between.double())[-1] + 1).sqrt())


def geometric(first: float, last: float, count: int) -> Sequence[float]:
    """``count`` numbers from ``first`` to ``last`` in geometric progression."""
    step = math.log(last / first) / (count - 1)
    return [first * math.exp(step * i) for i in range(count)]
