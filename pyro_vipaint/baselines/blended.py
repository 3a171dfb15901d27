r"""Blended, or replacement (Song et al. 2021, *Score-Based Generative Modeling through SDEs*, appendix I.2; Avrahami et
al. 2022, *Blended Diffusion*; in latent space Avrahami et al. 2023, *Blended Latent Diffusion*).

The prior's own chain, with the noised observation pasted into every state:

.. math::
    z_t \leftarrow m \odot (\alpha_t y + \sigma_t \epsilon) + (1 - m) \odot z_t, \qquad
    z_s = \mathrm{ddim}(z_t, E[z_0 \mid z_t], t, s),

and y itself into the last prediction. The network's first call is on noise alone, since at t = 1 nothing of y is
visible. Latent priors: :mod:`pyro_vipaint.baselines.replacement`.

Bias: the observed pixels are y itself, noise included. Each step draws the hidden pixels from what the network sees of
the last pasted noise, without regard to the next, so that they follow the observation too little, with any number of
steps.

With ``eta`` = 1 it is RePaint without jumps.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.baselines.replacement import OBSERVED, known_part, observed_pixels
from pyro_vipaint.errors import number
from pyro_vipaint.models.priors.kernels import ddim
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback


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
    """Draws by Blended; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: 250 in the VIPaint paper.
        eta: noise of the DDIM step, from 0 for none, as in the VIPaint paper, to 1 for that of the DDPM chain.
    """
    number("eta", eta, most=1.0)

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        observed = observed_pixels(likelihood, y, prior.image_shape)
        z_hat = prior.denoise(z, times[0], **condition)
        known = known_part(prior, likelihood, y, observed, z_hat)
        yield known.paste(z_hat)
        for t, s in pairwise(times[:-1]):
            z = ddim(prior.schedule, z, z_hat, t, s, eta)
            z = known.paste_noised(prior.schedule, z, s, torch.randn_like(z))
            z_hat = prior.denoise(z, s, **condition)
            yield known.paste(z_hat)

    return run("blended", chain, prior, likelihood, y, num_samples, steps, seed, callback, condition, needs=OBSERVED)


def blended_calls(steps: int = 250) -> int:
    """Network calls of :func:`blended`, one per step."""
    return steps
