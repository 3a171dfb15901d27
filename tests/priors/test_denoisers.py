"""What every denoiser does around its network: leading dimensions, conditions, frozen weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_vipaint.errors import InputError
from pyro_vipaint.models.priors.denoisers import (
    EDMDenoiser,
    EpsilonDenoiser,
    FlowDenoiser,
    NetworkDenoiser,
    SampleDenoiser,
    VDenoiser,
    flatten_condition,
    integer_timestep,
)
from pyro_vipaint.models.priors.schedules import EDM, LinearVP

EVENT = (2, 4, 4)
ADAPTERS: list[type[NetworkDenoiser]] = [EpsilonDenoiser, VDenoiser, SampleDenoiser, FlowDenoiser, EDMDenoiser]

each_adapter = pytest.mark.parametrize("adapter", ADAPTERS)


class SmallNetwork(nn.Module):
    """A convolution whose output depends on the image, on its time and on its label; never on its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 2, 3, padding=1).double()
        self.dropout = nn.Dropout(0.5)

    def forward(self, z: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        shift = timestep if class_labels is None else timestep + class_labels
        return self.dropout(torch.tanh(self.convolution(z) + shift.reshape(-1, 1, 1, 1)))


@dataclass
class Recorder:
    """A network that predicts zero and remembers what it was called with."""

    calls: list[tuple[Tensor, Tensor, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, z: Tensor, timestep: Tensor, **condition: Any) -> Tensor:
        self.calls.append((z, timestep, condition))
        return torch.zeros_like(z)


def latents(*leading: int) -> Tensor:
    """Random latents in float64."""
    return torch.randn(*leading, *EVENT, dtype=torch.float64)


@each_adapter
def test_a_batch_of_samples_equals_a_loop(adapter: type[NetworkDenoiser]) -> None:
    """A (samples, images) batch is denoised as each latent alone, which needs no leading dimension."""
    denoiser, z = adapter(SmallNetwork(), LinearVP()), latents(3, 2)
    together = denoiser(z, 0.4)
    assert together.shape == z.shape
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(together[i, j], denoiser(z[i, j], 0.4))


@each_adapter
def test_singleton_leading_dimensions_change_nothing(adapter: type[NetworkDenoiser]) -> None:
    """Seven singleton dimensions in front, as Pyro's psis_diagnostic passes, with labels of the images alone."""
    denoiser, z = adapter(SmallNetwork(), LinearVP()), latents(2)
    labels = torch.tensor([0, 3])
    padded = denoiser(z.reshape(*(1,) * 7, 2, *EVENT), 0.4, class_labels=labels)
    assert padded.shape == (1,) * 7 + (2, *EVENT)
    torch.testing.assert_close(padded.reshape(z.shape), denoiser(z, 0.4, class_labels=labels))


@each_adapter
def test_times_per_element_equal_a_loop(adapter: type[NetworkDenoiser]) -> None:
    """Times of the leading shape: each latent is denoised at its own time; a scalar tensor is a number."""
    denoiser, z = adapter(SmallNetwork(), LinearVP()), latents(3, 2)
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64).reshape(3, 2)
    together = denoiser(z, t)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(together[i, j], denoiser(z[i, j], t[i, j].item()))
    torch.testing.assert_close(denoiser(z, torch.tensor(0.3, dtype=torch.float64)), denoiser(z, 0.3))


def test_event_of_another_dimension() -> None:
    """With event_dim=1 a vector is one latent, and everything in front of it is batch."""
    schedule = LinearVP()
    denoiser = SampleDenoiser(lambda z, t: z.cumsum(-1) * t.unsqueeze(-1), schedule, event_dim=1)
    z = torch.randn(3, 2, 5, dtype=torch.float64)
    torch.testing.assert_close(denoiser(z, 0.25), 0.25 * z.cumsum(-1))


def test_labels_reach_the_network_and_belong_to_their_images() -> None:
    """Labels of shape (N,) are repeated over samples: image n of every sample sees label n."""
    denoiser = SampleDenoiser(SmallNetwork(), LinearVP())
    z, labels = latents(3, 2), torch.tensor([1, 4])
    together = denoiser(z, 0.4, class_labels=labels)
    for i in range(3):
        for j in range(2):
            alone = denoiser(z[i, j].unsqueeze(0), 0.4, class_labels=labels[j : j + 1])
            torch.testing.assert_close(together[i, j], alone[0])
    assert not torch.allclose(together, denoiser(z, 0.4))


def test_a_scalar_condition_holds_for_all() -> None:
    """A scalar tensor becomes one entry an image; what is no tensor is passed on untouched."""
    recorder = Recorder()
    SampleDenoiser(recorder, LinearVP())(latents(3, 2), 0.4, class_labels=torch.tensor(7), guidance="strong", none=None)
    _, _, condition = recorder.calls[0]
    assert condition["class_labels"].tolist() == [7] * 6
    assert condition["guidance"] == "strong"
    assert condition["none"] is None


def test_condition_with_features_is_repeated_over_samples() -> None:
    """(N, F) becomes (S N, F) in the order of the flattened latents; so does (1, F), one row for all images."""
    leading, features = torch.Size((3, 2)), torch.randn(2, 5)
    torch.testing.assert_close(flatten_condition(features, leading), features.repeat(3, 1))
    torch.testing.assert_close(flatten_condition(features[:1], leading), features[:1].repeat(6, 1))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_as_many_samples_as_images_change_nothing(count: int) -> None:
    """(N, N, F) is N images' own N rows, repeated over samples, also when there are N samples; so is (1, N)."""
    tokens = torch.randn(count, count, 5)
    for samples in (1, count, count + 1):
        leading = torch.Size((samples, count))
        torch.testing.assert_close(flatten_condition(tokens, leading), tokens.repeat(samples, 1, 1))
        shared = tokens[:1, :, 0]
        torch.testing.assert_close(flatten_condition(shared, leading), shared.repeat(samples * count, 1))


def test_conditions_for_another_number_of_images_are_refused() -> None:
    with pytest.raises(InputError, match="a condition for 2 images does not go with latents for 3"):
        flatten_condition(torch.zeros(2), torch.Size((4, 3)))


def test_the_network_is_called_once_on_its_own_clock() -> None:
    """One call with one batch dimension, at step n = N t - 1 in the dtype of z."""
    recorder, z = Recorder(), torch.randn(3, 2, *EVENT)
    t = torch.tensor([[1, 2], [3, 500], [999, 1000]]) / 1000
    EpsilonDenoiser(recorder, LinearVP(), integer_timestep(1000))(z, t)
    assert len(recorder.calls) == 1
    seen, timestep, _ = recorder.calls[0]
    assert seen.shape == (6, *EVENT)
    assert timestep.dtype == torch.float32
    torch.testing.assert_close(timestep, torch.tensor([0.0, 1, 2, 499, 998, 999]), rtol=0, atol=1e-3)


def test_edm_clock_is_a_quarter_of_the_log_noise_level() -> None:
    """The network sees z / sqrt(sigma^2 + sigma_data^2) at ln(sigma)/4."""
    recorder, z = Recorder(), latents(1)
    EDMDenoiser(recorder, EDM(), sigma_data=0.6)(z, 0.5)
    seen, timestep, _ = recorder.calls[0]
    sigma = (0.5 * 0.002 ** (1 / 7) + 0.5 * 80 ** (1 / 7)) ** 7
    torch.testing.assert_close(seen, z / (sigma**2 + 0.36) ** 0.5)
    assert timestep.item() == pytest.approx(torch.tensor(sigma).log().item() / 4, rel=1e-6)


def test_times_before_the_first_step_use_the_first_step() -> None:
    """The integer clock never falls below 0."""
    clock = integer_timestep(10)(torch.tensor([0.0, 0.05, 0.1, 1.0]))
    torch.testing.assert_close(clock, torch.tensor([0.0, 0.0, 0.0, 9.0]))


@pytest.mark.parametrize("steps", [0, -3])
def test_a_clock_without_steps_is_refused(steps: int) -> None:
    """Fewer than one training step raises ValueError."""
    with pytest.raises(ValueError, match="num_steps"):
        integer_timestep(steps)


@each_adapter
def test_a_module_is_frozen_and_gradients_flow_through_it(adapter: type[NetworkDenoiser]) -> None:
    """Parameters need no gradient, dropout is off, and the gradient with respect to z is the numerical one."""
    network = SmallNetwork()
    assert all(parameter.requires_grad for parameter in network.parameters())
    denoiser = adapter(network, LinearVP())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    z = latents(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: denoiser(z, 0.4), (z,))
    denoiser(z, 0.4).square().sum().backward()
    assert z.grad is not None and z.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_output_objects_with_a_sample_are_unwrapped() -> None:
    """A network may return a tensor or, as diffusers' do, an object with ``.sample``."""
    z = latents(2)
    plain = EpsilonDenoiser(lambda z, t: z.sin(), LinearVP())(z, 0.4)
    wrapped = EpsilonDenoiser(lambda z, t: SimpleNamespace(sample=z.sin()), LinearVP())(z, 0.4)
    torch.testing.assert_close(plain, wrapped, rtol=0, atol=0)
