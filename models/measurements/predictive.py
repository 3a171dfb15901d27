r"""What an observation says where x is N(x_hat, c), its elements independent, as x given z_t is taken to be.

.. math::
    p(y \mid z_t) &= N(A \hat x, \; S), \qquad S = A\, c\, A^\top + \sigma_y^2 \\
    E[x \mid z_t, y] &= \hat x + G (y - A \hat x), \qquad G = c\, A^\top S^{-1} \\
    Var(x \mid z_t, y) &= c - G A\, c

c is a number or a tensor that broadcasts to an event; or, for masks, a :class:`DataCovariance`. The closed forms are
for the operators that hide elements and do nothing else, and for a :class:`Matrix`, where they are computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pyro.distributions import MultivariateNormal, TorchDistribution
from torch import Tensor

from pyro_vipaint._torch import double
from pyro_vipaint.distributions import low_rank_normal
from pyro_vipaint.errors import instance
from pyro_vipaint.models.measurements.likelihoods import Gaussian
from pyro_vipaint.models.measurements.operators import Matrix, adjoint, observation_mask, placed
from pyro_vipaint.models.priors.covariance import DataCovariance


def is_mask(operator: Any) -> bool:
    """Whether A A^T is the identity on what is observed because A hides elements of the image and does nothing else."""
    return hasattr(operator, "mask") and observation_mask(operator) is not None


def noise_like(likelihood: Any, x: Tensor) -> Tensor:
    """The standard deviation of the noise of y, with the dtype and the device of ``x``; it broadcasts to y."""
    noise = likelihood.noise_std
    return placed(noise, x) if isinstance(noise, Tensor) else x.new_full((), noise)


def predictive(likelihood: Any, c: Tensor | DataCovariance) -> Callable[[Tensor], TorchDistribution] | None:
    """x_hat -> p(y given z_t) for Gaussian noise; None where there is no closed form."""
    if isinstance(c, DataCovariance):
        closed = isinstance(likelihood, Gaussian) and is_mask(likelihood.operator)
        return partial(_low_rank, likelihood, c) if closed else None
    if isinstance(likelihood, Gaussian) and is_mask(likelihood.operator):
        return replace(likelihood, sigma=(c + torch.as_tensor(likelihood.sigma).to(c) ** 2).sqrt())
    if isinstance(likelihood, Gaussian) and isinstance(likelihood.operator, Matrix):
        return lambda x: _correlated(likelihood, placed(c, x), x)
    return None


def _correlated(likelihood: Any, c: Tensor, x: Tensor) -> TorchDistribution:
    factor, _ = torch.linalg.cholesky_ex(_system(likelihood, c, x)[1])
    return MultivariateNormal(likelihood.operator.A(x), scale_tril=factor.to(x), validate_args=False)


def _low_rank(likelihood: Any, c: DataCovariance, x: Tensor) -> TorchDistribution:
    """Of the elements that the mask leaves; hidden ones, which are zero, have the density 1 there."""
    mask = placed(likelihood.operator.mask, x)
    variance = torch.where(mask != 0, c.rest + noise_like(likelihood, x) ** 2, 1 / (2 * math.pi))
    columns = mask.unsqueeze(-1 - (c.vectors.ndim - 1)) * placed(c.columns, x)
    return low_rank_normal(mask * x, columns, variance, c.vectors.ndim - 1)


def precision(likelihood: Any, x: Tensor) -> Tensor:
    """1 / sigma_y^2 where a mask leaves an element of x, 0 elsewhere; it broadcasts to ``x``.

    Raises:
        InputError: A does more than hide elements.
    """
    operator = likelihood.operator
    instance(
        "the operator", operator, is_mask(operator), "a mask, such as Inpainting(mask), to remain with covariances"
    )
    return placed(operator.mask, x) / noise_like(likelihood, x) ** 2


def mean_shift(likelihood: Any, c: Tensor, residual: Tensor, x: Tensor) -> Tensor | None:
    """G (y - A x_hat), of the shape of ``x``; None where there is no closed form."""
    if is_mask(likelihood.operator):
        return c / (c + noise_like(likelihood, x) ** 2) * adjoint(likelihood.operator, residual)
    if isinstance(likelihood.operator, Matrix):
        return (_gain(likelihood, c, x) @ residual.unsqueeze(-1)).squeeze(-1)
    return None


def remaining_variance(likelihood: Any, c: Tensor, x: Tensor) -> Tensor:
    """Var(x given z_t, y), which broadcasts to ``x``; c itself where there is no closed form."""
    if is_mask(likelihood.operator):
        mask, noise = placed(likelihood.operator.mask, x), noise_like(likelihood, x) ** 2
        return c * noise / (mask * c + noise)
    if isinstance(likelihood.operator, Matrix):
        gain, (cross, _) = _gain(likelihood, c, x), _system(likelihood, c, x)
        return (c - (gain * cross.to(gain)).sum(-1)).clamp(min=0)
    return c


def _gain(likelihood: Any, c: Tensor, x: Tensor) -> Tensor:
    """G, ``(d_x, d_y)``, or one for each image."""
    cross, total = _system(likelihood, c, x)
    return torch.linalg.solve(total, cross.mT).mT.to(x)


def _system(likelihood: Any, c: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """c A^T and S in float64."""
    matrix, c = double(placed(likelihood.operator.matrix, x)), double(c.expand(x.shape[-1:]))
    noise = double(noise_like(likelihood, x)) ** 2
    cross = c[:, None] * matrix.mT
    return cross, matrix @ cross + torch.diag_embed(noise.expand(*noise.shape[:-1], len(matrix)))
