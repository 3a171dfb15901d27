"""Transitions of a prior against the steps of diffusers' schedulers, on the same random networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, UNet2DModel
from torch import Tensor

from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.models.priors.denoisers import (
    EDMDenoiser,
    EpsilonDenoiser,
    FlowDenoiser,
    NetworkDenoiser,
    SampleDenoiser,
    VDenoiser,
    integer_timestep,
)
from pyro_vipaint.models.priors.schedules import (
    EDM,
    Schedule,
    TableVP,
)
from tests import networks
from tests.every_prior import ONE_OF_EACH
from tests.schedulers import ddpm_moments, in_double

STEPS = 1000
EVENT = (3, 8, 8)
ADAPTERS: dict[str, type[NetworkDenoiser]] = {
    "epsilon": EpsilonDenoiser,
    "v_prediction": VDenoiser,
    "sample": SampleDenoiser,
}

each_prediction = pytest.mark.parametrize("prediction", list(ADAPTERS))


def random_unet() -> UNet2DModel:
    """The shared network on three channels with attention, in double precision."""
    network = networks.random_unet(
        in_channels=3,
        out_channels=3,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        add_attention=True,
    )
    return network.double().requires_grad_(False)


def ddpm(prediction: Any) -> DDPMScheduler:
    """Ho et al.'s chain with the variance of Eq. 3; its table in float64, against rounding."""
    return in_double(DDPMScheduler(STEPS, prediction_type=prediction, variance_type="fixed_small", clip_sample=False))


def ddpm_prior(network: UNet2DModel, scheduler: DDPMScheduler) -> DiffusionPrior:
    """The same network and table as a prior."""
    schedule = TableVP(scheduler.alphas_cumprod.tolist())
    adapter = ADAPTERS[scheduler.config["prediction_type"]]
    return DiffusionPrior(schedule, adapter(network, schedule, integer_timestep(STEPS)), EVENT)


def assert_same_step(scheduler: DDPMScheduler, n: int, previous: int) -> None:
    """The transition from step ``n`` to ``previous`` has the mean and the deviation of ``scheduler.step``."""
    network = random_unet()
    prior = ddpm_prior(network, scheduler)
    z = torch.randn(2, *EVENT, dtype=torch.float64)
    output = network(z, n).sample
    assert output.std() > 0.1
    mean, deviation = ddpm_moments(scheduler, output, n, z)
    step = prior.transition(z, (n + 1) / STEPS, (previous + 1) / STEPS)
    torch.testing.assert_close(step.mean, mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(step.stddev, deviation, rtol=1e-8, atol=1e-10)


@each_prediction
def test_steps_equal_ddpm(prediction: str) -> None:
    """Eq. 3 is DDPMScheduler.step, from n to n - 1 and over a stride of twenty, the first and last included."""
    for n in (0, 1, 250, 998, 999):
        assert_same_step(ddpm(prediction), n, n - 1)
    scheduler = ddpm(prediction)
    scheduler.set_timesteps(50)
    steps = [*scheduler.timesteps.tolist(), -1]
    for index in (0, 25, 48, 49):
        assert_same_step(scheduler, steps[index], steps[index + 1])


@pytest.mark.parametrize("sigma_data", [0.5, 0.66])
def test_edm_denoiser_equals_the_preconditioning_of_diffusers(sigma_data: float) -> None:
    """c_skip z + c_out F(c_in z, ln(sigma)/4) is EDMEulerScheduler's precondition_inputs, _noise and _outputs."""
    network, scheduler = random_unet(), EDMEulerScheduler(sigma_data=sigma_data)
    scheduler.set_timesteps(10)
    prior = DiffusionPrior(EDM(), EDMDenoiser(network, EDM(), sigma_data=sigma_data), EVENT)
    for index in (0, 4, 9):
        sigma, t = scheduler.sigmas[index].double(), float(torch.linspace(1, 0, 10, dtype=torch.float64)[index])
        z = torch.randn(2, *EVENT, dtype=torch.float64) * (0.5 + sigma)
        output = network(scheduler.precondition_inputs(z, sigma), scheduler.precondition_noise(sigma)).sample
        expected = scheduler.precondition_outputs(z, output, sigma)
        torch.testing.assert_close(prior.denoise(z, t), expected, rtol=1e-5, atol=1e-5)


def clean(z: Tensor, t: Tensor) -> Tensor:
    """An arbitrary smooth prediction of the clean image that depends on z, on time and on the neighbours."""
    return torch.tanh(z + 0.5 * z.roll(1, -1) - t.reshape(-1, 1, 1, 1))


def predicting(schedule: Schedule, kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The network that predicts ``kind`` for the clean image :func:`clean`, by the definitions of ε, v and velocity."""

    def network(z: Tensor, t: Tensor) -> Tensor:
        x = clean(z, t)
        alpha, sigma = (v.reshape(-1, 1, 1, 1) for v in schedule(t))
        epsilon = (z - alpha * x) / sigma
        return {"x": x, "epsilon": epsilon, "v": alpha * epsilon - sigma * x, "velocity": epsilon - x}[kind]

    return network


@pytest.mark.parametrize(
    ("kind", "adapter"),
    [("x", SampleDenoiser), ("epsilon", EpsilonDenoiser), ("v", VDenoiser), ("velocity", FlowDenoiser)],
)
def test_one_network_in_every_parametrisation(kind: str, adapter: type[NetworkDenoiser]) -> None:
    """x_0, ε, v and velocity of one prediction give the same denoised image, on schedules of every kind."""
    for schedule in ONE_OF_EACH:
        t = torch.tensor([0.05, 0.5, 0.9], dtype=torch.float64)
        z = torch.randn(3, *EVENT, dtype=torch.float64)
        denoised = adapter(predicting(schedule, kind), schedule)(z, t)
        torch.testing.assert_close(denoised, clean(z, t), rtol=1e-9, atol=1e-9)
