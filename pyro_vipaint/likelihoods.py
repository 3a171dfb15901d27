r"""Likelihoods: image -> distribution of the observation y = A(x) + v.

Element by element: the model declares event dimensions. Where the operator has a mask, hidden elements carry no
probability, so that the evidence is that of the observed ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyro.distributions import Distribution, Normal, TorchDistribution
from pyro.distributions import Laplace as LaplaceDistribution  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from pyro_vipaint.operators import Operator


@dataclass(frozen=True, eq=False)
class _Additive:
    """y = A(x) + v with independent noise v."""

    operator: Operator

    def observed(self, y: Tensor) -> Tensor:
        """True where an element of the observation counts, of the shape of ``y``."""
        mask = getattr(self.operator, "mask", None)
        if mask is None:
            return torch.ones_like(y, dtype=torch.bool)
        return (mask != 0).to(y.device).expand(y.shape)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """y - A(x) on what is observed, zero elsewhere."""
        difference = y - self.operator.A(x)
        return torch.where(self.observed(difference), difference, torch.zeros_like(difference))

    def _masked(self, distribution: TorchDistribution) -> Distribution:
        if getattr(self.operator, "mask", None) is None:
            return distribution
        return distribution.mask(self.observed(distribution.mean))


@dataclass(frozen=True, eq=False)
class Gaussian(_Additive):
    """y = A(x) + v, v ~ N(0, sigma^2); ``sigma`` in the units of images, whose range is [-1, 1].

    Raises:
        ValueError: ``sigma`` is not positive.
    """

    sigma: float = 0.05

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma must be positive, not {self.sigma}.")

    def __call__(self, x: Tensor) -> Distribution:
        mean = self.operator.A(x)
        return self._masked(Normal(mean, mean.new_tensor(self.sigma).expand(mean.shape), validate_args=False))


@dataclass(frozen=True, eq=False)
class Laplace(_Additive):
    """y = A(x) + v, v Laplace with the given ``scale`` (units of images in [-1, 1]): the L1 reconstruction loss.

    Raises:
        ValueError: ``scale`` is not positive.
    """

    scale: float = 0.2

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale must be positive, not {self.scale}.")

    def __call__(self, x: Tensor) -> Distribution:
        mean = self.operator.A(x)
        scale = mean.new_tensor(self.scale).expand(mean.shape)
        return self._masked(LaplaceDistribution(mean, scale, validate_args=False))
