"""Diffusion posterior sampling from pure noise (Chung et al. 2023), Algorithm 1, with per-sample residual norms.

The authors take the norm over the batch, so that a sample depends on its neighbours; here each has its own. The
guidance step is that of :mod:`pyro_vipaint.refinement`, started at t = 1 instead of T_s and without its limit.

Bias on the Gaussian truth, the defaults (tests/test_baseline_dps.py, ``test_the_bias_is_the_documented_one``; shifts of
the mean in exact standard deviations, root mean square, and sample over exact standard deviation): mean 0.70 observed
and 0.81 hidden, standard deviation 1.12 observed and 0.87 hidden. The gradient of a norm that is not squared pulls with
the same force however small the residual and whatever the noise of y: the last steps are thrown to and fro around y,
and the hidden pixels follow the noise of y.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult, Callback, pure_noise, run, time_grid
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.refinement import Guidance, guided_chain


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
        zeta: weight of the observation; 0.5 is the paper's for inpainting, 0.3 is theirs for super-resolution and
            deblurring.
        seed: seed of all noise; ``None`` goes on with the global generator.
        callback: called as ``callback(step)``.
        condition: passed to the denoiser.

    Raises:
        ValueError: ``steps`` is less than 1.
    """

    def chain() -> Tensor:
        z = pure_noise(prior, num_samples, y)
        return guided_chain(prior, likelihood, z, y, time_grid(steps), Guidance(zeta), condition)

    return run(chain, seed)


def dps_calls(steps: int = 1000) -> int:
    """Network calls of a run, on the whole batch each: one a step."""
    return steps
