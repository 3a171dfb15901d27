"""The Gaussian truth of tests/baseline_truth.py seen through an orthogonal codec: a latent prior, exact all the same.

Isotropic noise is the same in every rotation of the pixels, so the exact denoiser of the latents is that of the
pixels, rotated, and the posterior of the image is unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from pyro_vipaint.baselines.base import pure_noise, time_grid
from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.models.priors.kernels import Time, ddim
from pyro_vipaint.models.priors.schedules import Schedule
from tests.baseline_truth import SIDE, GaussianTruth, gaussian_truth


@dataclass(frozen=True, eq=False)
class Rotation:
    """A codec that is linear and orthogonal: latent = ``matrix`` · pixels, on flattened images."""

    matrix: Tensor

    def encode(self, x: Tensor) -> Tensor:
        return (x.flatten(-3) @ self.matrix.T).reshape(x.shape)

    def decode(self, z: Tensor) -> Tensor:
        return (z.flatten(-3) @ self.matrix).reshape(z.shape)

    def image_shape(self, event_shape: Sequence[int]) -> torch.Size:
        return torch.Size(event_shape)


@dataclass(frozen=True)
class _Rotated:
    """The denoiser of a pixel prior for the latents of ``codec``."""

    pixels: DiffusionPrior
    codec: Rotation

    def __call__(self, z_t: Tensor, t: Time, **condition: object) -> Tensor:
        return self.codec.encode(self.pixels.denoiser(self.codec.decode(z_t), t))  # pyright: ignore


def latent_truth(schedule: Schedule | None = None) -> GaussianTruth:
    """:func:`gaussian_truth` with its prior moved to latents."""
    truth = gaussian_truth(schedule)
    noise = torch.randn(SIDE**2, SIDE**2, generator=torch.Generator().manual_seed(7))
    codec = Rotation(torch.linalg.qr(noise)[0])
    return replace(truth, prior=replace(truth.prior, denoiser=_Rotated(truth.prior, codec), codec=codec))


def unconditional_chain(prior: DiffusionPrior, y: Tensor, samples: int, steps: int, eta: float = 0.0) -> Tensor:
    """What the baselines' chain is without an observation: DDIM from the same noise, the last prediction decoded."""
    z, times = pure_noise(prior, samples, y), time_grid(steps)
    for t, s in pairwise(times[:-1]):
        z = ddim(prior.schedule, z, prior.denoise(z, t), t, s, eta)
    return prior.decode(prior.denoise(z, times[-2])).clamp(-1, 1)
