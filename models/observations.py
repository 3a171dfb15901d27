"""What a model is handed as its observation: of which shape, and which part of it counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.errors import InputError


def check_shape(y: Tensor, expected: Sequence[int]) -> None:
    """Refuses a ``y`` of another shape: without its channel or batch dimension it would broadcast over images."""
    if y.shape != torch.Size(expected):
        raise InputError(f"y has shape {tuple(y.shape)}, not (N, *observation) = {tuple(expected)} as the model has.")


def seen(likelihood: Any, y: Tensor) -> Tensor:
    """``y`` with zeros where nothing was observed: a NaN there would make the gradient NaN."""
    observed = getattr(likelihood, "observed", None)
    return y if observed is None else torch.where(observed(y), y, torch.zeros_like(y))
