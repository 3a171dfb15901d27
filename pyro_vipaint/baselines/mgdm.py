r"""MGDM, mixture-guided diffusion models (Janati et al. 2025, ICML), with the settings of MGPS (Janati et al., ICLR).

A Gibbs sampler of (x, z_tau, z_s) at each step from t to s, with a time tau below s:

.. math::
    z_s &\sim q(z_s \mid z_t, \hat x) \\
    z_\tau &\sim N(\mu, \mathrm{diag}\, e^{2 \lambda}) \approx
        p(y \mid \hat x(z_\tau))\, q(z_\tau \mid z_s, \hat x) \\
    \hat x &= E[x \mid z_\tau], \qquad z_s \sim q(z_s \mid z_t, z_\tau)

with q the bridges of the diffusion. mu and lambda start at the bridge's and are fitted by Adam on

.. math::
    E[|y - A \hat x(z_\tau)|^2 / (2 \sigma_y^2)] + KL\big(N(\mu, e^{2 \lambda}) \,\|\, q(z_\tau \mid z_s, \hat x)\big),

one draw, one network call and its gradient per step of Adam, in variance-preserving coordinates. The image is the last
x_hat. Each draw has a tau of its own, so that the draws of a batch are independent.

Sources: Adam's rate .03, two gradient steps and 300 steps of the chain are those of the authors' code of MGPS
(``configs/experiments/sampler/mgps.yaml``); the Gibbs step, and tau uniform between .01 and the time after s in the
first 70 % of the steps and that time afterwards, those of their code of MGDM.

Deviations: x_hat is one prediction where MGDM's code runs a chain of several steps from tau; the number of gradient
steps is the same at each step, where their settings have ten or twenty at a few of them.

Bias: two steps of Adam at a fixed rate do not reach the optimum, and the fitted Gaussian has independent pixels. x_hat
is a mean and no draw of x, and the bridge to z_tau ends at it: y is counted again at each step, and observed pixels
lose their spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._torch import gradients
from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.errors import MOST_RATE, number, whole
from pyro_vipaint.models.measurements.predictive import noise_like
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback

LEAST_TIME, RANDOM_SHARE = 0.01, 0.7  # of tau, and of the steps at which it is random


def mgdm(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 300,
    *,
    gradient_steps: int = 2,
    lr: float = 0.03,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Draws by MGDM; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: times from 1 to 0, evenly spaced, the last two of which are not visited.
        gradient_steps: of Adam at each of them; 2 in the authors' code.
        lr: Adam's rate; .03 there.
    """
    whole("gradient_steps", gradient_steps)
    number("lr", lr, most=MOST_RATE)

    def loss(x_hat: Tensor) -> Tensor:
        residual = likelihood.residual(prior.decode(x_hat), y)
        return (residual / noise_like(likelihood, residual)).square().sum() / 2

    def denoise(u: Tensor, level: Levels) -> Tensor:
        return prior.denoise(level.alpha * u, level.t, **condition)

    def step(u_t: Tensor, x_hat: Tensor, t: Levels, s: Levels, tau: Levels) -> tuple[Tensor, Tensor]:
        u_s = _draw(*_bridge(u_t, x_hat, t.noise, s.noise))
        mean, std = _bridge(u_s, x_hat, s.noise, tau.noise)
        scale = (1 + tau.noise**2) ** 0.5  # u / scale is variance preserving

        def misfit(v: Tensor) -> Tensor:
            return loss(denoise(scale * v, tau))

        u_tau = scale * variational_draw(mean / scale, std / scale, misfit, gradient_steps, lr)
        return _draw(*_bridge(u_t, u_tau, t.noise, s.noise, tau.noise)), denoise(u_tau, tau)

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        draws = z.shape[: z.ndim - prior.event_dim]

        def levels(t: float) -> Levels:
            return _levels(prior, torch.full(draws, t, device=z.device))

        level = levels(times[0])
        u = z / level.alpha
        x_hat = denoise(u, level)
        yield x_hat
        for index, (t, s, below) in enumerate(zip(times, times[1:], times[2:-1], strict=False)):
            tau = levels(below)
            if index < RANDOM_SHARE * len(times):
                least = min(LEAST_TIME, below)
                tau = _levels(prior, least + (below - least) * torch.rand_like(tau.t))
            u, x_hat = step(u, x_hat, levels(t), levels(s), tau)
            yield x_hat

    total = max(1, whole("steps", steps) - 1)
    return run(
        "mgdm", chain, prior, likelihood, y, num_samples, steps, seed, callback, condition,
        total=total, needs=("noise_std",),
    )  # fmt: skip


@dataclass(frozen=True)
class Levels:
    """A time per draw t, ``(S, N)``, its alpha and its noise level, which broadcast against the draws."""

    t: Tensor
    alpha: Tensor
    noise: Tensor


def _levels(prior: DiffusionPrior, t: Tensor) -> Levels:
    alpha, sigma = (value.reshape(*t.shape, *(1,) * prior.event_dim) for value in prior.schedule(t))
    return Levels(t, alpha, sigma / alpha)


def mgdm_calls(steps: int = 300, gradient_steps: int = 2) -> int:
    """Network calls of :func:`mgdm`, with the gradients of ``gradient_steps`` at each step."""
    return 1 + max(0, steps - 2) * (gradient_steps + 1)


def variational_draw(
    mean: Tensor, std: Tensor, misfit: Callable[[Tensor], Tensor], gradient_steps: int, lr: float
) -> Tensor:
    """A draw of the Gaussian that Adam fits to N(mean, std^2) exp(-misfit), with a draw of its own per element."""
    mu = mean.clone().requires_grad_()
    log_std = std.log().expand_as(mean).clone().requires_grad_()
    optimizer = torch.optim.Adam([mu, log_std], lr=lr)
    for _ in range(gradient_steps):
        with gradients():
            value = misfit(mu + log_std.exp() * torch.randn_like(mu))
            apart = (((mu - mean).square() + (2 * log_std).exp()) / (2 * std**2) - log_std).sum()
            mu.grad, log_std.grad = torch.autograd.grad(value + apart, [mu, log_std])
        optimizer.step()
    return (mu + log_std.exp() * torch.randn_like(mu)).detach()


def _bridge(u: Tensor, clean: Tensor, high: Tensor, middle: Tensor, low: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation at the level ``middle`` between ``u`` at ``high`` and ``clean`` at ``low``."""
    weight = (middle**2 - low**2) / (high**2 - low**2)
    return clean + weight * (u - clean), (weight * (high**2 - middle**2)) ** 0.5


def _draw(mean: Tensor, std: Tensor) -> Tensor:
    return mean + std * torch.randn_like(mean)
