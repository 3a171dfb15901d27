r"""MMPS, moment matching posterior sampling (Rozet et al. 2024), for pixel priors.

x given z_t is taken as :math:`N(\hat x, C_t)` with its true covariance, so that

.. math:: C_t = \frac{\sigma_t^2}{\alpha_t} \frac{\partial \hat x}{\partial z_t}, \qquad
          \hat x' = \hat x + C_t A^\top (A C_t A^\top + \sigma_y^2 I)^{-1} (y - A \hat x), \qquad
          z_s \sim p_\theta(z_s \mid z_t, \hat x').

The linear system is solved by ``iterations`` steps of GMRES, one gradient each: the Jacobian of a learnt denoiser is
not symmetric, for which conjugate gradients can diverge. :math:`\hat x'` is the exact posterior mean where the prior is
Gaussian.

Bias: that of few iterations, and of coarse steps.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult
from pyro_vipaint.baselines.corrected import run_corrected
from pyro_vipaint.corrections import MMPS
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback


def mmps(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 100,
    *,
    iterations: int = 1,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Draws by MMPS; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: 100; the paper has 10 to 1000.
        iterations: of GMRES; azula's default is 1.
    """
    return run_corrected("mmps", MMPS(iterations), prior, likelihood, y, num_samples, steps, seed, callback, condition)


def mmps_calls(steps: int = 100) -> int:
    """Network calls of :func:`mmps`, one per step, each with ``iterations`` gradients."""
    return steps
