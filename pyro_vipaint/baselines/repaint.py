r"""RePaint (Lugmayr et al. 2022, *RePaint: Inpainting using Denoising Diffusion Probabilistic Models*), Algorithm 1.

A DDPM chain on L levels, level k at time t = k / L. From k to k - 1, with the prediction x_hat = E[z_0 given z_t],

.. math::
    z_s^{known} = \alpha_s y + \sigma_s \epsilon, \qquad z_s^{hidden} \sim p_\theta(z_s \mid z_t), \qquad
    z_s = m \odot z_s^{known} + (1 - m) \odot z_s^{hidden},

and from every tenth level the chain jumps ten levels back up, z_t ~ q(z_t given z_s), nine times, so that the hidden
part, which is drawn without regard to the known one, is drawn again beside it. At level 0 the known pixels are y and
the others are x_hat.

Bias: the observed pixels are y itself, noise included. The hidden ones tend to the posterior of a y without noise as
``resamples`` grows, so that part of their shift is the noise of y and part is what ten passes have not yet harmonised.

Differences:

- A jump is one draw from q(z_t given z_s); the authors draw its ten steps one by one. The distribution is the same.
- The variance is that of the bridge (Eq. 3) for every prior; the authors' networks learned theirs, and they clamp
  predictions.
- Levels are evenly spaced in time and the highest is t = 1. diffusers' ``RePaintScheduler`` rounds: on a table of N
  timesteps its stride is floor(N / L), and its levels are cleaner than these by less than a stride. Its jump from
  timestep a to a + stride uses the betas from a + stride on instead of a + 1, too much noise unless the stride is 1.
- Latent priors: see :mod:`pyro_vipaint.baselines.replacement`. The paper has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.baselines.replacement import OBSERVED, Known, known_part, observed_pixels
from pyro_vipaint.errors import MOST_STEPS, whole
from pyro_vipaint.models.priors.kernels import bridge, diffuse
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import Schedule
from pyro_vipaint.progress import Callback


def repaint(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 250,
    *,
    jump_length: int = 10,
    resamples: int = 10,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Draws by RePaint; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: L, the number of noise levels; 250 in the paper, which with its jumps makes 2410 network calls.
        jump_length: levels that a jump goes back up, at least 1; 10 in the paper.
        resamples: how often each stretch of that length is passed, 1 for no jumps; 10 in the paper.
    """
    levels = call_levels(steps, jump_length, resamples)

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        times, observed = times[::-1], observed_pixels(likelihood, y, prior.image_shape)
        z_hat = prior.denoise(z, times[steps], **condition)
        known = known_part(prior, likelihood, y, observed, z_hat)
        yield known.paste(z_hat)
        for level, following in pairwise(levels):
            t, s, t_following = times[level], times[level - 1], times[following]
            z = repaint_step(prior.schedule, z, z_hat, known, t, s)
            if following >= level:
                z = diffuse(prior.schedule, z, s, t_following).sample()
            z_hat = prior.denoise(z, t_following, **condition)
            yield known.paste(z_hat)

    return run(
        "repaint", chain, prior, likelihood, y, num_samples, steps, seed, callback, condition, len(levels),
        needs=OBSERVED,
    )  # fmt: skip


def repaint_step(schedule: Schedule, z: Tensor, z_hat: Tensor, known: Known, t: float, s: float) -> Tensor:
    """z_s after z_t with the prediction ``z_hat``; what is ``known`` is pasted, with one noise for both parts."""
    hidden, noise = bridge(schedule, z, z_hat, t, s), torch.randn_like(z)
    return known.paste_noised(schedule, hidden.mean + hidden.stddev * noise, s, noise)


def call_levels(steps: int = 250, jump_length: int = 10, resamples: int = 10) -> list[int]:
    """The levels at which the network is called, in order: down by one from each, unless a jump back up is due.

    >>> call_levels(steps=5, jump_length=2, resamples=2)
    [5, 4, 5, 4, 3, 2, 3, 2, 1]

    Raises:
        InputError: an argument is less than 1.
    """
    steps, jump_length = whole("steps", steps, most=MOST_STEPS), whole("jump_length", jump_length)
    resamples = whole("resamples", resamples, most=MOST_STEPS)
    jumps = dict.fromkeys(range(1, steps - jump_length + 1, jump_length), resamples - 1)
    levels, level = [], steps
    while level >= 1:
        levels.append(level)
        level -= 1
        if jumps.get(level, 0):
            jumps[level] -= 1
            level += jump_length
    return levels


def repaint_calls(steps: int = 250, jump_length: int = 10, resamples: int = 10) -> int:
    """Network calls of :func:`repaint`."""
    return len(call_levels(steps, jump_length, resamples))
