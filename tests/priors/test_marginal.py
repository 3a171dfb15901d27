"""The bound on log p(z_Te): unbiased, below the truth, tight on a fine grid, and equal to the long sum."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from pyro_vipaint.models import DiffusionPrior, GaussianPrior
from pyro_vipaint.models.priors.kernels import relative
from pyro_vipaint.models.priors.schedules import EDM, LinearVP, Schedule, time_of
from tests.statistics import STANDARD_ERRORS, assert_within, mean_and_error

SCHEDULES: list[Schedule] = [EDM(sigma_max=20.0), LinearVP()]


def build_prior(schedule: Schedule) -> GaussianPrior:
    return GaussianPrior.diagonal(torch.tensor([0.4, -0.2, 0.0]), torch.tensor([0.5, 1.0, 0.2]), schedule)


def long_sum(prior: DiffusionPrior, w: Tensor, t: float, steps: int, draws: int) -> Tensor:
    """Eq. 4-5 with w as data, every KL of the grid written out and sampled directly; ``(draws,)``."""
    schedule = prior.schedule
    times = torch.linspace(t, 1.0, steps + 1, dtype=torch.float64).tolist()
    w = w.expand(draws, -1)
    a, variance = (float(v) for v in relative(schedule, t, 1.0))
    sigma_end = float(schedule(torch.tensor(1.0, dtype=torch.float64))[1])
    end = Independent(Normal(a * w, variance**0.5), 1)
    total = kl_divergence(end, Independent(Normal(torch.zeros_like(w), sigma_end * torch.ones_like(w)), 1))
    for s, r in pairwise(times):
        a_r, var_r = (float(v) for v in relative(schedule, t, r))
        z_r = a_r * w + var_r**0.5 * torch.randn_like(w)
        p = prior.transition(z_r, r, s)
        if s == t:
            total = total - p.log_prob(w).sum(-1)
            continue
        a_s, var_s = (float(v) for v in relative(schedule, t, s))
        a_rs, var_rs = (float(v) for v in relative(schedule, s, r))
        mean = (a_rs * var_s / var_r) * z_r + (a_s * var_rs / var_r) * w
        q = Normal(mean, (var_rs * var_s / var_r) ** 0.5 * torch.ones_like(mean))
        total = total + kl_divergence(q, p).sum(-1)
    return -total


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_telescoped_estimate_equals_the_long_sum(schedule: Schedule) -> None:
    prior, t = build_prior(schedule).diffusion(), time_of(schedule, 1.5)
    w = torch.tensor([1.0, -2.0, 0.3])
    ours, our_error = mean_and_error(prior.marginal(t, steps=6).log_prob(w.expand(100_000, 1, 3))[:, 0])
    theirs, their_error = mean_and_error(long_sum(prior, w, t, steps=6, draws=100_000))
    assert_within(ours, theirs, math.hypot(our_error, their_error))
    assert our_error < their_error, "integrating what is known should not raise the variance"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_on_average_the_bound_is_below_the_truth_and_close_on_a_fine_grid(schedule: Schedule) -> None:
    exact = build_prior(schedule)
    t = time_of(schedule, 1.5)
    w = exact.marginal(t).sample(torch.Size((200_000, 1)))
    truth = exact.marginal(t).log_prob(w)
    gaps = {}
    for steps in (3, 30, 300):
        gap, error = mean_and_error((truth - exact.diffusion().marginal(t, steps=steps).log_prob(w))[:, 0])
        assert gap > -STANDARD_ERRORS * error
        gaps[steps] = float(gap)
    assert gaps[3] > gaps[30] > gaps[300] - 0.01
    assert gaps[300] < 0.03


def test_for_a_single_point_the_bound_is_tight_on_any_grid() -> None:
    """With the exact denoiser of one point the model is the forward process itself: only the end point is left."""
    point, schedule = torch.tensor([0.7, -0.4]), EDM(sigma_max=400.0)
    prior = DiffusionPrior(schedule, lambda z_t, t, **_: point.expand(z_t.shape), (2,))
    t = time_of(schedule, 2.0)
    w = torch.tensor([2.0, 1.0])
    for steps in (1, 7):
        estimate, error = mean_and_error(prior.marginal(t, steps=steps).log_prob(w.expand(50_000, 1, 2))[:, 0])
        assert_within(estimate, Normal(point, 2.0).log_prob(w).sum(), error, slack=1e-4)


def test_the_chain_draws_what_the_density_describes() -> None:
    """On a fine grid the sampled moments are those of the exact marginal."""
    exact, t = build_prior(EDM(sigma_max=20.0)), 0.6
    draws = exact.diffusion().marginal(t, steps=150).sample(torch.Size((20_000,)))
    truth = exact.marginal(t)
    error = truth.stddev / 20_000**0.5
    assert_within(draws.mean(0), truth.mean, error, slack=0.02)
    assert_within(draws.std(0), truth.stddev, error, slack=0.02)


def test_steps_are_stratified_over_particles_for_each_image() -> None:
    marginal = build_prior(EDM()).diffusion().marginal(0.5, steps=1000)
    particles, images = 50, 4
    step = marginal._draw_steps(torch.Size((particles, images)), torch.device("cpu"))
    weights = marginal.tables[2]
    position = (weights.cumsum(0) / weights.sum())[step].sort(0).values
    strata = torch.arange(particles).unsqueeze(1) / particles
    assert (position > strata - 1e-9).all()
    assert (position < strata + 1 / particles + weights.max() / weights.sum()).all()
    assert not torch.equal(step[:, 0], step[:, 1]), "each image has its own draws"
