r"""Likelihoods: image -> distribution of the observation y = A(x) + v.

A likelihood is a callable ``x -> distribution of y`` for images x ``(…, N, C, H, W)``. That is all that a
:class:`DiffusionModel` needs. Refinement and baselines also use two members:

- ``operator``: A, an :class:`Operator`;
- ``residual(x, y)``: y - A(x), zero where nothing was observed.

``observed(y)``, where a likelihood has it, marks the elements of an observation that count. Distributions are
independent over the elements of y, and the model declares the event dimensions; :class:`Perceptual` is a density of
whole images. Where the operator has a mask, hidden elements have log density 0, so the evidence is that of the observed
elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Laplace as LaplaceDistribution  # pyright: ignore[reportAttributeAccessIssue]
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor

from pyro_vipaint._torch import on_device
from pyro_vipaint.errors import InputError, number
from pyro_vipaint.metrics import perceptual_distance
from pyro_vipaint.models.measurements.operators import Operator, apply, observation_mask
from pyro_vipaint.models.priors.marginal import Unconstrained

L1_SHARE = 0.64  # the released code divides the L1 term by it


@dataclass(frozen=True, eq=False)
class _Additive:
    """y = A(x) + v with independent noise v."""

    operator: Operator

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
        difference = y - predicted
        return torch.where(self.observed(difference), difference, torch.zeros_like(difference))

    def _about(self, family: Callable[..., TorchDistribution], x: Tensor, width: float) -> TorchDistribution:
        mean = apply(self.operator, x)
        distribution = family(mean, mean.new_full((), width).expand(mean.shape), validate_args=False)
        return distribution if observation_mask(self.operator) is None else distribution.mask(self.observed(mean))


@dataclass(frozen=True, eq=False)
class Gaussian(_Additive):
    """y = A(x) + v, v ~ N(0, sigma^2); ``sigma`` in the units of images, whose range is [-1, 1].

    Raises:
        InputError: ``sigma`` is not positive and finite.
    """

    sigma: float = 0.05

    def __post_init__(self) -> None:
        number("sigma", self.sigma, positive=True)

    @property
    def noise_std(self) -> float:
        """Standard deviation of v, sigma."""
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

    def __post_init__(self) -> None:
        number("scale", self.scale, positive=True)

    @property
    def noise_std(self) -> float:
        """Standard deviation of v, sqrt(2) b."""
        return 2**0.5 * self.scale

    def __call__(self, x: Tensor) -> TorchDistribution:
        return self._about(LaplaceDistribution, x, self.scale)


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
    if y.shape != tuple(expected):
        raise InputError(f"y has shape {tuple(y.shape)}, not (N, *observation) = {tuple(expected)}.")


def seen(likelihood: Any, y: Tensor) -> Tensor:
    """``y`` with zeros where nothing was observed, since a NaN there would make the gradient NaN."""
    observed = getattr(likelihood, "observed", None)
    return y if observed is None else torch.where(observed(y), y, torch.zeros_like(y))
