"""DPS from pure noise; its step is tested in tests/test_refinement.py, that with DeepInverse in test_peers.py."""

from __future__ import annotations

import pytest

from pyro_vipaint.baselines import dps, dps_calls
from tests.baseline_truth import gaussian_truth, measure_bias

SAMPLES = 2000


def test_the_bias_is_the_documented_one() -> None:
    """The defaults; the Monte-Carlo error of each figure is below 1 / sqrt(2000) = .022."""
    bias = measure_bias(gaussian_truth(), lambda truth: dps(truth.prior, truth.likelihood, truth.y, SAMPLES, seed=0))
    measured = (bias.mean_observed, bias.mean_hidden, bias.std_observed, bias.std_hidden)
    assert measured == pytest.approx((0.70, 0.81, 1.12, 0.87), abs=0.05)


def test_calls_are_those_that_are_counted_and_no_steps_are_refused() -> None:
    truth = gaussian_truth()
    assert dps(truth.prior, truth.likelihood, truth.y, 3, steps=7).calls == dps_calls(7) == 7
    with pytest.raises(ValueError, match="steps must be at least 1"):
        dps(truth.prior, truth.likelihood, truth.y, 3, steps=0)
