"""What a model is handed as its observation: of which shape, and which part of it counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.errors import InputError


def check_shape(y: Tensor, distribution: Any, sample_dims: int = 0) -> None:
    """Refuses a ``y`` of another shape than a draw of its ``distribution`` has after the first ``sample_dims``.

    Without its channel or batch dimension it would broadcast over images.
    """
    expected = distribution.batch_shape[sample_dims:] + distribution.event_shape
    if y.shape != expected:
        raise InputError(f"y has shape {tuple(y.shape)}, not (N, *observation) = {tuple(expected)} as the model has.")


def seen(likelihood: Any, y: Tensor) -> Tensor:
    """``y`` with zeros where nothing was observed: a NaN there would make the gradient NaN."""
    observed = getattr(likelihood, "observed", None)
    return y if observed is None else torch.where(observed(y), y, torch.zeros_like(y))
