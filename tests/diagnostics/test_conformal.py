"""Conformal intervals: the rank by hand, coverage with draws that are too sure, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.diagnostics import conformalize, interval_coverage

SAMPLES, PROBLEMS, LEVEL = 10, 64, 0.9


def problems(count: int, numbers: int = 1, spread: float = 0.3, shared: float = 0.9) -> tuple[Tensor, Tensor]:
    """Draws ``(S, count, numbers)`` and truths whose posterior has the spread 1, in the draws ``spread``.

    The numbers of one problem have a correlation of ``shared``², and problems differ in scale.
    """
    scale = torch.rand(count, 1) + 0.5

    def draw(*leading: int) -> Tensor:
        common, own = torch.randn(*leading, count, 1), torch.randn(*leading, count, numbers)
        return scale * (shared * common + (1 - shared**2) ** 0.5 * own)

    mean = torch.randn(count, numbers)
    return mean + spread * draw(SAMPLES), mean + draw()


@pytest.mark.parametrize(("count", "level"), [(9, 0.9), (64, 0.9), (63, 0.8), (20, 0.5)])
def test_one_functional_is_the_score_of_a_rank(count: int, level: float) -> None:
    """ceil((n + 1) c), from the smallest; the interval is the mean and that many spreads of a further draw."""
    torch.manual_seed(0)
    draws, truth = (value[..., 0] for value in problems(count))
    calibrated = conformalize(draws, truth, level)
    mean, spread = draws.mean(0), draws.std(0) * (1 + 1 / SAMPLES) ** 0.5
    scores = sorted(((truth - mean).abs() / spread).tolist())
    assert calibrated.scale == pytest.approx(scores[math.ceil((count + 1) * level - 1e-9) - 1], rel=1e-5)
    lower, upper = calibrated.interval(draws)
    torch.testing.assert_close((lower + upper) / 2, mean)
    torch.testing.assert_close((upper - lower) / 2, calibrated.scale * spread)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("numbers", [1, 5])
def test_new_problems_are_covered_however_sure_the_draws(spread: float, numbers: int) -> None:
    """c to c + 1/(n + 1) + 1/((n + 1) M) within three errors, over 200 calibrations with 64 new problems each."""
    torch.manual_seed(0)
    shares, scales = [], []
    for _ in range(200):
        calibrated = conformalize(*problems(PROBLEMS, numbers, spread), LEVEL)
        draws, truth = problems(PROBLEMS, numbers, spread)
        lower, upper = calibrated.interval(draws)
        scales.append(calibrated.scale * spread)
        shares.append(((lower <= truth) & (truth <= upper)).float().mean())
    share = torch.stack(shares)
    assert sum(scales) / 200 > 1.64, "what would do for many draws that are right"
    error = 3 * float(share.std()) / 200**0.5
    excess = 1 / (PROBLEMS + 1) * (1 + 1 / numbers if numbers > 1 else 1)
    assert LEVEL - error <= float(share.mean()) <= LEVEL + excess + error


def test_numbers_of_one_problem_count_as_one_problem() -> None:
    """A problem given with each of its numbers twice, or with numbers that do not count, changes nothing."""
    torch.manual_seed(0)
    draws, truth = problems(PROBLEMS, 3)
    once = conformalize(draws, truth).scale
    assert conformalize(draws.repeat(1, 1, 2), truth.repeat(1, 2)).scale == once
    wider, more = torch.cat([draws, torch.randn(SAMPLES, PROBLEMS, 3)], 2), torch.cat([truth, truth + 99], 1)
    where = torch.tensor([1, 1, 1, 0, 0, 0])
    assert conformalize(wider, more, where=where).scale == once
    assert conformalize(wider, more).scale > once
    ragged = torch.ones(PROBLEMS, 3)
    ragged[: PROBLEMS // 2, 1:] = 0  # half of the problems have one number, of the weight of three
    scores = ((truth - draws.mean(0)).abs() / (draws.std(0) * 1.1**0.5)).double()
    half = PROBLEMS // 2
    flat = torch.cat([scores[:half, :1].repeat(1, 3), scores[half:]]).flatten().sort().values
    assert conformalize(draws, truth, where=ragged).scale == pytest.approx(
        float(flat[math.ceil(3 * (PROBLEMS + 1) * LEVEL) - 1]), rel=1e-5
    )


def test_units_have_no_influence() -> None:
    torch.manual_seed(0)
    draws, truth = problems(PROBLEMS)
    lower, upper = conformalize(draws, truth).interval(draws)
    other = conformalize(3 + 0.1 * draws, 3 + 0.1 * truth).interval(3 + 0.1 * draws)
    torch.testing.assert_close(other[0], 3 + 0.1 * lower)
    torch.testing.assert_close(other[1], 3 + 0.1 * upper)


def test_the_pixels_of_a_result() -> None:
    """Samples around a mean that is right, with a third of the spread: plain intervals of the hole cover too little."""
    torch.manual_seed(0)
    shape, mask = (1, 4, 4), torch.arange(16).reshape(1, 4, 4) % 2
    mean = 0.2 * torch.randn(200, *shape)
    truth = mean + 0.1 * torch.randn(200, *shape)
    samples = mean + 0.03 * torch.randn(19, 200, *shape)

    class Answer:
        def __init__(self, here: slice) -> None:
            self.samples = samples[:, here]

    first, second = slice(100), slice(100, 200)
    calibrated = conformalize(Answer(first), truth[first], where=mask == 0)
    lower, upper = calibrated.interval(Answer(second))
    hole = (mask == 0).expand(100, *shape)
    covered = ((lower <= truth[second]) & (truth[second] <= upper))[hole].float().mean()
    plain: Any = interval_coverage(samples[:, second], truth[second], 0.9, mask == 0)
    assert float(covered) == pytest.approx(0.9, abs=0.03) and float(plain["coverage"].iloc[0]) < 0.5


REFUSED: dict[str, tuple[Any, str]] = {
    "few problems": (lambda d, t: conformalize(d[:, :8], t[:8]), "needs 9 problems"),
    "level": (lambda d, t: conformalize(d, t, 1.0), "between 0 and 1"),
    "per cent": (lambda d, t: conformalize(d, t, 90), "level must be"),
    "one draw": (lambda d, t: conformalize(d[:1], t), "at least 2"),
    "shapes": (lambda d, t: conformalize(d, t[:9]), "truth has shape"),
    "NaN": (lambda d, t: conformalize(d, t * math.nan), "truth must be finite"),
    "no spread": (lambda d, t: conformalize(d[:1].repeat(5, 1, 1), t), "no spread and miss the truth"),
    "nothing counts": (lambda d, t: conformalize(d, t, where=torch.zeros(PROBLEMS, 2)), "no number that counts"),
    "other samples": (lambda d, t: conformalize(d, t).interval(d[:5]), r"result\.sample\(10\)"),
    "no draws": (lambda d, t: conformalize([1.0], t), "draws"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_calibrated_is_refused_in_one_line(name: str) -> None:
    ask, message = REFUSED[name]
    torch.manual_seed(0)
    with pytest.raises(vp.InputError, match=message) as error:
        ask(*problems(PROBLEMS, 2))
    assert "\n" not in str(error.value)
