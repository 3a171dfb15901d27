r"""The Gaussian algebra of the diffusion, all of it.

For s < t, with alpha_ts = alpha_t / alpha_s and sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2,

.. math::
    q(z_t \mid z_s) &= N(\alpha_{ts} z_s, \sigma_{ts}^2 I) \\
    q(z_s \mid z_t, x) &= N\Big(\frac{\alpha_{ts} \sigma_s^2}{\sigma_t^2} z_t
        + \frac{\alpha_s \sigma_{ts}^2}{\sigma_t^2} x, \frac{\sigma_{ts}^2 \sigma_s^2}{\sigma_t^2} I\Big)

Coefficients are computed in float64 (the subtraction cancels for neighbouring times) and handed on in the dtype of
``z``. Times are numbers, scalars, or tensors of the leading (sample × batch) shape of ``z``.
"""

from __future__ import annotations

import torch
from pyro.distributions import Normal
from torch import Tensor

from pyro_vipaint.schedules import Schedule, as_time

Time = Tensor | float


def expand_event(value: Tensor, z: Tensor) -> Tensor:
    """``value`` of the leading shape of ``z`` (or a scalar), with singleton event dimensions and the dtype of ``z``."""
    return value.reshape(value.shape + (1,) * (z.ndim - value.ndim if value.ndim else 0)).to(z)


def relative(schedule: Schedule, s: Time, t: Time) -> tuple[Tensor, Tensor]:
    """``(alpha_ts, sigma_ts^2)`` of q(z_t given z_s), s <= t, in float64."""
    alpha_s, sigma_s = schedule(as_time(s))
    alpha_t, sigma_t = schedule(as_time(t))
    alpha_ts = alpha_t / alpha_s
    return alpha_ts, (sigma_t**2 - alpha_ts**2 * sigma_s**2).clamp(min=0)


def diffuse(schedule: Schedule, z_s: Tensor, s: Time, t: Time) -> Normal:
    """q(z_t given z_s) for s <= t, of the shape of ``z_s``."""
    alpha_ts, variance = relative(schedule, s, t)
    return _normal(expand_event(alpha_ts, z_s) * z_s, variance.sqrt())


def bridge_coefficients(schedule: Schedule, t: Time, s: Time) -> tuple[Tensor, Tensor, Tensor]:
    """``(a, b, variance)`` of q(z_s given z_t, x) = N(a z_t + b x, variance), s <= t, in float64."""
    alpha_s, sigma_s = schedule(as_time(s))
    _, sigma_t = schedule(as_time(t))
    alpha_ts, variance_ts = relative(schedule, s, t)
    ratio = sigma_s**2 / sigma_t**2
    return alpha_ts * ratio, alpha_s * variance_ts / sigma_t**2, variance_ts * ratio


def bridge(schedule: Schedule, z_t: Tensor, x: Tensor, t: Time, s: Time) -> Normal:
    """q(z_s given z_t, x) for s <= t: Eq. 3 when ``x`` is the denoiser's prediction."""
    a, b, variance = bridge_coefficients(schedule, t, s)
    return _normal(expand_event(a, z_t) * z_t + expand_event(b, z_t) * x, variance.sqrt())


def _normal(mean: Tensor, std: Tensor) -> Normal:
    """A Normal of the shape of ``mean`` without argument checks (each would cost a pass over the image)."""
    scale = expand_event(std, mean).clamp(min=torch.finfo(mean.dtype).tiny)
    return Normal(mean, scale.expand(mean.shape), validate_args=False)
