r"""The Gaussian algebra of the diffusion.

For s < t, with alpha_ts = alpha_t / alpha_s and sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2,

.. math::
    q(z_t \mid z_s) &= N(\alpha_{ts} z_s, \sigma_{ts}^2 I) \\
    q(z_s \mid z_t, x) &= N\Big(\frac{\alpha_{ts} \sigma_s^2}{\sigma_t^2} z_t
        + \frac{\alpha_s \sigma_{ts}^2}{\sigma_t^2} x, \frac{\sigma_{ts}^2 \sigma_s^2}{\sigma_t^2} I\Big)

Coefficients are computed in float64, since the subtraction cancels for neighbouring times, and applied in the dtype of
``z``. Times are numbers, scalar tensors, or tensors of the leading (sample × batch) shape of ``z``.
"""

from __future__ import annotations

import torch
from pyro.distributions import MultivariateNormal, Normal
from torch import Tensor

from pyro_vipaint._torch import moved
from pyro_vipaint.models.priors.schedules import Schedule, as_time

Time = Tensor | float


def expand_event(value: Tensor, z: Tensor) -> Tensor:
    """``value`` of the leading shape of ``z`` (or a scalar), with singleton event dimensions and the dtype of ``z``."""
    return moved(value.reshape(value.shape + (1,) * (z.ndim - value.ndim if value.ndim else 0)), z.device, z.dtype)


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


def transition_std(schedule: Schedule, dtype: torch.dtype, t: Time, s: Time) -> float:
    """The standard deviation of :func:`bridge`, in a dtype, as a number: a GPU need not be asked for it."""
    return float(_std(bridge_coefficients(schedule, t, s)[2].sqrt().to(dtype)))


def ddim(schedule: Schedule, z_t: Tensor, x: Tensor, t: Time, s: Time, eta: float = 0.0) -> Tensor:
    r"""A draw of z_s after z_t with the prediction x (Song, Meng & Ermon 2021, Eq. 12), of the shape of ``z_t``.

    .. math:: \alpha_s x + \sqrt{\sigma_s^2 - \eta^2 v} \, \hat\epsilon + \eta \sqrt{v} \, \epsilon, \qquad
              \hat\epsilon = (z_t - \alpha_t x) / \sigma_t

    with v the variance of the bridge: ``eta`` = 0 is deterministic, ``eta`` = 1 draws from :func:`bridge`.
    """
    alpha_s, sigma_s = schedule(as_time(s))
    alpha_t, sigma_t = schedule(as_time(t))
    variance = eta**2 * bridge_coefficients(schedule, t, s)[2]
    epsilon = (z_t - expand_event(alpha_t, z_t) * x) / expand_event(sigma_t, z_t)
    mean = expand_event(alpha_s, z_t) * x + expand_event((sigma_s**2 - variance).clamp(min=0).sqrt(), z_t) * epsilon
    return mean if eta == 0 else mean + expand_event(variance.sqrt(), z_t) * torch.randn_like(z_t)


def coordinate_scale(schedule: Schedule, t: Time) -> Tensor:
    """c_t = sqrt(alpha_t^2 + sigma_t^2), float64: z_t / c_t is z_t in variance-preserving coordinates."""
    alpha, sigma = schedule(as_time(t))
    return (alpha**2 + sigma**2).sqrt()


def log_density(residual: Tensor, covariance: Tensor) -> Tensor:
    """log N(residual given 0, covariance) over the last dimension; 0 if that is empty."""
    if residual.shape[-1] == 0:
        return residual.new_zeros(residual.shape[:-1])
    return MultivariateNormal(torch.zeros_like(residual), covariance).log_prob(residual)


def _normal(mean: Tensor, std: Tensor) -> Normal:
    """A Normal of the shape of ``mean`` without argument checks (each would cost a pass over the image)."""
    return Normal(mean, _std(expand_event(std, mean)).expand(mean.shape), validate_args=False)


def _std(std: Tensor) -> Tensor:
    """``std``, but positive."""
    return std.clamp(min=torch.finfo(std.dtype).tiny)
