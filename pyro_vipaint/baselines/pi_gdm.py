r"""Pseudoinverse-guided diffusion, Pi-GDM (Song, Vahdat, Mardani & Kautz 2023), for pixel priors.

DPS measures how well the prediction x_hat = E[x given z_t] fits y as if it were x itself. Pi-GDM takes x given z_t as
N(x_hat, r_t^2 I), so that y given z_t is Gaussian as well, and the chain follows the prediction of the posterior:

.. math::
    \hat x' &= \hat x + \frac{\sigma_t^2}{\alpha_t} \nabla_{z_t} \log p(y \mid z_t), \qquad
    \nabla_{z_t} \log p(y \mid z_t) = \frac{\partial \hat x}{\partial z_t}^T
        A^T (r_t^2 A A^T + \sigma_y^2 I)^{-1} (y - A \hat x) \\
    z_s &\sim ddim_\eta(z_t, \hat x'), \qquad r_t^2 = \frac{s^2 \sigma_t^2}{\alpha_t^2 s^2 + \sigma_t^2}.

r_t^2 is the variance of x given z_t for pixels that are independent with standard deviation s; with s = 1 and
alpha = 1 it is the authors' sigma_t^2 / (1 + sigma_t^2) (section 3.2), who take data of unit variance for granted. Here
s is the prior's ``sigma_data``, so that a prior of another scale is treated the same.

For a mask A A^T is the identity on what is observed: A^T (y - A x_hat) / (r_t^2 + sigma_y^2). For any other operator
the noiseless form stands, A^+ (y - A x_hat) / r_t^2, with the pseudo-inverse the method is named after; of an operator
without one, the blurs here, A^T stands for it.

Deviation: the authors add the guidance to z_s with the weight alpha_t r_t^2, a choice that they call adaptive; here it
has the weight that Bayes' rule gives it. So the chain is exactly that of the posterior where the prior is Gaussian with
independent pixels of variance s^2, which theirs is not.

Bias on the Gaussian truth, whose pixels are correlated, the defaults (tests/test_baseline_pi_gdm.py,
``test_the_bias_is_the_documented_one``; shifts of the mean in exact standard deviations, root mean square, and sample
over exact standard deviation): mean 0.16 observed and 0.11 hidden, standard deviation 0.96 observed and 0.92 hidden.
The covariance of x given z_t is not r_t^2 I where pixels are correlated; where they are not, nothing is left of the
shift but the error of the steps.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._torch import gradients
from pyro_vipaint.baselines.base import BaselineResult, Callback, pure_noise, run, time_grid
from pyro_vipaint.errors import InputError
from pyro_vipaint.models.measurements.operators import adjoint, observation_mask, pseudo_inverse
from pyro_vipaint.models.priors.kernels import ddim
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time


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
    """``num_samples`` draws for each of the N observations, ``steps`` network calls on all of them at once.

    Args:
        prior: one of pixels; its ``sigma_data`` is s.
        likelihood: as for :class:`DiffusionModel`; sigma_y is the standard deviation of its noise.
        y: observations ``(N, *observation)``.
        num_samples: S.
        steps: the paper's experiments have 100.
        eta: share of fresh noise in a step; the paper's experiments have 1, the ancestral chain, and 0 is
            deterministic.
        seed: seed of all noise; ``None`` goes on with the global generator.
        callback: called as ``callback(step)``.
        condition: passed to the denoiser.

    Raises:
        InputError: the prior is one of latents.
        ValueError: ``steps`` is less than 1.
    """
    if prior.is_latent:
        raise InputError("Pi-GDM needs a pixel prior, since A must be linear; for a latent prior take psld or dps.")

    def chain() -> Tensor:
        z = pure_noise(prior, num_samples, y)
        x_hat = z
        for step, (t, s) in enumerate(pairwise(time_grid(steps))):
            x_hat = _posterior_prediction(prior, likelihood, z, y, t, condition)
            z = ddim(prior.schedule, z, x_hat, t, s, eta)
            if callback is not None:
                callback(step)
        return x_hat.clamp(-1, 1)

    return run(chain, seed)


def pi_gdm_calls(steps: int = 100) -> int:
    """Network calls of a run, on the whole batch each: one a step."""
    return steps


def _posterior_prediction(
    prior: DiffusionPrior, likelihood: Any, z: Tensor, y: Tensor, t: float, condition: dict[str, Any]
) -> Tensor:
    """x_hat', of the shape of ``z``: one network call and its gradient."""
    alpha, sigma = (float(value) for value in prior.schedule(as_time(t)))
    with gradients():
        z = z.detach().requires_grad_()
        x_hat = prior.denoise(z, t, **condition)
        pull = _pull(prior, likelihood, x_hat.detach(), y, (alpha, sigma))
        (gradient,) = torch.autograd.grad(x_hat, z, pull)
    return x_hat.detach() + sigma**2 / alpha * gradient


def _pull(
    prior: DiffusionPrior, likelihood: Any, x_hat: Tensor, y: Tensor, coefficients: tuple[float, float]
) -> Tensor:
    """A^T (r_t^2 A A^T + sigma_y^2 I)^-1 (y - A x_hat), of the shape of ``x_hat``."""
    alpha, sigma = coefficients
    variance = prior.sigma_data**2 * sigma**2 / (alpha**2 * prior.sigma_data**2 + sigma**2)
    operator, residual = likelihood.operator, likelihood.residual(x_hat, y)
    if hasattr(operator, "mask") and observation_mask(operator) is not None:
        return adjoint(operator, residual) / (variance + likelihood.noise_std**2)
    return pseudo_inverse(operator, residual) / variance
