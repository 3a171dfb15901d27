"""Between the phases: ancestral samples of the guide, T_e to T_s, and where its means start."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vipaint._torch import seeded
from pyro_vipaint.models.measurements.linalg import cgls
from pyro_vipaint.models.measurements.operators import Broadcasting, Operator, pseudo_inverse
from pyro_vipaint.models.priors.prior import DiffusionPrior


@torch.no_grad()
def sample(guide: Any, y: Tensor, num_samples: int = 10, *, seed: int | None = None) -> Tensor:
    """Posterior draws of z_Ts, shape ``(num_samples, N, *event)``: K - 1 network calls on all of them at once.

    Args:
        guide: a guide of :mod:`pyro_vipaint.guides`, fitted or not. One of Pyro's own is run ``num_samples`` times;
            without a network, unless its program calls one.
        y: observations ``(N, *observation)``; for the guides here only their number matters.
        num_samples: S >= 1.
        seed: seed of these draws, another than that of the fit, whose noise they would repeat; ``None`` goes on with
            the global generator.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}.")
    if not hasattr(guide, "sample_latents"):
        with seeded(seed):
            return torch.stack([_run(guide, y) for _ in range(num_samples)])
    with seeded(seed), pyro.plate("samples", num_samples, dim=-2):
        return guide.sample_latents(len(y))


def _run(guide: Any, y: Tensor) -> Tensor:
    """z_Ts of one run of a guide that is a Pyro program."""
    return poutine.trace(guide).get_trace(y).nodes["z_1"]["value"]


@torch.no_grad()
def initial_latent(prior: DiffusionPrior, likelihood: Any, y: Tensor, **condition: Any) -> Tensor:
    r"""Where the guide's means start, ``(N, *event)``: the data where they speak, the prior's mean elsewhere.

    .. math:: E(m + A^+ (y - A m)), \qquad m = decode(E[z_0 \mid z_1 = 0])

    at t = 1, one network call. Operators of this library with a pseudo-inverse use it; for others A^+ is a few steps
    of conjugate gradients (:func:`pyro_vipaint.models.cgls`), which do not blow up noise as the
    pseudo-inverse of a blur does. Hidden pixels that start at the mean of the class have a shorter way to go than from
    zero, which in images in [-1, 1] is grey.

    Args:
        prior, likelihood: as for :class:`DiffusionModel`.
        y: observations ``(N, *observation)``.
        condition: passed to the denoiser, e.g. ``class_labels`` of shape ``(N,)``.
    """
    mean = prior.decode(prior.denoise(torch.zeros(len(y), *prior.event_shape).to(y), 1.0, **condition))
    return prior.encode(mean + _explained(likelihood.operator, likelihood.residual(mean, y)))


def _explained(operator: Operator, residual: Tensor) -> Tensor:
    """The image by which A explains the residual."""
    if isinstance(operator, Broadcasting) and hasattr(operator, "A_dagger"):
        return pseudo_inverse(operator, residual)
    return cgls(operator, residual)
