r"""DING, inpainting with a Gaussian posterior in closed form at each step (Moufad et al. 2025, arXiv 2512.18365).

With :math:`\hat x_0, \hat x_1` the clean image and the noise that the network sees in z_t, a step to s is

.. math::
    \mu &= \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - v}\, \hat x_1, \qquad z'_s \sim N(\mu, v), \\
    z_s &\sim N(z_s; \mu, v)\; N\big(\alpha_s y + \sigma_s \hat x'_1;\, m \odot z_s,\, \alpha_s^2 \sigma_y^2\big)

with :math:`\hat x'_1` the noise that a second call sees in z'_s: y is noised as the chain itself would be. ``delayed``
takes :math:`\hat x_1` for it, one call a step. v = :math:`(\sigma_s (1 - \alpha_s))^2` on a straight path, the authors'
released setting (``eta_type: square``): the share of fresh noise is l / (1 + l) with the noise level l =
:math:`\sigma_s / \alpha_s` in units of the data, which is used on every schedule. No gradient is taken. The image is
the last prediction.

Levels are those of the authors' network (Esser et al. 2024), evenly spaced times u in (0, 1] with a shift of 3:
l = 3 u / (1 - u), as far as the schedule has them. The authors take 28.

Bias: the noise that y is given is the network's guess. The observed pixels of the image are a prediction, not y.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.baselines.decoupled import levels_of, start_at
from pyro_vipaint.baselines.replacement import OBSERVED, masked_pixels
from pyro_vipaint.errors import InputError, instance, number
from pyro_vipaint.models.measurements.predictive import noise_like
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback


def ding(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 28,
    *,
    delayed: bool = False,
    shift: float = 3.0,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Draws by DING; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: noise levels, the last of which has one call; 28 in the authors' code.
        delayed: one call a step instead of two.
        shift: of the levels; 3 for the authors' network. More puts more levels at high noise.
    """
    instance("delayed", delayed, isinstance(delayed, bool), "True or False")
    number("shift", shift, positive=True)
    if prior.is_latent:
        raise InputError("ding needs a pixel prior: a mask of pixels is none of latents; use blended.")

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        observed = masked_pixels(likelihood, y, prior.image_shape)
        image = likelihood.residual(torch.zeros_like(y), y)
        units = [1 - i / (len(times) - 1) for i in range(len(times) - 1)]
        levels = levels_of(prior, [prior.sigma_data * shift * u / max(1 - u, 1e-9) for u in units])
        sigma_y, u = noise_like(likelihood, z), start_at(prior, z, levels[0])
        for level, below in pairwise(levels):
            x_hat = level.denoise(prior, u, condition)
            yield x_hat
            noise = (u - x_hat) / level.noise
            share = below.noise / (prior.sigma_data + below.noise)
            mean, std = x_hat + below.noise * (1 - share**2) ** 0.5 * noise, below.noise * share
            if not delayed:
                trial = mean + std * torch.randn_like(mean)
                noise = (trial - below.denoise(prior, trial, condition)) / below.noise
            gain = observed * (std**2 / (std**2 + sigma_y**2))
            pulled = mean + gain * (image + below.noise * noise - mean)
            u = pulled + std * (1 - gain).sqrt() * torch.randn_like(mean)
        yield levels[-1].denoise(prior, u, condition)

    return run(
        "ding", chain, prior, likelihood, y, num_samples, steps, seed, callback, condition,
        needs=("noise_std", *OBSERVED),
    )  # fmt: skip


def ding_calls(steps: int = 28, delayed: bool = False) -> int:
    """Network calls of :func:`ding`: two per step, or one if ``delayed``, and one for the last."""
    return (steps - 1) * (1 if delayed else 2) + 1
