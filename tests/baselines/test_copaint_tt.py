"""CoPaint with time travel: where it goes, that it is CoPaint without, counted calls, the bias that it states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.baselines.copaint import copaint
from pyro_vipaint.baselines.copaint_tt import copaint_tt, copaint_tt_calls, itinerary
from pyro_vipaint.models import GaussianPrior
from pyro_vipaint.models.priors.schedules import EDM, LinearVP
from tests.baseline_truth import gaussian_truth, measure_bias
from tests.statistics import assert_within, mean_and_error

MASK = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
LIKELIHOOD = vp.Gaussian(vp.Inpainting(MASK), sigma=0.1)
Y = torch.tensor([[[[0.5, -0.3], [0.0, 0.0]]]])


def image_prior() -> GaussianPrior:
    return GaussianPrior.diagonal(torch.full((1, 2, 2), 0.2), torch.full((1, 2, 2), 0.3), EDM())


def repaint_times(steps: int, jump_length: int, jump_n_sample: int) -> list[int]:
    """The list of Lugmayr et al. 2022, appendix: timestep after timestep, upwards in jumps."""
    jumps = dict.fromkeys(range(0, steps - jump_length, jump_length), jump_n_sample - 1)
    t, times = steps, []
    while t >= 1:
        t -= 1
        times.append(t)
        if jumps.get(t, 0) > 0:
            jumps[t] -= 1
            for _ in range(jump_length):
                t += 1
                times.append(t)
    return times


@pytest.mark.parametrize(("steps", "tau", "repeats"), [(250, 10, 2), (30, 10, 3), (23, 5, 2), (10, 10, 2), (7, 1, 4)])
def test_it_goes_where_repaints_list_goes(steps: int, tau: int, repeats: int) -> None:
    """Timestep n of theirs is the time (n + 1) / N, and what they pass on the way up is not called."""
    theirs = [steps, *repaint_times(steps, tau, repeats), -1]
    called = [n for before, n, after in zip(theirs, theirs[1:], theirs[2:], strict=False) if not before < n < after]
    assert [steps - 1 - here for here, _ in itinerary(steps, tau, repeats)] == called


def test_each_move_starts_where_the_last_one_ended() -> None:
    moves = itinerary(250, 10, 2)
    assert moves[0][0] == 0 and moves[-1][1] == 250
    assert all(moves[i][1] == moves[i + 1][0] for i in range(len(moves) - 1))
    assert {there - here for here, there in moves} == {1, -10}


@pytest.mark.parametrize("options", [{"repeats": 1}, {"tau": 12}, {"tau": 50}])
def test_without_travels_it_is_copaint(options: dict[str, Any]) -> None:
    travelled = copaint_tt(image_prior(), LIKELIHOOD, Y, 3, 12, seed=4, **options).samples
    assert torch.equal(travelled, copaint(image_prior(), LIKELIHOOD, Y, 3, 12, seed=4).samples)


def test_without_gradient_steps_it_draws_from_the_prior() -> None:
    """Going back and down again leaves the prior where it is; a wrong variance on the way back would show."""
    prior = GaussianPrior.diagonal(torch.full((1, 2, 2), 0.2), torch.full((1, 2, 2), 0.3), LinearVP())
    samples = copaint_tt(prior, LIKELIHOOD, Y, 4000, 200, tau=20, repeats=3, gradient_steps=0, seed=0).samples.flatten()
    mean, error = mean_and_error(samples)
    assert_within(mean, 0.2, error, slack=0.005)
    assert_within(samples.std(), 0.3, 0.3 / (2 * len(samples)) ** 0.5, slack=0.006)


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    first, second = (
        copaint_tt(image_prior(), LIKELIHOOD, torch.cat([Y, neighbour]), 2, 12, tau=3, seed=3).samples
        for neighbour in (Y, 2 * Y)
    )
    assert torch.allclose(first[:, 0], second[:, 0], atol=1e-6)
    assert not torch.allclose(first[:, 1], second[:, 1], atol=1e-2)


def test_calls_and_the_callback() -> None:
    steps: list[int] = []
    result = copaint_tt(image_prior(), LIKELIHOOD, Y, 5, 30, lr=1e-3, callback=steps.append)
    assert result.calls == copaint_tt_calls(30) == 3 * (30 + 2 * 11)
    assert copaint_tt_calls() == 3 * (250 + 24 * 11)
    assert result.nfe == 5 * result.calls
    assert steps == list(range(52))


def test_every_sample_repeats_the_observation() -> None:
    samples: Tensor = copaint_tt(image_prior(), LIKELIHOOD, Y, 20, 60, seed=0).samples
    assert torch.allclose(samples[..., 0, :], Y[..., 0, :].expand(20, 1, 1, 2), atol=1e-3)


def test_tau_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="tau must be at least 1"):
        copaint_tt(image_prior(), LIKELIHOOD, Y, 1, 5, tau=0)


@pytest.mark.slow
def test_the_bias_stated_in_the_docstring() -> None:
    """0.70, 0.51, 0.00 and 0.87 with the authors' defaults; Monte-Carlo error about 0.06."""
    truth = gaussian_truth()
    bias = measure_bias(truth, lambda problem: copaint_tt(problem.prior, problem.likelihood, problem.y, 300, seed=0))
    assert bias.mean_observed == pytest.approx(0.70, abs=0.02)
    assert bias.mean_hidden == pytest.approx(0.51, abs=0.15)
    assert bias.std_observed < 0.005
    assert bias.std_hidden == pytest.approx(0.87, abs=0.1)
