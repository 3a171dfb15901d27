r"""Operators that act on rows and columns apart: A(x) = L x R^T for each channel, with one matrix for each side.

.. math:: A^\top y = L^\top y R, \qquad A^+ y = L^+ y (R^+)^\top

so adjoint and pseudo-inverse are exact whatever the borders do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from pyro_vipaint.operators.base import Broadcasting


class Separable(Broadcasting, ABC):
    """An operator on images ``(…, C, H, W)`` by :meth:`side`, which makes the matrix of one side."""

    @abstractmethod
    def side(self, size: int) -> Tensor:
        """The float64 matrix ``(observed size, size)`` for a side of ``size`` pixels."""

    def image_side(self, observed: int) -> int:
        """Pixels of a side of the image whose observation has ``observed``."""
        return observed

    def A(self, x: Tensor) -> Tensor:
        rows, columns = (self.side(size).to(x) for size in x.shape[-2:])
        return rows @ x @ columns.mT

    def A_adjoint(self, y: Tensor) -> Tensor:
        rows, columns = (self.side(self.image_side(size)).to(y) for size in y.shape[-2:])
        return rows.mT @ y @ columns
