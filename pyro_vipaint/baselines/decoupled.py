r"""What DAPS and DDSMC share: falling noise levels, the flow from z_t to a clean image, and x given y around it.

All of it is in the coordinates :math:`u = z_t / \alpha_t = x + l \epsilon` with the noise level l = sigma_t / alpha_t,
in which every schedule is the same. Levels fall as in Karras et al. 2022, Eq. 5, with rho = 7, which both authors use.
The flow is that of the probability-flow ODE by Euler steps,

.. math:: u \leftarrow \hat x + \frac{l'}{l} (u - \hat x), \qquad \hat x = E[x \mid u, l].

**x given y**, where x is taken as N(x_hat, r^2 I) before y is seen, is a Gaussian for linear A, and is drawn exactly by
*perturb and solve*: with :math:`x' = \hat x + r \epsilon` and :math:`y' = y + \sigma_y \epsilon'`,

.. math:: x = \mathrm{argmin}_x \; |A x - y'|^2 / \sigma_y^2 + |x - x'|^2 / r^2,

element by element for a mask, else by a few steps of conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vipaint.corrections import proximal
from pyro_vipaint.models.measurements.linalg import CGLS_STEPS
from pyro_vipaint.models.measurements.operators import adjoint
from pyro_vipaint.models.measurements.predictive import is_mask, noise_like
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time, lowest_level, times_of

RHO = 7.0
FLOW_END = 0.02  # noise level over sigma_data at which the flow ends; .01 for data of .5 in the code of DAPS


class Level(NamedTuple):
    """A time t, its alpha and its noise level."""

    t: float
    alpha: float
    noise: float

    def denoise(self, prior: DiffusionPrior, u: Tensor, condition: Mapping[str, Any]) -> Tensor:
        """E[x given u], one network call."""
        return prior.denoise(self.alpha * u, self.t, **condition)


def falling_levels(prior: DiffusionPrior, highest: float, lowest: float, steps: int) -> list[Level]:
    """``steps`` levels from ``highest`` to ``lowest``, in units of the data, as far as the schedule has them."""
    bottom, top = lowest_level(prior.schedule), prior.noise_range[1]
    first, last = (min(max(level * prior.sigma_data, bottom), top) for level in (highest, lowest))
    return levels_of(prior, _karras(first, last, steps))


def levels_of(prior: DiffusionPrior, noises: list[float]) -> list[Level]:
    """The levels of the ``noises``, or the nearest ones that the schedule has."""
    bottom, top = lowest_level(prior.schedule), prior.noise_range[1]
    wanted = torch.tensor([min(max(noise, bottom), top) for noise in noises], dtype=torch.float64)
    times = times_of(prior.schedule, wanted)
    alphas = prior.schedule(times)[0].tolist()
    return [Level(*each) for each in zip(times.tolist(), alphas, wanted.tolist(), strict=True)]


def level_at(prior: DiffusionPrior, t: float) -> Level:
    """The level of the time t."""
    alpha, sigma = (float(value) for value in prior.schedule(as_time(t)))
    return Level(t, alpha, sigma / alpha)


def start_at(prior: DiffusionPrior, z: Tensor, level: Level) -> Tensor:
    """The noise ``z`` of t = 1 as u at ``level``."""
    return z * (level.noise / float(prior.schedule(as_time(1.0))[1]))


def flow(prior: DiffusionPrior, u: Tensor, level: Level, steps: int, condition: Mapping[str, Any]) -> Tensor:
    """The end of the probability-flow ODE from ``u``: ``steps`` network calls. One step is E[x given u], nearly."""
    end = min(FLOW_END * prior.sigma_data, level.noise / 10)
    between = levels_of(prior, _karras(level.noise, end, steps + 1)[1:-1])
    for here, noise in zip([level, *between], [*(each.noise for each in between), end], strict=True):
        x_hat = here.denoise(prior, u, condition)
        u = x_hat + noise / here.noise * (u - x_hat)
    return u


def given_y(likelihood: Any, y: Tensor, x_hat: Tensor, variance: float, leading: int) -> Tensor:
    """A draw of N(x_hat, variance I) given y; ``leading`` dimensions are in front of an event."""
    x = x_hat + variance**0.5 * torch.randn_like(x_hat)
    residual = likelihood.residual(x, y)
    return x + _gain(likelihood, residual + noise_like(likelihood, x) * torch.randn_like(residual), variance, leading)


def mean_given_y(likelihood: Any, y: Tensor, x_hat: Tensor, variance: float, leading: int) -> Tensor:
    """The mean of N(x_hat, variance I) given y."""
    return x_hat + _gain(likelihood, likelihood.residual(x_hat, y), variance, leading)


def _gain(likelihood: Any, residual: Tensor, variance: float, leading: int) -> Tensor:
    r""":math:`r^2 A^\top (r^2 A A^\top + \sigma_y^2)^{-1}` times the residual."""
    noise = noise_like(likelihood, residual)
    if is_mask(likelihood.operator):
        return adjoint(likelihood.operator, residual * (variance / (variance + noise**2)))
    return proximal(likelihood.operator, residual, noise / variance**0.5, CGLS_STEPS, leading)


def _karras(first: float, last: float, count: int) -> list[float]:
    high, low = first ** (1 / RHO), last ** (1 / RHO)
    return [(high + i / max(count - 1, 1) * (low - high)) ** RHO for i in range(count)]
