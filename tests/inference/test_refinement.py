"""Phase 2 and its baseline: per-sample guidance, invariance to the schedule, counted calls."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint import refinement
from pyro_vipaint.baselines import dps
from pyro_vipaint.calls import count_calls
from pyro_vipaint.models import DiffusionModel, GaussianPrior
from pyro_vipaint.models.priors import kernels
from pyro_vipaint.models.priors.schedules import (
    EDM,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    Schedule,
    TableVP,
    noise_level,
    time_of,
)
from pyro_vipaint.refinement import Guidance, guided_chain, residual_norm
from tests.statistics import assert_within, mean_and_error

MASK = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
LIKELIHOOD = vp.Gaussian(vp.Inpainting(MASK), sigma=0.1)


def seeded_pair(*values: Any) -> Iterator[Any]:
    """Each value after the same seed, so that what is done with each draws the same noise."""
    for value in values:
        torch.manual_seed(0)
        yield value


def image_prior(schedule: Schedule | None = None) -> GaussianPrior:
    return GaussianPrior.diagonal(torch.full((1, 2, 2), 0.2), torch.full((1, 2, 2), 0.3), schedule or EDM())


@pytest.mark.parametrize("limit", [None, refinement.StepLimit(0.01, 0.01), refinement.StepLimit(100.0, polyak=0.05)])
def test_a_sample_does_not_depend_on_its_batch(limit: refinement.StepLimit | None) -> None:
    """The residual norm, and what limits a step, are each sample's own: neighbours far away change nothing."""
    prior, y = image_prior(), torch.zeros(3, 1, 2, 2)
    z = torch.randn(2, 3, 1, 2, 2)
    other = 100 + z
    other[0, 1] = z[0, 1]
    chains = []
    for batch in (z, other):
        torch.manual_seed(0)
        chains.append(
            guided_chain(
                prior, Nonlinear(LIKELIHOOD.operator, 0.1), batch, y, [0.4, 0.2, 0.0], Guidance(1.0, limit=limit), {}
            )
        )
    assert torch.allclose(chains[0][0, 1], chains[1][0, 1], atol=1e-6)
    if limit is not None:
        torch.manual_seed(0)
        free = guided_chain(prior, Nonlinear(LIKELIHOOD.operator, 0.1), z, y, [0.4, 0.2, 0.0], Guidance(1.0), {})
        assert not torch.allclose(free[0, 1], chains[0][0, 1], atol=1e-3)


def test_without_guidance_it_is_the_priors_own_chain() -> None:
    prior, y, z = image_prior(), torch.zeros(1, 1, 2, 2), torch.randn(3, 1, 1, 2, 2)
    torch.manual_seed(1)
    ours = guided_chain(prior, LIKELIHOOD, z, y, [0.5, 0.3, 0.0], Guidance(0.0), {})
    torch.manual_seed(1)
    expected = prior.denoise(prior.transition(z, 0.5, 0.3).sample(), 0.3)
    assert torch.allclose(ours, expected.clamp(-1, 1), atol=1e-6)


@pytest.mark.parametrize("limit", [None, refinement.StepLimit(0.3), refinement.StepLimit(100.0, polyak=5e-4)])
def test_the_same_zeta_means_the_same_on_every_schedule(limit: refinement.StepLimit | None) -> None:
    """One guided step on VP and on VE, from the same noisy image: the same image after it."""
    levels, y = [2.0, 0.7, 0.1], torch.rand(1, 1, 2, 2) * MASK
    x = torch.randn(4, 1, 1, 2, 2)
    images = []
    for schedule in (EDM(), LinearVP()):
        times = [time_of(schedule, level) for level in levels]
        alpha, _ = schedule(torch.tensor(times[0], dtype=torch.float64))
        torch.manual_seed(2)
        z, guidance = x * float(alpha), Guidance(0.7, limit=limit)
        images.append(guided_chain(image_prior(schedule), LIKELIHOOD, z, y, times, guidance, {}))
    assert torch.allclose(images[0], images[1], atol=1e-5)


def test_residual_norms_are_euclidean_on_what_is_observed() -> None:
    x, y = torch.zeros(3, 2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    y[1, 0, 0] = torch.tensor([3.0, 4.0])
    y[1, 0, 1] = 99.0  # hidden
    assert torch.allclose(residual_norm(LIKELIHOOD, x, y, 2), torch.tensor([0.0, 5.0]).expand(3, 2), atol=1e-6)


class Nonlinear(vp.Gaussian):
    """A residual whose gradient is not equally long everywhere."""

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        residual = super().residual(x, y)
        return residual + residual**3


class Cliff(vp.Gaussian):
    """A residual that grows so fast with x that its gradient is a thousand times longer than usual."""

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        return 1000 * super().residual(x, y)


def test_a_step_is_limited_for_each_sample_by_itself_and_only_where_it_is_long() -> None:
    """Steps of usual length are the authors'; a long one is cut to twice the transition's noise, in its direction."""
    prior, y, z = image_prior(), torch.zeros(1, 1, 2, 2), torch.randn(3, 1, 1, 2, 2)

    def step(likelihood: vp.Gaussian, zeta: float, limit: refinement.StepLimit | None) -> Tensor:
        torch.manual_seed(0)
        return guided_chain(prior, likelihood, z, y, [0.7, 0.5, 0.0], Guidance(zeta, limit=limit), {})

    assert torch.equal(step(LIKELIHOOD, 0.01, refinement.StepLimit(2.0)), step(LIKELIHOOD, 0.01, None))
    cliff = Cliff(LIKELIHOOD.operator, 0.1)
    torch.manual_seed(0)
    transition = prior.transition(z, 0.7, 0.5)
    free = transition.sample()
    longest = 2.0 * float(transition.stddev.flatten()[0]) * 4**0.5
    torch.manual_seed(0)
    moved = refinement._guided_step(prior, cliff, z, y, (0.7, 0.5), 1.0, {}, refinement.StepLimit(2.0))
    torch.testing.assert_close((moved - free).flatten(1).norm(dim=1), torch.full((3,), longest))
    torch.manual_seed(0)
    unlimited = refinement._guided_step(prior, cliff, z, y, (0.7, 0.5), 1.0, {}, None)
    ours, theirs = ((each - free).flatten(1) for each in (moved, unlimited))
    torch.testing.assert_close(torch.cosine_similarity(ours, theirs), torch.ones(3))


def test_close_to_the_image_a_gradient_of_length_one_is_never_cut() -> None:
    """There the transition has next to no noise, and the steps are what brings the observation in."""
    prior, y, z = image_prior(), torch.rand(1, 1, 2, 2) * MASK, 0.2 + 0.3 * torch.randn(5, 1, 1, 2, 2)
    moved = []
    for limit in (None, refinement.StepLimit(2.0)):
        torch.manual_seed(0)
        moved.append(refinement._guided_step(prior, LIKELIHOOD, z, y, (0.02, 0.01), 1.0, {}, limit))
    assert torch.equal(*moved)


@pytest.mark.parametrize("schedule", [EDM(), LinearVP()])
def test_polyaks_step_ends_where_a_linear_residual_is_zero(schedule: Schedule) -> None:
    """One observed pixel: |y - x| is linear on either side of y, so one whole step from x_hat(z_t) makes it y.

    The step is taken in the coordinates z / c at s; carried back to t, the prediction there is y, whatever zeta.
    """
    prior = image_prior(schedule)
    likelihood = vp.Gaussian(vp.Inpainting(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])), sigma=0.1)
    y, (t, s) = torch.zeros(1, 1, 2, 2), (time_of(schedule, level) for level in (2.0, 1.5))
    c_t, c_s = (float(kernels.coordinate_scale(schedule, time)) for time in (t, s))
    z = 2 * torch.randn(5, 1, 1, 2, 2)
    for share in (1.0, 0.5):
        moved, free = (
            refinement._guided_step(prior, likelihood, z, y, (t, s), zeta, {}, refinement.StepLimit(1e6, polyak=share))
            for zeta in seeded_pair(1e4, 0.0)
        )
        before, after = (prior.denoise(at, t)[..., 0, 0] for at in (z, z + (moved - free) * c_t / c_s))
        torch.testing.assert_close(after, (1 - share) * before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("polyak", [0.0, -1.0, float("nan"), float("inf")])
def test_a_polyak_that_is_no_length_is_refused(polyak: float) -> None:
    prior = image_prior()
    model = DiffusionModel(prior, LIKELIHOOD, vp.keypoints(prior, noise_levels=[1.0, 0.5]))
    with pytest.raises(vp.InputError, match="polyak must be positive and finite"):
        vp.refine(model, torch.randn(1, 1, 1, 2, 2), torch.zeros(1, 1, 2, 2), 3, polyak=polyak)


def test_polyaks_limit_leaves_shorter_steps_alone() -> None:
    prior, y, z = image_prior(), torch.rand(1, 1, 2, 2) * MASK, torch.randn(3, 1, 1, 2, 2)
    unlimited, limited = (
        refinement._guided_step(prior, LIKELIHOOD, z, y, (0.7, 0.5), 0.01, {}, limit)
        for limit in seeded_pair(refinement.StepLimit(2.0), refinement.StepLimit(2.0, polyak=1.0))
    )
    assert torch.equal(unlimited, limited)


def test_with_polyaks_limit_no_zeta_is_too_strong() -> None:
    """Guidance a thousand times too strong throws a chain past y again and again; limited it ends at y."""
    prior, y = image_prior(), 0.6 * MASK.unsqueeze(0)
    model = DiffusionModel(prior, LIKELIHOOD, vp.keypoints(prior, noise_levels=[1.0, 0.5]))
    z = torch.randn(50, 1, 1, 2, 2)
    images = [vp.refine(model, z, y, 30, zeta=500.0, zeta_decay=1.0, polyak=p, seed=0) for p in (None, 1.0)]
    thrown, limited = ((x - y)[..., 0, :].abs().mean() for x in images)
    assert limited < 0.02 < 0.3 < thrown


def test_the_guidance_falls_evenly_to_its_final_share() -> None:
    """Three guided steps from zeta 0.8 to a quarter of it: 0.8, 0.5, 0.2."""
    prior, y, z = image_prior(), torch.rand(1, 1, 2, 2) * MASK, torch.randn(3, 1, 1, 2, 2)
    times = [0.8, 0.6, 0.4, 0.2, 0.0]
    torch.manual_seed(0)
    ours = guided_chain(prior, LIKELIHOOD, z, y, times, Guidance(0.8, final=0.25), {})
    torch.manual_seed(0)
    for t, s, zeta in ((0.8, 0.6, 0.8), (0.6, 0.4, 0.5), (0.4, 0.2, 0.2)):
        z = refinement._guided_step(prior, LIKELIHOOD, z, y, (t, s), zeta, {}, None)
    torch.testing.assert_close(ours, prior.denoise(z, 0.2).clamp(-1, 1))


def test_falling_guidance_ends_nearer_to_the_observation() -> None:
    """A constant zeta throws the last steps past y by its own length, a falling one by the length it has then."""
    prior, y = image_prior(), 0.6 * MASK.unsqueeze(0)
    model = DiffusionModel(prior, LIKELIHOOD, vp.keypoints(prior, noise_levels=[1.0, 0.5]))
    z = torch.randn(200, 1, 1, 2, 2)
    images = [vp.refine(model, z, y, steps=50, zeta=0.5, zeta_decay=final, seed=0) for final in (1.0, 0.1)]
    constant, falling = ((x - y)[..., 0, :].abs().mean() for x in images)
    assert falling < 0.5 * constant


@pytest.mark.parametrize("schedule", [EDM(), LinearVP(), RectifiedFlow()])
def test_noise_levels_fall_as_on_the_schedule_of_karras(schedule: Schedule) -> None:
    """Their formula on any schedule; on theirs the times are evenly spaced."""
    prior, start = image_prior(schedule), time_of(schedule, 1.0)
    times = refinement.refinement_times(prior, start, 8)
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
    times = refinement.refinement_times(image_prior(table), time_of(table, 0.8), steps)
    assert all(t > s for t, s in itertools.pairwise(times))
    assert min(times[:-1]) >= 1 / table.num_steps


def test_a_chain_that_begins_near_the_first_entry_still_falls() -> None:
    table = TableVP([0.9985, 0.99, 0.9])
    times = refinement.refinement_times(image_prior(table), 1 / 3, 4)
    assert all(t > s for t, s in itertools.pairwise(times))


def test_the_refinement_is_the_same_on_every_schedule() -> None:
    """At the same noise levels, from the same noisy image: the same images."""
    y, x, images = torch.rand(1, 1, 2, 2) * MASK, torch.randn(4, 1, 1, 2, 2), []
    for schedule in (GeometricVE(sigma_min=1e-6), LinearVP()):
        prior = image_prior(schedule)
        model = DiffusionModel(prior, LIKELIHOOD, vp.keypoints(prior, noise_levels=[1.0, 0.5]))
        alpha, _ = schedule(torch.tensor(model.keypoints[-1], dtype=torch.float64))
        images.append(vp.refine(model, x * float(alpha), y, steps=6, seed=0))
    torch.testing.assert_close(images[0], images[1], atol=1e-4, rtol=0)


def test_calls_are_steps() -> None:
    prior, y = image_prior(), torch.zeros(2, 1, 2, 2)
    model = DiffusionModel(prior, LIKELIHOOD, vp.keypoints(prior, noise_levels=[1.0, 0.5]))
    with count_calls() as count:
        x = vp.refine(model, torch.randn(5, 2, 1, 2, 2), y, steps=7)
    assert (count.calls, count.nfe) == (7, 70)
    assert x.shape == (5, 2, 1, 2, 2)
    assert dps(prior, LIKELIHOOD, y, 5, steps=7).calls == 7


def test_guidance_pulls_observed_pixels_to_the_observation() -> None:
    """The step has a fixed length near t = 0, so that the scale goes with the number of pixels: 0.05 for these two."""
    prior, y = image_prior(), 0.6 * MASK.unsqueeze(0)
    errors = [
        float((dps(prior, LIKELIHOOD, y, 64, 100, zeta=zeta, seed=0).samples - y)[..., 0, :].abs().mean())
        for zeta in (0.0, 0.05)
    ]
    assert errors[1] < 0.2 * errors[0]


def test_hidden_pixels_of_an_independent_prior_keep_their_prior_moments() -> None:
    """DPS must leave independent hidden coordinates alone; the last prediction shrinks them by the last noise level."""
    prior, y = image_prior(EDM(sigma_max=20.0)), 0.6 * MASK.unsqueeze(0)
    hidden = dps(prior, LIKELIHOOD, y, 4000, 60, seed=1).samples[:, 0, 0, 1]
    mean, error = mean_and_error(hidden)
    assert_within(mean, 0.2, error, slack=0.01)
    assert_within(hidden.std(0), 0.3, 0.3 / 8000**0.5, slack=0.02)


def test_a_seed_makes_it_reproducible_and_leaves_the_generator_alone() -> None:
    prior, y = image_prior(), torch.zeros(1, 1, 2, 2)
    before = torch.get_rng_state()
    first: Tensor = dps(prior, LIKELIHOOD, y, 2, 3, seed=5).samples
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, dps(prior, LIKELIHOOD, y, 2, 3, seed=5).samples)
    assert not torch.equal(first, dps(prior, LIKELIHOOD, y, 2, 3, seed=6).samples)


def test_steps_below_one_are_refused() -> None:
    model = DiffusionModel(image_prior(), LIKELIHOOD, (0.5,))
    with pytest.raises(ValueError, match="at least 1"):
        vp.refine(model, torch.randn(1, 1, 1, 2, 2), torch.zeros(1, 1, 2, 2), steps=0)
    assert float(noise_level(EDM(), 0.0)) == pytest.approx(0.002)


def test_inference_mode_is_refused_in_one_line() -> None:
    prior = GaussianPrior.diagonal(torch.zeros(4), torch.ones(4))
    likelihood = vp.Gaussian(vp.Inpainting(torch.ones(4)))
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=(2.0, 1.0)))
    with torch.inference_mode(), pytest.raises(vp.InputError, match="rules out: use"):
        vp.refine(model, torch.zeros(1, 1, 4), torch.zeros(1, 4), 2)
