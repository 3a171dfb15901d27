r"""Codecs: between images in [-1, 1] and the space in which the prior lives.

A latent prior lives in the shifted and scaled latents of an autoencoder with encoder E and decoder D (Rombach et al.
2022, section 4.3.2; the shift is that of Stable Diffusion 3, Esser et al. 2024):

.. math:: encode(x) = (E(x) - shift) \cdot scale, \qquad decode(z) = D(z / scale + shift)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint.errors import whole
from pyro_vipaint.models.priors.tiles import decode_by_tiles

SMALLEST_TILE = 4  # latents, a quarter of which is the overlap
EVENT_DIM = 3  # images and their latents are (C, H, W)
PIXELS_AT_ONCE = 2**16  # image pixels in one pass on a CPU, so that they fit its cache: 1.3 times as fast as 2**18


class Codec(Protocol):
    """A map between images and latents, both with any leading dimensions."""

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...

    def image_shape(self, event_shape: Sequence[int]) -> torch.Size:
        """The shape of the image that a latent of ``event_shape`` decodes to."""
        ...


@dataclass(frozen=True)
class Identity:
    """The codec of pixel priors: an image is its own latent."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z

    def image_shape(self, event_shape: Sequence[int]) -> torch.Size:
        return torch.Size(event_shape)


@dataclass(frozen=True, eq=False)
class AutoencoderCodec:
    """diffusers' ``AutoencoderKL`` or ``VQModel`` as a codec, frozen and in evaluation mode.

    E is the mean of the latent distribution, or the latents before quantisation. D quantises, as ``LDMPipeline`` does,
    and the gradient passes through the quantiser as through the identity (straight-through; van den Oord et al. 2017).
    The codec computes in the dtype of the autoencoder and returns the dtype of its argument.

    Args:
        autoencoder: the network; with n blocks its latents have 1 / 2^(n-1) of the image's height and width.
        scaling_factor: scales the latents to unit variance; ``scaling_factor`` of the autoencoder's configuration.
        shift_factor: the mean of the latents; 0 unless the configuration states one.
        tile: decode by overlapping tiles of this side, in latents, at least 4 (:mod:`.tiles`): the gradient needs the
            memory of one tile. ``None`` decodes the latent as a whole.

    Raises:
        InputError: ``tile`` is no such number.
    """

    autoencoder: Any
    scaling_factor: float
    shift_factor: float = 0.0
    tile: int | None = None

    __repr__, _repr_html_ = compact, as_html

    def __post_init__(self) -> None:
        if self.tile is not None:
            whole("tile", self.tile, SMALLEST_TILE)
        self.autoencoder.requires_grad_(False).eval()

    @property
    def downsampling(self) -> int:
        """f, the ratio of a side of the image to that of a latent."""
        return 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    def encode(self, x: Tensor) -> Tensor:
        """Latents ``(*leading, C', H / f, W / f)`` of images ``(*leading, C, H, W)`` in [-1, 1]."""
        return (self._flat(self._encode, x, x.shape[-2:].numel()) - self.shift_factor) * self.scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        """Images ``(*leading, C, f H, f W)`` of latents ``(*leading, C', H, W)``, differentiable."""
        pixels = self.image_shape(z.shape[-EVENT_DIM:])[-2:].numel()
        return self._flat(self._decode, z / self.scaling_factor + self.shift_factor, pixels)

    def image_shape(self, event_shape: Sequence[int]) -> torch.Size:
        """(C, f H, f W) for latents of shape (C', H, W)."""
        height, width = (side * self.downsampling for side in event_shape[-2:])
        return torch.Size((self.autoencoder.config.in_channels, height, width))

    def _encode(self, x: Tensor) -> Tensor:
        encoded = self.autoencoder.encode(x)
        return encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents

    def _decode(self, z: Tensor) -> Tensor:
        if self.tile is None:
            return self._decode_whole(z)
        return decode_by_tiles(self._decode_whole, z, self.tile, self.downsampling)

    def _decode_whole(self, z: Tensor) -> Tensor:
        return self.autoencoder.decode(z).sample

    def _flat(self, network: Callable[[Tensor], Tensor], value: Tensor, pixels: int) -> Tensor:
        """``network`` on one batch dimension in the autoencoder's dtype; leading dimensions and dtype are restored.

        A CPU takes few images at once, according to the ``pixels`` of one image; a GPU takes all.
        """
        flat = value.reshape(-1, *value.shape[-EVENT_DIM:]).to(self.autoencoder.dtype)
        at_once = PIXELS_AT_ONCE // pixels if flat.device.type == "cpu" else len(flat)
        output = torch.cat([network(few) for few in flat.split(max(1, at_once))]).to(value.dtype)
        return output.reshape(*value.shape[:-EVENT_DIM], *output.shape[1:])
