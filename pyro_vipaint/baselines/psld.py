r"""Posterior sampling with latent diffusion, PSLD (Rout et al. 2023), Algorithm 2, with per-sample norms.

DPS in latent space has many latents whose image fits y. PSLD prefers the one that is the encoding of its own image
with the observation glued in. With x_hat = D(z_hat), z_hat = E[z_0 given z_t], one step is

.. math::
    z_s \leftarrow ddim(z_t, \hat z) - c_t c_s \nabla_{z_t} \big(\omega \|y - A \hat x\|
        + \gamma \|\hat z - E(\hat x + A^T (y - A \hat x))\|\big), \qquad c_t = \sqrt{\alpha_t^2 + \sigma_t^2},

where x_hat + A^T (y - A x_hat) is the authors' A^T y + (I - A^T A) x_hat. Both norms are Euclidean, not squared (the
authors' code; their Algorithm 2 squares them), and the gradient passes decoder, operator and encoder. The factors c
take the step in variance-preserving coordinates, in which the authors define it.

Where A A^T = I (a mask) the glued image fits y exactly. For other operators A^T is the adjoint, so that a blur's
A^T (y - A x_hat) is only a step towards y; the authors' code takes bicubic enlargement for super-resolution and the
identity for blur. The glued image is the same in all three once A x_hat = y.

Deviations: norms of each sample by itself, theirs are of the batch; the prediction A x_hat stays without the fresh
noise that their code adds to it; the image is the last clean prediction.

Bias on the Gaussian truth behind an orthogonal codec, 1000 steps (tests/test_baseline_psld.py,
``test_the_bias_is_the_documented_one``; shifts of the mean in exact standard deviations, root mean square, and sample
over exact standard deviation):

=====================  =============  ===========  ============  ==========
omega, gamma           mean observed  mean hidden  std observed  std hidden
=====================  =============  ===========  ============  ==========
1, 0.1 (the default)   0.86           1.31         2.36          0.84
0.1, 0.01 (for a box)  0.70           0.77         0.24          0.86
=====================  =============  ===========  ============  ==========

A norm that is not squared pulls with the same force however small the residual and whatever the noise of y: strong,
it throws the last steps to and fro around y; weak, it ends on y itself, whose noise the hidden pixels then follow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._torch import gradients
from pyro_vipaint.baselines.base import BaselineResult, Callback, pure_noise, run, time_grid
from pyro_vipaint.errors import InputError
from pyro_vipaint.models.measurements.operators import adjoint
from pyro_vipaint.models.priors.kernels import coordinate_scale, ddim
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.refinement import residual_norm


def psld(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 1000,
    *,
    omega: float = 1.0,
    gamma: float = 0.1,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """``num_samples`` draws for each of the N observations, ``steps`` network calls on all of them at once.

    Args:
        prior: a latent one.
        likelihood: as for :class:`DiffusionModel`; its noise level has no part in PSLD.
        y: observations ``(N, *observation)``.
        num_samples: S.
        steps: the authors' code has 1000, deterministic DDIM.
        omega: weight of the residual norm; the authors' code has 1, and 0.1 for a hidden box.
        gamma: weight of the gluing norm; the authors' code has 0.1, and 0.01 for a hidden box.
        seed: seed of the starting noise; ``None`` goes on with the global generator.
        callback: called as ``callback(step)``.
        condition: passed to the denoiser.

    Raises:
        InputError: the prior is one of pixels.
        ValueError: ``steps`` is less than 1.
    """
    if not prior.is_latent:
        raise InputError("PSLD needs a latent prior, since it compares encodings; for a pixel prior take dps.")

    def chain() -> Tensor:
        times = time_grid(steps)
        *guided, last = times[:-1]
        z = pure_noise(prior, num_samples, y)
        for step, (t, s) in enumerate(zip(guided, times[1:], strict=False)):
            z_hat, gradient = _prediction(prior, likelihood, z, y, t, (omega, gamma), condition)
            scale = float(coordinate_scale(prior.schedule, t) * coordinate_scale(prior.schedule, s))
            z = ddim(prior.schedule, z, z_hat, t, s) - scale * gradient
            if callback is not None:
                callback(step)
        with torch.no_grad():
            x = prior.decode(prior.denoise(z, last, **condition)).clamp(-1, 1)
        if callback is not None:
            callback(steps - 1)
        return x

    return run(chain, seed)


def psld_calls(steps: int = 1000) -> int:
    """Network calls of a run, on the whole batch each: one a step."""
    return steps


def _prediction(
    prior: DiffusionPrior,
    likelihood: Any,
    z: Tensor,
    y: Tensor,
    t: float,
    weights: tuple[float, float],
    condition: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """z_hat at ``z``, and the gradient of the weighted sum of both norms with respect to ``z``."""
    omega, gamma = weights
    leading_dims = z.ndim - prior.event_dim
    with gradients():
        z = z.detach().requires_grad_()
        z_hat = prior.denoise(z, t, **condition)
        x_hat = prior.decode(z_hat)
        glued = x_hat + adjoint(likelihood.operator, likelihood.residual(x_hat, y))
        inconsistency = (z_hat - prior.encode(glued)).flatten(leading_dims)
        error = omega * residual_norm(likelihood, x_hat, y, leading_dims)
        error = error + gamma * torch.linalg.vector_norm(inconsistency, dim=-1)
        (gradient,) = torch.autograd.grad(error.sum(), z)
    return z_hat.detach(), gradient
