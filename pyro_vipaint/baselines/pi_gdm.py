r"""Pi-GDM, pseudoinverse-guided diffusion (Song, Vahdat, Mardani & Kautz 2023), for pixel priors.

DPS measures how well the prediction x_hat = E[x given z_t] fits y as if it were x itself. Pi-GDM takes x given z_t as
N(x_hat, r_t^2 I), so that y given z_t is Gaussian as well, and the chain follows the prediction of the posterior:

.. math::
    \hat x' &= \hat x + \frac{\sigma_t^2}{\alpha_t} \nabla_{z_t} \log p(y \mid z_t), \qquad
    \nabla_{z_t} \log p(y \mid z_t) = \frac{\partial \hat x}{\partial z_t}^T
        A^T (r_t^2 A A^T + \sigma_y^2 I)^{-1} (y - A \hat x) \\
    z_s &\sim ddim_\eta(z_t, \hat x'), \qquad r_t^2 = \frac{s^2 \sigma_t^2}{\alpha_t^2 s^2 + \sigma_t^2}.

r_t^2 is the variance of x given z_t for independent pixels with standard deviation s. With s = 1 and alpha = 1 it is
the authors' sigma_t^2 / (1 + sigma_t^2) (section 3.2), which assumes data of unit variance. Here s is the prior's
``sigma_data``, so that a prior of another scale is treated in the same way.

For a mask A A^T is the identity on what is observed: A^T (y - A x_hat) / (r_t^2 + sigma_y^2). For any other operator
the noiseless form is used, A^+ (y - A x_hat) / r_t^2, with the pseudo-inverse that gives the method its name; for an
operator without one, such as the blurs here, A^T takes its place.

Deviation: the authors add the gradient of log p(y given z_t) to z_s with the weight alpha_t r_t^2, a choice that they
call adaptive; here it has the weight that Bayes' rule gives it. So the chain is exactly that of the posterior where the
prior is Gaussian with independent pixels of variance s^2, which theirs is not.

Bias: the covariance of x given z_t is not r_t^2 I where pixels are correlated. Where they are independent, only the
error of the steps remains.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult
from pyro_vipaint.baselines.corrected import run_corrected
from pyro_vipaint.corrections import PiGDM
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback


def pi_gdm(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 100,
    *,
    eta: float = 1.0,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Draws by Pi-GDM; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: 100 in the paper's experiments.
        eta: share of fresh noise in a step; 1, the ancestral chain, in the paper's experiments; 0 is deterministic.
    """
    return run_corrected("pi_gdm", PiGDM(eta), prior, likelihood, y, num_samples, steps, seed, callback, condition)


def pi_gdm_calls(steps: int = 100) -> int:
    """Network calls of :func:`pi_gdm`, one per step."""
    return steps
