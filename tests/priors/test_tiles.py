"""Decoding by tiles: the weights sum to one, and a decoder that sees no farther than they allow is decoded exactly."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from pyro_vipaint.errors import InputError
from pyro_vipaint.models import from_diffusers, load_prior
from pyro_vipaint.models.priors.codecs import AutoencoderCodec
from pyro_vipaint.models.priors.tiles import decode_by_tiles, ramps, tile_starts
from tests.networks import random_unet
from tests.pipelines import ldm_pipeline, random_vae, random_vq

SEAMS = 0.03  # mean absolute difference of pictures in [-1, 1] that docs/priors.md states for cats64


@pytest.mark.parametrize(("size", "tile", "factor"), [(16, 8, 2), (17, 8, 4), (40, 12, 8), (64, 40, 8), (9, 8, 1)])
def test_tiles_cover_and_their_weights_sum_to_one(size: int, tile: int, factor: int) -> None:
    """Neighbours overlap by a quarter or more; within a quarter of the overlap from an edge inside nothing counts."""
    starts = tile_starts(size, tile)
    assert starts[0] == 0 and starts[-1] == size - tile
    steps = [b - a for a, b in pairwise(starts)]
    assert all(0 < step <= tile - tile // 4 for step in steps)
    total, weights = torch.zeros(size * factor), ramps(starts, tile, factor, torch.zeros(1))
    for start, weight in zip(starts, weights, strict=True):
        total[start * factor : (start + tile) * factor] += weight
        ignored = round(factor * (tile // 4) / 4 - 0.5) if start else 0
        assert (weight[:ignored] == 0).all()
    torch.testing.assert_close(total, torch.ones_like(total))


class Local(nn.Module):
    """A decoder that sees half a latent beyond its own: 3×3 pixels after the latent is repeated twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)

    def forward(self, z: Tensor) -> Tensor:
        return self.conv(z.repeat_interleave(2, -1).repeat_interleave(2, -2)).tanh()


def test_a_local_decoder_is_decoded_exactly_with_its_gradient() -> None:
    """Tiles of 8 overlap by 2 latents, 4 pixels, of which one on each side does not count: so far the decoder sees."""
    torch.manual_seed(0)
    decoder, z = Local(), torch.randn(2, 2, 20, 13, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 40, 26, dtype=torch.float64)
    whole, tiled = decoder(z), decode_by_tiles(decoder, z, 8, 2)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)  # the weights are made in single precision
    ours, theirs = (torch.autograd.grad((weight * x).sum(), z)[0] for x in (tiled, whole))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_one_tile_exists_at_a_time() -> None:
    """The gradient calls the decoder again, tile by tile: twice a tile; without a gradient once."""
    sizes: list[torch.Size] = []
    decoder = Local()

    def counted(z: Tensor) -> Tensor:
        sizes.append(z.shape[-2:])
        return decoder(z)

    z = torch.randn(1, 2, 20, 8, dtype=torch.float64, requires_grad=True)
    decode_by_tiles(counted, z, 8, 2).sum().backward()
    assert sizes == [(8, 8)] * 2 * len(tile_starts(20, 8))
    sizes.clear()
    decode_by_tiles(counted, z.detach(), 8, 2)
    assert len(sizes) == len(tile_starts(20, 8))


@pytest.mark.parametrize("make", [random_vae, random_vq])
def test_the_gradient_of_an_autoencoder_by_tiles_is_right(make: Callable[[], Any]) -> None:
    """It is that of the tiled image: finite differences in double precision along a random direction."""
    torch.manual_seed(1)
    codec = AutoencoderCodec(make().double(), 0.7, 0.2, tile=8)
    z = torch.randn(1, 4, 12, 8, dtype=torch.float64, requires_grad=True)
    inner = z if make is random_vae else z * 0.7  # of the quantiser, whose value does not move
    (gradient,) = torch.autograd.grad(codec.decode(inner).square().mean(), z)
    assert gradient.abs().sum() > 0
    if make is random_vae:
        direction, step = torch.randn_like(z), 1e-5
        with torch.no_grad():
            up, down = (codec.decode(z + sign * step * direction).square().mean() for sign in (1, -1))
        torch.testing.assert_close((gradient * direction).sum(), (up - down) / (2 * step), rtol=1e-4, atol=1e-9)


@torch.no_grad()
def test_the_seams_of_a_trained_decoder_are_as_documented() -> None:
    """cats64 by tiles of 12 of its 16 latents, on latents of its own scale."""
    whole, tiled = load_prior("cats64"), load_prior("cats64", tile=12)
    assert tiled.codec.tile == 12  # type: ignore[attr-defined]
    z = cats_latents(whole)
    difference = (tiled.decode(z) - whole.decode(z)).abs()
    assert 1e-5 < difference.mean() < SEAMS


def cats_latents(prior: Any) -> Tensor:
    """Latents of pictures: noise at a middle level, denoised."""
    z = torch.randn(4, *prior.event_shape, generator=torch.Generator().manual_seed(0))
    for t, s in ((1.0, 0.7), (0.7, 0.5), (0.5, 0.3), (0.3, 0.1)):
        z = prior.transition(z, t, s).mean
    return prior.denoise(z, 0.1)


def test_a_tile_is_refused_where_it_means_nothing() -> None:
    with pytest.raises(InputError, match="omit tile"):
        from_diffusers(SimpleNamespace(unet=random_unet(), scheduler=DDIMScheduler()), tile=8)
    for tile in (3, 2.5):
        with pytest.raises(InputError, match="tile"):
            from_diffusers(ldm_pipeline(), tile=tile)  # type: ignore[arg-type]
