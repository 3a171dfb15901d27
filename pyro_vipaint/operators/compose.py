"""One operator after another."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pyro_vipaint.operators.base import Broadcasting, Operator, adjoint, apply, observation_mask


@dataclass(frozen=True, eq=False)
class Compose(Broadcasting):
    """A(x) = outer(inner(x)), for example ``Compose(SuperResolution(4), GaussianBlur(1.0))``.

    What the mask of an ``outer`` inpainting hides is not observed; there is no attribute ``mask``, since observed
    pixels are not those of the image. There is no pseudo-inverse: that of a product is not the product of the
    pseudo-inverses.
    """

    outer: Operator
    inner: Operator

    @property
    def observation_mask(self) -> Tensor | None:
        """That of the outer operator."""
        return observation_mask(self.outer)

    def A(self, x: Tensor) -> Tensor:
        return apply(self.outer, apply(self.inner, x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return adjoint(self.inner, adjoint(self.outer, y))
