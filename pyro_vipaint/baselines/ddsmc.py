r"""DDSMC, decoupled diffusion sequential Monte Carlo (Kelvinius, Zhao & Lindsten 2025, ICML), for pixels and masks.

The draws of an image are particles. With the noise levels l > m of two neighbours and :math:`u = x + l \epsilon`, the
prior's transition for a share eta of the noise that is kept is

.. math::
    p_\eta(u_m \mid u_l) = N\big((1 - f) u_l + f \hat x,\; v\big), \qquad
    f = \frac{l^2 - m^2}{l^2 - (1 - \eta) m^2}, \qquad v = f m^2,

the ancestral one for eta = 1 and, for eta = 0, that of DAPS, :math:`N(\hat x, m^2)`. x given u_l is taken as
:math:`N(\hat x, \rho^2 I)`, which gives y the density :math:`\psi_l = N(y; A \hat x, \sigma_y^2 + \rho^2)`. The
proposal is the transition with x drawn given y,

.. math::
    q(u_m \mid u_l) = N\big((1 - f) u_l + f (\hat x + g (y - A \hat x)),\; v - f^2 \rho^2 g\big), \qquad
    g = \frac{\rho^2}{\rho^2 + \sigma_y^2} \text{ where observed, 0 elsewhere.}

The target is :math:`p(u_L) \prod p_\eta(u_m \mid u_l)\, N(x; \hat x, \rho^2 I)\, p(y \mid x)`, twisted by psi, so that
the weight of a move is :math:`\psi_m(u_m)\, p_\eta(u_m \mid u_l) / (\psi_l(u_l)\, q(u_m \mid u_l))`. The particles are
resampled at each level. The last draw, x given y at the lowest level, is exact and has weight 1. With eta = 1 the draws
tend to the posterior as particles and levels become more. No gradient of the network is taken.

A particle that is resampled has copies as neighbours: the draws of an image are not independent.

Deviations: rho^2 is at most v / f^2 in the proposal, so that its variance is positive on coarse levels too; at the
lowest level, .01 for data of .5, x is drawn, where the authors end with a mean and a weight.

Sources: eta, 0 to 1, Tweedie's mean or the flow for x_hat, 16 particles and resampling at each level are of the
authors' code; rho^2 = half of the variance of x given u for independent pixels (there 1 - alpha-bar over 2, for data of
variance 1). Levels as in :mod:`pyro_vipaint.baselines.daps`, but for the lowest one.

Bias: that of few particles. For images no number of particles is enough; the draws then have few ancestors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.baselines.daps import HIGHEST
from pyro_vipaint.baselines.decoupled import (
    FLOW_END,
    Level,
    falling_levels,
    flow,
    given_y,
    start_at,
)
from pyro_vipaint.baselines.replacement import OBSERVED, masked_pixels
from pyro_vipaint.corrections import pixel_variance
from pyro_vipaint.diagnostics.importance import systematic_indices
from pyro_vipaint.errors import InputError, number, whole
from pyro_vipaint.models.measurements.predictive import noise_like
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time
from pyro_vipaint.progress import Callback


def ddsmc(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 200,
    *,
    eta: float = 1.0,
    share: float = 0.5,
    ode_steps: int = 1,
    num_particles: int | None = None,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Draws by DDSMC; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: noise levels.
        eta: 1 is the ancestral transition, 0 that of DAPS.
        share: rho^2 over the variance of x given u for independent pixels with the prior's ``sigma_data``.
        ode_steps: Euler steps of the flow for x_hat; 1 is Tweedie's mean.
        num_particles: of each image, at least ``num_samples``, which is the default; 16 in the authors' code.
    """
    number("eta", eta, most=1.0)
    number("share", share, positive=True)
    whole("ode_steps", ode_steps)
    count = whole("num_samples", num_samples)
    if num_particles is not None:
        count = whole("num_particles", num_particles, least=num_samples)
    if prior.is_latent:
        raise InputError("ddsmc needs a pixel prior, since A must be linear; use resample.")

    def start() -> Tensor:
        sigma = float(prior.schedule(as_time(1.0))[1])
        return sigma * torch.randn(count, len(y), *prior.event_shape, device=y.device)

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        observed = masked_pixels(likelihood, y, prior.image_shape)
        levels = falling_levels(prior, HIGHEST, FLOW_END, len(times) - 1)
        u, leading = start_at(prior, z, levels[0]), z.ndim - prior.event_dim
        log_weights = torch.zeros(z.shape[:leading], device=z.device)
        noise = noise_like(likelihood, z)
        for level, below in zip(levels, [*levels[1:], None], strict=True):
            x_hat = flow(prior, u, level, ode_steps, condition)
            variance = share * pixel_variance(prior.sigma_data, 1.0, level.noise)
            residual = likelihood.residual(x_hat, y)
            twist = -0.5 * (residual**2 / (noise**2 + variance)).flatten(leading).sum(-1)
            index = systematic_indices(log_weights + twist, num_samples if below is None else count)
            u, x_hat, residual, twist = (_taken(each, index) for each in (u, x_hat, residual, twist))
            if below is None:
                yield given_y(likelihood, y, x_hat, variance, leading)
                return
            yield x_hat
            u, log_weights = _move(u, x_hat, residual, level, below, eta, variance, noise, observed)
            log_weights = log_weights - twist

    return run(
        "ddsmc", chain, prior, likelihood, y, num_samples, steps, seed, callback, condition,
        start=start, needs=("noise_std", *OBSERVED),
    )  # fmt: skip


def ddsmc_calls(steps: int = 200, ode_steps: int = 1) -> int:
    """Network calls of :func:`ddsmc`, ``ode_steps`` per level, on all particles at once."""
    return steps * ode_steps


def _move(
    u: Tensor,
    x_hat: Tensor,
    residual: Tensor,
    level: Level,
    below: Level,
    eta: float,
    variance: float,
    noise: Tensor,
    observed: Tensor,
) -> tuple[Tensor, Tensor]:
    """A draw of q and log p / q of it, ``(particles, N)``, up to a constant."""
    fresh = level.noise**2 - below.noise**2
    f = fresh / (fresh + eta * below.noise**2)
    v = f * below.noise**2
    variance = min(variance, v / f**2)
    gain = observed * (variance / (variance + noise**2))
    epsilon = torch.randn_like(u)
    step = f * gain * residual + (v - f**2 * variance * gain).sqrt() * epsilon
    log_ratio = -0.5 * observed * (step**2 / v - epsilon**2)
    return (1 - f) * u + f * x_hat + step, log_ratio.flatten(u.ndim - observed.ndim + 1).sum(-1)


def _taken(value: Tensor, index: Tensor) -> Tensor:
    """The particles ``(particles, N, …)`` at ``index``, ``(count, N)``."""
    return value[index, torch.arange(index.shape[1], device=index.device)]
