"""How large an operator is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vipaint.operators.base import Operator, adjoint, apply

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
