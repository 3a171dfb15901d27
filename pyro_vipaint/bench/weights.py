"""Which weights a prior has, or which pictures there are: results of others are not theirs."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from pyro_vipaint._torch import tensors_of


def fingerprint(part: Any) -> str:
    """16 hexadecimal digits of all numbers in a tensor or in the networks of a prior, the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in tensors_of(part):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
