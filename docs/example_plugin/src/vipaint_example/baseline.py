"""A baseline: the prior's mean from pure noise, with the observed pixels in their places; one network call."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.baselines import BaselineResult
from pyro_vipaint.bench import Baseline
from pyro_vipaint.models import DiffusionPrior


def mean_filling(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 1,
    *,
    seed: int | None = None,
    **condition: Any,
) -> BaselineResult:
    """``num_samples`` copies of it for each image; the arguments are those of all baselines."""
    begun = time.perf_counter()
    with vp.count_calls() as count, torch.no_grad():
        mean = prior.decode(prior.denoise(y.new_zeros(len(y), *prior.event_shape), 1.0, **condition))
        x = torch.where(likelihood.observed(y), y, mean).clamp(-1, 1)
    samples = x.expand(num_samples, *x.shape)
    return BaselineResult(samples, count.calls, count.nfe, time.perf_counter() - begun)


def mean_filling_calls(steps: int = 1) -> int:
    """Network calls of :func:`mean_filling`."""
    return 1


METHOD = Baseline(mean_filling, mean_filling_calls, only_inpainting=True)
