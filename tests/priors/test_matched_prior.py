"""Matched variances: closed forms of Gaussians, on which the twisted guide is the posterior itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.corrections import MMPS, Correction, OptimalCovariance, Wiener, predict
from pyro_vipaint.diagnostics import log_weights
from pyro_vipaint.guides.twisted import TwistedGuide
from pyro_vipaint.models import (
    EDM,
    DataCovariance,
    DiffusionModel,
    GaussianPrior,
    Inpainting,
    MatchedPrior,
    Matrix,
    SuperResolution,
    denoising_errors,
)
from pyro_vipaint.models.exact.gaussian import operator_matrix
from pyro_vipaint.models.priors.schedules import as_time
from tests.statistics import assert_within, mean_and_error

NOISY = EDM(sigma_max=1e5)  # what y says of z_Te is nothing
GRIDS = [(1.0, 0.4), (1.0, 0.7, 0.5, 0.3, 0.1), tuple(1 - i / 12 for i in range(12))]
MEAN = torch.linspace(-0.4, 0.6, 6, dtype=torch.float64)
STD = torch.linspace(0.3, 1.2, 6, dtype=torch.float64)
MASK = torch.tensor([1.0, 1, 0, 1, 0, 0])
NOISE = torch.tensor([0.1, 0.3, 0.1, 0.05, 0.1, 0.1], dtype=torch.float64)
DIAGONAL = Matrix(torch.diag(torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)) @ torch.eye(3, 6, dtype=torch.float64))
GAUSSIAN = GaussianPrior.diagonal(MEAN, STD, NOISY)


def variance(t: float) -> Tensor:
    """Var(x given z_t) of the independent Gaussian."""
    alpha, sigma = map(float, NOISY(as_time(t)))
    return STD**2 * sigma**2 / (alpha**2 * STD**2 + sigma**2)


MATCHED = MatchedPrior(GAUSSIAN, variance)
LIKELIHOODS = {
    "mask": (vp.Gaussian(Inpainting(MASK), 0.1), 0.5 * MASK.double()[None]),
    "map of the noise": (vp.Gaussian(Inpainting(MASK), NOISE), 0.5 * MASK.double()[None]),
    "matrix": (vp.Gaussian(DIAGONAL, 0.2), torch.tensor([[0.7, -0.4, 0.2]], dtype=torch.float64)),
}


@pytest.mark.parametrize("correction", [MMPS(3), OptimalCovariance()])
@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_with_independent_coordinates_the_guide_is_the_posterior(kind: str, correction: Correction) -> None:
    """On every grid, also the coarsest, every weight is the evidence of the prior itself: the bound is tight."""
    likelihood, y = LIKELIHOODS[kind]
    exact = GAUSSIAN.log_evidence(likelihood, y)
    for grid in GRIDS:
        model = DiffusionModel(MATCHED, likelihood, grid)
        guide = TwistedGuide(model, y, correction=correction)
        weights = log_weights(model, guide, y, 20, seed=0)
        assert torch.allclose(weights, exact.expand_as(weights).double(), atol=1e-4)
        run = vp.smc(model, guide, y, 20, seed=0)
        assert torch.allclose(run.log_evidence, exact.double(), atol=1e-4) and not run.resampled.any()
        assert torch.allclose(run.effective_sample_size, torch.tensor(20.0, dtype=torch.float64), atol=1e-3)


VECTORS = torch.linalg.qr(torch.arange(12, dtype=torch.float64).reshape(6, 2).sin()).Q.T
COVARIANCE = DataCovariance(VECTORS, torch.tensor([1.5, 0.6]).double(), 0.2)
CORRELATED = GaussianPrior.full(MEAN, COVARIANCE.root(COVARIANCE.root(torch.eye(6).double())), NOISY)


@pytest.mark.parametrize("kind", ["mask", "map of the noise"])
def test_with_the_covariance_of_the_data_the_guide_is_the_posterior(kind: str) -> None:
    """Correlated coordinates, the covariance alone, any grid from t = 1; what is left is what y says of z at t = 1."""
    likelihood, y = LIKELIHOODS[kind]
    exact = CORRELATED.log_evidence(likelihood, y)
    for grid in GRIDS:
        model = DiffusionModel(MatchedPrior(CORRELATED, COVARIANCE), likelihood, grid)
        guide = TwistedGuide(model, y, correction=Wiener())
        weights = log_weights(model, guide, y, 20, seed=0)
        assert torch.allclose(weights, exact.expand_as(weights).double(), atol=1e-3)
        run = vp.smc(model, guide, y, 20, seed=0)
        assert torch.allclose(run.log_evidence, exact.double(), atol=1e-3) and not run.resampled.any()
        assert torch.allclose(run.effective_sample_size, torch.tensor(20.0, dtype=torch.float64), atol=1e-2)


def test_of_another_prior_the_evidence_of_smc_is_unbiased_as_well() -> None:
    """A guide with wrong w and tau, and particles that are resampled: their means move, covariances stay."""
    torch.manual_seed(0)
    likelihood, y = LIKELIHOODS["mask"]
    model = DiffusionModel(MatchedPrior(CORRELATED, COVARIANCE), likelihood, (1.0, 0.2, 0.17, 0.14, 0.11, 0.08))
    guide = TwistedGuide(model, y, correction=Wiener())
    with torch.no_grad():
        for parameter in guide.parameters():  # w and log tau
            parameter += 0.2 * torch.randn_like(parameter).abs()
    run = vp.smc(model, guide, y.expand(1000, -1), 64, threshold=0.9, seed=0)
    mean, error = mean_and_error((run.log_evidence - CORRELATED.log_evidence(likelihood, y)).exp())
    assert 0 < error < 0.1 and (run.resampled > 0).any()
    assert_within(mean, 1.0, error)


def test_without_a_closed_form_the_particles_are_weighed_by_the_mean_variance() -> None:
    """The law of y given z_t under Laplace noise has none; the evidence is unbiased for any weights on the way."""
    likelihood, y = vp.Laplace(Inpainting(MASK), 0.2), LIKELIHOODS["mask"][1]
    model = DiffusionModel(MatchedPrior(CORRELATED, COVARIANCE), likelihood, (1.0, 0.2, 0.1))
    run = vp.smc(model, TwistedGuide(model, y, correction=Wiener()), y, 20, seed=0)
    assert run.log_evidence.isfinite().all()


def test_a_second_order_refinement_keeps_more_of_the_spread() -> None:
    """From exact draws at a high noise level; means are exact for both, since Wiener's correction is."""
    scale = 0.2
    covariance = DataCovariance(VECTORS, scale**2 * COVARIANCE.variances, scale**2 * COVARIANCE.rest)
    prior = GaussianPrior.full(scale * MEAN, scale**2 * CORRELATED.covariance, NOISY)
    likelihood, y = vp.Gaussian(Inpainting(MASK), 0.05), 0.1 * MASK.double()[None]
    keypoints = (1.0, *vp.keypoints(prior, noise_levels=[2.0]))
    model = DiffusionModel(MatchedPrior(prior, covariance), likelihood, keypoints)
    z = vp.sample(TwistedGuide(model, y, correction=Wiener()), y, 20_000, seed=0)
    exact, errors = prior.posterior(likelihood, y), []
    for order in (1, 2):
        with vp.count_calls() as count:
            x = vp.refine(
                DiffusionModel(prior, likelihood, keypoints),
                z,
                y,
                8,
                correction=Wiener(covariance),
                order=order,
                seed=1,
            )[:, 0]
        assert (count.calls, count.gradients) == (8, 0)
        spread = (x.std(0) / exact.variance[0].sqrt() - 1).abs().max()
        errors.append((float((x.mean(0) - exact.mean[0]).abs().max()), float(spread)))
    (mean, spread), (mean_2, spread_2) = errors
    assert max(mean, mean_2) < 0.01 and spread_2 < 0.5 * spread


def test_without_matched_variances_it_is_not() -> None:
    likelihood, y = LIKELIHOODS["mask"]
    model = DiffusionModel(GAUSSIAN, likelihood, GRIDS[1])
    weights = log_weights(model, TwistedGuide(model, y, correction=MMPS(3)), y, 20, seed=0)
    assert float((weights.mean() - GAUSSIAN.log_evidence(likelihood, y)).abs()) > 1


def test_moment_matching_has_the_posterior_mean_on_every_grid() -> None:
    """Correlated coordinates, no parameter: the chain of means ends at E[x | y]. Its variances are not exact."""
    torch.manual_seed(0)
    root = torch.randn(6, 6, dtype=torch.float64) / 2
    prior = GaussianPrior.full(MEAN, root @ root.T + 0.1 * torch.eye(6, dtype=torch.float64), NOISY)
    likelihood = vp.Gaussian(Matrix(torch.randn(3, 6, dtype=torch.float64)), 0.3)
    y, correction = torch.randn(2, 3, dtype=torch.float64), MMPS(3)
    for grid in GRIDS:
        guide = TwistedGuide(DiffusionModel(prior, likelihood, grid), y, correction=correction)
        for level in guide.model.levels:  # type: ignore[union-attr]
            setattr(guide, f"tau_{level.name.removeprefix('z_')}", torch.tensor(1e-12, dtype=torch.float64))
        z = vp.sample(guide, y, 1)
        at = predict(prior, likelihood, y, z, grid[-1], 0.0, {})
        mean = (at.x_hat + correction(at)).detach()[0]
        assert torch.allclose(mean, prior.posterior(likelihood, y).mean, atol=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.9])
def test_the_evidence_of_smc_is_unbiased_for_a_wrong_proposal(threshold: float) -> None:
    """The matched model of an independent Gaussian has the evidence of the prior itself."""
    torch.manual_seed(0)
    likelihood, y = LIKELIHOODS["mask"]
    model = DiffusionModel(MATCHED, likelihood, (1.0, 0.2, 0.17, 0.14, 0.11, 0.08))
    guide = TwistedGuide(model, y, correction=OptimalCovariance())
    with torch.no_grad():
        for parameter in guide.parameters():  # w and log tau
            parameter += 0.3 * torch.randn_like(parameter).abs()
    run = vp.smc(model, guide, y.expand(1000, -1), 64, threshold=threshold, seed=0)
    mean, error = mean_and_error((run.log_evidence - GAUSSIAN.log_evidence(likelihood, y)).exp())
    assert 0 < error < 0.1 and (run.resampled > 0).any() == (threshold > 0)
    assert_within(mean, 1.0, error)


@pytest.mark.parametrize("per_element", [False, True])
def test_denoising_errors_are_the_variances_of_x(per_element: bool) -> None:
    torch.manual_seed(0)
    x, times = MEAN + STD * torch.randn(4000, 6, dtype=torch.float64), [0.5, 0.3]
    with vp.count_calls() as count:
        table = denoising_errors(GAUSSIAN, x, times, per_element=per_element, batch_size=1500, seed=1)
    assert (count.calls, count.nfe) == (2 * 3, 2 * 4000)
    for t in times:
        exact = variance(t) if per_element else variance(t).mean()
        assert_within(table[t] / exact, torch.ones(()), (2 / 4000) ** 0.5)
        assert table[t].shape == exact.shape


def test_another_operator_is_solved_by_conjugate_gradients() -> None:
    c = 0.1 + torch.rand(1, 4, 4, dtype=torch.float64)
    prior = GaussianPrior.diagonal(torch.zeros(1, 4, 4, dtype=torch.float64), torch.ones((), dtype=torch.float64))
    operator = SuperResolution(2)
    likelihood = vp.Gaussian(operator, 0.1)
    y, z = torch.randn(2, 1, 2, 2, dtype=torch.float64), torch.randn(3, 2, 1, 4, 4, dtype=torch.float64)
    at: Any = predict(MatchedPrior(prior, {0.5: c}), likelihood, y, z, 0.5, 0.3, {})
    matrix = operator_matrix(operator, (1, 4, 4), dtype=torch.float64)
    cross = c.flatten()[:, None] * matrix.T
    gain = cross @ (matrix @ cross + 0.01 * torch.eye(4)).inverse()
    expected = (at.residual().flatten(2) @ gain.T).reshape(z.shape)
    assert torch.allclose(OptimalCovariance(steps=10)(at), expected, atol=1e-8)


def test_all_else_is_the_wrapped_priors() -> None:
    z = torch.randn(3, 2, 6, dtype=torch.float64)
    assert torch.equal(MATCHED.denoise(z, 0.4), GAUSSIAN.denoise(z, 0.4))
    assert torch.equal(MATCHED.marginal(0.4).log_prob(z), GAUSSIAN.marginal(0.4).log_prob(z))
    plain, matched = GAUSSIAN.transition(z, 0.4, 0.3), MatchedPrior(GAUSSIAN, {0.4: 0.0}).transition(z, 0.4, 0.3)
    assert torch.allclose(plain.mean, matched.mean) and torch.allclose(plain.stddev, matched.stddev)


@pytest.mark.parametrize("entry", [-1.0, float("nan"), torch.ones(5), -STD, "c"])
def test_unusable_errors_are_refused(entry: Any) -> None:
    with pytest.raises(vp.InputError, match="errors"):
        MatchedPrior(GAUSSIAN, {0.5: entry})


def test_a_time_without_an_error_is_refused_before_any_call() -> None:
    with vp.count_calls() as count, pytest.raises(vp.InputError, match=r"no entry for the time 0\.3"):
        DiffusionModel(MatchedPrior(GAUSSIAN, {0.5: STD}), LIKELIHOODS["mask"][0], [0.5, 0.3])
    assert count.calls == 0
