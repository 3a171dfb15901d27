r"""Transitions of matched variance.

Eq. 3 puts :math:`\hat x = E[x \mid z_t]` in the place of x and omits its uncertainty, so that the chain is too narrow
between distant levels. With c_t the variance of x given z_t, element by element, it is matched (Bao et al. 2022):

.. math:: p(z_s \mid z_t) = N(a z_t + b \hat x, \; v + b^2 c_t), \qquad c_t = E[(x - \hat x(z_t))^2]

with a, b and v of the bridge. c_t is the denoising error at t, the training loss of a network;
:func:`denoising_errors` measures it. The chain is exact where x given z_t is Gaussian with independent elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor

from pyro_vipaint._torch import device_of, moved, on_device, seeded
from pyro_vipaint.distributions import low_rank_normal
from pyro_vipaint.errors import InputError, broadcast, instance, number, numbers, row, whole
from pyro_vipaint.models.priors.conditions import check_condition
from pyro_vipaint.models.priors.covariance import DataCovariance
from pyro_vipaint.models.priors.kernels import Time, bridge_coefficients
from pyro_vipaint.models.priors.marginal import DEFAULT_STEPS
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import Schedule, as_time, noise_level

Errors = Mapping[float, Tensor | float] | Callable[[float], Tensor | float] | DataCovariance


class MatchedPrior(DiffusionPrior):
    """A prior whose transitions have the variance v + b^2 c_t; all else is that of the wrapped ``prior``.

    A :class:`DiffusionModel` on it has the uncertainty of x given z_Ts in its likelihood, and the guides that follow y
    (:class:`pyro_vipaint.guides.TwistedGuide`) have the variance that y leaves. z_Te has the law of ``prior``.

    Args:
        prior: a :class:`DiffusionPrior` or one of the exact priors.
        errors: c_t in squared units of the clean latents, by time: a table with an entry for each keypoint, as from
            :func:`denoising_errors`, or a function. An entry is a number or a tensor that broadcasts to an event. Or a
            :class:`DataCovariance`, for the covariance that x given z_t would have if images were Gaussian: the
            transitions then know which elements go together.

    Raises:
        InputError: an entry of the table is negative, not finite or does not broadcast to an event; or, on use, the
            table has no entry for the time.
    """

    prior: DiffusionPrior
    errors: Errors

    def __init__(self, prior: DiffusionPrior, errors: Errors) -> None:
        instance("prior", prior, isinstance(prior, DiffusionPrior), "a DiffusionPrior")
        fits = callable(errors) or isinstance(errors, (Mapping, DataCovariance))
        instance("errors", errors, fits, "a table or a function of times, or a DataCovariance")
        super().__init__(*(getattr(prior, field.name) for field in fields(DiffusionPrior)))
        if isinstance(errors, Mapping):
            errors = {_time(t): _checked(c, prior.event_shape) for t, c in errors.items()}
        object.__setattr__(self, "prior", prior)
        object.__setattr__(self, "errors", errors)

    def variance(self, t: float) -> Tensor | DataCovariance:
        """c_t, which broadcasts to an event; or the covariance of x given z_t."""
        if isinstance(self.errors, DataCovariance):
            return self.errors.given(float(noise_level(self.schedule, t)))
        if not isinstance(self.errors, Mapping):
            return torch.as_tensor(self.errors(t))
        if t not in self.errors:
            raise InputError(
                f"the errors of the prior have no entry for the time {t:g}: measure it, or give a function."
            )
        return torch.as_tensor(self.errors[t])

    def denoise(self, z_t: Tensor, t: Time, **condition: Any) -> Tensor:
        """E[z_0 given z_t] of the wrapped prior: one network call."""
        return self.prior.denoise(z_t, t, **condition)

    def transition(self, z_t: Tensor, t: Time, s: Time, **condition: Any) -> TorchDistribution:
        """p(z_s given z_t) for s < t, a Normal of the shape of ``z_t``: one network call. Times are numbers.

        With a :class:`DataCovariance` it is a Gaussian over events.
        """
        return matched_bridge(self.schedule, z_t, self.denoise(z_t, t, **condition), self.variance(float(t)), t, s)

    def marginal(self, t: float, steps: int = DEFAULT_STEPS, **condition: Any) -> TorchDistribution:
        """p(z_t) of the wrapped prior."""
        return self.prior.marginal(t, steps, **condition)


def matched_bridge(
    schedule: Schedule, z_t: Tensor, x: Tensor, c: Tensor | DataCovariance, t: Time, s: Time
) -> TorchDistribution:
    """N(a z_t + b x, v + b^2 c), z_s given z_t where x has the variance ``c``: no network call."""
    a, b, v = (float(value) for value in bridge_coefficients(schedule, t, s))
    if isinstance(c, DataCovariance):
        variance = z_t.new_full((), v + b**2 * c.rest)
        return low_rank_normal(
            a * z_t + b * x, b * moved(c.columns, z_t.device, z_t.dtype), variance, c.vectors.ndim - 1
        )
    c = moved(on_device(c, z_t.device) if c.ndim else c, z_t.device, z_t.dtype)
    mean = a * z_t + b * x
    return Normal(mean, (v + b**2 * c).sqrt().expand(mean.shape), validate_args=False)


def _time(t: Any) -> float:
    return number("a time of errors", t, most=1.0)


def _checked(c: Any, event_shape: torch.Size | tuple[int, ...]) -> Tensor:
    """An entry of a table as a tensor."""
    if not isinstance(c, Tensor):
        return torch.as_tensor(number("an entry of errors", c), dtype=torch.float64)
    broadcast(event_shape, errors=numbers("an entry of errors", c, low=0.0))
    return c


def matched_variance(prior: Any, t: float) -> Tensor | DataCovariance | None:
    """c_t of a :class:`MatchedPrior`; None for a prior that leaves it out."""
    return prior.variance(t) if isinstance(prior, MatchedPrior) else None


@torch.no_grad()
def denoising_errors(
    prior: DiffusionPrior,
    images: Tensor,
    times: Iterable[float],
    *,
    per_element: bool = False,
    batch_size: int = 64,
    seed: int | None = None,
    **condition: Any,
) -> dict[float, Tensor]:
    r"""The table of :class:`MatchedPrior`: :math:`c_t = E[(x - \hat x(z_t))^2]` at ``times``, N NFE for each.

    Args:
        prior: whose denoiser is judged.
        images: clean images ``(N, *image)`` that the prior describes, such as those of its training or its own draws.
        times: of the keypoints.
        per_element: one number for each element of an event, ``(*event)``; one for each time if false.
        batch_size: images in one network call.
        seed: of the noise; ``None`` continues the global generator.
        condition: passed to the denoiser, such as ``class_labels`` ``(N,)``.

    Raises:
        InputError: the images do not have the shape of the prior's or are not finite, or there are none; a time is not
            in [0, 1]; the prior does not take the condition.
    """
    instance("prior", prior, isinstance(prior, DiffusionPrior), "a DiffusionPrior")
    check_condition(prior, condition, device=device_of(prior))
    numbers("images", images, ("N", *prior.image_shape), least=1)
    whole("batch_size", batch_size)
    x = prior.encode(images)
    table: dict[float, Tensor] = {}
    with seeded(seed):
        for t in map(_time, row("times", times)):
            (alpha, sigma), error = map(float, prior.schedule(as_time(t))), torch.zeros_like(x[0])
            for first in range(0, len(x), batch_size):
                rows = slice(first, first + batch_size)
                given = {k: v[rows] if isinstance(v, Tensor) and v.ndim else v for k, v in condition.items()}
                z_t = alpha * x[rows] + sigma * torch.randn_like(x[rows])
                error += (x[rows] - prior.denoise(z_t, t, **given)).square().sum(0)
            table[t] = error / len(x) if per_element else error.mean() / len(x)
    return table
