"""The stochastic steps of diffusers' schedulers, as the mean and deviation that a transition is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers.schedulers.scheduling_ddpm as scheduling_ddpm
import pytest
import torch
from torch import Tensor

Moments = tuple[Tensor, Tensor]


def in_double(scheduler: Any) -> Any:
    """The same table in float64: neighbouring entries cancel in the scheduler's own arithmetic."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    return scheduler


def moments(module: Any, step: Callable[[], Tensor]) -> Moments:
    """Mean and deviation of a scheduler's step, whose noise, drawn in ``module``, is made 0 and 1."""
    results = []
    for noise in (0.0, 1.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "randn_tensor", lambda shape, n=noise, **_: torch.full(shape, n, dtype=torch.float64))
            results.append(step())
    mean, shifted = results
    return mean, shifted - mean


def ddpm_moments(scheduler: Any, output: Tensor, n: int, z: Tensor) -> Moments:
    """Those of ``DDPMScheduler.step`` from step ``n``, in float64."""
    scheduler = in_double(scheduler)
    return moments(scheduling_ddpm, lambda: scheduler.step(output.double(), n, z.double(), return_dict=False)[0])
