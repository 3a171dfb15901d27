"""Transitions with the variance that a network of guided-diffusion has learnt."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.calls import count_calls
from pyro_vipaint.errors import InputError
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, LearnedVariancePrior, from_diffusers
from pyro_vipaint.models.priors.kernels import bridge, relative
from tests.networks import random_unet


def prior_of(variance_type: Any = "learned_range", channels: int = 2, **settings: int) -> DiffusionPrior:
    scheduler = DDPMScheduler(variance_type=variance_type)
    return from_diffusers(SimpleNamespace(unet=random_unet(out_channels=channels, **settings), scheduler=scheduler))


def test_consecutive_steps_have_the_variance_of_diffusers() -> None:
    """``DDPMScheduler`` interpolates the log variances of Eq. 15 on its own."""
    prior, scheduler = prior_of(), DDPMScheduler(variance_type="learned_range")
    z = torch.randn(4, 1, 8, 8)
    for n in (1, 10, 500, 998):
        t, s = (n + 1) / 1000, n / 1000
        output: Tensor = prior.denoiser.network(z, torch.full((4,), float(n)))  # type: ignore[attr-defined]
        log_variance = scheduler._get_variance(n, predicted_variance=output[:, 1:])  # pyright: ignore
        found = LearnedVariancePrior(prior).transition(z, t, s)
        torch.testing.assert_close(2 * found.scale.log(), log_variance, atol=2e-3, rtol=1e-4)
        torch.testing.assert_close(found.mean, prior.transition(z, t, s).mean)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_between_the_bridge_and_the_forward_step(fraction: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a coarse step, the geometric mean of both variances; one call of the network."""
    prior, z = prior_of(), torch.randn(3, 2, 1, 8, 8)
    kind: Any = type(prior.denoiser)
    real = kind.with_fraction
    monkeypatch.setattr(
        kind, "with_fraction", lambda *given, **named: (real(*given, **named)[0], torch.full_like(z, fraction))
    )
    with count_calls() as count:
        found = LearnedVariancePrior(prior).transition(z, 0.6, 0.3)
    assert (count.calls, count.nfe) == (1, 6)
    plain, forward = bridge(prior.schedule, z, prior.denoise(z, 0.6), 0.6, 0.3), relative(prior.schedule, 0.3, 0.6)[1]
    wanted = plain.scale.square() ** (1 - fraction) * forward.float() ** fraction
    torch.testing.assert_close(found.scale.square(), wanted)
    torch.testing.assert_close(found.mean, plain.mean)


def test_classes_and_leading_dimensions() -> None:
    """Each element has what it has on its own."""
    prior = LearnedVariancePrior(prior_of(num_class_embeds=3))
    z, labels = torch.randn(2, 3, 1, 8, 8), torch.tensor([0, 2, 1])
    found = prior.transition(z, 0.5, 0.4, class_labels=labels)
    for i in range(3):
        alone = prior.transition(z[:1, i : i + 1], 0.5, 0.4, class_labels=labels[i : i + 1])
        torch.testing.assert_close(found.scale[:1, i : i + 1], alone.scale)


def test_a_guide_is_fitted_on_it() -> None:
    """Model and guide take it as any prior."""
    prior = LearnedVariancePrior(prior_of())
    mask = (torch.arange(8) < 4).float().expand(1, 8, 8)
    y = mask * torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    likelihood = vp.Gaussian(vp.Inpainting(mask), sigma=0.1)
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, levels=3))
    guide = HierarchicalGuide(model, init=vp.initial_latent(prior, likelihood, y))
    fit = vp.fit(model, guide, y, vp.BetaELBO(), steps=2, seed=0)
    assert all(map(math.isfinite, fit.losses))
    assert vp.sample(guide, y, num_samples=2).isfinite().all()


def test_other_networks_are_refused() -> None:
    with pytest.raises(InputError, match="predicts no variance"):
        LearnedVariancePrior(prior_of("fixed_small", 1))
    with pytest.raises(InputError, match="or twice as many"):
        prior_of("fixed_small", 2)
    with pytest.raises(InputError, match="a DiffusionPrior"):
        LearnedVariancePrior(3)  # type: ignore[arg-type]
