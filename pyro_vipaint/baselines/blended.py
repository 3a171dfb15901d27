r"""Blended, or replacement (Song et al. 2021, *Score-Based Generative Modeling through SDEs*, appendix I.2; Avrahami et
al. 2022, *Blended Diffusion*; in latent space Avrahami et al. 2023, *Blended Latent Diffusion*).

The prior's own chain, with the noised observation pasted into every state:

.. math::
    z_t \leftarrow m \odot (\alpha_t y + \sigma_t \epsilon) + (1 - m) \odot z_t, \qquad
    z_s = \mathrm{ddim}(z_t, E[z_0 \mid z_t], t, s),

and y itself into the last prediction. The network's first call is on noise alone: at t = 1 there is nothing of y to
see yet.

Bias on the Gaussian truth (tests/baseline_truth.py, the defaults, EDM schedule; held by
tests/test_baseline_blended.py): shift of the mean .70 of an exact standard deviation on observed pixels and .73 on
hidden ones; spread 0 times the exact one on observed pixels and 1.16 times on hidden ones. The observed pixels are y
itself, noise included. Each step draws the hidden pixels from what the network sees of the last pasted noise, without
a look at the next, so that they follow the observation too little, however many steps there are.

Defaults: 250 steps of deterministic DDIM (eta = 0), the setting of the VIPaint paper's comparison; RePaint has 250
levels too. With ``eta`` = 1 it is RePaint without jumps. Latent priors:
:mod:`pyro_vipaint.baselines.replacement`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult, Callback, pure_noise, run, time_grid
from pyro_vipaint.baselines.replacement import known_part, observed_pixels
from pyro_vipaint.models.priors.kernels import ddim
from pyro_vipaint.models.priors.prior import DiffusionPrior


def blended(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 250,
    *,
    eta: float = 0.0,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """``num_samples`` draws for each of the N observations, ``steps`` network calls on all of them at once.

    Args:
        prior, likelihood: as for :class:`DiffusionModel`; the operator must be an inpainting mask.
        y: observations ``(N, C, H, W)`` in [-1, 1].
        num_samples: S.
        steps: evenly spaced in time; 250 by default, see above.
        eta: noise of the DDIM step, 0 for none to 1 for that of the DDPM chain.
        seed: seed of all noise; ``None`` goes on with the global generator.
        callback: called as ``callback(step)`` after each network call's step.
        condition: passed to the denoiser.

    Raises:
        InputError: the operator is not a mask.
        ValueError: ``steps`` is less than 1.
    """
    observed, times = observed_pixels(likelihood, y, prior.image_shape), time_grid(steps)

    @torch.no_grad()
    def chain() -> Tensor:
        z = pure_noise(prior, num_samples, y)
        z_hat = prior.denoise(z, times[0], **condition)
        known = known_part(prior, y, observed, z_hat)
        for step, (t, s) in enumerate(pairwise(times[:-1])):
            z = ddim(prior.schedule, z, z_hat, t, s, eta)
            z = known.paste_noised(prior.schedule, z, s, torch.randn_like(z))
            z_hat = prior.denoise(z, s, **condition)
            if callback is not None:
                callback(step)
        if callback is not None:
            callback(steps - 1)
        return prior.decode(known.paste(z_hat)).clamp(-1, 1)

    return run(chain, seed)


def blended_calls(steps: int = 250) -> int:
    """Network calls of :func:`blended`."""
    return steps
