"""Measurement operators, with DeepInverse's names: ``A``, ``A_adjoint``, optionally ``A_dagger``.

An operator may have a ``mask`` (1 = observed): likelihoods then count observed elements only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Operator(Protocol):
    """A linear map from images to observations; leading dimensions are free."""

    def A(self, x: Tensor) -> Tensor: ...

    def A_adjoint(self, y: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Inpainting:
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


@dataclass(frozen=True, eq=False)
class Matrix:
    """A(x) = matrix · x for vectors, ``(…, d_x)`` to ``(…, d_y)``; ``matrix`` has shape ``(d_y, d_x)``."""

    matrix: Tensor

    def A(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T.to(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix.to(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return y @ torch.linalg.pinv(self.matrix).T.to(y)


def apply(operator: Operator, x: Tensor) -> Tensor:
    """A(x) for images with any leading dimensions."""
    return operator.A(x)


def adjoint(operator: Operator, y: Tensor) -> Tensor:
    """A_adjoint(y) for observations with any leading dimensions."""
    return operator.A_adjoint(y)


def pseudo_inverse(operator: Operator, y: Tensor) -> Tensor:
    """A_dagger(y) where the operator has one, A_adjoint(y) otherwise."""
    return operator.A_dagger(y) if hasattr(operator, "A_dagger") else operator.A_adjoint(y)  # pyright: ignore
