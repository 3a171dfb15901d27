r"""RED-Diff (Mardani et al. 2024, *A Variational Perspective on Solving Inverse Problems with Diffusion Models*, ICLR).

A Gaussian around mu whose width goes to zero is fitted to the posterior: stochastic optimisation of one latent mu for
each sample, at times that fall from 1 to 0. With z_t = alpha_t mu + sigma_t eps, eps ~ N(0, I), and the prediction held
fixed (no gradient passes the network),

.. math::
    \mu \leftarrow \mathrm{Adam}(\nabla_\mu L), \qquad
    L = \tfrac12 \overline{(y - A(decode(\mu)))^2}
        + w_t \, \overline{(\hat\epsilon - \epsilon) \odot \mu}, \qquad w_t = \lambda \, \sigma_t / \alpha_t,

with means over the elements of y and of mu. Since eps_hat - eps = (alpha_t / sigma_t) (mu - z_hat), the second gradient
is lambda (mu - z_hat) / D on every schedule: mu is pulled to its own denoised image, equally hard at every noise level.
It starts at E(A^+ y), E(A^T y) for operators without a pseudo-inverse, and the image is the last mu, decoded and
clamped.

Defaults: Adam with rate 0.1 and betas (0.9, 0.99), no weight decay, lambda 0.25 with the weight sigma / alpha, width 0,
as in the authors' code (``algos/reddiff.py``, ``_configs/algo/reddiff.yaml``); 1000 steps as in the script of their
tables (``sample_batch.sh``). Their mean over the batch is left out, which moves Adam by its epsilon of 1e-8 alone. An
element of an inpainting observation that is hidden counts in the mean with a zero, as in their ``Inpainting2``.

Its bias on the Gaussian truth with these defaults (``test_the_bias_stated_in_the_docstring`` in
``tests/test_baseline_red_diff.py``): the mean is off by 0.70 exact standard deviations on observed and 0.19 on hidden
pixels, the spread is 0.02 and 0.84 of the exact one. The misfit outweighs the prior as if the observation had no noise.
All samples start alike and the objective seeks one mode: what spread there is on hidden pixels is the jitter of Adam,
not uncertainty, and with a tenth of the rate it is 0.24 of the exact one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._torch import gradients
from pyro_vipaint.baselines.base import BaselineResult, Callback, run, time_grid
from pyro_vipaint.models.measurements.operators import pseudo_inverse
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time

STEPS, LR, BETAS, WEIGHT = 1000, 0.1, (0.9, 0.99), 0.25


def red_diff(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = STEPS,
    *,
    lr: float = LR,
    betas: tuple[float, float] = BETAS,
    weight: float = WEIGHT,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """``num_samples`` images for each of the N observations, ``steps`` network calls without gradient.

    Args:
        prior, likelihood: as for :class:`DiffusionModel`; any differentiable operator.
        y: observations ``(N, *observation)``.
        num_samples: S.
        steps: the authors' default is 1000.
        lr, betas: of Adam, in the units of the latents; the authors' 0.1 and (0.9, 0.99).
        weight: lambda, of the prior; the authors' 0.25.
        seed: seed of all noise; ``None`` goes on with the global generator.
        callback: called as ``callback(step)``.
        condition: passed to the denoiser.
    """

    def chain() -> Tensor:
        mu = initial_mean(prior, likelihood, y).expand(num_samples, *[-1] * (1 + prior.event_dim)).clone()
        optimizer = torch.optim.Adam([mu.requires_grad_()], lr=lr, betas=betas)
        for step, t in enumerate(time_grid(steps)[:-1]):
            mu.grad = objective_gradient(prior, likelihood, mu, y, t, weight, condition)
            optimizer.step()
            if callback is not None:
                callback(step)
        with torch.no_grad():
            return prior.decode(mu).clamp(-1, 1)

    return run(chain, seed)


def red_diff_calls(steps: int = STEPS) -> int:
    """Network calls of a run."""
    return steps


@torch.no_grad()
def initial_mean(prior: DiffusionPrior, likelihood: Any, y: Tensor) -> Tensor:
    """E(A^+ y), ``(N, *event)``. The residual of a zero image is y without whatever its hidden elements hold."""
    observed = likelihood.residual(y.new_zeros(len(y), *prior.image_shape), y)
    return prior.encode(pseudo_inverse(likelihood.operator, observed))


def objective_gradient(
    prior: DiffusionPrior, likelihood: Any, mu: Tensor, y: Tensor, t: float, weight: float, condition: dict[str, Any]
) -> Tensor:
    """The gradient of L at ``mu``, ``(S, N, *event)``, at time t with fresh noise: one network call."""
    alpha, sigma = (float(value) for value in prior.schedule(as_time(t)))
    with torch.no_grad():
        z_hat = prior.denoise(alpha * mu + sigma * torch.randn_like(mu), t, **condition)
    with gradients():
        mu = mu.detach().requires_grad_()
        misfit = likelihood.residual(prior.decode(mu), y).flatten(2).square().mean(-1).sum() / 2
        (gradient,) = torch.autograd.grad(misfit, mu)
    return gradient + weight * (mu.detach() - z_hat) / mu[0, 0].numel()
