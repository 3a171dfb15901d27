r"""A prior: smooth grey pictures of 32×32 that repeat at their borders, a Gaussian field of power S over frequencies.

.. math:: E[x \mid z_t] = F^{-1} \frac{\alpha_t S}{\alpha_t^2 S + \sigma_t^2} F z_t

A network would be loaded in :func:`waves`, from safetensors, and wrapped in ``EpsilonDenoiser`` or one of its siblings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.models import EDM, DiffusionPrior, Schedule

SIDE = 32
LENGTH = 4.0  # pixels over which the field varies
STD = 0.5


@dataclass(frozen=True, eq=False)
class Smooth:
    """The denoiser of the field."""

    schedule: Schedule
    power: Tensor  # S, the variance of each frequency

    def __call__(self, z_t: Tensor, t: Tensor, **condition: Any) -> Tensor:
        alpha, sigma = (value.to(z_t)[..., None, None, None] for value in self.schedule(torch.as_tensor(t)))
        gain = alpha * self.power / (alpha**2 * self.power + sigma**2)
        return torch.fft.ifft2(gain * torch.fft.fft2(z_t)).real


def waves(device: torch.device) -> DiffusionPrior:
    """The prior, on the device of the run."""
    frequency = torch.fft.fftfreq(SIDE)
    power = torch.exp(-2 * (torch.pi * LENGTH) ** 2 * (frequency[:, None] ** 2 + frequency**2)) + 1e-3
    power = STD**2 * power / power.mean()
    return DiffusionPrior(EDM(), Smooth(EDM(), power.to(device)), (1, SIDE, SIDE), sigma_data=STD)
