r"""The mixture of Gaussians: a prior with several modes whose denoiser, marginal, evidence and posterior are exact.

With x ~ sum_m w_m N(m_m, C_m), z_t = alpha x + sigma eps and T_m = alpha^2 C_m + sigma^2 I,

.. math::
    z_t \sim \sum_m w_m N(\alpha m_m, T_m), \qquad
    E[x \mid z_t] = \sum_m r_m(z_t) \big( m_m + \alpha C_m T_m^{-1} (z_t - \alpha m_m) \big)

with responsibilities r_m proportional to w_m N(z_t; alpha m_m, T_m). For y = R x + v, v ~ N(0, s^2 I), each component
is conditioned like a Gaussian and weighted by its evidence:

.. math:: p(x \mid y) = \sum_m \frac{w_m p_m(y)}{\sum_k w_k p_k(y)}\, p_m(x \mid y), \quad
          p_m(y) = N(y; R m_m, R C_m R^T + s^2 I).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import (
    Categorical,
    MixtureSameFamily,  # pyright: ignore[reportAttributeAccessIssue]
    MultivariateNormal,
    Normal,
    TorchDistribution,
)
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import double, precise
from pyro_vipaint.errors import InputError
from pyro_vipaint.models.exact.gaussian import eigen, expanded_variance, observed_matrix
from pyro_vipaint.models.measurements.likelihoods import Gaussian
from pyro_vipaint.models.priors.kernels import expand_event, log_density
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import EDM, Schedule, as_time


class GaussianMixture(MixtureSameFamily):
    """Pyro's mixture of MultivariateNormal with covariances that are the same for the whole batch.

    Pyro's ``sample`` draws from every component for every sample and copies their ``(D, D)`` factors: terabytes for a
    thousand samples in 800 dimensions. This class draws from the chosen component alone.
    """

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape + (D,)``, not reparameterised."""
        with torch.no_grad():
            normals = self.component_distribution
            factors = normals.scale_tril[(0,) * len(self.batch_shape)]
            chosen = self.mixture_distribution.sample(torch.Size(sample_shape))
            means = normals.loc.expand(*chosen.shape, *normals.loc.shape[-2:])
            centre = means.take_along_dim(chosen[..., None, None], -2).squeeze(-2)
            noise = torch.randn_like(centre)
            for m, factor in enumerate(factors):
                here = chosen == m
                noise[here] = noise[here] @ factor.T
            return centre + noise


@dataclass(frozen=True, eq=False)
class GaussianMixtureDenoiser:
    """E[x given z_t] for x ~ sum_m w_m N(means_m, V_m diag(variances_m) V_m^T), V_m orthogonal.

    Shapes: ``log_weights`` ``(M,)``, ``means`` and ``variances`` ``(M, *event)``, ``vectors`` ``(M, D, D)`` or ``None``
    for the identity. ``variances`` and ``vectors`` may have one entry for all components.
    """

    schedule: Schedule
    log_weights: Tensor
    means: Tensor
    variances: Tensor
    vectors: Tensor | None = None

    __repr__, _repr_html_ = compact, as_html

    def __call__(self, z_t: Tensor, t: Tensor | float, **condition: Any) -> Tensor:
        leading = z_t.shape[: z_t.ndim - self.means.ndim + 1]
        z = z_t.reshape(*leading, 1, -1)
        alpha, sigma = (expand_event(v, z) for v in self.schedule(as_time(t)))
        means, variances = self.means.flatten(1), self.variances.flatten(1)
        total = alpha**2 * variances + sigma**2
        centred = self._rotate(z - alpha * means, "...md,mde->...me")
        log_joint = self.log_weights - 0.5 * (centred**2 / total + total.log()).sum(-1)
        moved = means + self._rotate(alpha * variances / total * centred, "...me,mde->...md")
        return (log_joint.softmax(-1)[..., None] * moved).sum(-2).reshape(z_t.shape)

    def _rotate(self, value: Tensor, equation: str) -> Tensor:
        return value if self.vectors is None else torch.einsum(equation, value, self.vectors)


@dataclass(frozen=True, eq=False)
class GaussianMixturePrior(DiffusionPrior):
    """x ~ sum_m w_m N(m_m, C_m) as a diffusion prior with the exact denoiser and the exact marginal.

    Constructed by :meth:`diagonal` or :meth:`full`. ``sigma_data`` is the root of the variance of x, averaged over
    coordinates. Evidence and posterior are those of the prior itself, computed in float64; the K-level model approaches
    them as its levels are refined.
    """

    denoiser: GaussianMixtureDenoiser

    __repr__, _repr_html_ = compact, as_html

    @classmethod
    def diagonal(
        cls, weights: Tensor, means: Tensor, std: Tensor | float, schedule: Schedule | None = None
    ) -> GaussianMixturePrior:
        """Components with independent coordinates, of any event shape.

        Args:
            weights: ``(M,)``, positive; they need not sum to one.
            means: ``(M, *event)``.
            std: positive standard deviations that broadcast to ``means``: a number, ``event``, or one per component.
            schedule: the noise schedule; :class:`EDM` if not given.

        Raises:
            InputError: weights or standard deviations are not positive, or their shapes do not fit.
        """
        std = torch.as_tensor(std).to(means)
        shape = means[:1].shape if std.ndim < means.ndim else (len(std), *means.shape[1:])
        return cls._build(weights, means, expanded_variance(std, means, shape), None, schedule)

    @classmethod
    def full(
        cls, weights: Tensor, means: Tensor, covariances: Tensor, schedule: Schedule | None = None
    ) -> GaussianMixturePrior:
        """Vectors: ``means`` of shape ``(M, D)`` and ``covariances`` ``(M, D, D)``, or ``(D, D)`` for all components.

        Raises:
            InputError: a covariance is not positive definite, weights are not positive, or shapes do not fit.
        """
        variances, vectors = eigen(covariances.reshape(-1, *covariances.shape[-2:]), means)
        return cls._build(weights, means, variances, vectors, schedule)

    @classmethod
    def _build(
        cls, weights: Tensor, means: Tensor, variances: Tensor, vectors: Tensor | None, schedule: Schedule | None
    ) -> GaussianMixturePrior:
        if weights.shape != means.shape[:1] or not (weights > 0).all() or len(variances) not in (1, len(means)):
            raise InputError(
                f"the {len(means)} means need one positive weight each, and one covariance each or one for all."
            )
        weights, schedule = (weights / weights.sum()).to(means), schedule or EDM()
        between = (means - torch.tensordot(weights, means, 1)) ** 2
        sigma_data = float((weights * (variances + between).flatten(1).mean(1)).sum() ** 0.5)
        denoiser = GaussianMixtureDenoiser(schedule, weights.log(), means, variances, vectors)
        return cls(schedule, denoiser, means.shape[1:], sigma_data=sigma_data)

    def diffusion(self) -> DiffusionPrior:
        """The same schedule and denoiser as a :class:`DiffusionPrior`, whose marginal is estimated."""
        return DiffusionPrior(self.schedule, self.denoiser, self.event_shape, sigma_data=self.sigma_data)

    def marginal(self, t: float, steps: int = 0, **condition: Any) -> TorchDistribution:
        """The exact p(z_t), differentiable in its value, not reparameterised; ``steps`` has no effect."""
        alpha, sigma = (float(v) for v in self.schedule(as_time(t)))
        means, vectors = alpha * self.denoiser.means, self.denoiser.vectors
        total = alpha**2 * self.denoiser.variances + sigma**2
        choice = Categorical(logits=self.denoiser.log_weights)
        if vectors is None:
            return MixtureSameFamily(choice, Normal(means, total.sqrt()).to_event(self.event_dim))
        factors, _ = torch.linalg.cholesky_ex((vectors * total[:, None]) @ vectors.mT)  # which cannot fail
        return GaussianMixture(choice, MultivariateNormal(means, scale_tril=factors))

    def log_evidence(self, likelihood: Gaussian, y: Tensor) -> Tensor:
        """log p(y), shape ``(N,)``, in nats; likelihood and errors as for :meth:`GaussianPrior.log_evidence`."""
        return self._observe(likelihood, y)[0].logsumexp(-1).to(self.denoiser.means)

    def posterior(self, likelihood: Gaussian, y: Tensor) -> GaussianMixture:
        """p(x given y), flattened, batch ``(N,)``; likelihood and errors as for :meth:`log_evidence`.

        Its weights and components are ``mixture_distribution`` and ``component_distribution``.
        """
        log_joint, surprise, cross, total = self._observe(likelihood, y)
        means = self.denoiser.means.flatten(1)
        home = precise(means.device)
        gain = torch.linalg.solve(total, cross.mT).mT
        moved = means.to(home) + torch.einsum("mdk,nmk->nmd", gain, surprise)
        identity = torch.eye(means.shape[1], dtype=torch.float64, device=home)
        shrunk = self._covariance_times(identity) - gain @ cross.mT
        factors = torch.linalg.cholesky((shrunk + shrunk.mT) / 2)
        components = MultivariateNormal(moved.to(means), scale_tril=factors.to(means))
        return GaussianMixture(Categorical(logits=log_joint.to(means)), components)

    def _observe(self, likelihood: Gaussian, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log w_m p_m(y) ``(N, M)``, y - R m_m ``(N, M, d)``, C_m R^T ``(M, D, d)``, R C_m R^T + s^2 I ``(M, d, d)``.

        They are in float64, for the observed elements of y; M may be 1 in the last two.
        """
        matrix, observed, noise = observed_matrix(likelihood, self.denoiser.means.new_zeros(1, *self.event_shape))
        here = precise(self.denoiser.means.device)
        rows, observed, noise = (value.to(here) for value in (matrix[observed], observed, noise))
        cross = self._covariance_times(rows.T)
        total = rows @ cross + torch.diag(noise)
        predicted = double(self.denoiser.means.flatten(1)) @ rows.T
        surprise = double(y.flatten(1))[:, None, observed] - predicted
        return double(self.denoiser.log_weights) + log_density(surprise, total), surprise, cross, total

    def _covariance_times(self, matrix: Tensor) -> Tensor:
        """C_m times a ``(D, k)`` matrix, for each component or one for all, in float64."""
        variances, vectors = double(self.denoiser.variances.flatten(1)[..., None]), self.denoiser.vectors
        if vectors is None:
            return variances * matrix
        return double(vectors) @ (variances * (double(vectors).mT @ matrix))
