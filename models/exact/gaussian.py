r"""The Gaussian prior x ~ N(m, C): denoiser, marginal, evidence and posterior in closed form.

With z_t = alpha x + sigma eps,

.. math:: E[x \mid z_t] = m + \alpha C (\alpha^2 C + \sigma^2 I)^{-1} (z_t - \alpha m), \quad
          z_t \sim N(\alpha m, \alpha^2 C + \sigma^2 I).

These moments are diagonal in the eigenvectors of C. The K-level model (the exact marginal at T_e, Eq. 3 below it, one
denoising step at T_s) is linear and Gaussian too, so its evidence and posterior are also known in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from pyro.distributions import MultivariateNormal, Normal, TorchDistribution
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint.errors import InputError
from pyro_vipaint.models.measurements.likelihoods import Gaussian
from pyro_vipaint.models.measurements.operators import Operator
from pyro_vipaint.models.priors.kernels import bridge_coefficients, expand_event, log_density
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import EDM, Schedule, as_time


@dataclass(frozen=True, eq=False)
class GaussianDenoiser:
    """E[x given z_t] for x ~ N(mean, V diag(variance) V^T); V is orthogonal, or the identity (``None``)."""

    schedule: Schedule
    mean: Tensor
    variance: Tensor
    vectors: Tensor | None = None

    __repr__, _repr_html_ = compact, as_html

    def __call__(self, z_t: Tensor, t: Tensor | float, **condition: Any) -> Tensor:
        alpha, sigma = (expand_event(v, z_t) for v in self.schedule(as_time(t)))
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        centred = z_t - alpha * self.mean
        if self.vectors is None:
            return self.mean + gain * centred
        return self.mean + (gain * (centred @ self.vectors)) @ self.vectors.T


@dataclass(frozen=True, eq=False)
class GaussianPrior(DiffusionPrior):
    """x ~ N(mean, covariance) as a diffusion prior with the exact denoiser and the exact marginal.

    Constructed by :meth:`diagonal` or :meth:`full`.
    """

    denoiser: GaussianDenoiser

    __repr__, _repr_html_ = compact, as_html

    @classmethod
    def diagonal(cls, mean: Tensor, std: Tensor, schedule: Schedule | None = None) -> GaussianPrior:
        """Independent coordinates of event shape ``mean.shape``, one dimension or more; ``std`` broadcasts to it.

        Raises:
            InputError: ``std`` is not positive or does not broadcast to ``mean``.
        """
        return cls._build(mean, expanded_variance(std, mean, mean.shape), None, schedule)

    @classmethod
    def full(cls, mean: Tensor, covariance: Tensor, schedule: Schedule | None = None) -> GaussianPrior:
        """A vector of shape ``(D,)`` with covariance ``(D, D)``, symmetric and positive definite.

        Raises:
            InputError: the covariance is not positive definite.
        """
        return cls._build(mean, *eigen(covariance, mean), schedule)

    @classmethod
    def _build(cls, mean: Tensor, variance: Tensor, vectors: Tensor | None, schedule: Schedule | None) -> GaussianPrior:
        denoiser = GaussianDenoiser(schedule or EDM(), mean, variance, vectors)
        return cls(denoiser.schedule, denoiser, mean.shape, sigma_data=float(variance.mean() ** 0.5))

    @property
    def mean(self) -> Tensor:
        """Mean of x."""
        return self.denoiser.mean

    @property
    def covariance(self) -> Tensor:
        """Covariance of the flattened x, ``(D, D)``."""
        return self._rotate(self.denoiser.variance)

    def diffusion(self) -> DiffusionPrior:
        """The same schedule and denoiser as a :class:`DiffusionPrior`, whose marginal is estimated."""
        return DiffusionPrior(self.schedule, self.denoiser, self.event_shape, sigma_data=self.sigma_data)

    def marginal(self, t: float, steps: int = 0, **condition: Any) -> TorchDistribution:
        """The exact p(z_t); ``steps`` has no effect."""
        alpha, sigma = (float(v) for v in self.schedule(as_time(t)))
        variance = alpha**2 * self.denoiser.variance + sigma**2
        if self.denoiser.vectors is None:
            return Normal(alpha * self.mean, variance.sqrt()).to_event(self.event_dim)
        factor, _ = torch.linalg.cholesky_ex(self._rotate(variance))  # without a look at what cannot fail
        return MultivariateNormal(alpha * self.mean, scale_tril=factor)

    def prediction_moments(self, keypoints: Sequence[float] | None = None) -> tuple[Tensor, Tensor]:
        """Mean ``(D,)`` and covariance ``(D, D)`` of x; with ``keypoints``, of E[x given z_1] in the K-level model."""
        mean, covariance = self._prediction(keypoints)
        return mean.to(self.mean), covariance.to(self.mean)

    def observation_moments(
        self, likelihood: Gaussian, keypoints: Sequence[float] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(A, observed, mean, covariance)``: the operator's matrix, the observed rows, and their moments.

        Raises:
            InputError: as for :meth:`log_evidence`.
        """
        matrix, observed, mean, covariance = self._observation(likelihood, keypoints)
        return matrix.to(self.mean), observed.to(self.mean.device), mean.to(self.mean), covariance.to(self.mean)

    def log_evidence(self, likelihood: Gaussian, y: Tensor, keypoints: Sequence[float] | None = None) -> Tensor:
        """log p(y), shape ``(N,)``, in nats: of the K-level model with ``keypoints``, of the prior itself without.

        The operator of ``likelihood`` must be linear and the same for all N observations.

        Raises:
            InputError: the likelihood is not Gaussian, or its operator differs between the images.
        """
        _, observed, mean, covariance = self._observation(likelihood, keypoints)
        return log_density(y.flatten(1).cpu().double()[:, observed] - mean, covariance).to(self.mean)

    def posterior(
        self, likelihood: Gaussian, y: Tensor, keypoints: Sequence[float] | None = None
    ) -> MultivariateNormal:
        """p(x given y), flattened, batch ``(N,)``; with ``keypoints``, of E[x given z_1] in the K-level model.

        Likelihood and errors as for :meth:`log_evidence`.
        """
        mean, covariance = self._prediction(keypoints)
        matrix, observed, predicted, total = self._observation(likelihood, keypoints)
        cross = covariance @ matrix[observed].T
        gain = torch.linalg.solve(total, cross.T).T
        moved = mean + (y.flatten(1).cpu().double()[:, observed] - predicted) @ gain.T
        shrunk = covariance - gain @ cross.T
        factor = torch.linalg.cholesky((shrunk + shrunk.T) / 2)
        return MultivariateNormal(moved.to(self.mean), scale_tril=factor.to(self.mean))

    def _prediction(self, keypoints: Sequence[float] | None) -> tuple[Tensor, Tensor]:
        """:meth:`prediction_moments` in float64, on the CPU: with little noise covariances of y are nearly singular."""
        variance = self.denoiser.variance.flatten().cpu().double()
        if keypoints is not None:  # the variance of E[x given z_1] in the eigenbasis, after the transitions
            alpha, sigma = (float(v) for v in self.schedule(as_time(keypoints[0])))
            current = alpha**2 * variance + sigma**2
            for t, s in pairwise(keypoints):
                a, b, extra = (float(v) for v in bridge_coefficients(self.schedule, t, s))
                current = (a + b * self._gain(variance, t)) ** 2 * current + extra
            variance = self._gain(variance, keypoints[-1]) ** 2 * current
        return self.mean.flatten().cpu().double(), self._rotate(variance)

    def _observation(
        self, likelihood: Gaussian, keypoints: Sequence[float] | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """:meth:`observation_moments` in float64, on the CPU."""
        mean, covariance = self._prediction(keypoints)
        matrix, observed, noise = observed_matrix(likelihood, self.mean.new_zeros(1, *self.event_shape))
        rows = matrix[observed]
        return matrix, observed, rows @ mean, rows @ covariance @ rows.T + torch.diag(noise)

    def _gain(self, variance: Tensor, t: float) -> Tensor:
        alpha, sigma = (float(v) for v in self.schedule(as_time(t)))
        return alpha * variance / (alpha**2 * variance + sigma**2)

    def _rotate(self, variance: Tensor) -> Tensor:
        variance, vectors = variance.flatten(), self.denoiser.vectors
        if vectors is None:
            return torch.diag(variance)
        vectors = vectors.to(variance.device).to(variance)
        return (vectors * variance) @ vectors.T


def expanded_variance(std: Tensor, means: Tensor, shape: Sequence[int]) -> Tensor:
    """``std**2`` broadcast to ``shape``; refuses standard deviations that are not positive or do not fit ``means``."""
    try:
        variance = (std**2).expand(shape)
    except RuntimeError:
        variance = None
    if variance is None or not means.ndim or not ((std > 0).all() and means.isfinite().all()):
        shapes = f"{tuple(std.shape)} for means of shape {tuple(means.shape)}"
        raise InputError(
            f"standard deviations must be positive and broadcast to the means, which are finite: {shapes}."
        )
    return variance


def eigen(covariance: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(…, D)`` and eigenvectors ``(…, D, D)``; refuses matrices that are no covariances of ``means``."""
    fits = covariance.shape[-2:] == (means.shape[-1],) * 2
    values, vectors = torch.linalg.eigh(covariance) if fits else (means, means)
    if not fits or values.min() <= 0:
        shapes = f"{tuple(covariance.shape)} for means of shape {tuple(means.shape)}"
        raise InputError(f"covariances must be positive definite and fit the means, shapes {shapes}.")
    return values, vectors


def observed_matrix(likelihood: Gaussian, event: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(A, observed, noise)``: the matrix of A for images like ``event``, ``(1, *event)``, the rows that count, and
    the variances of their noise.

    Both are in float64 on the CPU, since not every device has float64; A computes in the dtype of ``event``.
    """
    blank = likelihood(event).shape() if isinstance(likelihood, Gaussian) else torch.Size()
    if blank[:1] != (1,):
        raise InputError(
            "the closed form is for a Gaussian likelihood with one operator for all images: "
            "where the operators differ, give each image alone, with its own mask."
        )
    matrix = operator_matrix(likelihood.operator, event.shape[1:], event.device, event.dtype)
    observed = likelihood.observed(event.new_zeros(blank)).flatten().cpu()
    variance = torch.as_tensor(likelihood.sigma**2, dtype=torch.float64, device="cpu").expand(blank).flatten()
    return matrix.cpu().double(), observed, variance[observed]


def operator_matrix(
    operator: Operator,
    event_shape: Sequence[int],
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The matrix ``(M, D)`` of a linear operator on flattened events, column by column."""
    size = torch.Size(event_shape).numel()
    identity = torch.eye(size, device=device, dtype=dtype)
    return operator.A(identity.reshape(size, *event_shape)).reshape(size, -1).T
