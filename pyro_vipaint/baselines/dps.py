"""Diffusion posterior sampling from pure noise (Chung et al. 2023), Algorithm 1, with per-sample residual norms.

The authors take the norm over the batch, so that a sample depends on its neighbours; here each has its own. The
guidance step is that of :mod:`pyro_vipaint.refinement`, started at t = 1 instead of T_s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.calls import count_calls
from pyro_vipaint.models.priors import DiffusionPrior
from pyro_vipaint.refinement import guided_chain
from pyro_vipaint.schedules import as_time
from pyro_vipaint.seeding import seeded


@dataclass(frozen=True, eq=False)
class BaselineResult:
    """Images ``(S, N, C, H, W)`` in [-1, 1], and what they cost."""

    samples: Tensor
    calls: int
    evaluations: int
    seconds: float


def dps(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 1000,
    *,
    zeta: float = 0.5,
    seed: int | None = None,
    callback: Callable[[int], None] | None = None,
    **condition: Any,
) -> BaselineResult:
    """``num_samples`` draws for each of the N observations, ``steps`` network calls on all of them at once.

    Args:
        prior, likelihood: as for :class:`DiffusionModel`.
        y: observations ``(N, *observation)``.
        num_samples: S.
        steps: the paper's default is 1000.
        zeta: guidance scale; the paper's default for inpainting is 0.5.
        seed: seed of all noise; ``None`` goes on with the global generator.
        callback: called as ``callback(step)``.
        condition: passed to the denoiser.
    """
    begun = time.perf_counter()
    _, sigma = prior.schedule(as_time(1.0))
    times = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64).tolist()
    with seeded(seed), count_calls() as count:
        z = float(sigma) * torch.randn(num_samples, len(y), *prior.event_shape, device=y.device)
        samples = guided_chain(prior, likelihood, z, y, times, zeta, condition, callback)
    return BaselineResult(samples, count.calls, count.evaluations, time.perf_counter() - begun)
