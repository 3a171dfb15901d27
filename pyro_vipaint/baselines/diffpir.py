r"""DiffPIR, plug-and-play restoration (Zhu et al. 2023), for pixel priors.

The prediction is followed by a proximal step on the observation,

.. math::
    \hat x' = \mathrm{argmin}_x \; |y - A x|^2 / \sigma_y^2 + \lambda^{-1} (\sigma_t / \alpha_t)^{-2} |x - \hat x|^2,
    \qquad z_s = \alpha_s \hat x' + \sigma_s (\sqrt{1 - \zeta}\, \hat\epsilon + \sqrt\zeta\, \epsilon)

with :math:`\hat\epsilon = (z_t - \alpha_t \hat x') / \sigma_t`. No gradient is taken.

Bias: x given z_t is taken to be as wide as the noise, which it is not once the noise is wider than the data.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult
from pyro_vipaint.baselines.corrected import run_corrected
from pyro_vipaint.corrections import DiffPIR
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback


def diffpir(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 100,
    *,
    lam: float = 1.0,
    zeta: float = 1.0,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Draws by DiffPIR; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: 20 to 100 in the paper.
        lam: weight of the prediction; 1 in the authors' code for inpainting.
        zeta: share of fresh noise; 1 there (.1 for restoration).
    """
    return run_corrected(
        "diffpir", DiffPIR(lam, zeta), prior, likelihood, y, num_samples, steps, seed, callback, condition
    )


def diffpir_calls(steps: int = 100) -> int:
    """Network calls of :func:`diffpir`, one per step."""
    return steps
