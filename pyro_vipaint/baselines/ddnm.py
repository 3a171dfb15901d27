r"""DDNM+, denoising diffusion null-space models (Wang, Yu & Zhang 2023), for pixel priors.

What A sees of the prediction is replaced by y, the rest is the prior's own,

.. math::
    \hat x' = \hat x + \lambda A^+ (y - A \hat x), \qquad
    z_s = \alpha_s \hat x' + \sigma_s (\sqrt{1 - \eta^2}\, \hat\epsilon + \eta\, \epsilon), \qquad
    \lambda = \min(1, \sigma_s / (\alpha_s \sigma_y))

with the network's own direction :math:`\hat\epsilon = (z_t - \alpha_t \hat x) / \sigma_t`. No gradient is taken.

Deviation: the authors also take the noise that y brings out of the fresh noise. Here it is only bounded by it.

Bias: hidden pixels hear of y through the network alone, one step later, and never by its gradient. The image has the
noise of y where it was observed.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult
from pyro_vipaint.baselines.corrected import run_corrected
from pyro_vipaint.corrections import DDNM
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback


def ddnm(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 100,
    *,
    eta: float = 0.85,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Draws by DDNM+; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: 100 in the authors' code.
        eta: share of fresh noise; .85 in the authors' code.
    """
    return run_corrected("ddnm", DDNM(eta), prior, likelihood, y, num_samples, steps, seed, callback, condition)


def ddnm_calls(steps: int = 100) -> int:
    """Network calls of :func:`ddnm`, one per step."""
    return steps
