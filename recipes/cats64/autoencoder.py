"""Trains the autoencoder of ``cats64``: 64×64 colour pictures to latents of 4×16×16 and back.

The loss of a batch is

    mean |decode(z) - x| + w LPIPS(decode(z), x) + k KL(N(m, s^2) || N(0, 1)) / pixels,   z ~ N(m, s^2) = encode(x),

with LPIPS on the AlexNet features that ship. Pictures are drawn afresh for each batch, never from the held-out
combinations. What ships is an exponential moving average. Interrupted, the same command goes on::

    python -m recipes.cats64.autoencoder --work WORKDIR
    python -m recipes.cats64.autoencoder --work DECODER_WORKDIR --decoder-from WORKDIR --iterations 2000

The second trains the decoder of the first's average further; the encoder stays, and with it every latent, so a prior of
these latents can be trained meanwhile. What ships was trained so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from pyro_vipaint.cats.parts import Layers, draw_parts, shipped_layers
from pyro_vipaint.metrics import perceptual_distance
from recipes.training import Schedule, channels_last, load_average, train

BATCH_SIZE = 16
PERCEPTUAL_WEIGHT = 0.5
KL_WEIGHT = 1e-6  # Rombach et al. (2022) use 1e-6 too
ITERATIONS = 1600
# The cosine of the first run was shortened on the way: until batch b it was planned for n batches, as (b, n).
SHIPPED_RUN = ((550, 3000), (1600, 1600))


def build_network() -> AutoencoderKL:
    """The autoencoder, two halvings: ``(B, 3, 64, 64) -> (B, 4, 16, 16) -> (B, 3, 64, 64)``."""
    blocks: Any = {  # whose types diffusers states too narrowly
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (24, 48, 96),
    }
    return AutoencoderKL(
        sample_size=64,
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        **blocks,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def training_loss(encode: Callable[[Tensor], Any], decode: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """The loss of a batch ``(B, 3, 64, 64)``."""
    with torch.autocast("cpu", torch.bfloat16):
        moments = encode(x)
    mean, log_variance = moments.float().chunk(2, 1)
    log_variance = log_variance.clamp(-30, 20)
    z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    with torch.autocast("cpu", torch.bfloat16):
        output = decode(z).float()
        perceptual = perceptual_distance(output, x).float().mean()
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum() / x[0, 0].numel() / len(x)
    return (output - x).abs().mean() + PERCEPTUAL_WEIGHT * perceptual + KL_WEIGHT * divergence


def starting_network(decoder_from: Path | None) -> AutoencoderKL:
    """A random network, or the average in the work folder ``decoder_from`` with a frozen encoder."""
    network: Any = build_network()
    if decoder_from is not None:
        load_average(network, decoder_from / "checkpoint.pt")
        for half in (network.decoder, network.post_quant_conv):
            half.requires_grad_(True)
    return channels_last(network)


def run(layers: Layers, work: Path, iterations: int, compiled: bool, decoder_from: Path | None = None) -> None:
    """Trains from the checkpoint in ``work``, or from the start."""
    torch.manual_seed(0)
    network: Any = starting_network(decoder_from)

    def encode(x: Tensor) -> Tensor:
        return network.quant_conv(network.encoder(x))

    def decode(z: Tensor) -> Tensor:
        return network.decoder(network.post_quant_conv(z))

    halves = (torch.compile(encode), torch.compile(decode)) if compiled else (encode, decode)

    def batch_loss() -> Tensor:
        x = layers.compose(draw_parts(layers, BATCH_SIZE, held_out=False))
        return training_loss(*halves, x.contiguous(memory_format=torch.channels_last))

    train(network, batch_loss, work, Schedule(iterations))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--compile", action="store_true", help="compile the network: faster, needs g++")
    parser.add_argument("--decoder-from", type=Path, metavar="WORKDIR", help="train that run's decoder alone, further")
    arguments = parser.parse_args()
    run(shipped_layers(), arguments.work, arguments.iterations, arguments.compile, arguments.decoder_from)
