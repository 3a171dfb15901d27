"""Denoisers around their networks: conditions, timesteps, frozen weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_vipaint.errors import InputError
from pyro_vipaint.models.priors.denoisers import (
    EpsilonDenoiser,
    SampleDenoiser,
    flatten_condition,
    integer_timestep,
)
from pyro_vipaint.models.priors.schedules import LinearVP
from tests.every_prior import SmallNetwork

EVENT = (2, 4, 4)


@dataclass
class Recorder:
    """A network that predicts zero and records its calls."""

    calls: list[tuple[Tensor, Tensor, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, z: Tensor, timestep: Tensor, **condition: Any) -> Tensor:
        self.calls.append((z, timestep, condition))
        return torch.zeros_like(z)


def latents(*leading: int) -> Tensor:
    """Random latents in float64."""
    return torch.randn(*leading, *EVENT, dtype=torch.float64)


def test_event_of_another_dimension() -> None:
    """With event_dim=1 a vector is one latent, and all dimensions in front of it are batch."""
    schedule = LinearVP()
    denoiser = SampleDenoiser(lambda z, t: z.cumsum(-1) * t.unsqueeze(-1), schedule, event_dim=1)
    z = torch.randn(3, 2, 5, dtype=torch.float64)
    torch.testing.assert_close(denoiser(z, 0.25), 0.25 * z.cumsum(-1))


def test_a_scalar_condition_holds_for_all() -> None:
    """A scalar tensor becomes one entry per image; values that are not tensors are passed on unchanged."""
    recorder = Recorder()
    SampleDenoiser(recorder, LinearVP())(latents(3, 2), 0.4, class_labels=torch.tensor(7), guidance="strong", none=None)
    _, _, condition = recorder.calls[0]
    assert condition["class_labels"].tolist() == [7] * 6
    assert condition["guidance"] == "strong"
    assert condition["none"] is None


def test_as_many_samples_as_images_change_nothing() -> None:
    """(N, N, F) is N rows per image and is repeated over samples, also for N samples; so is (1, N)."""
    for count in (1, 2, 3):
        tokens = torch.randn(count, count, 5)
        for samples in (1, count, count + 1):
            leading = torch.Size((samples, count))
            torch.testing.assert_close(flatten_condition(tokens, leading), tokens.repeat(samples, 1, 1))
            shared = tokens[:1, :, 0]
            torch.testing.assert_close(flatten_condition(shared, leading), shared.repeat(samples * count, 1))


def test_conditions_for_another_number_of_images_are_refused() -> None:
    with pytest.raises(InputError, match="a condition for 2 images does not go with latents for 3"):
        flatten_condition(torch.zeros(2), torch.Size((4, 3)))


def test_the_network_is_called_once_at_its_own_timestep() -> None:
    """One call with one batch dimension, at step n = N t - 1 in the dtype of z."""
    recorder, z = Recorder(), torch.randn(3, 2, *EVENT)
    t = torch.tensor([[1, 2], [3, 500], [999, 1000]]) / 1000
    EpsilonDenoiser(recorder, LinearVP(), integer_timestep(1000))(z, t)
    assert len(recorder.calls) == 1
    seen, timestep, _ = recorder.calls[0]
    assert seen.shape == (6, *EVENT)
    assert timestep.dtype == torch.float32
    torch.testing.assert_close(timestep, torch.tensor([0.0, 1, 2, 499, 998, 999]), rtol=0, atol=1e-3)


def test_times_before_the_first_step_use_the_first_step() -> None:
    """The integer timestep is never negative."""
    clock = integer_timestep(10)(torch.tensor([0.0, 0.05, 0.1, 1.0]))
    torch.testing.assert_close(clock, torch.tensor([0.0, 0.0, 0.0, 9.0]))


def test_an_unusable_number_of_timesteps_is_refused() -> None:
    """A number of training steps that is not a positive whole number raises ValueError."""
    wrong: tuple[Any, ...] = (0, -3, float("inf"))
    for steps in wrong:
        with pytest.raises(ValueError, match="num_steps"):
            integer_timestep(steps)


def test_a_module_is_frozen_and_gradients_flow_through_it() -> None:
    """Parameters need and get no gradient, dropout is off, and z has a gradient."""
    network = SmallNetwork()
    assert all(parameter.requires_grad for parameter in network.parameters())
    denoiser = EpsilonDenoiser(network, LinearVP())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    z = latents(2).requires_grad_()
    denoiser(z, 0.4).square().sum().backward()
    assert z.grad is not None and z.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_output_objects_with_a_sample_are_unwrapped() -> None:
    """A network may return a tensor or, as in diffusers, an object with ``.sample``."""
    z = latents(2)
    plain = EpsilonDenoiser(lambda z, t: z.sin(), LinearVP())(z, 0.4)
    wrapped = EpsilonDenoiser(lambda z, t: SimpleNamespace(sample=z.sin()), LinearVP())(z, 0.4)
    torch.testing.assert_close(plain, wrapped, rtol=0, atol=0)
