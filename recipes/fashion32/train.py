"""Trains ``fashion32``: a class-conditional EDM prior on Fashion-MNIST at 32×32.

The objective is the preconditioned denoising loss of Karras et al. (2022), :mod:`recipes.edm`, with log sigma ~
N(P_MEAN, P_STD^2). The label is replaced by the "no label" class with probability 0.1, so that the prior is also
unconditional. What ships is an exponential moving average. Operations run in bfloat16 where PyTorch's autocast holds
that safe, parameters in single precision.
Interrupted, the same command goes on from the last checkpoint::

    python -m recipes.fashion32.train --data FOLDER --work WORKDIR
    python -m recipes.fashion32.train --data FOLDER --work ANOTHER --start EXPORTED    # from exported weights
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor

from recipes import training
from recipes.edm import DenoisingLoss, starting_network
from recipes.fashion32.data import DEFAULT_FOLDER, load_split

SIGMA_DATA = 0.664  # standard deviation of the padded training images
P_MEAN, P_STD = -0.9, 1.3  # Karras et al. use -1.2, 1.2; moved up: inpainting works at high noise
NUM_CLASSES = 10  # and one more embedding, index 10, for "no label"
LABEL_DROPOUT = 0.1
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
WARM_UP = 100
EMA_DECAY = 0.999
# The weights that ship come from two runs, the second from the first one's export. Each run shortened its cosine on the
# way: until batch b it was planned for n batches, as (b, n). The first was in single precision, the second as below.
SHIPPED_RUNS = (((900, 7500), (2300, 6000), (2650, 5000), (4000, 4000)), ((4000, 9000), (7500, 7500)))


def build_network() -> UNet2DModel:
    """The 3.2 M-parameter UNet, ``(B, 1, 32, 32) -> (B, 1, 32, 32)``."""
    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 48, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=8,
        num_class_embeds=NUM_CLASSES + 1,
    )


def training_loss(network: Callable[..., Any], x: Tensor, labels: Tensor) -> Tensor:
    """The denoising loss of a batch in the network's own units (1 = predicting the mean)."""
    return DenoisingLoss(SIGMA_DATA, P_MEAN, P_STD, NUM_CLASSES, LABEL_DROPOUT)(network, x, labels)


def train(data: Path, work: Path, iterations: int, start: Path | None = None, compiled: bool = False) -> None:
    """Trains for ``iterations`` steps in all, from the checkpoint in ``work`` where there is one."""
    images, labels = load_split(data, train=True)
    torch.manual_seed(0)
    network = starting_network(build_network, start)
    forward = torch.compile(network) if compiled else network

    def batch_loss() -> Tensor:
        index = torch.randint(len(images), (BATCH_SIZE,))
        with torch.autocast("cpu", torch.bfloat16):
            return training_loss(forward, images[index], labels[index])

    training.train(network, batch_loss, work, training.Schedule(iterations, LEARNING_RATE, WARM_UP), decay=EMA_DECAY)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=SHIPPED_RUNS[-1][-1][0])
    parser.add_argument("--start", type=Path, help="an exported prior to go on from, with a new optimiser")
    parser.add_argument("--compile", action="store_true", help="compile the network: a quarter faster, needs g++")
    arguments = parser.parse_args()
    train(arguments.data, arguments.work, arguments.iterations, arguments.start, arguments.compile)
