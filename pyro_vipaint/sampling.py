"""Between the phases: ancestral samples of the guide, T_e to T_s, and where its means start."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vipaint.models.priors import DiffusionPrior
from pyro_vipaint.seeding import seeded


@torch.no_grad()
def sample(guide: Any, y: Tensor, num_samples: int = 10, *, seed: int | None = None) -> Tensor:
    """Posterior draws of z_Ts, shape ``(num_samples, N, *event)``: K - 1 network calls on all of them at once.

    Args:
        guide: a guide of :mod:`pyro_vipaint.guides`, fitted or not.
        y: observations ``(N, *observation)``; only their number matters.
        num_samples: S >= 1.
        seed: seed of these draws; ``None`` goes on with the global generator.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}.")
    with seeded(seed), pyro.plate("samples", num_samples, dim=-2):
        return guide.sample_latents(len(y))


def initial_latent(prior: DiffusionPrior, likelihood: Any, y: Tensor) -> Tensor:
    """Where the guide's means start: the encoded back-projection E(A^+ y), or E(A^T y) without a pseudo-inverse."""
    operator = likelihood.operator
    back = operator.A_dagger if hasattr(operator, "A_dagger") else operator.A_adjoint
    return prior.encode(back(y)).detach()
