"""Noise schedules against numerical integration, diffusers' tables and their own definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from pyro_vipaint.errors import InputError
from pyro_vipaint.models.priors.schedules import (
    EDM,
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    ScaledLinearVP,
    Schedule,
    TableVP,
    as_time,
    check_keypoints,
    keypoints,
    lowest_level,
    noise_level,
)
from tests.every_prior import SCHEDULES, TABLE, diagonal_gaussian

GRID = torch.linspace(0, 1, 1001, dtype=torch.float64)


def test_log_alpha_is_minus_half_the_integral_of_beta() -> None:
    """By six Gauss-Legendre nodes, exact for polynomials up to degree 11."""
    nodes, weights = np.polynomial.legendre.leggauss(6)
    scaled = 1.5**0.5, 19.5**0.5 - 1.5**0.5
    for schedule, beta in (
        (LinearVP(), lambda u: 0.1 + u * 19.9),
        (ScaledLinearVP(), lambda u: (scaled[0] + u * scaled[1]) ** 2),
    ):
        for t in (0.01, 0.3, 0.77, 1.0):
            integral = t / 2 * (weights * beta((nodes + 1) * t / 2)).sum()
            assert schedule(as_time(t))[0].log().item() == pytest.approx(-0.5 * integral, rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "kind", "low", "high"),
    [(ScaledLinearVP(), "scaled_linear", 1.5, 19.5), (LinearVP(), "linear", 0.1, 20.0)],
)
def test_discrete_betas_converge_to_the_continuous_schedule_at_first_order(
    schedule: Schedule, kind: Any, low: float, high: float
) -> None:
    """N steps of beta/N multiply up to alpha_t^2 with an error proportional to 1/N."""

    def error(steps: int) -> float:
        scheduler = DDPMScheduler(steps, beta_start=low / steps, beta_end=high / steps, beta_schedule=kind)
        n = torch.arange(steps // 5, steps, steps // 5)
        alpha, _ = schedule((n + 1).double() / steps)
        return (2 * alpha.log() - scheduler.alphas_cumprod[n].double().log()).abs().max().item()

    assert error(1000) < 0.1
    assert 3.5 < error(1000) / error(4000) < 4.5


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_table_is_met_exactly_at_every_integer_step(kind: Any) -> None:
    """alpha^2 at t = (n + 1)/N is entry n of diffusers' alphas_cumprod, the first and the last included."""
    for steps in (10, 1000):
        table = DDPMScheduler(steps, beta_schedule=kind).alphas_cumprod.double()
        alpha, sigma = TableVP(table.tolist())(torch.arange(1, steps + 1, dtype=torch.float64) / steps)
        torch.testing.assert_close(alpha**2, table, rtol=1e-9, atol=0)
        torch.testing.assert_close(sigma**2, 1 - table, rtol=1e-9, atol=0)


def test_table_is_clean_at_zero_and_log_linear_between_its_entries() -> None:
    """alpha_0 = 1, and half way between two entries alpha^2 is their geometric mean."""
    schedule = TableVP([0.8, 0.5, 0.1])
    alpha, sigma = schedule(torch.tensor([0.0, 1 / 6, 0.5, 5 / 6], dtype=torch.float64))
    expected = torch.tensor([1.0, 0.8, 0.8 * 0.5, 0.5 * 0.1], dtype=torch.float64)
    torch.testing.assert_close(alpha**2, torch.cat([expected[:1], expected[1:].sqrt()]))
    assert sigma[0] == 0
    assert schedule.num_steps == 3


def test_zero_terminal_snr_table_stays_usable() -> None:
    """A last entry of zero gives a large, finite noise level that still grows; other entries are untouched."""
    table = DDPMScheduler(50, rescale_betas_zero_snr=True).alphas_cumprod.double()
    table[-1] = 0.0
    schedule = TableVP(table.tolist())
    level = noise_level(schedule, torch.arange(1, 51) / 50)
    assert level.isfinite().all()
    assert (level.diff() > 0).all()
    torch.testing.assert_close(schedule(torch.arange(1, 50, dtype=torch.float64) / 50)[0] ** 2, table[:-1])


def test_cosine_is_a_quarter_of_a_cosine() -> None:
    """alpha_t = cos(pi/2 (t + 0.008)/1.008) / cos(pi/2 0.008/1.008), kept above 1e-3."""
    alpha, _ = CosineVP()(GRID)
    start, quarter = 0.008 / 1.008, math.pi / 2
    expected = [math.cos(quarter * (t / 1.008 + start)) / math.cos(quarter * start) for t in GRID.tolist()]
    torch.testing.assert_close(alpha, torch.tensor(expected, dtype=GRID.dtype).clamp(min=1e-3), rtol=1e-12, atol=1e-14)


def test_cosine_equals_the_cosine_table_of_diffusers() -> None:
    """squaredcos_cap_v2 multiplies up to CosineVP, but for its capped last step (its betas are float32)."""
    table = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod.double()
    alpha, _ = CosineVP()(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    torch.testing.assert_close(alpha[:-1] ** 2, table[:-1], rtol=1e-3, atol=0)


def test_edm_spacing_equals_diffusers() -> None:
    """n sampling steps of EDMEulerScheduler are n evenly spaced times, from 1 to 0."""
    for steps, rho in ((2, 7.0), (18, 7.0), (40, 3.0)):
        scheduler = EDMEulerScheduler(sigma_min=0.004, sigma_max=50.0, rho=rho)
        scheduler.set_timesteps(steps)
        alpha, sigma = EDM(0.004, 50.0, rho)(torch.linspace(1, 0, steps, dtype=torch.float64))
        torch.testing.assert_close(sigma, scheduler.sigmas[:-1].double(), rtol=1e-6, atol=0)
        assert (alpha == 1).all()


def test_geometric_ve_spacing_equals_diffusers() -> None:
    """The exponential spacing of EDMEulerScheduler is GeometricVE at evenly spaced times."""
    scheduler = EDMEulerScheduler(sigma_min=0.01, sigma_max=50.0, sigma_schedule="exponential")
    scheduler.set_timesteps(20)
    alpha, sigma = GeometricVE()(torch.linspace(1, 0, 20, dtype=torch.float64))
    torch.testing.assert_close(sigma, scheduler.sigmas[:-1].double(), rtol=1e-5, atol=0)
    assert (alpha == 1).all()


def test_flow_shift_equals_diffusers() -> None:
    """sigma at t = n/1000 is that of FlowMatchEulerDiscreteScheduler with the same shift, and alpha = 1 - sigma."""
    for shift in (1.0, 3.0, 0.5):
        expected = torch.as_tensor(FlowMatchEulerDiscreteScheduler(shift=shift).sigmas, dtype=torch.float64)
        alpha, sigma = RectifiedFlow(shift)(torch.arange(1000, 0, -1, dtype=torch.float64) / 1000)
        torch.testing.assert_close(sigma, expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(alpha[1:], 1 - expected[1:], rtol=1e-4, atol=1e-6)


def test_sigma_keeps_its_digits_near_zero() -> None:
    """sigma_t^2 = -2 log alpha_t to first order as t -> 0: no cancellation of 1 - alpha^2."""
    for schedule in (LinearVP(), ScaledLinearVP(), TABLE):
        t = torch.tensor([1e-12, 1e-10], dtype=torch.float64)
        _, sigma = schedule(t)
        alpha_at, _ = schedule(as_time(1e-3))
        slope = {LinearVP: 0.1, ScaledLinearVP: 1.5}.get(type(schedule), -2 * alpha_at.log().item() / 1e-3)
        torch.testing.assert_close(sigma**2, slope * t, rtol=1e-6, atol=0)


def test_an_unusable_table_is_refused() -> None:
    """Empty, increasing, out of [0, 1] or two-dimensional tables raise InputError."""
    wrong: tuple[Any, ...] = ([], [0.5, 0.6], [1.2, 0.5], [0.5, -0.1], [[0.9, 0.5]], [0.9, float("nan")])
    for table in wrong:
        with pytest.raises(InputError, match="alphas_cumprod"):
            TableVP(table)


def test_keypoints_by_noise_level_lie_at_these_levels() -> None:
    """sigma/alpha at the keypoints are the given levels."""
    for schedule in SCHEDULES:
        levels = torch.tensor([5.0, 2.5, 1.3, 0.6], dtype=torch.float64)
        times = torch.tensor(keypoints(diagonal_gaussian(schedule), noise_levels=levels.tolist()), dtype=torch.float64)
        torch.testing.assert_close(noise_level(schedule, times), levels, rtol=1e-9, atol=0)


def test_keypoints_by_time_are_evenly_spaced() -> None:
    """The default is the paper's 0.55, 0.50, 0.45, 0.40; one level is the start alone."""
    prior = diagonal_gaussian(EDM())
    assert keypoints(prior) == pytest.approx((0.55, 0.50, 0.45, 0.40))
    assert keypoints(prior, start=0.7, stop=0.3, levels=3) == pytest.approx((0.7, 0.5, 0.3))
    assert keypoints(prior, start=0.7, levels=1) == (0.7,)


def test_keypoints_out_of_order_are_refused() -> None:
    """No times, equal or increasing times, times outside (0, 1] and NaN raise InputError."""
    for times in ((), (0.5, 0.5), (0.4, 0.5), (1.1, 0.5), (0.5, 0.0), (float("nan"),)):
        with pytest.raises(InputError, match="keypoints"):
            check_keypoints(times)


def test_the_lowest_level_is_the_first_that_was_trained() -> None:
    """The lowest level of a table is that of its first entry, of every other schedule that of t = 0."""
    assert lowest_level(TableVP([0.8, 0.5, 0.1])) == pytest.approx(math.sqrt(0.2 / 0.8))
    assert lowest_level(EDM()) == pytest.approx(0.002)
    assert lowest_level(LinearVP()) == 0
