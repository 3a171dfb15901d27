r"""Transitions whose variance the network has learnt (Nichol & Dhariwal 2021, Eq. 15).

The variance of the bridge, v = sigma_{t|s}^2 sigma_s^2 / sigma_t^2, is right where the clean image is known; that of
the forward step, sigma_{t|s}^2, where nothing is. The network places the log variance between them, by element:

.. math:: \log \Sigma = f \log \sigma^2_{t|s} + (1 - f) \log v

The networks of guided-diffusion predict f beside the noise. Times further apart than the training's steps have these
bounds of their own, as in the repository's respaced chains.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor

from pyro_vipaint.errors import InputError, instance
from pyro_vipaint.models.priors.denoisers import LearnedRangeDenoiser
from pyro_vipaint.models.priors.kernels import Time, bridge_coefficients, expand_event, relative
from pyro_vipaint.models.priors.marginal import DEFAULT_STEPS
from pyro_vipaint.models.priors.prior import DiffusionPrior


class LearnedVariancePrior(DiffusionPrior):
    """A prior whose transitions have the variance that its network has learnt; all else is that of ``prior``.

    ``LearnedVariancePrior(load_prior(folder))`` offers it for folders that ``vipaint convert`` made of checkpoints of
    guided-diffusion. Without the wrapper transitions have the variance of Eq. 3.

    Args:
        prior: whose denoiser is a :class:`LearnedRangeDenoiser`.

    Raises:
        InputError: its network predicts no variance.
    """

    prior: DiffusionPrior

    def __init__(self, prior: DiffusionPrior) -> None:
        instance("prior", prior, isinstance(prior, DiffusionPrior), "a DiffusionPrior")
        if not isinstance(prior.denoiser, LearnedRangeDenoiser):
            raise InputError(f"The network of the prior {prior.name} predicts no variance: use the prior as it is.")
        super().__init__(*(getattr(prior, field.name) for field in fields(DiffusionPrior)))
        object.__setattr__(self, "prior", prior)

    def transition(self, z_t: Tensor, t: Time, s: Time, **condition: Any) -> Normal:
        """p(z_s given z_t) for s < t, a Normal of the shape of ``z_t``: one network call."""
        x_hat, fraction = self._called(self.prior.denoiser.with_fraction, z_t, t, condition)  # pyright: ignore
        a, b, v = (expand_event(value, z_t) for value in bridge_coefficients(self.schedule, t, s))
        forward = expand_event(relative(self.schedule, s, t)[1], z_t)
        smallest = torch.finfo(z_t.dtype).tiny
        low, high = (value.clamp(min=smallest).log() for value in (v, forward))
        std = (0.5 * torch.lerp(low.expand_as(z_t), high.expand_as(z_t), fraction)).exp()
        return Normal(a * z_t + b * x_hat, std, validate_args=False)

    def marginal(self, t: float, steps: int = DEFAULT_STEPS, **condition: Any) -> TorchDistribution:
        """p(z_t) of the wrapped prior."""
        return self.prior.marginal(t, steps, **condition)
