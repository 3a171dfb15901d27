"""The Gaussian mixture benchmark: its model, its samplers, what it counts, and that it resumes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
import torch

import pyro_vipaint as vp
from benchmarks import gmm, gmm_methods
from benchmarks.gmm_methods import Drawn
from benchmarks.gmm_model import DiagonalProblem, diagonal_problem
from benchmarks.gmm_problem import GMMProblem, gmm_problem
from benchmarks.gmm_smc import guided_smc, twisted_smc
from pyro_vipaint.diagnostics import weighted_draws
from pyro_vipaint.guides import MixtureGuide
from tests.statistics import assert_within, mean_and_error


def one_component(dim: int = 6, dim_y: int = 2) -> GMMProblem:
    """A problem whose prior is N(m, I): its chain is linear and Gaussian, and exact with matched variances."""
    problem = gmm_problem(dim, dim_y, seed=0)
    mean = torch.linspace(-1, 1, dim)
    return replace(problem, weights=torch.ones(1), means=mean[None], y=problem.A @ mean + torch.ones(1, dim_y))


def two_modes() -> GMMProblem:
    """Weights 3/4 and 1/4, far apart along elements that are not seen."""
    problem = one_component(2, 1)
    means = torch.tensor([[0.0, -8.0], [0.0, 8.0]])
    matrix = torch.tensor([[1.0, 0.0]])
    return replace(problem, weights=torch.tensor([0.75, 0.25]), means=means, A=matrix, y=torch.zeros(1, 1))


def small_guide(diagonal: DiagonalProblem) -> MixtureGuide:
    return MixtureGuide(diagonal.model, torch.randn(1, 3, len(diagonal.rotation)), num_components=3, gamma_logit=1.0)


def test_coordinates_are_diagonal_and_lose_nothing() -> None:
    problem = gmm_problem(8, 2, seed=1)
    diagonal = diagonal_problem(problem, levels=3)
    x = torch.randn(5, 8)
    original = problem.likelihood(x).log_prob(problem.y).sum(-1)
    ours = diagonal.log_likelihood(x @ diagonal.rotation, torch.zeros(8))
    torch.testing.assert_close(ours, original, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(diagonal.rotation @ diagonal.rotation.T, torch.eye(8), rtol=0, atol=1e-5)


def test_conditioning_is_that_of_the_exact_posterior() -> None:
    """With c = 1 and the prior's mean it is the posterior of N(m, I)."""
    problem = one_component()
    diagonal = diagonal_problem(problem, levels=3)
    mean, variance = diagonal.condition(problem.means @ diagonal.rotation, torch.ones(6))
    exact = problem.posterior
    torch.testing.assert_close(mean @ diagonal.rotation.T, exact.mean, rtol=1e-3, atol=1e-3)
    covariance = diagonal.rotation @ torch.diag(variance) @ diagonal.rotation.T
    expected = exact.component_distribution.covariance_matrix[0, 0]
    torch.testing.assert_close(covariance, expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def fitted() -> tuple[DiagonalProblem, MixtureGuide]:
    """The K-level problem of a Gaussian, and a mixture that was fitted to it."""
    torch.manual_seed(0)
    diagonal = diagonal_problem(one_component(), levels=4)
    guide = small_guide(diagonal)
    rates = {"mu": 0.1, "tau": 0.05, "gamma": 0.05, "weight": 0.05}
    vp.fit(diagonal.model, guide, diagonal.y, vp.BetaELBO(1.0, 20), 150, rates, lr_decay=0.1)
    return diagonal, guide


@pytest.mark.parametrize("with_guide", [False, True])
def test_samplers_reach_the_exact_posterior_of_a_gaussian(
    with_guide: bool, fitted: tuple[DiagonalProblem, MixtureGuide]
) -> None:
    """Matched variances make the K-level chain exact there, so mean and variance are those of the posterior."""
    diagonal, guide = fitted
    if with_guide:
        z, effective = guided_smc(diagonal, guide, 20_000, 20_000, 0.5)
        assert effective > 2000
    else:
        z = twisted_smc(diagonal, 20_000)
    samples, posterior = diagonal.finish(z), one_component().posterior
    # c_t comes from 2000 draws, and resampled draws are worth fewer than they are: hence the factor and the slack.
    mean, error = mean_and_error(samples)
    assert_within(mean, posterior.mean[0], 4 * error, slack=0.01)
    assert_within(samples.var(0) / posterior.variance[0], 1.0, 4 * math.sqrt(2 / 20_000), slack=0.05)


def test_smc_finds_the_weights_of_two_modes() -> None:
    torch.manual_seed(0)
    problem = two_modes()
    diagonal = diagonal_problem(problem, levels=40)
    shares = gmm.mode_shares(problem, diagonal.finish(twisted_smc(diagonal, 4000)))
    assert_within(shares[0], 0.75, math.sqrt(0.75 * 0.25 / 4000), slack=0.05)


def test_guided_weights_without_resampling_are_importance_weights(
    fitted: tuple[DiagonalProblem, MixtureGuide],
) -> None:
    """The same normaliser, from two implementations of the guide's density."""
    diagonal, guide = fitted
    draws = weighted_draws(diagonal.model, guide, diagonal.y, 20_000)
    weights = draws.log_weights[:, 0].softmax(0)
    z, _ = guided_smc(diagonal, guide, 20_000, 20_000, threshold=0.0)
    error = z.std(0) / math.sqrt(1 / float(weights.square().sum()))
    assert_within(z.mean(0), weights.float() @ draws.z[:, 0], 2 * error)


def test_nfe_are_counted() -> None:
    diagonal = diagonal_problem(gmm_problem(8, 1, 0), levels=3)
    assert diagonal.nfe == 3 * 2000
    with vp.count_calls() as count:
        z = twisted_smc(diagonal, 50)
    assert count.nfe == 3 * 50
    with vp.count_calls() as count:
        z, _ = guided_smc(diagonal, small_guide(diagonal), 40, 10)
    assert count.nfe == 3 * 40
    with vp.count_calls() as count:
        diagonal.finish(z)
    assert count.nfe == 10


def test_dps_is_given_what_the_mixture_spends(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEPS": 4, "PROPOSALS": 300, "SAMPLES": 100, "COMPONENTS": 5, "PARTICLES": 10}.items():
        monkeypatch.setattr(gmm_methods, name, value)
    drawn = {row.name: row for row in gmm_methods.mixture(gmm_problem(8, 1, 0))}
    assert list(drawn) == ["Mixture", "Mixture, importance", "Mixture, SMC"]
    assert drawn["Mixture, SMC"].nfe == pytest.approx(gmm_methods.nfe_of_mixture(), abs=1)
    assert drawn["Mixture"].nfe < drawn["Mixture, SMC"].nfe


def test_a_fitted_guide_spends_what_the_control_spends(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SAMPLES": 100, "PARTICLES": 10, "FINE_LEVELS": 5, "FINE_PARTICLES": 200}.items():
        monkeypatch.setattr(gmm_methods, name, value)
    problem = gmm_problem(8, 1, 0)
    (control,), (plain,), (fitted,) = (
        list(method(problem))
        for method in (gmm_methods.smc_with(5, 200), gmm_methods.twisted("plain"), gmm_methods.twisted("fitted", 2))
    )
    assert plain.nfe == control.nfe
    assert control.nfe - 5 / 100 <= fitted.nfe <= control.nfe
    assert fitted.samples.shape == (100, 8) and fitted.effective is not None


def test_judge_counts_modes_of_five_per_cent() -> None:
    problem = two_modes()
    one_sided = torch.tensor([0.0, -8.0]) + torch.randn(500, 2)
    row = gmm.judge(problem, Drawn("x", one_sided, 3.0, 0.0), seed=0)
    assert (row["modes"], row["hit"], row["nfe"]) == (2, 1, 3.0)
    assert row["misplaced"] == pytest.approx(0.25, abs=1e-6)
    rare = replace(problem, weights=torch.tensor([0.96, 0.04]))
    assert gmm.judge(rare, Drawn("x", one_sided, 3.0, 0.0), seed=0)["modes"] == 1


def test_one_gaussian_has_the_exact_moments() -> None:
    drawn = {row.name: row.samples for row in gmm_methods.exact(two_modes())}
    posterior = two_modes().posterior
    mean, error = mean_and_error(drawn["one Gaussian"])
    assert_within(mean, posterior.mean[0], error)
    variance = drawn["one Gaussian"].var(0) / posterior.variance[0]
    assert_within(variance, 1.0, math.sqrt(2 / gmm_methods.SAMPLES))


def test_resuming_repeats_nothing(tmp_path: Path) -> None:
    runs: list[float] = []

    def method(problem: GMMProblem) -> Iterator[Drawn]:
        runs.append(problem.sigma_y)
        for name in ("first", "second"):
            yield Drawn(name, problem.posterior.sample(torch.Size([20]))[:, 0], 1.0, 0.0)

    path = tmp_path / "rows.parquet"
    gmm.run_all(path, [8], [1], 1, {"first": method})
    before = pandas.read_parquet(path)
    gmm.run_all(path, [8], [1, 2], 2, {"first": method})
    assert len(runs) == len(set(runs)) == 4
    after = pandas.read_parquet(path)
    assert len(after) == 8
    pandas.testing.assert_frame_equal(after.head(len(before)), before)
    gmm.run_all(path, [8], [1, 2], 2, {"first": method})
    assert len(runs) == 4
