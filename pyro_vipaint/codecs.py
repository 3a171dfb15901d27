"""Codecs: between images in [-1, 1] and the space in which the prior lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """``encode`` an image to a latent, ``decode`` a latent to an image; leading dimensions are free."""

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Identity:
    """Pixels are their own latents."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z
