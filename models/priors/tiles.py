r"""A decoder on overlapping tiles of a latent: the memory of its gradient is that of one tile.

Tiles of side n overlap by o = n / 4 or more. Each weighs the image by a product of ramps, and the weights sum to one at
every pixel. With the distance d of a pixel from the edge of its tile, in latents,

.. math:: w(d) = \min\Big(1, \max\Big(0, \frac{d - o/4}{o/2}\Big)\Big),

so that nothing counts that is nearer to an edge than o / 4, where the decoder would see beyond the tile. A decoder that
sees no farther than this gives the same image by tiles. Those of latent diffusion see farther, by their normalisation
and the attention in their middle, which then are those of the tile: colours differ a little, and slowly, across tiles.

With gradients each tile is recomputed when its turn comes (Chen et al. 2016), so that one graph exists at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

OVERLAP = 4  # a tile shares a quarter with its neighbour, as those of diffusers do


def tile_starts(size: int, tile: int) -> list[int]:
    """First places of tiles of ``tile`` that cover ``size``, evenly spread, with the overlap at least."""
    if tile >= size:
        return [0]
    count = 1 + -(-(size - tile) // (tile - tile // OVERLAP))
    return [i * (size - tile) // (count - 1) for i in range(count)]


def ramps(starts: list[int], tile: int, factor: int, like: Tensor) -> list[Tensor]:
    """The weights along one side of each tile, ``(tile * factor,)``, which sum to one at every pixel of the side."""
    sides = factor * (starts[-1] + tile)
    overlap, length = factor * (tile // OVERLAP), factor * tile
    place = torch.arange(length, device=like.device, dtype=torch.float32) + 0.5
    total, raw = torch.zeros(sides, device=like.device), []
    for start in starts:
        weight = torch.ones_like(place)
        for distance, inside in ((place, start > 0), (length - place, start < starts[-1])):
            if inside:
                weight = weight * ((distance - overlap / 4) / (overlap / 2)).clamp(0.0, 1.0)
        raw.append(weight)
        total[factor * start : factor * start + length] += weight
    return [(w / total[factor * s : factor * s + length]).to(like.dtype) for s, w in zip(starts, raw, strict=True)]


def decode_by_tiles(decode: Callable[[Tensor], Tensor], z: Tensor, tile: int, factor: int) -> Tensor:
    """Images ``(N, C, f H, f W)`` of latents ``(N, C', H, W)`` by tiles of ``tile`` latents a side; ``factor`` is f."""
    sides = [min(tile, size) for size in z.shape[-2:]]
    if list(z.shape[-2:]) == sides:
        return decode(z)
    starts = [tile_starts(size, side) for size, side in zip(z.shape[-2:], sides, strict=True)]
    weights = [ramps(first, side, factor, z) for first, side in zip(starts, sides, strict=True)]
    image: Tensor | None = None
    for (i, top), (j, left) in product(enumerate(starts[0]), enumerate(starts[1])):
        part = z[..., top : top + sides[0], left : left + sides[1]]
        recompute = torch.is_grad_enabled() and z.requires_grad
        decoded = checkpoint(decode, part, use_reentrant=False) if recompute else decode(part)
        assert isinstance(decoded, Tensor)
        if image is None:
            image = decoded.new_zeros(*decoded.shape[:-2], *(factor * size for size in z.shape[-2:]))
        place = (slice(factor * top, factor * (top + sides[0])), slice(factor * left, factor * (left + sides[1])))
        image[(..., *place)] += weights[0][i][:, None] * weights[1][j] * decoded
    assert image is not None
    return image
