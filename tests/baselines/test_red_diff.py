"""RED-Diff: its gradient is that of the authors' loss; its start and its limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.baselines.red_diff import initial_mean, objective_gradient, red_diff
from pyro_vipaint.models import DiffusionPrior, GaussianPrior
from pyro_vipaint.models.measurements.operators import Matrix
from pyro_vipaint.models.priors.schedules import EDM, LinearVP, RectifiedFlow, Schedule, as_time
from tests.problems import LIKELIHOOD, MASK, Y, four_pixels


@pytest.mark.parametrize("schedule", [LinearVP(), RectifiedFlow()], ids=lambda schedule: type(schedule).__name__)
def test_the_gradient_is_that_of_the_authors_loss(schedule: Schedule) -> None:
    """Their form, with the predicted noise and the weight sigma / alpha, differentiated by autograd."""
    prior, t, mu = four_pixels(schedule), 0.4, torch.randn(3, 2, 1, 2, 2)
    y = torch.cat([Y, 2 * Y])
    torch.manual_seed(7)
    ours = objective_gradient(prior, LIKELIHOOD, mu, y, t, 0.25, {})
    torch.manual_seed(7)
    alpha, sigma = (float(value) for value in schedule(as_time(t)))
    noise, mean = torch.randn_like(mu), mu.clone().requires_grad_()
    z = alpha * mu + sigma * noise
    predicted = (z - alpha * prior.denoise(z, t)) / sigma
    misfit = ((y - MASK * mean) * MASK).square().flatten(2).mean(-1) / 2
    regularisation = ((predicted - noise) * mean).flatten(2).mean(-1)
    (misfit + 0.25 * sigma / alpha * regularisation).sum().backward()
    assert mean.grad is not None
    assert torch.allclose(ours, mean.grad, atol=1e-5)


def test_no_gradient_passes_the_network() -> None:
    def opaque(z_t: Tensor, t: Any, **condition: Any) -> Tensor:
        assert not z_t.requires_grad and not torch.is_grad_enabled()
        return z_t

    assert red_diff(DiffusionPrior(EDM(), opaque, (1, 2, 2)), LIKELIHOOD, Y, 2, 3).calls == 3


def test_without_the_prior_it_is_adam_on_the_residual() -> None:
    """Observed pixels reach y and hidden ones stay where they began, without any noise."""
    samples = red_diff(four_pixels(), LIKELIHOOD, Y, 3, 300, weight=0.0, seed=0).samples
    assert torch.allclose(samples, Y.expand(3, 1, 1, 2, 2), atol=1e-3)
    y = torch.tensor([[0.6]])
    vector = GaussianPrior.diagonal(torch.full((4,), 0.2), torch.full((4,), 0.3))
    blurred = vp.Gaussian(Matrix(torch.tensor([[0.5, 0.5, 0.0, 0.0]])), 0.1)
    samples = red_diff(vector, blurred, y, 3, 300, weight=0.0).samples
    assert torch.allclose(samples, torch.tensor([0.6, 0.6, 0.0, 0.0]).expand(3, 1, 4), atol=1e-3)


def test_without_an_observation_all_samples_go_to_the_mode() -> None:
    """A small rate leaves a tenth of the prior's spread, 0.3, around the mean: the objective seeks the mode."""
    nothing = vp.Gaussian(vp.Inpainting(torch.zeros(1, 2, 2)), sigma=0.1)
    samples = red_diff(four_pixels(LinearVP()), nothing, 0 * Y, 20, 600, lr=0.005, seed=0).samples
    assert float(samples.mean()) == pytest.approx(0.2, abs=0.02)
    assert float(samples.std()) < 0.05


def test_it_starts_at_the_pseudo_inverse_of_what_is_observed() -> None:
    """For all samples alike, and whatever the hidden part of the observation holds."""
    prior, broken = four_pixels(), torch.where(MASK == 1, Y, torch.full_like(Y, torch.nan))
    assert torch.equal(initial_mean(prior, LIKELIHOOD, broken), Y)
    still = red_diff(prior, LIKELIHOOD, Y, 5, 1, lr=0.0).samples
    assert torch.equal(still, Y.expand(5, -1, -1, -1, -1))
