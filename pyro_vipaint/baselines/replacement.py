r"""The step that Blended and RePaint share: what is known of z_t is pasted into it.

.. math:: z_t \leftarrow m \odot (\alpha_t x^\star + \sigma_t \epsilon) + (1 - m) \odot z_t,
          \qquad \epsilon \sim N(0, I)

with :math:`x^\star = y` for pixel priors. For a latent prior the hole is filled before y is encoded, with the decoded
prediction of the chain's first call, made from noise before anything is pasted:
:math:`x^\star = E(m \odot y + (1 - m) \odot D(\hat z))`. Next to the hole the encoder then sees what the prior expects
there instead of grey. A latent pixel is known only where all image pixels that it covers are observed.

These methods do not know the noise of y: they paste y as if it were the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from pyro_vipaint.errors import InputError
from pyro_vipaint.models.measurements.likelihoods import check_one_noise
from pyro_vipaint.models.measurements.operators import apply, observation_mask
from pyro_vipaint.models.priors.kernels import expand_event
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import Schedule, as_time


@dataclass(frozen=True, eq=False)
class Known:
    """The known part of a clean latent.

    Attributes:
        value: x*, broadcasts against latents ``(S, N, *event)``; finite everywhere.
        mask: True where it is known, broadcasts likewise.
    """

    value: Tensor
    mask: Tensor

    def paste(self, z: Tensor) -> Tensor:
        """The clean latent ``z`` with what is known in its place."""
        return torch.where(self.mask, self.value, z)

    def paste_noised(self, schedule: Schedule, z: Tensor, t: float, noise: Tensor) -> Tensor:
        """``z`` at time ``t`` with what is known, noised by ``noise`` (standard normal, of the shape of ``z``)."""
        alpha, sigma = (expand_event(value, z) for value in schedule(as_time(t, z.device)))
        return torch.where(self.mask, alpha * self.value + sigma * noise, z)


OBSERVED = ("observed",)  # what these methods need of a likelihood, besides its operator and residual


def observed_pixels(likelihood: Any, y: Tensor, image_shape: torch.Size) -> Tensor:
    """True where an image is observed, ``(N, *image)``.

    Raises:
        InputError: the operator does anything else than hide pixels, or the noise is a map.
    """
    check_one_noise("This method", likelihood)
    return masked_pixels(likelihood, y, image_shape)


def masked_pixels(likelihood: Any, y: Tensor, image_shape: torch.Size) -> Tensor:
    """:func:`observed_pixels` for a method that can follow a map of the noise."""
    operator = likelihood.operator
    if observation_mask(operator) is not None and y.shape[1:] == image_shape:
        observed = likelihood.observed(y)
        probe = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)).to(y)
        if torch.allclose(apply(operator, probe), probe * observed, atol=1e-5):
            return observed
    raise InputError(f"This method needs an inpainting mask, not {type(operator).__name__}.")


def known_part(prior: DiffusionPrior, likelihood: Any, y: Tensor, observed: Tensor, z_hat: Tensor) -> Known:
    """The clean latent as far as ``y`` shows it; ``z_hat``, a prediction of it, fills the hole."""
    image = likelihood.residual(torch.zeros_like(y), y)
    if not prior.is_latent:
        return Known(image, observed)
    filled = torch.where(observed, image, prior.decode(z_hat).clamp(-1, 1))
    return Known(prior.encode(filled), latent_mask(observed, prior.event_shape))


def latent_mask(observed: Tensor, event_shape: tuple[int, ...] | torch.Size) -> Tensor:
    """``observed`` pixels ``(N, C, H, W)`` on the grid of latents: ``(N, 1, h, w)``, True where all below are."""
    hidden = (~observed).any(-3, keepdim=True).float()
    return adaptive_max_pool2d(hidden, tuple(event_shape[-2:])) == 0
