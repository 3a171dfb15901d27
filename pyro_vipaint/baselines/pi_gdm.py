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

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._torch import gradients
from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.errors import InputError, number
from pyro_vipaint.models.measurements.operators import adjoint, observation_mask, pseudo_inverse
from pyro_vipaint.models.priors.kernels import ddim
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time
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
    number("eta", eta, most=1.0)
    if prior.is_latent:
        raise InputError("Pi-GDM needs a pixel prior, since A must be linear; for a latent prior use psld or dps.")

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        for t, s in pairwise(times):
            x_hat = posterior_prediction(prior, likelihood, z, y, t, condition)
            z = ddim(prior.schedule, z, x_hat, t, s, eta)
            yield x_hat

    return run("pi_gdm", chain, prior, y, num_samples, steps, seed, callback)


def pi_gdm_calls(steps: int = 100) -> int:
    """Network calls of :func:`pi_gdm`, one per step."""
    return steps


def posterior_prediction(
    prior: DiffusionPrior, likelihood: Any, z: Tensor, y: Tensor, t: float, condition: dict[str, Any]
) -> Tensor:
    """x_hat', of the shape of ``z``: one network call and its gradient."""
    alpha, sigma = (float(value) for value in prior.schedule(as_time(t)))
    variance = prior.sigma_data**2 * sigma**2 / (alpha**2 * prior.sigma_data**2 + sigma**2)
    with gradients():
        z = z.detach().requires_grad_()
        x_hat = prior.denoise(z, t, **condition)
        (gradient,) = torch.autograd.grad(x_hat, z, weighted_residual(likelihood, x_hat.detach(), y, variance))
    return x_hat.detach() + sigma**2 / alpha * gradient


def weighted_residual(likelihood: Any, x_hat: Tensor, y: Tensor, variance: float) -> Tensor:
    """A^T (r_t^2 A A^T + sigma_y^2 I)^-1 (y - A x_hat), of the shape of ``x_hat``; ``variance`` is r_t^2."""
    operator, residual = likelihood.operator, likelihood.residual(x_hat, y)
    if hasattr(operator, "mask") and observation_mask(operator) is not None:
        return adjoint(operator, residual) / (variance + likelihood.noise_std**2)
    return pseudo_inverse(operator, residual) / variance
