r"""Linear algebra with operators: least squares by conjugate gradients, and the operator norm by power iteration.

:func:`cgls` runs a few steps of conjugate gradients on min |A d - r| from d = 0 (Hestenes & Stiefel 1952; CGLS in
Björck, *Numerical Methods for Least Squares Problems*, 1996, section 7.4). In exact arithmetic the k-th step is the
best d in the span of the first k powers of A^T A applied to A^T r. Directions with large singular values converge
first, and stopping early omits those that hold mostly noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vipaint.models.measurements.operators import Operator, adjoint, apply

CGLS_STEPS = 5
POWER_STEPS = 20


@torch.no_grad()
def cgls(operator: Operator, r: Tensor, steps: int = CGLS_STEPS) -> Tensor:
    """Images d with A d near ``r``, for each of the N observations ``(N, *observation)`` independently.

    The result is proportional to ``r``. It is exact (the pseudo-inverse) once ``steps`` reaches the number of distinct
    non-zero singular values of A, which is one for inpainting.
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
    """The quotient; zero where the denominator vanishes, since the solution is then exact."""
    nothing = denominator <= torch.finfo(denominator.dtype).tiny
    return torch.where(nothing, 0.0, numerator / torch.where(nothing, 1.0, denominator))


def _as(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(-1, *(1,) * (like.ndim - 1))


@torch.no_grad()
def operator_norm(operator: Operator, shape: Sequence[int], device: torch.device | str = "cpu") -> float:
    r"""The largest singular value of A, :math:`\max_x |A x| / |x|`, on images ``shape`` = ``(N, C, H, W)``.

    It is found by power iteration on A^T A from a constant image with a little noise: exactly for inpainting and box
    super-resolution, and closely from below for blurs, whose largest singular vectors are smooth. For an operator with
    one mask or filter per image it is the largest of their norms.
    """
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    x = (1 + 0.1 * noise).to(device)
    for _ in range(POWER_STEPS):
        x = adjoint(operator, apply(operator, x))
        x = x / _as(x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny), x)
    return float(apply(operator, x).flatten(1).norm(dim=1).max())
