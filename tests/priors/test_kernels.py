"""The Gaussian algebra of the diffusion against Bayes' rule in dense matrices, and under changes of scale."""

from __future__ import annotations

from decimal import Decimal, localcontext
from itertools import product

import numpy as np
import pytest
import torch

from pyro_vipaint.models.priors.kernels import (
    bridge,
    bridge_coefficients,
    coordinate_scale,
    ddim,
    diffuse,
    relative,
)
from pyro_vipaint.models.priors.schedules import EDM, LinearVP, Schedule, as_time
from tests.every_prior import ONE_OF_EACH as SCHEDULES
from tests.statistics import assert_within, mean_and_error

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: repr(schedule)[:40])
PAIRS = [(0.1, 0.9), (0.4, 0.45), (0.02, 0.3)]


def at(schedule: Schedule, t: float) -> tuple[float, float]:
    """alpha_t and sigma_t as numbers."""
    alpha, sigma = schedule(as_time(t))
    return alpha.item(), sigma.item()


def conditional(schedule: Schedule, z_t: float, x: float, t: float, s: float) -> tuple[float, float]:
    """Mean and variance of z_s given (x, z_t), from the joint covariance of (x, z_s, z_t) and Bayes' rule.

    The joint is built from independent sources (x, noise at s, noise from s to t), x standard normal.
    """
    (alpha_s, sigma_s), (alpha_t, sigma_t) = at(schedule, s), at(schedule, t)
    step = alpha_t / alpha_s
    fresh = np.sqrt(sigma_t**2 - (step * sigma_s) ** 2)
    sources = np.array([[1, 0, 0], [alpha_s, sigma_s, 0], [step * alpha_s, step * sigma_s, fresh]])
    joint = sources @ sources.T
    given = [0, 2]
    gain = np.linalg.solve(joint[np.ix_(given, given)], joint[given, 1])
    return float(gain @ [x, z_t]), float(joint[1, 1] - gain @ joint[given, 1])


@every_schedule
def test_diffusion_keeps_the_schedule(schedule: Schedule) -> None:
    """q(z_s | x) followed by q(z_t | z_s) is q(z_t | x) = N(alpha_t x, sigma_t^2)."""
    for s, t in PAIRS:
        (alpha_s, sigma_s), (alpha_t, sigma_t) = at(schedule, s), at(schedule, t)
        alpha_ts, variance = (v.item() for v in relative(schedule, s, t))
        assert alpha_ts * alpha_s == pytest.approx(alpha_t, rel=1e-12)
        assert (alpha_ts * sigma_s) ** 2 + variance == pytest.approx(sigma_t**2, rel=1e-12)
        step = diffuse(schedule, torch.tensor([2.0], dtype=torch.float64), s, t)
        assert step.mean.item() == pytest.approx(2 * alpha_t / alpha_s, rel=1e-12)
        assert step.variance.item() == pytest.approx(sigma_t**2 - (alpha_t * sigma_s / alpha_s) ** 2, rel=1e-9)


@every_schedule
def test_bridge_is_the_conditional_of_the_joint(schedule: Schedule) -> None:
    """q(z_s | z_t, x) equals Bayes' rule in the dense joint of (x, z_s, z_t)."""
    for s, t in PAIRS:
        for z_t, x in [(1.3, -0.4), (-20.0, 0.9), (0.0, 1.0)]:
            step = bridge(
                schedule, torch.tensor([z_t], dtype=torch.float64), torch.tensor([x], dtype=torch.float64), t, s
            )
            mean, variance = conditional(schedule, z_t, x, t, s)
            assert step.mean.item() == pytest.approx(mean, rel=1e-6, abs=1e-9)
            assert step.variance.item() == pytest.approx(variance, rel=1e-6)


@every_schedule
def test_bridge_at_its_ends(schedule: Schedule) -> None:
    """At s = t the bridge is the point z_t; as s -> 0 its mean tends to x and its spread to that of time 0."""
    z, x = torch.randn(2, 6, dtype=torch.float64)
    here = bridge(schedule, z, x, 0.5, 0.5)
    torch.testing.assert_close(here.mean, z, rtol=1e-12, atol=1e-12)
    assert here.stddev.max() < 1e-7
    clean = bridge(schedule, z, x, 0.5, 0.0)
    _, sigma_0 = at(schedule, 0.0)
    assert clean.stddev.max().item() <= sigma_0 + 1e-300
    assert (clean.mean - x).abs().max() < 10 * sigma_0**2 + 1e-12


def test_coefficients_keep_their_digits_for_neighbouring_times() -> None:
    """Eq. 3's coefficients for s very near t agree with fifty-digit arithmetic (LinearVP), to 1e-8."""
    for t, gap in product((0.05, 0.5, 0.95), (1e-3, 1e-6)):
        s = t - gap
        with localcontext() as context:
            context.prec = 50

            def alpha_squared(time: float) -> Decimal:
                u, low, slope = Decimal(time), Decimal("0.125"), Decimal("19.875")
                return (-(u * low + slope * u * u / 2)).exp()

            a_s, a_t = alpha_squared(s), alpha_squared(t)
            fresh = 1 - a_t / a_s
            exact = (
                (a_t / a_s).sqrt() * (1 - a_s) / (1 - a_t),
                a_s.sqrt() * fresh / (1 - a_t),
                fresh * (1 - a_s) / (1 - a_t),
            )
        coefficients = bridge_coefficients(LinearVP(0.125, 20.0), t, s)
        for value, expected in zip(coefficients, exact, strict=True):
            assert value.item() == pytest.approx(float(expected), rel=1e-8)


def test_float32_latents_get_float64_coefficients() -> None:
    """The step between neighbouring times is exact for float32 latents up to their own rounding."""
    z, x = torch.randn(2, 50)
    single = bridge(EDM(), z, x, 0.5, 0.5 - 1e-5)
    double = bridge(EDM(), z.double(), x.double(), 0.5, 0.5 - 1e-5)
    assert single.mean.dtype == torch.float32
    torch.testing.assert_close(single.stddev.double(), double.stddev, rtol=1e-6, atol=0)
    torch.testing.assert_close(single.mean.double(), double.mean, rtol=1e-6, atol=1e-6)


def test_times_per_element_equal_a_loop() -> None:
    """Times of the leading shape give each element the kernel of its own times."""
    schedule, (z, x) = LinearVP(), torch.randn(2, 3, 2, 1, 4, 4, dtype=torch.float64)
    t = torch.linspace(0.5, 0.9, 6, dtype=torch.float64).reshape(3, 2)
    s = torch.linspace(0.1, 0.4, 6, dtype=torch.float64).reshape(3, 2)
    together, forward = bridge(schedule, z, x, t, s), diffuse(schedule, z, s, t)
    for i, j in product(range(3), range(2)):
        back, on = bridge(schedule, z[i, j], x[i, j], t[i, j], s[i, j]), diffuse(schedule, z[i, j], s[i, j], t[i, j])
        for ours, alone in ((together, back), (forward, on)):
            torch.testing.assert_close(ours.mean[i, j], alone.mean)
            torch.testing.assert_close(ours.stddev[i, j], alone.stddev)


@every_schedule
def test_ddim_steps_keep_the_marginal(schedule: Schedule) -> None:
    """With the true x a step from z_t ~ N(alpha_t x, sigma_t^2) has the moments of q(z_s given x) for every eta."""
    for (s, t), eta in product(PAIRS, (0.0, 0.6, 1.0)):
        (alpha_s, sigma_s), (alpha_t, sigma_t) = at(schedule, s), at(schedule, t)
        torch.manual_seed(0)
        draws = 20_000
        z_t = alpha_t * 0.7 + sigma_t * torch.randn(draws, dtype=torch.float64)
        z_s = ddim(schedule, z_t, torch.full_like(z_t, 0.7), t, s, eta)
        mean, error = mean_and_error(z_s)
        assert_within(mean, alpha_s * 0.7, error)
        assert_within(z_s.std(), sigma_s, sigma_s / (2 * draws) ** 0.5)


@every_schedule
def test_ddim_with_eta_one_is_the_bridge(schedule: Schedule) -> None:
    for s, t in PAIRS:
        z_t, x = torch.randn(2, 3, dtype=torch.float64)
        torch.manual_seed(0)
        expected = bridge(schedule, z_t, x, t, s).sample()
        torch.manual_seed(0)
        torch.testing.assert_close(ddim(schedule, z_t, x, t, s, 1.0), expected, rtol=1e-6, atol=1e-8)


def test_the_coordinate_scale_makes_a_schedule_variance_preserving() -> None:
    for schedule in SCHEDULES:
        alpha, sigma = at(schedule, 0.6)
        scale = coordinate_scale(schedule, 0.6).item()
        assert (alpha / scale) ** 2 + (sigma / scale) ** 2 == pytest.approx(1, rel=1e-12)
