"""Small priors, pictures and problems to be abused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, GaussianPrior, from_diffusers
from tests.networks import random_unet

SHAPE = (1, 8, 8)
NAN, INF = float("nan"), float("inf")
PLAIN = replace(GaussianPrior.diagonal(torch.zeros(SHAPE), torch.full(SHAPE, 0.5)).diffusion(), name="plain")
EXACT = GaussianPrior.diagonal(torch.zeros(SHAPE), torch.full(SHAPE, 0.5))
LABELLED = replace(PLAIN, class_names=("dark", "bright"), name="labelled")
IMAGE = torch.linspace(-0.8, 0.8, 64).reshape(SHAPE)
MASK = (torch.arange(64).reshape(SHAPE) % 8 < 4).float()
PAIR = torch.stack([IMAGE, -IMAGE])
ONE = IMAGE.unsqueeze(0)
OPERATOR = vp.Inpainting(MASK)
LIKELIHOOD = vp.Gaussian(OPERATOR, sigma=0.1)
KEYPOINTS = vp.keypoints(PLAIN, noise_levels=[1.5, 0.5])
QUICK: dict[str, Any] = {"levels": 2, "num_samples": 2, "steps": 2, "refine_steps": 2, "device": "cpu", "seed": 0}


def spoilt(value: Any, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros whose first element, which the mask observes, is ``value``."""
    x = torch.zeros(shape, dtype=dtype)
    x.view(-1)[0] = value
    return x


@dataclass(frozen=True)
class Halved:
    """A codec whose latents are images of half the contrast: an affine stand-in for an autoencoder."""

    def encode(self, x: Tensor) -> Tensor:
        return x / 2

    def decode(self, z: Tensor) -> Tensor:
        return 2 * z

    def image_shape(self, event_shape: Any) -> torch.Size:
        return torch.Size(event_shape)


LATENT = replace(PLAIN, codec=Halved(), name="latent")


@cache
def network_prior(**settings: Any) -> DiffusionPrior:
    """A random network of four classes, or with these settings."""
    unet = random_unet(**{"num_class_embeds": 4, **settings})
    return from_diffusers(SimpleNamespace(unet=unet, scheduler=DDPMScheduler()))


def model(prior: DiffusionPrior = EXACT, likelihood: Any = LIKELIHOOD, **condition: Any) -> DiffusionModel:
    """Two levels on a small prior."""
    return DiffusionModel(prior, likelihood, KEYPOINTS, **condition)


MODEL = model()


def guide(of: DiffusionModel = MODEL, **settings: Any) -> HierarchicalGuide:
    """A fresh guide for one image."""
    return HierarchicalGuide(of, torch.zeros(1, *SHAPE), **settings)


def inpaint(image: Any = IMAGE, mask: Any = MASK, prior: Any = PLAIN, **named: Any) -> Any:
    """A quick ``vp.inpaint``."""
    return vp.inpaint(image, mask, prior, **{**QUICK, **named})


def restore(y: Any = ONE * MASK, operator: Any = OPERATOR, prior: Any = PLAIN, **named: Any) -> Any:
    """A quick ``vp.restore``."""
    return vp.restore(y, operator, prior, **{**QUICK, **named})


def fit(of: Any = MODEL, by: Any = None, y: Any = ONE * MASK, elbo: Any = None, steps: Any = 2, **named: Any) -> Any:
    """Two steps of ``vp.fit``."""
    return vp.fit(of, guide() if by is None else by, y, vp.BetaELBO() if elbo is None else elbo, steps, **named)


def refine(z: Any = None, y: Any = ONE * MASK, steps: Any = 2, of: Any = MODEL, **named: Any) -> Tensor:
    """Two steps of ``vp.refine``."""
    return vp.refine(of, torch.zeros(2, 1, *SHAPE) if z is None else z, y, steps, **named)
