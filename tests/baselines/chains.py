"""The prior's own chain, written without the baselines' driver: what a method becomes without an observation."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.models.priors.kernels import ddim


def pure_noise(prior: DiffusionPrior, num_samples: int, y: Tensor) -> Tensor:
    """z_1 ~ N(0, sigma_1^2 I), ``(S, N, *event)``."""
    _, sigma = prior.schedule(torch.tensor(1.0, dtype=torch.float64))
    return float(sigma) * torch.randn(num_samples, len(y), *prior.event_shape)


def time_grid(steps: int) -> list[float]:
    """``steps`` + 1 evenly spaced times from 1 to 0."""
    return torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64).tolist()


def unconditional_chain(prior: DiffusionPrior, y: Tensor, samples: int, steps: int, eta: float = 0.0) -> Tensor:
    """DDIM from pure noise; the last prediction, decoded."""
    z, times = pure_noise(prior, samples, y), time_grid(steps)
    for t, s in pairwise(times[:-1]):
        z = ddim(prior.schedule, z, prior.denoise(z, t), t, s, eta)
    return prior.decode(prior.denoise(z, times[-2])).clamp(-1, 1)
