r"""RED-Diff (Mardani et al. 2024, *A Variational Perspective on Solving Inverse Problems with Diffusion Models*, ICLR).

A Gaussian around mu whose width goes to zero is fitted to the posterior: stochastic optimisation of one latent mu for
each sample, at times that fall from 1 to 0. With z_t = alpha_t mu + sigma_t eps, eps ~ N(0, I), and the prediction held
fixed (no gradient passes the network),

.. math::
    \mu \leftarrow \mathrm{Adam}(\nabla_\mu L), \qquad
    L = \tfrac12 \overline{(y - A(decode(\mu)))^2}
        + w_t \, \overline{(\hat\epsilon - \epsilon) \odot \mu}, \qquad w_t = \lambda \, \sigma_t / \alpha_t,

with means over the elements of y and of mu. Since eps_hat - eps = (alpha_t / sigma_t) (mu - z_hat), the second gradient
is lambda (mu - z_hat) / D on every schedule: mu is drawn to its own denoised image with the same weight at every noise
level. The chain starts at E(A^+ y), or at E(A^T y) for operators without a pseudo-inverse; the image is the last mu.

Defaults are those of the authors' code (``algos/reddiff.py``, ``_configs/algo/reddiff.yaml``), the steps those of the
script of their tables (``sample_batch.sh``). Their mean over the batch is omitted, which changes Adam only by its
epsilon of 1e-8. A hidden element counts in the mean with a zero, as in their ``Inpainting2``.

Bias: the misfit outweighs the prior as if the observation had no noise. All samples start at the same point and the
objective seeks one mode: the spread on hidden pixels is the jitter of Adam, not uncertainty, and falls with the rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._torch import gradients
from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.errors import MOST_RATE, number
from pyro_vipaint.models.measurements.likelihoods import weighted
from pyro_vipaint.models.measurements.operators import pseudo_inverse
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time
from pyro_vipaint.progress import Callback


def red_diff(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 1000,
    *,
    lr: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.99),
    weight: float = 0.25,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Samples of RED-Diff; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        lr, betas: of Adam, in the units of the latents; as all defaults, those of the authors' code.
        weight: lambda, of the prior.
    """
    number("lr", lr, most=MOST_RATE)
    number("weight", weight)
    for beta in betas:
        number("1 - beta", 1 - number("beta", beta), positive=True)

    def chain(mu: Tensor, times: list[float]) -> Iterator[Tensor]:
        optimizer = torch.optim.Adam([mu.requires_grad_()], lr=lr, betas=betas)
        for t in times[:-1]:
            mu.grad = objective_gradient(prior, likelihood, mu, y, t, weight, condition)
            optimizer.step()
            yield mu.detach()

    def start() -> Tensor:
        return initial_mean(prior, likelihood, y).expand(num_samples, *[-1] * (1 + prior.event_dim)).clone()

    return run("red_diff", chain, prior, likelihood, y, num_samples, steps, seed, callback, condition, start=start)


def red_diff_calls(steps: int = 1000) -> int:
    """Network calls of :func:`red_diff`, one per step."""
    return steps


@torch.no_grad()
def initial_mean(prior: DiffusionPrior, likelihood: Any, y: Tensor) -> Tensor:
    """E(A^+ y), ``(N, *event)``. The residual of a zero image is y with zeros at hidden elements."""
    observed = likelihood.residual(y.new_zeros(len(y), *prior.image_shape), y)
    return prior.encode(pseudo_inverse(likelihood.operator, weighted(likelihood, observed)))


def objective_gradient(
    prior: DiffusionPrior, likelihood: Any, mu: Tensor, y: Tensor, t: float, weight: float, condition: dict[str, Any]
) -> Tensor:
    """The gradient of L at ``mu``, ``(S, N, *event)``, at time t with fresh noise: one network call."""
    alpha, sigma = (float(value) for value in prior.schedule(as_time(t)))
    with torch.no_grad():
        z_hat = prior.denoise(alpha * mu + sigma * torch.randn_like(mu), t, **condition)
    with gradients():
        mu = mu.detach().requires_grad_()
        misfit = weighted(likelihood, likelihood.residual(prior.decode(mu), y)).flatten(2).square().mean(-1).sum() / 2
        (gradient,) = torch.autograd.grad(misfit, mu)
    return gradient + weight * (mu.detach() - z_hat) / mu[0, 0].numel()
