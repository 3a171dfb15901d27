"""Proper scores and calibration against closed forms of Gaussians, sums by hand and LPIPS itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_vipaint.diagnostics import energy_score, error_over_spread, interval_coverage, lpips_energy_score
from pyro_vipaint.errors import InputError
from pyro_vipaint.metrics import lpips_distance
from tests.statistics import STANDARD_ERRORS

EVENT = (2, 3)
D = 6
LENGTH = math.sqrt(2) * math.gamma((D + 1) / 2) / math.gamma(D / 2)  # the mean length of a standard normal vector


def gaussians(std: float, draws: int = 8, images: int = 4000) -> tuple[Tensor, Tensor]:
    """Draws of N(0, std^2), and truths of N(0, 1): exact draws where std is 1."""
    return std * torch.randn(draws, images, *EVENT), torch.randn(images, *EVENT)


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_the_energy_score_has_its_closed_form_which_is_least_for_exact_draws(std: float) -> None:
    score = energy_score(*gaussians(std))
    expected = LENGTH * (math.sqrt(1 + std**2) - std / math.sqrt(2))
    assert abs(float(score.mean()) - expected) < STANDARD_ERRORS * float(score.std()) / math.sqrt(len(score))
    assert expected >= LENGTH / math.sqrt(2)


def test_the_energy_score_is_the_sum_by_hand_over_what_counts() -> None:
    samples, truth = torch.randn(3, 2, *EVENT), torch.randn(2, *EVENT)
    where = torch.tensor([[1, 0, 1], [0, 1, 1]])
    hidden = samples.masked_fill(where == 0, math.nan)  # what does not count has no influence
    for n, score in enumerate(energy_score(hidden, truth, where)):
        x, draws = (truth[n] * where), samples[:, n] * where
        to_truth = sum(float((draw - x).norm()) for draw in draws) / 3
        between = sum(float((draw - other).norm()) for draw in draws for other in draws) / 6
        assert float(score) == pytest.approx(to_truth - between / 2, rel=1e-5)


def test_lpips_is_a_squared_distance_of_features() -> None:
    samples, truth = torch.rand(2, 2, 1, 32, 32) * 2 - 1, torch.rand(2, 1, 32, 32) * 2 - 1
    by_hand = lpips_distance(samples, truth).sqrt().mean(0) - lpips_distance(samples[0], samples[1]).sqrt() / 2
    assert torch.allclose(lpips_energy_score(samples, truth), by_hand, rtol=1e-3)


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_error_over_spread_has_its_closed_form(std: float) -> None:
    samples, truth = gaussians(std)
    ratio, error = error_over_spread(samples, truth)
    expected = (1 + std**2 / 8) / ((1 + 1 / 8) * std**2)
    assert abs(ratio - expected) < STANDARD_ERRORS * error
    repeats = torch.tensor([error_over_spread(*gaussians(std, images=40)) for _ in range(200)])
    assert float(repeats[:, 1].mean() / repeats[:, 0].std()) == pytest.approx(1, abs=0.3)  # 6 standard errors of it


def test_projections_see_what_pixels_have_in_common() -> None:
    """Pixels that share one offset, and draws with the right pixels but without it: each pixel passes alone."""
    shape, common = (300, 1, 8, 8), torch.randn(300, 1, 1, 1)
    truth, where = common + torch.randn(shape), torch.ones(8, 8)
    exact = torch.randn(9, 300, 1, 1, 1) + torch.randn(9, *shape)
    independent = math.sqrt(2) * torch.randn(9, *shape)
    right, wrong = (interval_coverage(draws, truth, 0.8, where, seed=0) for draws in (exact, independent))
    errors = STANDARD_ERRORS * right["standard_error"]
    assert (abs(right["coverage"] - 0.8) < errors).all()
    assert abs(wrong["coverage"][0] - 0.8) < errors[0] and wrong["coverage"][1] < 0.8 - errors[1]
    assert list(wrong["of"]) == ["pixels", "projections"]


def test_one_draw_is_refused() -> None:
    with pytest.raises(InputError, match="S of 2 or more"):
        energy_score(torch.zeros(1, 2, 3), torch.zeros(2, 3))
