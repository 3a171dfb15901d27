r"""DAPS, decoupled annealing posterior sampling (Zhang et al. 2025, CVPR), for pixel priors.

At each noise level :math:`l_i` the probability-flow ODE leads from :math:`u_i = x + l_i \epsilon` to a clean image
:math:`\hat x`; x is drawn from :math:`N(\hat x, r_i^2 I)` given y, and new noise of the next level is added,

.. math::
    x_{0|y} \sim p(y \mid x)\, N(x; \hat x, r_i^2 I), \qquad u_{i+1} = x_{0|y} + l_{i+1} \epsilon,
    \qquad r_i = l_i.

Neighbouring levels share nothing but the image. No gradient of the network is taken. Levels, flow and draw:
:mod:`pyro_vipaint.baselines.decoupled`.

Defaults are those of the authors' code (``configs/sampler/edm_daps.yaml``, ``cores/mcmc.py``): 200 levels from 100 to
.1 for data of standard deviation .5, which is 200 to .2 in units of the data, 5 Euler steps, r = l.

Deviations: x is drawn exactly where the authors run a hundred steps of Langevin dynamics, which hardly move hidden
pixels; the image is the mean of the last x given y, since a draw would add noise of the last level.

Bias: r = l is far wider than x given u once the noise is wider than the data. Hidden pixels then get the noise of the
last level and that of the next, which a short chain of Langevin dynamics does not give them. ``spread`` limits r.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.baselines.decoupled import falling_levels, flow, given_y, mean_given_y, start_at
from pyro_vipaint.corrections import pixel_variance
from pyro_vipaint.errors import InputError, number, whole
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback

HIGHEST, LOWEST = 200.0, 0.2  # noise levels over the data's standard deviation


def daps(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 200,
    *,
    ode_steps: int = 5,
    spread: float | None = None,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Draws by DAPS; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: noise levels; 200 in the authors' code.
        ode_steps: Euler steps, one network call each, at each level; 5 there.
        spread: s in r^2 = s^2 l^2 / (s^2 + l^2), in units of the data; ``None`` is r = l, the authors' choice.
    """
    whole("ode_steps", ode_steps)
    width = None if spread is None else number("spread", spread, positive=True) * prior.sigma_data
    if prior.is_latent:
        raise InputError("daps needs a pixel prior, since A must be linear; use resample.")

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        levels = falling_levels(prior, HIGHEST, LOWEST, len(times) - 1)
        u, leading = start_at(prior, z, levels[0]), z.ndim - prior.event_dim
        for level, below in zip(levels, [*levels[1:], None], strict=True):
            x_hat = flow(prior, u, level, ode_steps, condition)
            variance = level.noise**2 if width is None else pixel_variance(width, 1.0, level.noise)
            if below is None:
                yield mean_given_y(likelihood, y, x_hat, variance, leading)
                return
            x = given_y(likelihood, y, x_hat, variance, leading)
            yield x
            u = x + below.noise * torch.randn_like(x)

    return run("daps", chain, prior, likelihood, y, num_samples, steps, seed, callback, condition, needs=("noise_std",))


def daps_calls(steps: int = 200, ode_steps: int = 5) -> int:
    """Network calls of :func:`daps`, ``ode_steps`` per level."""
    return steps * ode_steps
