r"""A diffusion prior: a noise schedule and a denoiser, which define the transitions and the marginals of z.

.. math:: p_\theta(z_s \mid z_t) = q(z_s \mid z_t, z_0 = \hat z_\theta(z_t, t)) \quad (s < t, Eq. 3)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import device_of, moved, tensors_of
from pyro_vipaint.calls import record_call, record_gradients
from pyro_vipaint.errors import InputError, number
from pyro_vipaint.models.priors.classifier_free import is_guided
from pyro_vipaint.models.priors.codecs import Codec, Identity
from pyro_vipaint.models.priors.conditions import check_given
from pyro_vipaint.models.priors.covariance import DataCovariance, check_covariance
from pyro_vipaint.models.priors.denoisers import Denoiser
from pyro_vipaint.models.priors.kernels import Time, bridge
from pyro_vipaint.models.priors.marginal import DEFAULT_STEPS, DiffusionMarginal
from pyro_vipaint.models.priors.schedules import Schedule, as_time, noise_level


@dataclass(frozen=True)
class DiffusionPrior:
    """p(x), given by a pretrained diffusion model.

    Args:
        schedule: ``t -> (alpha_t, sigma_t)``.
        denoiser: ``(z_t, t, **condition) -> E[z_0 given z_t]``; adapters for networks are in
            :mod:`pyro_vipaint.models.priors.denoisers`.
        event_shape: shape of one latent, ``(C, H, W)`` for images.
        codec: between images and latents; pixels by default.
        sigma_data: standard deviation of the clean latents, the natural unit of noise levels.
        class_names: names of the classes, if ``class_labels`` is a condition.
        name: the name of the prior in reports.
        encode_text: prompts -> conditions with one row per prompt, if the prior takes text.
        guided_by: names of the conditions that ``guidance_scale`` can weigh against a null condition.
        conditions: names of all conditions that the denoiser takes, besides ``guidance_scale``; others are refused.
            ``None``: the denoiser judges for itself.
        familiar_error: the error of the denoiser that pictures of its kind stay below
            (:func:`pyro_vipaint.unfamiliar`), where it was measured.
        data_covariance: covariance of the clean latents, where it is known
            (:mod:`pyro_vipaint.models.priors.covariance`).
        source: the name, folder or hub id from which :func:`pyro_vipaint.models.load_prior` makes it again.

    Raises:
        InputError: ``sigma_data`` or ``familiar_error`` is not positive and finite, or
            ``data_covariance`` is for other events.
    """

    schedule: Schedule
    denoiser: Denoiser
    event_shape: torch.Size | tuple[int, ...]
    codec: Codec = field(default_factory=Identity)
    sigma_data: float = 0.5
    class_names: tuple[str, ...] = ()
    name: str = ""
    encode_text: Callable[[list[str]], Mapping[str, Tensor]] | None = None
    guided_by: tuple[str, ...] = ()
    conditions: tuple[str, ...] | None = None
    data_covariance: DataCovariance | None = None
    familiar_error: float | None = None
    source: str = ""

    __repr__, _repr_html_ = compact, as_html

    def __post_init__(self) -> None:
        number("sigma_data", self.sigma_data, positive=True)
        if self.familiar_error is not None:
            number("familiar_error", self.familiar_error, positive=True)
        check_covariance(self.data_covariance, self.event_shape)

    def _facts(self) -> dict[str, Any]:
        """What the prior prints: shapes and names, no weights."""
        said: dict[str, Any] = {"name": self.name or None, "event_shape": tuple(self.event_shape)}
        said |= {"schedule": self.schedule, "denoiser": type(self.denoiser).__name__}
        if size := sum(tensor.numel() for _, tensor in tensors_of(getattr(self.denoiser, "network", None))):
            said["parameters"] = size
        if self.is_latent:
            said["codec"] = type(self.codec).__name__
        said |= {"sigma_data": self.sigma_data, "classes": self.class_names or None}
        said["conditions"] = self.conditions or None
        return {name: value for name, value in said.items() if value is not None}

    @property
    def event_dim(self) -> int:
        """Number of dimensions of one latent."""
        return len(self.event_shape)

    @property
    def image_shape(self) -> torch.Size:
        """Shape of one decoded image, ``(C, H, W)``."""
        return self.codec.image_shape(self.event_shape)

    @property
    def is_latent(self) -> bool:
        """Whether the prior is about the latents of an autoencoder, not pixels."""
        return not isinstance(self.codec, Identity)

    @cached_property
    def marginal_tables(self) -> dict[tuple[float, int, torch.device], tuple[Tensor, ...]]:
        """The tables of :class:`DiffusionMarginal` by time, steps and device, so that a fit makes them once."""
        return {}

    @property
    def noise_range(self) -> tuple[float, float]:
        """The smallest and the largest sigma/alpha of the schedule."""
        return float(noise_level(self.schedule, 0.0)), float(noise_level(self.schedule, 1.0))

    def denoise(self, z_t: Tensor, t: Time, **condition: Any) -> Tensor:
        """E[z_0 given z_t], of the shape of ``z_t``: one network call, on twice the images with guidance."""
        return self._called(self.denoiser, z_t, t, condition)

    def _called(self, function: Callable[..., Any], z_t: Tensor, t: Time, condition: Mapping[str, Any]) -> Any:
        """The output of a ``function`` that calls the network once: checked, and counted with its gradients."""
        check_given(self, condition)
        images = math.prod(z_t.shape[: z_t.ndim - self.event_dim])
        nfe = 2 * images if is_guided(condition) else images
        record_call(nfe)
        output = function(z_t, as_time(t), **condition)
        record_gradients(output if isinstance(output, Tensor) else output[0], nfe)
        return output

    def transition(self, z_t: Tensor, t: Time, s: Time, **condition: Any) -> Normal:
        """p_theta(z_s given z_t) for s < t, a Normal of the shape of ``z_t``: one network call."""
        return bridge(self.schedule, z_t, self.denoise(z_t, t, **condition), t, s)

    def marginal(self, t: float, steps: int = DEFAULT_STEPS, **condition: Any) -> TorchDistribution:
        """p(z_t) as a Pyro distribution: N(0, sigma_1^2) at t = 1, :class:`DiffusionMarginal` below it."""
        if t == 1:
            device = device_of(self) or torch.device("cpu")
            sigma = moved(self.schedule(as_time(t))[1], device, torch.float32)
            zero = torch.zeros(*self.event_shape, device=device)
            return Normal(zero, sigma.expand(zero.shape)).to_event(self.event_dim)
        return DiffusionMarginal(self, t, (), steps, **condition)

    def encode(self, x: Tensor) -> Tensor:
        """An image as a latent."""
        return self.codec.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        """A latent as an image."""
        return self.codec.decode(z)

    def encode_prompt(self, prompt: str | Sequence[str], num_images: int = 1) -> dict[str, Tensor]:
        """The conditions for one prompt, or one prompt per image: tensors whose first dimension is ``num_images``.

        Raises:
            InputError: the prior takes no text, or the prompts are not one or ``num_images`` strings.
        """
        if self.encode_text is None:
            raise InputError(f"The prior {self.name} takes no text: omit the prompt.")
        prompts: list[Any] = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
        if len(prompts) not in {1, num_images} or not all(isinstance(text, str) for text in prompts):
            raise InputError(f"The prompt must be a text, or one per image ({num_images}), not {prompt!r}.")
        encoded = self.encode_text(prompts)
        return {name: value.expand(num_images, *value.shape[1:]) for name, value in encoded.items()}
