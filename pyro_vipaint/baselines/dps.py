r"""DPS, diffusion posterior sampling (Chung et al. 2023), Algorithm 1, with per-sample residual norms.

With x_hat = E[z_0 given z_t] and the residual r = |y - A(decode(x_hat))| of *each sample by itself*, one step is

.. math::
    z_s \sim p_\theta(z_s \mid z_t), \qquad z_s \leftarrow z_s - \zeta\, c_t c_s \nabla_{z_t} r,
    \qquad c_t = \sqrt{\alpha_t^2 + \sigma_t^2},

one network call with its gradient. The factors c take the step in the variance-preserving coordinates z / c, in which
the authors define it, so that the same zeta means the same on every schedule. The authors' norm is of the batch. The
image is the last prediction.

Bias: the gradient of a norm that is not squared has the same length however small the residual and whatever the noise
of y. The last steps oscillate around y, and the hidden pixels follow the noise of y.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._torch import gradients
from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.corrections import residual_norm
from pyro_vipaint.errors import number
from pyro_vipaint.models.priors.kernels import bridge, coordinate_scale, transition_std
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback

Limit = Callable[[Tensor, Tensor, float, float, tuple[float, float]], Tensor]
"""``(gradient, residual, std, zeta, (c_t, c_s))`` -> the gradient, shortened where the step is too long.

std is that of the transition.
"""


def dps(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 1000,
    *,
    zeta: float = 0.5,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Draws by DPS; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: 1000 in the paper.
        zeta: weight of the observation; 0.5 in the paper for inpainting, 0.3 for super-resolution and deblurring.
    """
    number("zeta", zeta)

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        return dps_chain(prior, likelihood, z, y, times, [zeta] * (steps - 1), condition)

    return run("dps", chain, prior, likelihood, y, num_samples, steps, seed, callback, condition)


def dps_calls(steps: int = 1000) -> int:
    """Network calls of :func:`dps`, one per step."""
    return steps


def dps_chain(
    prior: DiffusionPrior,
    likelihood: Any,
    z: Tensor,
    y: Tensor,
    times: Sequence[float],
    zetas: Sequence[float],
    condition: dict[str, Any],
    limit: Limit | None = None,
) -> Iterator[Tensor]:
    """The predictions along ``times``, which decrease: one network call each but the last, ``zetas`` between them."""
    for t, s, zeta in zip(times[:-2], times[1:-1], zetas, strict=True):
        z, x_hat = dps_step(prior, likelihood, z, y, (t, s), zeta, condition, limit)
        yield x_hat
    yield prior.denoise(z, times[-2], **condition)


def dps_step(
    prior: DiffusionPrior,
    likelihood: Any,
    z: Tensor,
    y: Tensor,
    interval: tuple[float, float],
    zeta: float,
    condition: dict[str, Any],
    limit: Limit | None = None,
) -> tuple[Tensor, Tensor]:
    """``(z_s, x_hat)`` after one correction step from t to s."""
    t, s = interval
    x_hat, residual, gradient = error_gradient(
        prior, z, t, condition, lambda z_hat: residual_norm(likelihood, prior.decode(z_hat), y)
    )
    transition = bridge(prior.schedule, z, x_hat, t, s)
    c_t, c_s = (float(coordinate_scale(prior.schedule, time)) for time in interval)
    if limit is not None:
        gradient = limit(gradient, residual, transition_std(prior.schedule, z.dtype, t, s), zeta, (c_t, c_s))
    return transition.sample() - zeta * c_t * c_s * gradient, x_hat


def error_gradient(
    prior: DiffusionPrior, z: Tensor, t: float, condition: dict[str, Any], error: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """``(z_hat, error, gradient)`` at z_t: E[z_0 given z_t], its error, and the error's gradient with respect to z_t.

    ``error`` maps predictions ``(S, N, *event)`` to numbers ``(S, N)``, each of its own sample.
    """
    with gradients():
        z = z.detach().requires_grad_()
        z_hat = prior.denoise(z, t, **condition)
        value = error(z_hat)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return z_hat.detach(), value.detach(), gradient
