"""A result of given samples, and a small fit of images."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, GaussianPrior
from pyro_vipaint.settings import Settings

SHAPE = (1, 6, 8)
MASK = (torch.arange(48).reshape(1, 1, 6, 8) % 3 > 0).float()


@cache
def problem(levels: tuple[float, ...] = (3.0, 1.0, 0.3)) -> tuple[DiffusionModel, Tensor]:
    """Two images of independent pixels, of which two thirds are observed."""
    prior = GaussianPrior.diagonal(torch.full(SHAPE, 0.2), torch.full(SHAPE, 0.3))
    y = MASK * torch.linspace(-0.9, 0.9, 96).reshape(2, *SHAPE)
    model = DiffusionModel(prior, vp.Gaussian(vp.Inpainting(MASK), sigma=0.1), vp.keypoints(prior, noise_levels=levels))
    return model, y


def fitted(steps: int = 9, average: int = 0, keep: int = 4, resume: vp.Fit | None = None) -> vp.Fit:
    """A fit on it."""
    model, y = problem()
    guide, seed = HierarchicalGuide(model, y), 0 if resume is None else None
    return vp.fit(model, guide, y, vp.BetaELBO(), steps, average=average, keep=keep, seed=seed, resume=resume)


def result_of(samples: Tensor, y: Tensor | None = None, mask: Tensor = MASK) -> vp.Result:
    """The result that has these samples, ``(S, N, C, H, W)``."""
    y = torch.zeros_like(samples[0]) if y is None else y
    fit = vp.Fit([1.0, 0.5], {}, 2, 4, 0.1)
    return vp.Result(samples, y, vp.Inpainting(mask), fit, Settings((3.0, 1.0)), 2, 4, 0.1, y)
