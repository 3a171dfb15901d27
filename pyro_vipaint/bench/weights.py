"""Which weights a prior has: results of other weights are not its results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn


def fingerprint(prior: Any) -> str:
    """16 hexadecimal digits of all numbers in the networks of a prior, the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in tensors_of(prior):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def tensors_of(part: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a network, or of a dataclass around one, in a fixed order."""
    if isinstance(part, Tensor):
        yield "", part
    elif isinstance(part, nn.Module):
        yield from sorted(part.state_dict().items())
    elif is_dataclass(part):
        for field in fields(part):
            yield from tensors_of(getattr(part, field.name))
