"""Distances between samples, moment projections and the export, against closed forms and other implementations."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import wasserstein_distance

import pyro_vipaint as vp
from pyro_vipaint.diagnostics import (
    c2st,
    log_weights,
    pareto_k,
    project_onto_moments,
    project_onto_samples,
    sliced_wasserstein,
    wasserstein,
    weighted_draws,
)
from pyro_vipaint.guides import HierarchicalGuide
from tests.problems import diagonal_problem
from tests.statistics import STANDARD_ERRORS, assert_within, critical_value, psislw


@pytest.mark.parametrize(("n", "m"), [(50, 70), (1, 30), (30, 1)])
def test_on_the_line_it_is_scipys(n: int, m: int) -> None:
    x, y = torch.randn(3, n, dtype=torch.float64), 0.5 + 2 * torch.randn(3, m, dtype=torch.float64)
    expected = [wasserstein_distance(*pair) for pair in zip(x.numpy(), y.numpy(), strict=True)]
    assert torch.allclose(wasserstein(x, y), torch.tensor(expected, dtype=torch.float64))


def test_a_shift_has_its_closed_form() -> None:
    """Along u a shift by d moves by |u·d|, whose mean on the sphere is |d| Gamma(D/2) / (sqrt(pi) Gamma((D+1)/2))."""
    x, shift = torch.randn(300, 2, 4), torch.randn(2, 4)
    y = (x + shift)[torch.randperm(300)]
    distance = sliced_wasserstein(x, y, 4000, seed=1)
    norm = float(shift.norm())
    mean = norm * math.gamma(4) / (math.sqrt(math.pi) * math.gamma(4.5))
    std = math.sqrt(norm**2 / 8 - mean**2)
    assert_within(distance, mean, std / 4000**0.5)


def test_distance_grows_with_the_difference_and_depends_on_the_seed_alone() -> None:
    x, y = torch.randn(500, 8), torch.randn(700, 8)
    near, far = sliced_wasserstein(x, y, seed=2), sliced_wasserstein(x, y + 1, seed=2)
    assert sliced_wasserstein(x, x, seed=2) < 1e-6 < near < 0.5 * far
    torch.manual_seed(9)
    assert sliced_wasserstein(x, y, seed=2) == near
    with pytest.raises(vp.InputError, match=r"y has shape \(700, 3\), not \(m, 8\)"):
        sliced_wasserstein(x, y[:, :3])


def test_a_classifier_cannot_tell_equal_laws_apart() -> None:
    accuracy = c2st(torch.randn(400, 5), torch.randn(600, 5), seed=3, steps=40)
    assert_within(accuracy.estimate, 0.5, accuracy.standard_error)
    assert 0.01 < accuracy.standard_error < 0.02


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_a_classifier_comes_close_to_bayes_on_shifted_gaussians(shift: float) -> None:
    """The Bayes accuracy is Phi(shift/2); a classifier learnt from samples loses a little."""
    y = torch.randn(1000, 3)
    y[:, 0] += shift
    accuracy = c2st(10 * torch.randn(1000, 3) + 5, 10 * y + 5, seed=4, steps=40)
    bayes = 0.5 * (1 + math.erf(shift / 2 / math.sqrt(2)))
    assert accuracy.estimate < bayes + STANDARD_ERRORS * accuracy.standard_error
    assert accuracy.estimate > bayes - 0.03 - STANDARD_ERRORS * accuracy.standard_error


def test_a_classifier_finds_differences_beyond_two_moments() -> None:
    """Two modes against the Gaussian of the same moments."""
    x = torch.randn(600, 1)
    y = (torch.randint(0, 2, (600, 1)) * 2.0 - 1) * 0.95 + 0.312 * torch.randn(600, 1)
    accuracy = c2st(x, y, seed=5, steps=60)
    assert accuracy.estimate - 0.5 > STANDARD_ERRORS * accuracy.standard_error
    summary = project_onto_samples(y[:, None], x[:, None], 1)
    assert abs(float(summary.mean_shift)) < STANDARD_ERRORS * summary.mean_error
    with pytest.raises(vp.InputError, match="number of samples must be at least 5"):
        c2st(x[:3], y)


def test_projections_of_the_exact_law_agree_and_of_a_wrong_one_do_not() -> None:
    problem = diagonal_problem(images=2)
    exact = problem.prior.posterior(problem.likelihood, problem.y)
    samples, reference = exact.sample(torch.Size((2000,))), exact.sample(torch.Size((3000,)))
    allowed = critical_value(200)
    for summary in (
        project_onto_moments(samples, exact.mean, exact.covariance_matrix, seed=6),
        project_onto_samples(samples, reference, seed=6),
    ):
        assert summary.mean_shift.shape == summary.std_ratio.shape == (100, 2)
        assert summary.mean_shift.abs().max() < allowed * summary.mean_error
        assert summary.std_ratio.log().abs().max() < allowed * summary.std_error
    wrong = exact.mean + 0.5 * (samples - exact.mean) + exact.stddev
    summary = project_onto_moments(wrong, exact.mean, exact.covariance_matrix, seed=6)
    assert torch.allclose(summary.std_ratio, torch.full((), 0.5), rtol=allowed * summary.std_error)
    assert summary.mean_shift.abs().max() > 1


def test_the_export_of_a_fit_holds_draws_weights_data_and_losses() -> None:
    arviz = pytest.importorskip("arviz")
    problem = diagonal_problem(images=2)
    model = problem.model()
    guide = HierarchicalGuide(model, problem.y)
    fit = vp.fit(model, guide, problem.y, vp.BetaELBO(), steps=3, seed=8)
    data = fit.to_arviz(guide, problem.y, 400, seed=7)
    draws = weighted_draws(model, guide, problem.y, 400, seed=7)
    assert torch.equal(torch.as_tensor(data["posterior"]["z_Ts"].values[0]), draws.z)
    assert torch.equal(torch.as_tensor(data["sample_stats"]["log_weight"].values[0]), draws.log_weights)
    assert torch.equal(torch.as_tensor(data["log_likelihood"]["y"].values[0]), -draws.terms["y"])
    assert torch.equal(torch.as_tensor(data["observed_data"]["y"].values), problem.y)
    assert data["sample_stats"]["loss"].values.tolist() == fit.losses
    summary = arviz.summary(data, kind="stats", round_to="none")
    assert len(summary) == 32
    assert torch.allclose(torch.tensor(summary["mean"].tolist()), draws.z.mean(0).flatten(), atol=1e-3)
    _, k = psislw(torch.as_tensor(data["sample_stats"]["log_weight"].values[0]).T)
    assert torch.allclose(k, pareto_k(log_weights(model, guide, problem.y, 400, seed=7)), atol=1e-6)
