"""Calibration and coverage: an exact posterior passes at the suite's failure rate, wrong ones are caught."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import binom, chisquare
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.diagnostics import (
    chi_square_test,
    coordinates,
    coverage,
    credible_interval,
    draw_latent_and_data,
    ecdf_band,
    ecdf_test,
    log_likelihood,
    rank_histogram,
    rank_statistics,
    sbc,
    sbc_of_guide,
    symmetry_test,
    vsbc,
)
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, GaussianPrior
from tests.exact_guide import ExactGuide
from tests.problems import diagonal_problem
from tests.statistics import FAILURE_RATE, STANDARD_ERRORS, assert_within

QUANTITIES = coordinates([0, 3, 7, 15], event_dim=1)


def gaussian_simulations(images: int) -> tuple[Tensor, Tensor]:
    """x from the diagonal prior and y from x itself."""
    problem = diagonal_problem()
    x = problem.prior.mean + problem.prior.covariance.diagonal().sqrt() * torch.randn(images, 16)
    noise = problem.likelihood.sigma * torch.randn(images, 16)
    return x, problem.likelihood.operator.A(x + noise)


def gaussian_posterior(scale: float = 1.0, shift: float = 0.0) -> Callable[[Tensor, int], Tensor]:
    """Draws of the exact posterior of x, or of one with the wrong spread or place, in standard deviations."""
    problem = diagonal_problem()

    def draw(y: Tensor, count: int) -> Tensor:
        exact = problem.prior.posterior(problem.likelihood, y)
        centred = exact.sample(torch.Size((count,))) - exact.mean
        return exact.mean + scale * centred + shift * exact.stddev

    return draw


def test_an_exact_posterior_passes() -> None:
    result = sbc(gaussian_simulations, gaussian_posterior(), QUANTITIES, 400, 99, seed=1)
    table, averaged = result.uniformity(), result.data_averaged()
    assert table[["ecdf", "chi_square"]].min(axis=None) > FAILURE_RATE / 8
    assert averaged[["mean_z", "square_z"]].abs().max(axis=None) < STANDARD_ERRORS


@pytest.mark.parametrize(("scale", "sign"), [(0.6, -1), (1.6, 1)])
def test_a_wrong_spread_is_caught(scale: float, sign: int) -> None:
    result = sbc(gaussian_simulations, gaussian_posterior(scale), QUANTITIES, 400, 99, seed=2)
    assert result.uniformity()[["ecdf", "chi_square"]].max(axis=None) < FAILURE_RATE
    # Where y has little information the posterior's variance is the prior's, and the average over data shows the error.
    assert (sign * result.data_averaged().square_z[2:] > STANDARD_ERRORS).all()
    outer = sum(rank_histogram(rank, 99, 10)[[0, -1]].sum() for rank in result.ranks.values()) / 1600
    assert (outer > 0.3) if sign < 0 else (outer < 0.1)


def test_a_shift_is_caught_by_the_ecdf_and_by_the_data_averaged_mean() -> None:
    result = sbc(gaussian_simulations, gaussian_posterior(shift=0.5), QUANTITIES, 400, 99, seed=3)
    assert result.uniformity().ecdf.max() < FAILURE_RATE
    assert (result.data_averaged().mean_z > STANDARD_ERRORS).all()


def test_a_sampler_that_returns_the_prior_fails_only_for_a_quantity_of_the_data() -> None:
    problem = diagonal_problem()

    def ignore_data(y: Tensor, count: int) -> Tensor:
        return gaussian_simulations(count * len(y))[0].reshape(count, len(y), 16)

    def squared_residual(x: Tensor, y: Tensor) -> Tensor:
        return problem.likelihood.residual(x, y).square().sum(-1)

    result = sbc(gaussian_simulations, ignore_data, QUANTITIES | {"fit": squared_residual}, 400, 99, seed=4)
    p = result.uniformity().ecdf
    assert (p[:4] > FAILURE_RATE / 4).all()
    assert p[4] < FAILURE_RATE


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_a_guide_is_calibrated_by_one_run_of_its_plate(scale: float) -> None:
    problem = diagonal_problem()
    model, fitted = problem.model(), []
    result = sbc_of_guide(
        model,
        lambda model, y: ExactGuide(problem, model, y, scale=scale),
        lambda model, guide, y: fitted.append(y),
        QUANTITIES | {"log_likelihood": log_likelihood(model)},
        num_simulations=300,
        seed=5,
    )
    p = result.uniformity().ecdf
    assert [y.shape for y in fitted] == [(300, 16)]
    assert p.min() > FAILURE_RATE / 5 if scale == 1 else p.min() < FAILURE_RATE / 5


@pytest.mark.parametrize("perceptual", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_log_likelihood_is_one_number_for_each_draw(perceptual: bool) -> None:
    """Elements are summed; a likelihood that is one number per image already is not."""
    prior = GaussianPrior.diagonal(torch.zeros(3, 32, 32), torch.ones(3, 32, 32))
    operator = vp.Inpainting(torch.ones(1))
    likelihood = vp.Perceptual(operator) if perceptual else vp.Laplace(operator)
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=[1.0]))
    z, y = torch.randn(2, 1, 3, 32, 32), torch.randn(1, 3, 32, 32).clamp(-1, 1)
    found = log_likelihood(model)(z, y)
    alone = [likelihood(model.reconstruct(z[s])).log_prob(y).sum() for s in range(2)]
    torch.testing.assert_close(found[:, 0], torch.stack(alone))


def test_simulated_data_are_hidden_where_they_are_not_observed() -> None:
    problem = diagonal_problem()
    z, y = draw_latent_and_data(problem.model(), 2000)
    assert z.shape == y.shape == (2000, 16)
    assert (y[:, 6:] == 0).all() and (y[:, :6] != 0).all()
    x = problem.model().reconstruct(z)[:, :6]
    assert_within((y[:, :6] - x).std(), 0.1, 0.1 / (2 * 12_000) ** 0.5)


def test_vsbc_distinguishes_bias_from_spread() -> None:
    x, y = gaussian_simulations(400)
    exact, narrow, low = (
        vsbc(x, gaussian_posterior(*wrong)(y, 99), seed=6) for wrong in ((1.0, 0.0), (0.6, 0.0), (1.0, -0.5))
    )
    assert exact.p.shape == (400, 16) and ((exact.p > 0) & (exact.p < 1)).all()
    for passed in (exact.symmetry, exact.uniformity, narrow.symmetry):
        assert passed.shape == (16,) and passed.min() > FAILURE_RATE / 16
    for caught in (narrow.uniformity, low.uniformity, low.symmetry):
        assert caught.max() < FAILURE_RATE
    assert (low.p.mean(0) > 0.5).all(), "the truth lies above a guide that is too low"


def test_tests_of_uniformity_have_their_level() -> None:
    """p-values of uniform ranks are below a level with about that probability, and not with a larger one."""
    ranks = torch.randint(0, 20, (100, 4000))
    unequal = chi_square_test(torch.randint(0, 11, (100, 4000)), 10)  # 11 is prime: 5 bins of two ranks or three
    for p in (ecdf_test(ranks, 19), chi_square_test(ranks, 19, 10), unequal, symmetry_test(torch.rand(100, 4000))):
        for level in (0.02, 0.1, 0.4):
            rejected = float((p <= level).double().mean())
            error = math.sqrt(level * (1 - level) / 4000)
            assert 0.5 * level < rejected < 1.1 * level + STANDARD_ERRORS * error


def test_the_ecdf_p_value_is_exact_on_a_case_that_can_be_counted() -> None:
    """Two ranks in {0, 1, 2}: nine equally likely outcomes, listed."""
    outcomes = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    # tails 2 min(P(B <= R), P(B >= R)) of R = #{r < 1} ~ Bin(2, 1/3) and #{r < 2} ~ Bin(2, 2/3)
    below = (outcomes < 1).sum(0), (outcomes < 2).sum(0)
    tails = torch.tensor([8 / 9, 10 / 9, 2 / 9]), torch.tensor([2 / 9, 10 / 9, 8 / 9])
    statistic = torch.minimum(tails[0][below[0]], tails[1][below[1]])
    expected = (statistic <= statistic[:, None] + 1e-6).double().mean(1)
    assert torch.allclose(ecdf_test(outcomes, 2), expected)


def test_an_extreme_p_value_is_exact_too() -> None:
    """With one posterior draw the ranks are coins, and the ECDF test is the two-sided binomial one."""
    ranks = (torch.arange(400) < 140).long()
    assert math.isclose(float(ecdf_test(ranks, 1)), 2 * binom.cdf(140, 400, 0.5), rel_tol=1e-3)


def test_the_symmetry_p_value_is_exact_on_a_case_that_can_be_counted() -> None:
    """Four signs: all above 1/2 has an excursion of 4, as two of sixteen sign patterns have."""
    p = torch.tensor([[0.9, 0.9], [0.8, 0.2], [0.7, 0.7], [0.6, 0.4]])
    assert torch.allclose(symmetry_test(p), torch.tensor([2 / 16, 1.0], dtype=torch.float64))


def test_the_band_contains_the_whole_ecdf_with_its_probability() -> None:
    lower, upper = ecdf_band(100, 19, level=0.9)
    ranks = torch.randint(0, 20, (100, 20_000))
    ecdf = torch.stack([(ranks < i).double().mean(0) for i in range(1, 20)])
    inside = ((ecdf >= lower[:, None] - 1e-9) & (ecdf <= upper[:, None] + 1e-9)).all(0).double().mean()
    error = math.sqrt(0.9 * 0.1 / 20_000)
    assert 0.9 - STANDARD_ERRORS * error < inside < 0.93
    middle = torch.arange(1, 20, dtype=torch.float64) / 20
    assert ((lower < middle) & (middle < upper)).all()


def test_histogram_bins_are_equally_likely() -> None:
    ranks = torch.arange(100)
    assert rank_histogram(ranks, 99, 20).tolist() == [5] * 20
    assert len(rank_histogram(ranks, 99)) == 5, "twenty ranks a bin"
    for bins, draws in ((3, 99), (None, 100)):
        with pytest.raises(vp.InputError, match=f"num_draws={draws} .* equal bins"):
            rank_histogram(ranks, draws, bins)


def test_the_chi_square_test_uses_the_width_of_its_bins() -> None:
    """Seven possible ranks in three bins, 0-2, 3-4 and 5-6, against SciPy."""
    ranks = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 6, 6, 6, 6, 6, 6])
    expected = chisquare([6, 3, 7], [16 * 3 / 7, 16 * 2 / 7, 16 * 2 / 7]).pvalue
    assert math.isclose(float(chi_square_test(ranks, 6, 3)), expected, rel_tol=1e-9)
    for bins in (8, 1):
        with pytest.raises(vp.InputError, match="num_draws=6 there can be"):
            chi_square_test(ranks, 6, bins)


def test_ties_are_broken_evenly() -> None:
    """A quantity that is equal for all draws has a uniform rank, not an extreme one."""
    ranks = rank_statistics(torch.zeros(500), torch.zeros(9, 500))
    assert ecdf_test(ranks, 9) > FAILURE_RATE
    assert set(ranks.tolist()) == set(range(10))


def test_intervals_of_the_exact_posterior_have_their_coverage() -> None:
    """Between order statistics coverage is exact for any number of samples; 19 as good as 199."""
    for samples in (19, 199):
        x, y = gaussian_simulations(400)
        table = coverage(gaussian_posterior()(y, samples), x, (0.5, 0.8, 0.9))
        covered, level, error = (torch.tensor(table[name].tolist()) for name in ("coverage", "level", "binomial_error"))
        assert_within(covered, level, error)
        assert 0.88 < table.coverage[2] < 0.92
        assert (table.elements == 6400).all()
    narrow = coverage(gaussian_posterior(0.6)(y, 199), x, (0.9,))
    assert narrow.coverage[0] < 0.75


def test_coverage_counts_the_elements_in_where_and_measures_width() -> None:
    x, y = gaussian_simulations(400)
    draws = gaussian_posterior()(y, 399)
    draws[..., :6] += 10
    hidden = torch.arange(16) >= 6
    table = coverage(draws, x, (0.9,), where=hidden)
    assert_within(table.coverage[0], 0.9, table.binomial_error[0])
    assert table.elements[0] == 4000
    exact = diagonal_problem().prior.posterior(diagonal_problem().likelihood, y).stddev[:, 6:].mean()
    assert_within(table.width[0] / (2 * 1.6449 * float(exact)), 1.0, 0.01)
    assert coverage(draws, x, (0.9,), where=~hidden).coverage[0] == 0


def test_the_error_of_coverage_allows_for_dependent_elements_of_an_image() -> None:
    truth = torch.randn(500, 1).expand(500, 16)
    table = coverage(torch.randn(199, 500, 1).expand(199, 500, 16), truth, (0.8,))
    assert math.isclose(table.standard_error[0], 4 * table.binomial_error[0], rel_tol=0.01)
    assert math.isnan(coverage(torch.randn(199, 1, 16), truth[:1], (0.8,)).standard_error[0])
    ends = torch.stack([torch.zeros(16), torch.full((16,), 99.0)])  # of two images one is covered, the other is not
    assert coverage(torch.randn(199, 2, 16), ends, (0.8,)).standard_error[0] == pytest.approx(0.5)


def test_intervals_are_order_statistics() -> None:
    lower, upper = credible_interval(torch.arange(1.0, 20.0), 0.9)
    assert (lower, upper) == (1.0, 19.0)
    lower, upper = credible_interval(torch.arange(1.0, 20.0), 0.5)
    assert (lower, upper) == (5.0, 15.0)
    with pytest.raises(vp.InputError, match="resolve"):
        credible_interval(torch.arange(18.0), 0.9)
    with pytest.raises(vp.InputError, match="nonzero where must be at least 1"):
        coverage(torch.randn(99, 2, 3), torch.randn(2, 3), where=torch.zeros(3))


@pytest.mark.slow
def test_a_fitted_guide_is_calibrated() -> None:
    """On a diagonal Gaussian the hierarchical family contains the posterior: its 90 % intervals cover 88 to 92 %."""
    problem, kept = diagonal_problem(), {}

    def build(model: DiffusionModel, y: Tensor) -> HierarchicalGuide:
        return HierarchicalGuide(model, vp.initial_latent(problem.prior, problem.likelihood, y), gamma_logit=0.0)

    def fit(model: DiffusionModel, guide: HierarchicalGuide, y: Tensor) -> None:
        vp.fit(model, guide, y, vp.BetaELBO(num_particles=4), steps=400, lr=0.1, lr_decay=0.005)

    def keep(z: Tensor, y: Tensor) -> Tensor:
        kept[z.ndim] = z
        return z.mean(-1)

    result = sbc_of_guide(problem.model(), build, fit, QUANTITIES | {"mean": keep}, 400, 199, seed=7)
    table = coverage(kept[3], kept[2], (0.9,))
    assert 0.88 < table.coverage[0] < 0.92
    assert (result.uniformity().ecdf > FAILURE_RATE / 5).all()
