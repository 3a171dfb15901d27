"""Fashion-MNIST as 32×32 tensors in [-1, 1], read from the four IDX files of the data set.

The files come from Debian's package ``dataset-fashion-mnist`` (MIT licence, Zalando SE)::

    apt-get download dataset-fashion-mnist
    dpkg-deb -x dataset-fashion-mnist_*.deb data
    # data/usr/share/datasets/fashion-mnist/*.gz

Images are padded from 28×28 to 32×32 with the background value -1.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DEFAULT_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def _read_idx(path: Path) -> np.ndarray:
    """The array in one gzipped IDX file of unsigned bytes."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", count=dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def load_split(folder: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, 32, 32)`` in [-1, 1] and labels ``(N,)`` of the training or the held-out set."""
    prefix = "train" if train else "t10k"
    pixels = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    images = torch.from_numpy(np.pad(pixels, ((0, 0), (2, 2), (2, 2))).astype(np.float32))
    return (images / 127.5 - 1.0).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))
