"""Writes ``covariance.safetensors`` of the shipped pixel priors: the covariance of their training images.

    python -m recipes.covariance --data FOLDER   # the four files of Fashion-MNIST, see recipes.fashion32.data

It is that around the mean of each class, of all 60,000 training images of ``fashion32`` and of 20,000 training faces of
``faces32``: 128 and 64 directions in half precision, their variances, and one variance for the rest
(:mod:`pyro_vipaint.models.priors.covariance`). The command prints the share of the variance in these directions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from pyro_vipaint.cats.parts import class_labels, draw_parts, shipped_layers
from pyro_vipaint.models.pretrained.load import COVARIANCE, weights_folder
from pyro_vipaint.models.priors.covariance import DataCovariance
from recipes.fashion32.data import DEFAULT_FOLDER, load_split

FACES = 20_000
RANKS = {"fashion32": 128, "faces32": 64}
Images = tuple[Tensor, Tensor | None]


def faces(folder: Path) -> Images:
    """Training faces and their labels."""
    layers = shipped_layers("faces32")
    index = draw_parts(layers, FACES, held_out=False, generator=torch.Generator().manual_seed(0))
    return layers.compose(index), class_labels("faces32", index)


SOURCES: dict[str, Callable[[Path], Images]] = {
    "fashion32": lambda folder: load_split(folder, train=True),
    "faces32": faces,
}


def write(covariance: DataCovariance, path: Path) -> None:
    """One file of three tensors."""
    rest = torch.tensor([covariance.rest])
    save_file({"vectors": covariance.vectors.half(), "variances": covariance.variances, "rest": rest}, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--only", choices=SOURCES, help="one of the priors")
    chosen = parser.parse_args()
    for name in [chosen.only] if chosen.only else SOURCES:
        covariance = DataCovariance.of(*SOURCES[name](chosen.data), rank=RANKS[name])
        write(covariance, weights_folder() / name / COVARIANCE)
        inside, outside = float(covariance.variances.sum()), covariance.rest
        elements = covariance.vectors[0].numel() - len(covariance.variances)
        Console().print(f"{name}: {inside / (inside + elements * outside):.1%} of the variance in the directions")
