"""What the baselines share: their result, the noise they start from, their grid of times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vipaint._torch import seeded
from pyro_vipaint.calls import count_calls
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time

Callback = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class BaselineResult:
    """Images ``(S, N, C, H, W)`` in [-1, 1], and what they cost."""

    samples: Tensor
    calls: int
    nfe: int
    seconds: float


def run(chain: Callable[[], Tensor], seed: int | None) -> BaselineResult:
    """The images that ``chain`` returns, from ``seed``, with its network calls and its wall time."""
    begun = time.perf_counter()
    with seeded(seed), count_calls() as count:
        samples = chain()
    return BaselineResult(samples, count.calls, count.nfe, time.perf_counter() - begun)


def pure_noise(prior: DiffusionPrior, num_samples: int, y: Tensor) -> Tensor:
    """z_1 ~ N(0, sigma_1^2 I), ``(S, N, *event)``, on the device of the observations ``(N, ...)``."""
    _, sigma = prior.schedule(as_time(1.0))
    return float(sigma) * torch.randn(num_samples, len(y), *prior.event_shape, device=y.device)


def time_grid(steps: int) -> list[float]:
    """``steps`` + 1 evenly spaced times from 1 to 0; a chain calls the network at each but the last.

    Raises:
        ValueError: ``steps`` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}.")
    return torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64).tolist()
