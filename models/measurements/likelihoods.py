r"""Likelihoods: image -> distribution of the observation y = A(x) + v.

A likelihood is a callable ``x -> distribution of y`` for images x ``(…, N, C, H, W)``, whose ``distribution.shape()``
is ``(…, N, *observation)``. That is all that a :class:`DiffusionModel` and a fit need. :class:`Likelihood` lists the
members that the start of a guide, the refinement and the baselines use, and who uses which.

Distributions are independent over the elements of y, and the model declares the event dimensions; :class:`Perceptual`
is a density of whole images. Where the operator has a mask, hidden elements have log density 0, so the evidence is that
of the observed elements.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from pyro.distributions import Laplace as LaplaceDistribution  # pyright: ignore[reportAttributeAccessIssue]
from pyro.distributions import Normal, TorchDistribution
from pyro.distributions import Poisson as PoissonDistribution  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import has_values, on_device
from pyro_vipaint.errors import InputError, instance, number
from pyro_vipaint.metrics import perceptual_distance
from pyro_vipaint.models.measurements.operators import Operator, apply, check_is_operator, observation_mask, placed
from pyro_vipaint.models.priors.marginal import Unconstrained

SPREAD = 6.0  # standard deviations of noise beyond the images that an observation may lie
FLOOR = 1e-3  # of the rate of counts, in units of the peak
L1_SHARE = 0.64  # the released code divides the L1 term by it


class Likelihood(Protocol):
    """p(y | x) with all that any part of the library uses. A function of images serves a model and its fit.

    ``operator`` and ``residual`` are used by :func:`initial_latent`, the refinement and all baselines; ``noise_std`` by
    Pi-GDM for masks and by ReSample; ``observed``, where a likelihood has it, marks the elements of an observation that
    count.
    """

    operator: Operator

    @property
    def noise_std(self) -> float | Tensor:
        """Standard deviation of the residual at the true image: a number, or a tensor that broadcasts to it."""
        ...

    def __call__(self, x: Tensor) -> TorchDistribution:
        """The distribution of y for images x ``(…, N, C, H, W)``, of shape ``(…, N, *observation)``."""
        ...

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """y - A(x) in the units of images, zero where nothing was observed; ``residual(0, y)`` is y as an image."""
        ...

    def observed(self, y: Tensor) -> Tensor:
        """True where an element of ``y`` was observed, of its shape."""
        ...


@dataclass(frozen=True, eq=False)
class _Additive(ABC):
    """y = A(x) + v with independent noise v."""

    operator: Operator

    def __post_init__(self) -> None:
        check_is_operator(self.operator)

    def farthest(self, image: float) -> float:
        """How far from 0 an observation can be where the images are within ``image``; infinite where that is unknown.

        Where A keeps the range of images it is :data:`SPREAD` standard deviations of the noise farther.
        """
        if not getattr(self.operator, "keeps_range", False):
            return math.inf
        return image + SPREAD * float(torch.as_tensor(self.noise_std).max())

    @property
    @abstractmethod
    def noise_std(self) -> float | Tensor:
        """Standard deviation of v."""

    def observed(self, y: Tensor) -> Tensor:
        """True where an element of the observation counts, of the shape of ``y``."""
        mask = observation_mask(self.operator)
        if mask is None:
            return torch.ones_like(y, dtype=torch.bool)
        return (on_device(mask, y.device) != 0).expand(y.shape)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """y - A(x) where observed, zero elsewhere, for images ``(…, N, C, H, W)`` and ``y`` ``(N, *observation)``.

        Raises:
            InputError: the observations of the images do not have the shape of ``y``.
        """
        predicted = apply(self.operator, x)
        check_shape(y, predicted.shape[-max(y.ndim, 1) :])
        difference = self._as_image(y) - predicted
        return torch.where(self.observed(difference), difference, torch.zeros_like(difference))

    def _as_image(self, y: Tensor) -> Tensor:
        """The observation in the units of images."""
        return y

    def _about(self, family: Callable[..., TorchDistribution], x: Tensor, width: float | Tensor) -> TorchDistribution:
        mean = apply(self.operator, x)
        width = placed(width, mean) if isinstance(width, Tensor) else mean.new_full((), width)
        return self._seen(family(mean, width.expand(mean.shape), validate_args=False), mean)

    def _seen(self, distribution: TorchDistribution, y: Tensor) -> TorchDistribution:
        """``distribution`` of observations like ``y`` with log density 0 where they are hidden."""
        return distribution if observation_mask(self.operator) is None else distribution.mask(self.observed(y))


@dataclass(frozen=True, eq=False)
class Gaussian(_Additive):
    """y = A(x) + v, v ~ N(0, sigma^2); ``sigma`` in the units of images, whose range is [-1, 1].

    ``sigma`` is a number, or a noise map: a tensor that broadcasts to the observation, such as ``(1, H, W)``, or
    ``(N, 1, H, W)`` with one map per image. A map is a soft mask: an element of large sigma says little. Methods that
    follow the norm of the residual weigh each element by min(sigma) / sigma (:func:`weighted`); ReSample, Blended and
    RePaint, which have one noise or none, refuse a map.

    Raises:
        InputError: ``operator`` is no operator; ``sigma`` is not positive and finite.
    """

    sigma: float | Tensor = 0.05

    __repr__, _repr_html_ = compact, as_html

    def __post_init__(self) -> None:
        super().__post_init__()
        instance("sigma", self.sigma, not isinstance(self.sigma, np.ndarray), "a number or a tensor")
        if not isinstance(self.sigma, Tensor):
            number("sigma", self.sigma, positive=True)
        elif not self.sigma.is_floating_point() or (
            has_values(self.sigma) and not ((self.sigma > 0) & self.sigma.isfinite()).all()
        ):
            raise InputError(
                "A map of sigma must hold floats that are positive and finite; where nothing is known, 10."
            )

    @property
    def noise_std(self) -> float | Tensor:
        """Standard deviation of v, sigma: a number, or the map."""
        return self.sigma

    def __call__(self, x: Tensor) -> TorchDistribution:
        return self._about(Normal, x, self.sigma)


@dataclass(frozen=True, eq=False)
class Laplace(_Additive):
    """y = A(x) + v, v Laplace with ``scale`` b in the units of images, whose range is [-1, 1]: the L1 loss.

    Raises:
        InputError: ``scale`` is not positive and finite.
    """

    scale: float = 0.2

    __repr__, _repr_html_ = compact, as_html

    def __post_init__(self) -> None:
        super().__post_init__()
        number("scale", self.scale, positive=True)

    @property
    def noise_std(self) -> float:
        """Standard deviation of v, sqrt(2) b."""
        return 2**0.5 * self.scale

    def __call__(self, x: Tensor) -> TorchDistribution:
        return self._about(LaplaceDistribution, x, self.scale)


@dataclass(frozen=True, eq=False)
class Poisson(_Additive):
    r"""Photon counts: y ~ Poisson(gain (A(x) + 1) / 2), for A that keeps the range [-1, 1] of images.

    .. math:: \log p(y \mid x) = \sum_{observed} y \log \lambda - \lambda - \log y!, \qquad
              \lambda = gain \cdot \max((A(x) + 1) / 2, FLOOR)

    in nats. A black pixel, -1, has the rate FLOOR · gain, a dark current of a thousandth of the peak, so that a single
    count there is unlikely and not impossible; below it the density has no gradient.

    The residual, which the start of a guide, the refinement and the baselines follow, is in the units of images,
    2 y / gain - 1 - A(x). Its standard deviation is :math:`\sqrt{2 (A(x) + 1) / gain}`; ``noise_std`` is that of grey.

    Args:
        operator: A.
        gain: the expected count of a white pixel, 1: the peak of photons per pixel. Grey, 0, has half of it.

    Raises:
        InputError: ``operator`` is no operator; ``gain`` is not positive and finite.
    """

    gain: float

    __repr__, _repr_html_ = compact, as_html

    def __post_init__(self) -> None:
        super().__post_init__()
        number("gain", self.gain, positive=True)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the residual of grey pixels, A(x) = 0: sqrt(2 / gain)."""
        return (2 / self.gain) ** 0.5

    def __call__(self, x: Tensor) -> TorchDistribution:
        share = ((apply(self.operator, x) + 1) / 2).clamp(min=FLOOR)
        return self._seen(PoissonDistribution(self.gain * share, validate_args=False), share)

    def farthest(self, image: float) -> float:
        """Infinite: what a count can be is the support of the distribution."""
        return math.inf

    def _as_image(self, y: Tensor) -> Tensor:
        return 2 * y / self.gain - 1


@dataclass(frozen=True, eq=False)
class Perceptual(Laplace):
    r"""L1 and LPIPS, the reconstruction loss of latent diffusion (section 4.2), as a factor on images.

    .. math:: \log p(y \mid x) = \sum_{observed} \log Laplace(y; A(x), b) - \lambda \, \mathrm{LPIPS}(A(x), y)

    in nats, with y = 0 where nothing was observed. The second factor is not normalised over y but is at most 1, so the
    bound of a fit is also a lower bound on the log evidence of the Laplace likelihood alone.

    Args:
        operator: A, whose observations are images with 1 or 3 channels.
        scale: b, in the units of images.
        weight: lambda, nats per unit of LPIPS; by default .64 D / b for observations of D elements, the ratio of the
            two terms in the paper's code, where both are means over an image: |y - A(x)| / .64 + LPIPS.

    Raises:
        InputError: ``scale`` is not positive and finite, or ``weight`` is not finite or is negative.
    """

    weight: float | None = None

    __repr__, _repr_html_ = compact, as_html

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight is not None:
            number("weight", self.weight)

    def __call__(self, x: Tensor) -> TorchDistribution:
        base = super().__call__(x).to_event(3)
        weight = L1_SHARE * base.event_shape.numel() / self.scale if self.weight is None else self.weight
        return PerceptualDistribution(base, weight)


class PerceptualDistribution(Unconstrained):
    """``base`` times exp(-weight LPIPS(its mean, y)); ``log_prob`` has both factors, ``sample`` draws from the base."""

    def __init__(self, base: TorchDistribution, weight: float) -> None:
        self.base, self.weight = base, weight
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> PerceptualDistribution:
        """The same distribution with another batch shape."""
        return PerceptualDistribution(self.base.expand(batch_shape), self.weight)

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws of the base, ``sample_shape + batch_shape + event_shape``."""
        return self.base.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """The unnormalised log density, of the leading shape of ``value`` and the batch shape, in nats."""
        return self.base.log_prob(value) - self.weight * perceptual_distance(self.base.mean, value)


def check_shape(y: Tensor, expected: Sequence[int]) -> None:
    """Refuses a ``y`` whose shape is not ``expected``: one that lacks a dimension would broadcast over images."""
    if tuple(y.shape) != tuple(expected):
        raise InputError(f"y has shape {tuple(y.shape)}, not (N, *observation) = {tuple(expected)}.")


def seen(likelihood: Any, y: Tensor) -> Tensor:
    """``y`` with zeros where nothing was observed, since a NaN there would make the gradient NaN."""
    observed = getattr(likelihood, "observed", None)
    return y if observed is None else torch.where(observed(y), y, torch.zeros_like(y))


def weighted(likelihood: Any, residual: Tensor) -> Tensor:
    """The residual with each element times min(sigma) / sigma, where the noise is a map; as it is otherwise."""
    noise = getattr(likelihood, "noise_std", None)
    if not isinstance(noise, Tensor):
        return residual
    noise = placed(noise, residual)
    return residual * (noise.min() / noise)


def check_one_noise(method: str, likelihood: Any) -> None:
    """Refuses a map of the noise for a ``method`` that cannot follow it."""
    if isinstance(getattr(likelihood, "noise_std", None), Tensor):
        raise InputError(f"{method} takes one noise level for all pixels, the likelihood has a map: use dps or refine.")
