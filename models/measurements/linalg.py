r"""What an observation says about an image, by a few steps of conjugate gradients on min |A d - r| from d = 0.

Hestenes & Stiefel (1952), as CGLS in Björck, *Numerical Methods for Least Squares Problems* (1996), section 7.4. In
exact arithmetic the k-th step is the best d in the span of the first k powers of A^T A applied to A^T r; what A
strongly sees comes first, and stopping early leaves away what is mostly noise.

How large an operator is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vipaint.models.measurements.operators import Operator, adjoint, apply

DEFAULT_STEPS = 5


@torch.no_grad()
def cgls(operator: Operator, r: Tensor, steps: int = DEFAULT_STEPS) -> Tensor:
    """Images d with A d near ``r``, each of the N observations ``(N, *observation)`` by itself; scale-free.

    Exact (the pseudo-inverse) as soon as ``steps`` reaches the number of distinct non-zero singular values of A: one
    for inpainting.
    """
    gradient = adjoint(operator, r)
    d, direction = torch.zeros_like(gradient), gradient
    squared = _inner(gradient, gradient)
    for _ in range(steps):
        image = apply(operator, direction)
        length = _ratio(squared, _inner(image, image))
        d, r = d + _as(length, d) * direction, r - _as(length, r) * image
        gradient, before = adjoint(operator, r), squared
        squared = _inner(gradient, gradient)
        direction = gradient + _as(_ratio(squared, before), direction) * direction
    return d


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, zero where there is nothing left to do."""
    nothing = denominator <= torch.finfo(denominator.dtype).tiny
    return torch.where(nothing, 0.0, numerator / torch.where(nothing, 1.0, denominator))


def _as(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(-1, *(1,) * (like.ndim - 1))


STEPS = 20


@torch.no_grad()
def operator_norm(operator: Operator, shape: Sequence[int], device: torch.device | str = "cpu") -> float:
    r"""The largest singular value of A, :math:`\max_x |A x| / |x|`, on images ``shape`` = ``(N, C, H, W)``.

    By power iteration on A^T A from a constant image with a little noise: exact for inpainting and box
    super-resolution, from below and close for blurs, whose largest singular vectors are smooth. For an operator that
    has a mask or filter for each image it is the largest of theirs.
    """
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    x = (1 + 0.1 * noise).to(device)
    for _ in range(STEPS):
        x = _unit(adjoint(operator, apply(operator, x)))
    return float(apply(operator, x).flatten(1).norm(dim=1).max())


def _unit(x: Tensor) -> Tensor:
    length = x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
    return x / length.reshape(-1, *(1,) * (x.ndim - 1))
