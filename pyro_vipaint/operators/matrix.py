"""Any linear map of vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vipaint.operators.base import Broadcasting


@dataclass(frozen=True, eq=False)
class Matrix(Broadcasting):
    """A(x) = matrix · x for vectors, ``(…, d_x)`` to ``(…, d_y)``; ``matrix`` has shape ``(d_y, d_x)``."""

    matrix: Tensor

    def A(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T.to(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix.to(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return y @ torch.linalg.pinv(self.matrix).T.to(y)
