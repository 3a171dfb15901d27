r"""PSLD, posterior sampling with latent diffusion (Rout et al. 2023), Algorithm 2, with per-sample norms.

DPS in latent space has many latents whose image fits y. PSLD prefers the one that is the encoding of its own image
with the observation glued in. With x_hat = D(z_hat), z_hat = E[z_0 given z_t], one step is

.. math::
    z_s \leftarrow ddim(z_t, \hat z) - c_t c_s \nabla_{z_t} \big(\omega \|y - A \hat x\|
        + \gamma \|\hat z - E(\hat x + A^T (y - A \hat x))\|\big), \qquad c_t = \sqrt{\alpha_t^2 + \sigma_t^2},

where x_hat + A^T (y - A x_hat) is the authors' A^T y + (I - A^T A) x_hat. Both norms are Euclidean, not squared (the
authors' code; their Algorithm 2 squares them), and the gradient passes decoder, operator and encoder. The factors c
are those of :mod:`pyro_vipaint.baselines.dps`.

Where A A^T = I (a mask) the glued image fits y exactly. For other operators A^T is the adjoint, so that a blur's
A^T (y - A x_hat) is only a step towards y; the authors' code takes bicubic enlargement for super-resolution and the
identity for blur. The glued image is the same in all three once A x_hat = y.

Deviations: the authors' norms are of the batch; A x_hat is used without the fresh noise that their code adds to it; the
image is the last clean prediction.

Bias: that of DPS. With small weights the last steps end on y itself, whose noise the hidden pixels then follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.baselines.dps import error_gradient
from pyro_vipaint.corrections import residual_norm
from pyro_vipaint.errors import InputError, number
from pyro_vipaint.models.measurements.likelihoods import weighted
from pyro_vipaint.models.measurements.operators import adjoint
from pyro_vipaint.models.priors.kernels import coordinate_scale, ddim
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback


def psld(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 1000,
    *,
    omega: float = 1.0,
    gamma: float = 0.1,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Draws by PSLD; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: 1000 in the authors' code, of deterministic DDIM.
        omega: weight of the residual norm; 1 in the authors' code, and 0.1 for a hidden box.
        gamma: weight of the gluing norm; 0.1 in the authors' code, and 0.01 for a hidden box.
    """
    number("omega", omega)
    number("gamma", gamma)
    if not prior.is_latent:
        raise InputError("PSLD needs a latent prior, since it compares encodings; for a pixel prior use dps.")

    def error(z_hat: Tensor) -> Tensor:
        x_hat = prior.decode(z_hat)
        glued = x_hat + adjoint(likelihood.operator, weighted(likelihood, likelihood.residual(x_hat, y)))
        inconsistency = (z_hat - prior.encode(glued)).flatten(-prior.event_dim)
        return omega * residual_norm(likelihood, x_hat, y) + gamma * torch.linalg.vector_norm(inconsistency, dim=-1)

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        for t, s in pairwise(times[:-1]):
            z_hat, _, gradient = error_gradient(prior, z, t, condition, error)
            scale = float(coordinate_scale(prior.schedule, t) * coordinate_scale(prior.schedule, s))
            z = ddim(prior.schedule, z, z_hat, t, s) - scale * gradient
            yield z_hat
        yield prior.denoise(z, times[-2], **condition)

    return run("psld", chain, prior, likelihood, y, num_samples, steps, seed, callback, condition)


def psld_calls(steps: int = 1000) -> int:
    """Network calls of :func:`psld`, one per step."""
    return steps
