"""Diffusion posterior sampling from pure noise (Chung et al. 2023), Algorithm 1, with per-sample residual norms.

The authors take the norm over the batch, so that a sample depends on its neighbours; here each has its own. The
guidance step is that of :mod:`pyro_vipaint.refinement`, started at t = 1 instead of T_s.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult, Callback, pure_noise, run, time_grid
from pyro_vipaint.models.priors import DiffusionPrior
from pyro_vipaint.refinement import guided_chain


def dps(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 1000,
    *,
    zeta: float = 0.5,
    seed: int | None = None,
    callback: Callback | None = None,
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

    def chain() -> Tensor:
        z = pure_noise(prior, num_samples, y)
        return guided_chain(prior, likelihood, z, y, time_grid(steps), zeta, condition, callback)

    return run(chain, seed)


def dps_calls(steps: int = 1000) -> int:
    """Network calls of a run, on the whole batch each: one a step."""
    return steps
