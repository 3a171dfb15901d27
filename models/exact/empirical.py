r"""The prior on a finite set of images: an exact truth for image posteriors without a trained network.

x is one of M images x_m, with probabilities w_m. With z_t = alpha x + sigma eps,

.. math::
    z_t \sim \sum_m w_m N(\alpha x_m, \sigma^2 I), \qquad
    E[x \mid z_t] = \sum_m \mathrm{softmax}_m\Big( \log w_m - \frac{|z_t - \alpha x_m|^2}{2 \sigma^2} \Big) x_m,

and under any likelihood the posterior is the same set with weights proportional to w_m p(y | x_m).

Sums over the set are computed in batches, and in float64 because |z|^2 / sigma^2 cancels against |alpha x|^2 / sigma^2
at low noise; MPS has no float64, and there they are in float32. The gradient recomputes each batch, so that only its
mean is kept and not one number per image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from pyro.distributions import Categorical, TorchDistribution
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import double, widest
from pyro_vipaint.errors import InputError, whole
from pyro_vipaint.models.measurements.likelihoods import check_shape, seen
from pyro_vipaint.models.priors.denoisers import flatten_condition
from pyro_vipaint.models.priors.marginal import Unconstrained
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import EDM, Schedule, as_time

MIN_SIGMA = 1e-6  # a floor for sigma: there the denoiser is the nearest image, and nothing overflows
Moments = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class EmpiricalDenoiser:
    """E[x given z_t] for x from ``images`` ``(M, *event)`` with normalised ``log_weights`` ``(M,)``, float64.

    The condition ``class_labels`` restricts x to the images with that one of the ``labels`` ``(M,)``.
    """

    schedule: Schedule
    images: Tensor
    log_weights: Tensor
    labels: Tensor | None
    batch_size: int

    __repr__, _repr_html_ = compact, as_html

    def __call__(self, z_t: Tensor, t: Tensor | float, **condition: Any) -> Tensor:
        return self.moments(z_t, t, **condition)[0]

    def moments(self, z_t: Tensor, t: Tensor | float, **condition: Any) -> Moments:
        """E[x given z_t], of the shape of ``z_t``, and log p(z_t), of its leading shape."""
        leading = torch.Size(z_t.shape[: z_t.ndim - self.images.ndim + 1])
        z = z_t.reshape(leading.numel(), -1).to(widest(z_t.device))
        alpha, sigma = self.schedule(as_time(t, z.device).expand(leading).reshape(-1, 1))
        alpha, sigma = alpha.to(z), sigma.to(z).clamp(min=MIN_SIGMA)
        mean, log_mass = torch.empty_like(z), torch.empty_like(z[:, 0])
        for here, index, log_weights in self.members(leading, **condition):
            mean[here], log_mass[here] = self._scan(z[here], alpha[here], sigma[here], index, log_weights)
        log_density = log_mass - z.shape[1] * (sigma[:, 0].log() + 0.5 * math.log(2 * math.pi))
        return mean.reshape(z_t.shape).to(z_t), log_density.reshape(leading).to(z_t)

    def members(
        self, leading: torch.Size, class_labels: Tensor | int | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each class: its positions in the flattened ``leading`` shape, the indices and log weights of its images.

        Guidance is not a condition, since a guided prediction is not a posterior mean.

        Raises:
            InputError: no image has a label, or there are no labels.
        """
        device = self.images.device
        if class_labels is None:
            everywhere, images = (torch.arange(n, device=device) for n in (leading.numel(), len(self.images)))
            yield everywhere, images, self.log_weights
            return
        given = flatten_condition(torch.as_tensor(class_labels, device=device), leading)
        for label in given.unique().tolist():
            if self.labels is None or not (self.labels == label).any():
                raise InputError(f"the empirical prior has no image with the label {label}.")
            index = (self.labels == label).nonzero()[:, 0]
            yield (given == label).nonzero()[:, 0], index, self.log_weights[index].log_softmax(0)

    def draw(self, leading: torch.Size, **condition: Any) -> Tensor:
        """Images drawn from the set, of shape ``leading + event``."""
        drawn = torch.empty(leading.numel(), dtype=torch.long, device=self.images.device)
        for here, index, log_weights in self.members(leading, **condition):
            drawn[here] = index[log_weights.exp().multinomial(len(here), replacement=True)]
        return self.images[drawn].reshape(leading + self.images.shape[1:])

    def log_prior(self, count: int, **condition: Any) -> Tensor:
        """log w_m for each of ``count`` images, ``(count, M)``: -inf outside the class."""
        table = self.log_weights.new_full((count, len(self.images)), -math.inf)
        for here, index, log_weights in self.members(torch.Size([count]), **condition):
            table[here[:, None], index] = log_weights
        return table

    def _scan(self, z: Tensor, alpha: Tensor, sigma: Tensor, index: Tensor, log_weights: Tensor) -> Moments:
        """Posterior mean ``(B, D)`` and log sum of weighted kernels ``(B,)`` over the images at ``index``.

        The values of a batch are recomputed for the gradient.
        """
        batches = zip(index.split(self.batch_size), log_weights.split(self.batch_size), strict=True)
        recomputed: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        return reduce(_merge, (checkpoint(self._scan_batch, z, alpha, sigma, i, w, **recomputed) for i, w in batches))

    def _scan_batch(self, z: Tensor, alpha: Tensor, sigma: Tensor, index: Tensor, log_weights: Tensor) -> Moments:
        x = self.images[index].flatten(1).to(z)
        distance = z.square().sum(1, keepdim=True) - 2 * alpha * (z @ x.T) + alpha**2 * x.square().sum(1)
        logits = log_weights - distance / (2 * sigma**2)
        return logits.softmax(1) @ x, logits.logsumexp(1)


def _merge(one: Moments, other: Moments) -> Moments:
    """Mean and log mass of the union of two disjoint sets."""
    log_mass = torch.logaddexp(one[1], other[1])
    return torch.lerp(one[0], other[0], (other[1] - log_mass).exp()[:, None]), log_mass


class EmpiricalMarginal(Unconstrained):
    """The exact p(z_t) under an :class:`EmpiricalPrior`; ``log_prob`` is differentiable, ``sample`` is not.

    Args:
        denoiser: the set, its weights and labels, and the schedule.
        t: the time in (0, 1].
        batch_shape: shape of the images plate; ``expand`` broadcasts it.
        condition: ``class_labels``, of the batch shape or a number.
    """

    def __init__(
        self, denoiser: EmpiricalDenoiser, t: float, batch_shape: torch.Size | Sequence[int] = (), **condition: Any
    ) -> None:
        self.denoiser, self.t, self.condition = denoiser, float(t), condition
        super().__init__(torch.Size(batch_shape), denoiser.images.shape[1:], validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> EmpiricalMarginal:
        """The same distribution with another batch shape."""
        return EmpiricalMarginal(self.denoiser, self.t, batch_shape, **self.condition)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape + event_shape``: diffused images of the set."""
        alpha, sigma = (float(v) for v in self.denoiser.schedule(as_time(self.t)))
        x = self.denoiser.draw(torch.Size(sample_shape) + self.batch_shape, **self.condition)
        return alpha * x + sigma * torch.randn_like(x)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z_t), exact, of the leading shape of ``value`` broadcast with the batch shape, in nats."""
        shape = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)
        return self.denoiser.moments(value.expand(shape), self.t, **self.condition)[1]


@dataclass(frozen=True, eq=False)
class EmpiricalPosterior:
    """The set ``images`` ``(M, *event)`` with normalised ``log_weights`` ``(N, M)``, float64, for each observation."""

    images: Tensor
    log_weights: Tensor

    __repr__, _repr_html_ = compact, as_html

    @property
    def mean(self) -> Tensor:
        """E[x given y], ``(N, *event)``."""
        return self._average(double(self.images)).to(self.images)

    @property
    def variance(self) -> Tensor:
        """Var[x given y] of each element, ``(N, *event)``."""
        x = double(self.images)
        centred = x - x.mean(0)  # same variance, with less cancellation in the next line
        variance = self._average(centred.square()) - self._average(centred).square()
        return variance.clamp(min=0).to(self.images)

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Images drawn from the posterior, ``sample_shape + (N, *event)``."""
        return self.images[Categorical(logits=self.log_weights).sample(torch.Size(sample_shape))]

    def _average(self, values: Tensor) -> Tensor:
        return torch.tensordot(self.log_weights.exp(), values, 1)


class EmpiricalPrior(DiffusionPrior):
    """x on a finite set of images, uniform or weighted, as a diffusion prior with exact denoiser and marginal.

    Evidence and posterior are those of the prior itself; the K-level model approaches them as its levels are refined.
    ``sigma_data`` is the standard deviation over all elements of all images, as in Karras et al. 2022.

    Args:
        images: ``(M, *event)``; images in [-1, 1].
        weights: ``(M,)``, positive, not necessarily of sum one; equal by default.
        labels: integer classes ``(M,)``, which make ``class_labels`` a condition, as for class-conditional networks;
            without the condition the prior is the whole set. Labels that count from 0 without a gap are also
            ``class_names``, and labels for :func:`pyro_vipaint.inpaint`.
        schedule: the noise schedule; :class:`EDM` if not given.
        batch_size: images in one batch of the sums over the set, which need that many times the memory of the latents.

    Raises:
        InputError: there are no images, they are not floats, or weights or labels do not fit them.
    """

    denoiser: EmpiricalDenoiser

    def __init__(
        self,
        images: Tensor,
        weights: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        schedule: Schedule | None = None,
        batch_size: int = 1024,
    ) -> None:
        count, batch_size = images.shape[:1], whole("batch_size", batch_size)
        weights = torch.ones(count, device=images.device) if weights is None else weights
        fit = weights.shape == count and (labels is None or labels.shape == count)
        if not images.is_floating_point() or not images.numel() or not fit or not (weights > 0).all():
            raise InputError(
                "give at least one image, as floats in [-1, 1] (from bytes: images / 127.5 - 1), "
                "and one positive weight and one label (if any) for each image."
            )
        schedule, weights = schedule or EDM(), weights.to(widest(images.device))
        weights = weights / weights.sum()
        denoiser = EmpiricalDenoiser(schedule, images, weights.log(), labels, batch_size)
        sigma_data, names = _weighted_std(images, weights), _class_names(labels)
        super().__init__(schedule, denoiser, images.shape[1:], sigma_data=sigma_data, class_names=names)

    def diffusion(self) -> DiffusionPrior:
        """The same schedule and denoiser as a :class:`DiffusionPrior`, whose marginal is estimated."""
        return DiffusionPrior(
            self.schedule, self.denoiser, self.event_shape, sigma_data=self.sigma_data, class_names=self.class_names
        )

    def marginal(self, t: float, steps: int = 0, **condition: Any) -> TorchDistribution:
        """The exact p(z_t); ``steps`` has no effect."""
        return EmpiricalMarginal(self.denoiser, t, **condition)

    def log_evidence(self, likelihood: Callable[[Tensor], Any], y: Tensor, **condition: Any) -> Tensor:
        """log p(y) of the prior itself, not of a K-level model, ``(N,)``, in nats, for any likelihood."""
        return self._log_joint(likelihood, y, condition).logsumexp(1).to(self.denoiser.images)

    def posterior(self, likelihood: Callable[[Tensor], Any], y: Tensor, **condition: Any) -> EmpiricalPosterior:
        """p(x given y) for any likelihood, image -> distribution of the observation, element by element.

        ``y`` has shape ``(N, *observation)``; the operator may have one mask per image.
        """
        log_joint = self._log_joint(likelihood, y, condition)
        return EmpiricalPosterior(self.denoiser.images, log_joint.log_softmax(1))

    @torch.no_grad()
    def _log_joint(self, likelihood: Callable[[Tensor], Any], y: Tensor, condition: dict[str, Any]) -> Tensor:
        """log w_m p(y_n | x_m), ``(N, M)``, float64."""
        check_shape(y, likelihood(self.denoiser.images[:1].expand(len(y), *self.event_shape)).shape())
        y = seen(likelihood, y)
        batches = self.denoiser.images.split(self.denoiser.batch_size)
        log_likelihood = torch.cat([_log_likelihood(likelihood, x, y) for x in batches])
        return double(self.denoiser.log_prior(len(y), **condition)) + log_likelihood.T


def _log_likelihood(likelihood: Callable[[Tensor], Any], x: Tensor, y: Tensor) -> Tensor:
    """log p(y_n | x_m), ``(M, N)``, summed over elements in float64."""
    terms = double(likelihood(x[:, None]).log_prob(y))
    return terms.flatten(2).sum(2) if terms.ndim > 2 else terms


def _class_names(labels: Tensor | None) -> tuple[str, ...]:
    """The numbers of the classes as names, if they are 0, 1, 2 and so on."""
    found = [] if labels is None else labels.unique().tolist()
    return tuple(map(str, found)) if found == list(range(len(found))) else ()


def _weighted_std(images: Tensor, weights: Tensor) -> float:
    """Standard deviation over all elements of all images, weighted by image."""
    flat = images.flatten(1)
    mean = (weights * flat.mean(1)).sum()
    variance = flat.var(1, correction=0) + (flat.mean(1) - mean) ** 2
    return float((weights * variance).sum() ** 0.5)
