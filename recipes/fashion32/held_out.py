"""Sixty-four held-out Fashion-MNIST images, shipped beside the prior for examples and tests.

The first 64 images of the ``t10k`` split, padded from 28×28 to 32×32 with 0, as ``images`` uint8 ``(64, 32, 32)``
and ``labels`` uint8 ``(64,)``; ``images / 127.5 - 1`` gives the [-1, 1] of the library. From the root::

    python -m recipes.fashion32.held_out --data /usr/share/datasets/fashion-mnist

See ``recipes.fashion32.data`` for where the data comes from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from recipes.fashion32.data import DEFAULT_FOLDER, load_split

COUNT = 64
TARGET = Path(__file__).resolve().parents[2] / "models" / "weights" / "fashion32" / "held_out.safetensors"
METADATA = {  # one entry: safetensors writes several in random order
    "source": "Fashion-MNIST (MIT, Copyright (c) 2017 Zalando SE), first 64 images of t10k, padded to 32x32 with 0",
}


def held_out(folder: Path) -> dict[str, Tensor]:
    """The first 64 held-out images and their labels, as bytes."""
    images, labels = load_split(folder, train=False)
    pixels = ((images[:COUNT, 0] + 1.0) * 127.5).round()
    return {"images": pixels.to(torch.uint8), "labels": labels[:COUNT].to(torch.uint8)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the shipped held-out images.")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the four IDX files")
    parser.add_argument("--target", type=Path, default=TARGET, help="the safetensors file to write")
    arguments = parser.parse_args()
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    arguments.target.write_bytes(save(held_out(arguments.data), metadata=METADATA))
    print(f"{arguments.target}: {arguments.target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
