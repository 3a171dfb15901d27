"""CoPaint with time travel: its moves, and its limits without travels and without gradient steps."""

from __future__ import annotations

import pytest
import torch

import pyro_vipaint as vp
from pyro_vipaint.baselines.copaint import copaint
from pyro_vipaint.baselines.copaint_tt import copaint_tt, copaint_tt_calls, itinerary
from pyro_vipaint.models.priors.schedules import LinearVP
from tests.problems import LIKELIHOOD, Y, four_pixels
from tests.statistics import assert_within, mean_and_error


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


def test_its_moves_are_those_of_repaints_list() -> None:
    """Their timestep n is the time (n + 1) / N; the network is not called at those that they pass on the way up."""
    for steps, tau, repeats in ((250, 10, 2), (23, 5, 3), (10, 10, 2), (7, 1, 4)):
        theirs = [steps, *repaint_times(steps, tau, repeats), -1]
        called = [n for before, n, after in zip(theirs, theirs[1:], theirs[2:], strict=False) if not before < n < after]
        assert [steps - 1 - here for here, _ in itinerary(steps, tau, repeats)] == called


def test_each_move_starts_where_the_last_one_ended() -> None:
    moves = itinerary(250, 10, 2)
    assert copaint_tt_calls() == 3 * len(moves) == 3 * (250 + 24 * 11)
    assert moves[0][0] == 0 and moves[-1][1] == 250
    assert all(moves[i][1] == moves[i + 1][0] for i in range(len(moves) - 1))
    assert {there - here for here, there in moves} == {1, -10}
    with pytest.raises(vp.InputError, match="tau must be at least 1"):
        copaint_tt(four_pixels(), LIKELIHOOD, Y, 1, 5, tau=0)


def test_without_travels_it_is_copaint() -> None:
    expected = copaint(four_pixels(), LIKELIHOOD, Y, 3, 12, seed=4).samples
    for tau, repeats in ((10, 1), (12, 2)):
        ours = copaint_tt(four_pixels(), LIKELIHOOD, Y, 3, 12, tau=tau, repeats=repeats, seed=4)
        assert torch.equal(ours.samples, expected)


def test_without_gradient_steps_it_draws_from_the_prior() -> None:
    """Travelling back and descending again does not change the prior; a wrong variance on the way back would."""
    prior = four_pixels(LinearVP())
    samples = copaint_tt(prior, LIKELIHOOD, Y, 4000, 200, tau=20, repeats=3, gradient_steps=0, seed=0).samples.flatten()
    mean, error = mean_and_error(samples)
    assert_within(mean, 0.2, error, slack=0.005)
    assert_within(samples.std(), 0.3, 0.3 / (2 * len(samples)) ** 0.5, slack=0.006)
