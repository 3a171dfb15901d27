r"""Denoisers ``(z_t, t, **condition) -> E[z_0 | z_t]``: adapters for the predictions of networks.

With z_t = alpha_t x + sigma_t eps:

=========  =======================================  ============================================
network    predicts                                 clean prediction
=========  =======================================  ============================================
epsilon    eps                                      (z_t - sigma_t eps) / alpha_t
v          alpha_t eps - sigma_t x                  (alpha_t z_t - sigma_t v) / (alpha_t^2 + sigma_t^2)
x_0        x                                        itself
EDM        F of Karras et al. 2022, Eq. 7           c_skip z + c_out F(c_in z, ln(sigma)/4), in units of z_t / alpha_t
flow       eps - x                                  (z_t - sigma_t v) / (alpha_t + sigma_t)
=========  =======================================  ============================================

A denoiser takes any number of leading dimensions. ``t`` is a scalar or has the leading shape. A condition is a tensor
whose first dimension is the batch of images (broadcast over samples), or a scalar tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import on_device
from pyro_vipaint.errors import InputError, whole
from pyro_vipaint.models.priors.kernels import expand_event
from pyro_vipaint.models.priors.schedules import Schedule, as_time


class Denoiser(Protocol):
    """The protocol of the denoiser of a :class:`DiffusionPrior`."""

    def __call__(self, z_t: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """E[z_0 given z_t], of the shape of ``z_t``."""
        ...


def flatten_condition(value: Any, leading: torch.Size, device: torch.device | None = None) -> Any:
    """A condition repeated over the leading shape (sample × batch) and flattened to one batch dimension.

    A tensor ``(N, …)``, or ``(1, …)`` for all images, is repeated over samples, a scalar tensor over samples and
    images, all of it on ``device`` if that is given. Other values are returned unchanged.

    Raises:
        InputError: the first dimension is neither 1 nor N.
    """
    if not isinstance(value, Tensor):
        return value
    leading, value = leading or torch.Size([1]), on_device(value, device or value.device)
    if value.ndim == 0:
        return value.expand(leading).reshape(-1)
    if len(value) not in (1, leading[-1]):
        raise InputError(f"a condition for {len(value)} images does not go with latents for {leading[-1]}.")
    return value.expand(*leading, *value.shape[1:]).flatten(0, len(leading) - 1)


@dataclass(frozen=True)
class NetworkDenoiser(ABC):
    """The base of denoisers that call a network: it flattens leading dimensions to one and restores them.

    Args:
        network: called as ``network(z, timestep, **condition)`` with one batch dimension; may return a tensor or an
            object with ``.sample``, as the models of diffusers do. An ``nn.Module`` is frozen and put into
            evaluation mode.
        schedule: the noise schedule that the network was trained with.
        timestep: maps the time ``t`` in [0, 1] to the timestep of the network; the identity by default.
        event_dim: number of dimensions of one latent, 3 for images.
    """

    network: Callable[..., Any]
    schedule: Schedule
    timestep: Callable[[Tensor], Tensor] | None = None
    event_dim: int = 3

    __repr__, _repr_html_ = compact, as_html

    def __post_init__(self) -> None:
        if isinstance(self.network, nn.Module):
            self.network.requires_grad_(False).eval()

    def __call__(self, z_t: Tensor, t: Tensor | float, **condition: Any) -> Tensor:
        return self._denoise(*self._flat(z_t, t, condition)).reshape(z_t.shape)

    def _flat(self, z_t: Tensor, t: Tensor | float, condition: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Latents, times and conditions with one batch dimension."""
        leading = z_t.shape[: z_t.ndim - self.event_dim]
        flat = z_t.reshape(-1, *z_t.shape[len(leading) :])
        times = as_time(t, flat.device).expand(leading).reshape(-1)
        return flat, times, {name: flatten_condition(value, leading, flat.device) for name, value in condition.items()}

    @abstractmethod
    def _denoise(self, z_t: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        """The clean prediction of a flat batch ``(B, *event)`` at times ``(B,)``."""

    def _predict(self, z: Tensor, timestep: Tensor, condition: dict[str, Any]) -> Tensor:
        """The output of the network: one pass. Timesteps are at least float32: bfloat16 has only 256 whole numbers."""
        output = self.network(z, timestep.to(torch.promote_types(z.dtype, torch.float32)), **condition)
        return output if isinstance(output, Tensor) else output.sample

    def _call(self, z_t: Tensor, t: Tensor, condition: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """``(prediction, alpha_t, sigma_t)``, the latter two shaped to multiply ``z_t``."""
        alpha, sigma = self.schedule(t)
        clock = t if self.timestep is None else self.timestep(t)
        return self._predict(z_t, clock, condition), expand_event(alpha, z_t), expand_event(sigma, z_t)


class EpsilonDenoiser(NetworkDenoiser):
    """For networks that predict the noise (Eq. 3)."""

    def _denoise(self, z_t: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        epsilon, alpha, sigma = self._call(z_t, t, condition)
        return (z_t - sigma * epsilon) / alpha


class LearnedRangeDenoiser(EpsilonDenoiser):
    r"""For networks that predict the noise and a variance (Nichol & Dhariwal 2021): 2 C channels for C of ``z_t``.

    With w the second half of the channels, f = (w + 1) / 2 places the log variance of a transition between its bounds
    (Eq. 15 there); :class:`pyro_vipaint.models.LearnedVariancePrior` uses it.
    """

    def _denoise(self, z_t: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        output, alpha, sigma = self._call(z_t, t, condition)
        return (z_t - sigma * output[:, : z_t.shape[1]]) / alpha

    def with_fraction(self, z_t: Tensor, t: Tensor | float, **condition: Any) -> tuple[Tensor, Tensor]:
        """E[z_0 given z_t], and f, both of the shape of ``z_t``: one network call."""
        flat, times, given = self._flat(z_t, t, condition)
        output, alpha, sigma = self._call(flat, times, given)
        epsilon, variance = output.chunk(2, dim=1)
        return ((flat - sigma * epsilon) / alpha).reshape(z_t.shape), ((variance + 1) / 2).reshape(z_t.shape)


class VDenoiser(NetworkDenoiser):
    """For networks that predict v = alpha eps - sigma x (Salimans & Ho 2022)."""

    def _denoise(self, z_t: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        v, alpha, sigma = self._call(z_t, t, condition)
        return (alpha * z_t - sigma * v) / (alpha**2 + sigma**2)


class SampleDenoiser(NetworkDenoiser):
    """For networks that predict the clean x_0."""

    def _denoise(self, z_t: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        return self._call(z_t, t, condition)[0]


class FlowDenoiser(NetworkDenoiser):
    """For networks that predict the velocity eps - x of a rectified flow (Liu et al. 2023)."""

    def _denoise(self, z_t: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        velocity, alpha, sigma = self._call(z_t, t, condition)
        return (z_t - sigma * velocity) / (alpha + sigma)


@dataclass(frozen=True)
class EDMDenoiser(NetworkDenoiser):
    """For networks with the preconditioning of Karras et al. 2022 (Eq. 7, Table 1), on any schedule.

    ``sigma_data`` is the standard deviation of the clean data; the default 0.5 is that of the paper. ``timestep`` has
    no effect: the network is called at ln(sigma / alpha) / 4.
    """

    sigma_data: float = 0.5

    __repr__, _repr_html_ = compact, as_html

    def _denoise(self, z_t: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        alpha, sigma = self.schedule(t)
        level = sigma / alpha
        norm = (level**2 + self.sigma_data**2).sqrt()
        c_in = expand_event(1 / (alpha * norm), z_t)
        c_skip = expand_event(self.sigma_data**2 / (alpha * norm**2), z_t)
        c_out = expand_event(level * self.sigma_data / norm, z_t)
        return c_skip * z_t + c_out * self._predict(c_in * z_t, level.log() / 4, condition)


def integer_timestep(num_steps: int) -> Callable[[Tensor], Tensor]:
    """The timestep of a network trained on N = ``num_steps`` integer timesteps: t = (n + 1) / N, so n = N t - 1."""
    steps = whole("num_steps", num_steps)
    return lambda t: (t * steps - 1).clamp(min=0)
