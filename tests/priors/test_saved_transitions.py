"""Loaded priors: their transition moments equal the stochastic steps of diffusers' schedulers, to 1e-5.

Diffusion pipelines have one of their own; EDM and rectified-flow pipelines step deterministically, and are held against
the first-order SDE step of the multistep schedulers that diffusers has for them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers.schedulers.scheduling_dpmsolver_multistep as dpmsolver
import diffusers.schedulers.scheduling_edm_dpmsolver_multistep as edm_dpmsolver
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
)
from torch import Tensor

from pyro_vipaint.models import DiffusionPrior, load_prior
from pyro_vipaint.models.priors.schedules import time_of
from tests import pipelines
from tests.networks import random_unet
from tests.pipelines import LATENT
from tests.schedulers import Moments, ddpm_moments, in_double, moments

STEPS = 1000
SDE: dict[str, Any] = {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}


def latents() -> Tensor:
    return torch.randn(2, *LATENT)


def assert_equal(prior: DiffusionPrior, z: Tensor, t: float, s: float, expected: Moments, **condition: Any) -> None:
    """Both moments to 1e-5 of their own size, or of that of z_s where it is larger: float32 has seven digits of it."""
    step = prior.transition(z, t, s, **condition)
    scale = max(1.0, float(expected[0].abs().max()))
    for ours, theirs in zip((step.mean, step.stddev), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-5 * scale)
    assert float(step.stddev.min()) > 0


def ddim_pipeline() -> DDIMPipeline:
    return DDIMPipeline(random_unet(in_channels=4, out_channels=4), DDIMScheduler(clip_sample=False))


@pytest.mark.parametrize("make", [ddim_pipeline, pipelines.ldm_pipeline])
@torch.no_grad()
def test_ddim_and_latent_diffusion_pipelines(tmp_path: Path, make: Callable[[], Any]) -> None:
    """DDIM with eta = 1 over fifty steps is the transition over twenty of a thousand."""
    pipeline, z = make(), latents()
    pipeline.save_pretrained(tmp_path)
    prior, scheduler = load_prior(tmp_path), in_double(pipeline.scheduler)
    scheduler.set_timesteps(50)
    for n in (980, 500, 20):
        output = pipeline.unet(z, n).sample.double()
        noises = (torch.full(z.shape, noise, dtype=torch.float64) for noise in (0.0, 1.0))
        mean, shifted = (scheduler.step(output, n, z.double(), eta=1.0, variance_noise=noise) for noise in noises)
        theirs = mean.prev_sample, shifted.prev_sample - mean.prev_sample
        assert_equal(prior, z, (n + 1) / STEPS, (n - 19) / STEPS, theirs)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@torch.no_grad()
def test_stable_diffusion_pipeline(tmp_path: Path, prediction: str) -> None:
    pipeline, z = pipelines.stable_diffusion(prediction_type=prediction), latents()
    pipeline.save_pretrained(tmp_path)
    prior = load_prior(tmp_path)
    condition = prior.encode_prompt("a cat", 2)
    for n in (1, 400, 999):
        theirs = ddpm_moments(pipeline.scheduler, pipeline.unet(z, n, **condition).sample, n, z)
        assert_equal(prior, z, (n + 1) / STEPS, n / STEPS, theirs, **condition)


@pytest.mark.parametrize("index", [0, 4, 7])
@torch.no_grad()
def test_edm_folder(tmp_path: Path, index: int) -> None:
    network = random_unet(in_channels=4, out_channels=4)
    network.save_pretrained(tmp_path / "unet")
    EDMEulerScheduler(sigma_data=0.6).save_pretrained(tmp_path / "scheduler")
    prior, scheduler = load_prior(tmp_path), EDMDPMSolverMultistepScheduler(sigma_data=0.6, **SDE)
    scheduler.set_timesteps(10)
    high, low = (float(scheduler.sigmas[i]) for i in (index, index + 1))
    z, clock = (0.6 + high) * latents(), scheduler.timesteps[index]
    output = network(scheduler.scale_model_input(z, clock), clock).sample

    def step() -> Tensor:
        scheduler.set_timesteps(10)
        return scheduler.step(output, clock, z, return_dict=False)[0]

    t, s = (time_of(prior.schedule, level) for level in (high, low))
    assert_equal(prior, z, t, s, moments(edm_dpmsolver, step))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
@pytest.mark.parametrize("index", [0, 4, 8])
@torch.no_grad()
def test_stable_diffusion_3_pipeline(tmp_path: Path, index: int) -> None:
    """alpha = 1 - sigma, the velocity's prediction z - sigma v, and Eq. 3 between two noise levels of the flow."""
    pipeline = pipelines.stable_diffusion_3(shift=1.0)
    pipeline.save_pretrained(tmp_path)
    prior = load_prior(tmp_path)
    flow: Any = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 1.0}
    scheduler, condition, z = DPMSolverMultistepScheduler(**flow, **SDE), prior.encode_prompt("a cat", 2), latents()
    scheduler.set_timesteps(10)
    high, low = (float(scheduler.sigmas[i]) for i in (index, index + 1))
    clock = scheduler.timesteps[index]
    velocity = pipeline.transformer(z, timestep=torch.full((2,), STEPS * high), **condition).sample

    def step() -> Tensor:
        scheduler.set_timesteps(10)
        return scheduler.step(velocity, clock, z, return_dict=False)[0]

    assert_equal(prior, z, high, low, moments(dpmsolver, step), **condition)
