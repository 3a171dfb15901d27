"""Inpainting: the observed pixels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pyro_vipaint.operators.base import Broadcasting


@dataclass(frozen=True, eq=False)
class Inpainting(Broadcasting):
    """A(x) = m ⊙ x with ``mask`` 1 where observed and 0 where hidden; its own adjoint and pseudo-inverse.

    ``mask`` broadcasts against the image: ``(1, H, W)`` for one mask, ``(N, 1, H, W)`` for one each.
    """

    mask: Tensor

    def A(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.A(y)
