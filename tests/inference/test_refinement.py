"""Phase 2: its limits on a step, its times, its falling zeta, invariance to the schedule, counted calls."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.baselines.corrected import corrected_chain
from pyro_vipaint.baselines.dps import dps_chain, dps_step
from pyro_vipaint.calls import count_calls
from pyro_vipaint.corrections import DDNM, Correction, PiGDM
from pyro_vipaint.models import DiffusionModel, GaussianPrior
from pyro_vipaint.models.priors import kernels
from pyro_vipaint.models.priors.schedules import (
    EDM,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    Schedule,
    TableVP,
    as_time,
    noise_level,
    time_of,
)
from pyro_vipaint.progress import Progress
from pyro_vipaint.refinement import StepLimit, refinement_times
from tests.problems import LIKELIHOOD, MASK, Y, four_pixels


def moved(
    prior: GaussianPrior,
    likelihood: vp.Gaussian,
    z: Tensor,
    y: Tensor,
    interval: tuple[float, float],
    zeta: float,
    limit: StepLimit | None,
) -> Tensor:
    """z_s after one correction step, from the same noise each time."""
    torch.manual_seed(0)
    return dps_step(prior, likelihood, z, y, interval, zeta, {}, limit)[0]


@pytest.mark.parametrize("limit", [StepLimit(0.01, 0.01), StepLimit(100.0, polyak=0.05)])
def test_a_sample_does_not_depend_on_its_batch(limit: StepLimit) -> None:
    """What limits a step is each sample's own: neighbours far away change nothing."""
    prior, y, likelihood = four_pixels(), torch.zeros(3, 1, 2, 2), Nonlinear(LIKELIHOOD.operator, 0.1)
    z = torch.randn(2, 3, 1, 2, 2)
    other = 100 + z
    other[0, 1] = z[0, 1]
    first, second = (moved(prior, likelihood, batch, y, (0.4, 0.2), 1.0, limit) for batch in (z, other))
    assert torch.allclose(first[0, 1], second[0, 1], atol=1e-6)
    assert not torch.allclose(moved(prior, likelihood, z, y, (0.4, 0.2), 1.0, None)[0, 1], first[0, 1], atol=1e-3)


@pytest.mark.parametrize("limit", [StepLimit(0.3), StepLimit(100.0, polyak=5e-4)])
def test_the_same_limit_means_the_same_on_every_schedule(limit: StepLimit) -> None:
    """One correction step on VP and on VE, from the same noisy image: the same noisy image after it."""
    y, x, images = torch.rand(1, 1, 2, 2) * MASK, torch.randn(4, 1, 1, 2, 2), []
    for schedule in (EDM(), LinearVP()):
        t, s = (time_of(schedule, level) for level in (2.0, 0.7))
        alpha_t, alpha_s = (float(schedule(torch.tensor(time, dtype=torch.float64))[0]) for time in (t, s))
        images.append(moved(four_pixels(schedule), LIKELIHOOD, x * alpha_t, y, (t, s), 0.7, limit) / alpha_s)
    assert torch.allclose(images[0], images[1], atol=1e-5)


class Nonlinear(vp.Gaussian):
    """A residual whose gradient has a different length at each point."""

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        residual = super().residual(x, y)
        return residual + residual**3


class Cliff(vp.Gaussian):
    """A residual that grows so fast with x that its gradient is a thousand times longer than usual."""

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        return 1000 * super().residual(x, y)


def test_only_a_long_step_is_limited_and_keeps_its_direction() -> None:
    """Steps of usual length are the authors'; a long one is cut to twice the transition's noise."""
    prior, y, z = four_pixels(), torch.zeros(1, 1, 2, 2), torch.randn(3, 1, 1, 2, 2)
    limited, free = (moved(prior, LIKELIHOOD, z, y, (0.7, 0.5), 0.01, limit) for limit in (StepLimit(2.0), None))
    assert torch.equal(limited, free)
    cliff, start = Cliff(LIKELIHOOD.operator, 0.1), moved(prior, LIKELIHOOD, z, y, (0.7, 0.5), 0.0, None)
    limited, free = (moved(prior, cliff, z, y, (0.7, 0.5), 1.0, limit) - start for limit in (StepLimit(2.0), None))
    longest = 2.0 * float(prior.transition(z, 0.7, 0.5).stddev.flatten()[0]) * 4**0.5
    torch.testing.assert_close(limited.flatten(1).norm(dim=1), torch.full((3,), longest))
    both = moved(prior, cliff, z, y, (0.7, 0.5), 1.0, StepLimit(2.0, polyak=1e6)) - start
    torch.testing.assert_close(both, limited, msg="the shorter of both limits holds")
    torch.testing.assert_close(torch.cosine_similarity(limited.flatten(1), free.flatten(1)), torch.ones(3))


def test_close_to_the_image_a_gradient_of_length_one_is_never_cut() -> None:
    """The transition has next to no noise there, and these steps bring the observation in."""
    prior, y, z = four_pixels(), torch.rand(1, 1, 2, 2) * MASK, 0.2 + 0.3 * torch.randn(5, 1, 1, 2, 2)
    limited, free = (moved(prior, LIKELIHOOD, z, y, (0.02, 0.01), 1.0, limit) for limit in (StepLimit(2.0), None))
    assert torch.equal(limited, free)


@pytest.mark.parametrize("schedule", [EDM(), LinearVP()])
def test_polyaks_step_ends_where_a_linear_residual_is_zero(schedule: Schedule) -> None:
    """One observed pixel: |y - x| is linear on either side of y, so one whole step from x_hat(z_t) makes it y.

    The step is taken in the coordinates z / c at s; carried back to t, the prediction there is y, whatever zeta.
    """
    prior = four_pixels(schedule)
    likelihood = vp.Gaussian(vp.Inpainting(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])), sigma=0.1)
    y, (t, s) = torch.zeros(1, 1, 2, 2), (time_of(schedule, level) for level in (2.0, 1.5))
    c_t, c_s = (float(kernels.coordinate_scale(schedule, time)) for time in (t, s))
    z = 2 * torch.randn(5, 1, 1, 2, 2)
    for share in (1.0, 0.5):
        limit = StepLimit(1e6, polyak=share)
        drawn, free = (moved(prior, likelihood, z, y, (t, s), zeta, limit) for zeta in (1e4, 0.0))
        before, after = (prior.denoise(at, t)[..., 0, 0] for at in (z, z + (drawn - free) * c_t / c_s))
        torch.testing.assert_close(after, (1 - share) * before, rtol=1e-3, atol=1e-4)


def test_polyaks_limit_leaves_shorter_steps_alone() -> None:
    prior, y, z = four_pixels(), torch.rand(1, 1, 2, 2) * MASK, torch.randn(3, 1, 1, 2, 2)
    limits = (StepLimit(2.0), StepLimit(2.0, polyak=1.0))
    unlimited, limited = (moved(prior, LIKELIHOOD, z, y, (0.7, 0.5), 0.01, limit) for limit in limits)
    assert torch.equal(unlimited, limited)


def test_with_polyaks_limit_no_zeta_is_too_strong() -> None:
    """With a zeta a thousand times too large the chain oscillates around y; with the limit it ends at y."""
    prior, y = four_pixels(), 0.6 * MASK.unsqueeze(0)
    model = DiffusionModel(prior, LIKELIHOOD, vp.keypoints(prior, noise_levels=[1.0, 0.5]))
    z = torch.randn(50, 1, 1, 2, 2)
    images = [vp.refine(model, z, y, 30, zeta=500.0, zeta_decay=1.0, polyak=p, seed=0) for p in (None, 1.0)]
    free, limited = ((x - y)[..., 0, :].abs().mean() for x in images)
    assert limited < 0.02 < 0.3 < free


@pytest.mark.parametrize(("operator", "norm"), [(vp.Inpainting(MASK), 1.0), (vp.SuperResolution(2), 0.5)])
def test_zeta_falls_evenly_to_its_last_share(operator: Any, norm: float) -> None:
    """Three correction steps from zeta 8 to a quarter of it, 8, 5, 2, limited by the noise and by |A|."""
    prior, likelihood, z = four_pixels(), Nonlinear(operator, 0.1), torch.randn(3, 1, 1, 2, 2)
    model, y = DiffusionModel(prior, likelihood, (0.3, 0.2)), operator.A(torch.rand(1, 1, 2, 2))
    times = refinement_times(prior, 0.2, 4)
    ours = vp.refine(model, z, y, 4, zeta=8.0, zeta_decay=0.25, seed=0)
    images = []
    for limit in (StepLimit(2.0, norm), StepLimit(2.0, 1.5 - norm)):
        torch.manual_seed(0)
        *_, x_hat = dps_chain(prior, likelihood, z, y, times, [8.0, 5.0, 2.0], {}, limit)
        images.append(x_hat.clamp(-1, 1))
    torch.testing.assert_close(ours, images[0])
    assert not torch.allclose(ours, images[1], atol=1e-3)


@pytest.mark.parametrize("schedule", [EDM(), LinearVP(), RectifiedFlow()])
def test_noise_levels_fall_as_on_the_schedule_of_karras(schedule: Schedule) -> None:
    """Their formula on any schedule; on theirs the times are evenly spaced."""
    prior, start = four_pixels(schedule), time_of(schedule, 1.0)
    times = refinement_times(prior, start, 8)
    assert times[0] == start and times[-1] == 0 and len(times) == 9
    roots = [float(noise_level(schedule, t)) ** (1 / 7) for t in times[:-1]]
    lowest = max(float(noise_level(schedule, 0.0)), 0.003 * prior.sigma_data)
    assert roots == pytest.approx([1 + i / 8 * (lowest ** (1 / 7) - 1) for i in range(8)], abs=1e-6)
    if isinstance(schedule, EDM):
        assert times == pytest.approx(torch.linspace(start, 0, 9, dtype=torch.float64).tolist(), abs=1e-9)


@pytest.mark.parametrize("steps", [2, 22, 500])
def test_no_call_lies_below_what_a_table_was_trained_at(steps: int) -> None:
    """The clock of a table's network stops at its first entry: below it the network would be told too much noise."""
    table = TableVP(torch.cumprod(1 - torch.linspace(0.0015, 0.0195, 100, dtype=torch.float64), 0).tolist())
    times = refinement_times(four_pixels(table), time_of(table, 0.8), steps)
    assert all(t > s for t, s in itertools.pairwise(times))
    assert min(times[:-1]) >= 1 / table.num_steps


def test_a_chain_that_begins_near_the_first_entry_still_falls() -> None:
    table = TableVP([0.9985, 0.99, 0.9])
    times = refinement_times(four_pixels(table), 1 / 3, 4)
    assert all(t > s for t, s in itertools.pairwise(times))


def test_the_refinement_is_the_same_on_every_schedule() -> None:
    """At the same noise levels, from the same noisy image: the same images."""
    y, x, images = torch.rand(1, 1, 2, 2) * MASK, torch.randn(4, 1, 1, 2, 2), []
    for schedule in (GeometricVE(sigma_min=1e-6), LinearVP()):
        prior = four_pixels(schedule)
        model = DiffusionModel(prior, LIKELIHOOD, vp.keypoints(prior, noise_levels=[1.0, 0.5]))
        alpha, _ = schedule(torch.tensor(model.keypoints[-1], dtype=torch.float64))
        images.append(vp.refine(model, x * float(alpha), y, steps=6, seed=0))
    torch.testing.assert_close(images[0], images[1], atol=1e-4, rtol=0)


def test_calls_are_steps() -> None:
    prior, y = four_pixels(), torch.zeros(2, 1, 2, 2)
    model = DiffusionModel(prior, LIKELIHOOD, vp.keypoints(prior, noise_levels=[1.0, 0.5]))
    seen: list[Progress] = []
    with count_calls() as count:
        x = vp.refine(model, torch.randn(5, 2, 1, 2, 2), y, steps=7, callback=seen.append)
    assert (count.calls, count.nfe) == (7, 70)
    assert x.shape == (5, 2, 1, 2, 2)
    assert seen == [Progress("refine", step, 7) for step in range(1, 8)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"polyak": 0.0}, "polyak must be positive and finite"),
        ({"polyak": float("nan")}, "polyak must be positive and finite"),
        ({}, "rules out: use"),
    ],
)
def test_what_cannot_be_refined_is_refused(options: dict[str, Any], message: str) -> None:
    """The last one for the inference mode alone."""
    model, z, y = DiffusionModel(four_pixels(), LIKELIHOOD, (0.5,)), torch.randn(1, 1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    with torch.inference_mode(not options), pytest.raises(vp.InputError, match=message):
        vp.refine(model, z, y, **options)


def test_another_correction_is_the_chain_of_its_baseline() -> None:
    """From z_1, at the same times and with the same noise, where no step is as long as the limit."""
    prior, y = four_pixels(), torch.cat([Y, Y + 0.2])
    likelihood, start = replace(LIKELIHOOD, sigma=2.0), 0.5
    model = DiffusionModel(prior, likelihood, [start])
    z = float(prior.schedule(as_time(start))[1]) * torch.randn(3, 2, 1, 2, 2)
    times = refinement_times(prior, start, 6)
    torch.manual_seed(1)
    *_, expected = corrected_chain(prior, likelihood, z, y, times, PiGDM(), {})
    with vp.count_calls() as count:
        found = vp.refine(model, z, y, 6, correction=PiGDM(), seed=1)
    assert count.calls == 6 and torch.allclose(found, expected.clamp(-1, 1), atol=1e-6)
    assert not torch.allclose(found, vp.refine(model, z, y, 6, correction=DDNM(), seed=1), atol=1e-3)


class Far(Correction):
    """A correction that is small for the first image and very long for the second."""

    takes_gradients = False

    def __call__(self, at: Any) -> Tensor:
        return torch.tensor([1e-3, 1e3])[:, None, None, None].expand(at.x_hat.shape)


def test_a_long_correction_is_shortened_to_lengths_of_the_noise_for_its_sample_alone() -> None:
    prior, z = four_pixels(), torch.randn(3, 2, 1, 2, 2)
    t, s, _ = times = refinement_times(prior, 0.3, 4)[:3]

    def last(limit: float | None) -> Tensor:
        torch.manual_seed(1)
        return list(corrected_chain(prior, LIKELIHOOD, z, torch.cat([Y, Y]), times, Far(), {}, limit))[-1]

    free, one, two = last(None), last(1.0), last(2.0)
    assert torch.equal(free[:, 0], two[:, 0])
    gain = prior.denoise(torch.ones(1, 2, 2), s) - prior.denoise(torch.zeros(1, 2, 2), s)
    std = float(prior.transition(z, t, s).stddev.flatten()[0])
    assert torch.allclose((two - one)[:, 1], (gain * std).expand(3, 1, 2, 2), rtol=0.01)
