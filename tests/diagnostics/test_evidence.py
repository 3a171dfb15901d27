"""Weights, bounds and resampling where evidence, KL and tail of the weights are known in closed form."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Delta, Normal
from pyro.infer.autoguide import AutoDiagonalNormal
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.diagnostics import (
    effective_sample_size,
    elbo_estimate,
    iwae_bound,
    log_weights,
    pareto_k,
    pareto_smooth,
    pareto_threshold,
    resample,
    terms_by_level,
    weighted_draws,
)
from pyro_vipaint.diagnostics.importance import systematic_indices
from pyro_vipaint.models import DiffusionModel
from tests.exact_guide import ExactGuide
from tests.problems import Problem, diagonal_problem
from tests.statistics import STANDARD_ERRORS, assert_within, mean_and_error, psislw


def build(shift: float = 0.0, scale: float = 1.0) -> tuple[Problem, DiffusionModel, ExactGuide, Tensor]:
    """Three images, a guide wrong in one hidden coordinate, and log p(y)."""
    problem = diagonal_problem(images=3)
    model, last = problem.model(), torch.eye(16)[15]
    guide = ExactGuide(problem, model, problem.y, shift * last, 1 + (scale - 1) * last)
    return problem, model, guide, problem.prior.log_evidence(problem.likelihood, problem.y, problem.keypoints)


def test_every_weight_of_the_exact_posterior_is_the_evidence() -> None:
    problem, model, guide, truth = build()
    weights = log_weights(model, guide, problem.y, 50, seed=1)
    assert weights.shape == (50, 3)
    assert torch.allclose(weights, truth.double().expand(50, 3), atol=1e-3)
    for bound in (elbo_estimate(weights), iwae_bound(weights), iwae_bound(weights, 5)):
        assert torch.allclose(bound.estimate, truth.double(), atol=1e-3)


def test_the_elbo_is_below_the_evidence_by_the_kl_and_the_iwae_bound_lies_between() -> None:
    problem, model, guide, truth = build(shift=1.0)
    weights = log_weights(model, guide, problem.y, 20_000, seed=2)
    elbo, bound, total = elbo_estimate(weights), iwae_bound(weights, 8), iwae_bound(weights)
    assert_within(elbo.estimate, truth - 0.5, elbo.standard_error)
    # the exact gap of 8 weights, from the law of log w = -shift * eps - shift^2 / 2
    generator = torch.Generator().manual_seed(0)
    inner = -torch.randn(200_000, 8, generator=generator) - 0.5
    gap, gap_error = mean_and_error(inner.logsumexp(1) - math.log(8))
    assert gap < -0.02
    assert_within(bound.estimate - truth, gap, (bound.standard_error**2 + gap_error**2).sqrt())
    assert_within(total.estimate, truth, total.standard_error)
    assert (elbo.standard_error < 0.01).all()


def test_a_scale_on_the_model_changes_no_weight() -> None:
    problem, model, guide, _ = build(shift=0.5)
    plain = log_weights(model, guide, problem.y, 20, seed=3)
    with poutine.scale(scale=5.0):
        assert torch.equal(log_weights(model, guide, problem.y, 20, seed=3), plain)


def test_a_program_with_the_same_law_has_the_same_weights() -> None:
    """A plain Pyro function and a guide messenger with the same law have the same weights."""
    problem, model, guide, _ = build(shift=0.5)

    def program(y: Tensor) -> None:
        with pyro.plate("images", len(y), dim=-1):
            prior: Any = guide.top_prior
            for level, below in zip(model.levels, [*model.levels[1:], None], strict=True):
                posterior: Any = guide.get_posterior(level.name, prior)
                z = pyro.sample(level.name, posterior)
                if below is not None:
                    prior = model.prior.transition(z, level.t, below.t).to_event(1)

    first, second = (log_weights(model, each, problem.y, 20, seed=3) for each in (guide, program))
    assert torch.allclose(first, second, atol=1e-3)


def test_draws_cost_k_plus_one_calls_and_their_terms_add_up() -> None:
    """K + 1 calls per batch, S × N × (K + 1) NFE, and the table of terms sums to the bound."""
    problem, model, _, _ = build()
    network = problem.model(problem.prior.diffusion())
    guide = ExactGuide(problem, network, problem.y)
    for batch_size, calls in ((None, 4), (4, 12)):
        with vp.count_calls() as count:
            draws = weighted_draws(network, guide, problem.y, 10, seed=4, batch_size=batch_size)
        assert (count.calls, count.nfe, draws.nfe) == (calls, 120, 120)
        assert draws.z.shape == (10, 3, 16)
    guide = ExactGuide(problem, model, problem.y, shift=0.2)
    draws = weighted_draws(model, guide, problem.y, 5000, seed=5)
    table = terms_by_level(draws)
    assert table.site.tolist() == ["z_3", "z_2", "z_1", "y"] * 3
    total = torch.tensor(table.groupby("image").term.sum().tolist(), dtype=torch.float64)
    assert torch.allclose(total, -elbo_estimate(draws.log_weights).estimate)
    # The guide is wrong at z_1 alone, so that the terms above do not depend on the shift.
    exact = ExactGuide(problem, model, problem.y)
    other = terms_by_level(weighted_draws(model, exact, problem.y, 5000, seed=6))
    above = table.site.isin(["z_3", "z_2"])
    error = (table.standard_error**2 + other.standard_error**2) ** 0.5
    ours, others, error = (torch.tensor(column[above].tolist()) for column in (table.term, other.term, error))
    assert_within(ours, others, error)


def test_the_estimated_marginal_keeps_the_elbo_a_bound_but_not_the_iwae() -> None:
    """Noise in log p(z_Te) raises the importance-weighted estimate, as the module states."""
    problem, _, _, truth = build()
    model = problem.model(problem.prior.diffusion())
    weights = log_weights(model, ExactGuide(problem, model, problem.y), problem.y, 4000, seed=7)
    elbo, bound = elbo_estimate(weights), iwae_bound(weights)
    assert (elbo.estimate < truth + STANDARD_ERRORS * elbo.standard_error).all()
    assert (bound.estimate > truth + STANDARD_ERRORS * bound.standard_error).any()


def test_guides_without_a_density_per_image_are_refused() -> None:
    problem, model, _, _ = build()

    def point(y: Tensor) -> None:
        with pyro.plate("images", len(y), dim=-1):
            for level in model.levels:
                pyro.sample(level.name, Delta(torch.zeros(len(y), 16)).to_event(1))

    with pytest.raises(vp.InputError, match="point mass"):
        log_weights(model, point, problem.y, 4)
    with pytest.raises(vp.InputError, match="another model"):
        log_weights(problem.model(), ExactGuide(problem, model, problem.y), problem.y, 4)
    joint = AutoDiagonalNormal(model)
    joint(problem.y)
    with pytest.raises(vp.InputError, match="factorise over images"):
        log_weights(model, joint, problem.y, 4)


def test_a_joint_guide_of_pyro_works_on_one_image() -> None:
    """Its density is that of an auxiliary site; it is compared with the same Normal written out."""
    problem = diagonal_problem()
    model = problem.model()
    guide = AutoDiagonalNormal(model, init_scale=0.5)
    guide(problem.y)
    draws = weighted_draws(model, guide, problem.y, 2000, seed=8)
    truth = problem.prior.log_evidence(problem.likelihood, problem.y, problem.keypoints)
    assert draws.log_weights.shape == (2000, 1)
    entropy = Normal(0.0, 0.5).entropy() * 48
    term = -draws.terms["_AutoDiagonalNormal_latent"]
    assert_within(term.mean(), entropy, term.std() / 2000**0.5)
    assert (elbo_estimate(draws.log_weights).estimate < truth).all()


@pytest.mark.parametrize("rate", [1.1, 2.5])
def test_k_hat_of_pareto_weights(rate: float) -> None:
    """p = Exp(1), q = Exp(rate): the weights are exactly Pareto with k = 1 - 1/rate.

    The fit of M points has standard error (1 + k)/sqrt(M), and the prior pulls by 10 (.5 - k)/(M + 10).
    """
    z = torch.distributions.Exponential(rate).sample((100_000, 3))
    k, size = 1 - 1 / rate, 3 * math.sqrt(100_000)
    pulled = (size * k + 5) / (size + 10)
    assert_within(pareto_k((rate - 1) * z), pulled, (1 + k) / math.sqrt(size))


@pytest.mark.parametrize(("count", "spread"), [(40, 0.3), (40, 4.0), (1000, 1.0), (5000, 4.0)])
def test_smoothing_is_arvizs(count: int, spread: float) -> None:
    arviz = pytest.importorskip("arviz")
    if int(arviz.__version__.split(".")[0]) >= 1:
        pytest.skip("ArviZ 1 fits the tail in another way: k-hat of long tails differs by .01")
    weights = spread * torch.randn(count, 4, dtype=torch.float64) + 300
    ours = pareto_smooth(weights)
    theirs, k = psislw(weights.T)
    assert torch.allclose(ours.pareto_k, k, atol=1e-9)
    assert torch.allclose(ours.log_weights.T, theirs, atol=1e-9)


def test_k_hat_of_no_tail_and_of_too_few_weights() -> None:
    assert pareto_k(torch.full((100, 1), 3.0)).item() == -math.inf
    assert pareto_k(torch.randn(4, 1)).item() == math.inf
    assert pareto_threshold(10**6) == 0.7 and math.isclose(pareto_threshold(100), 0.5)


@pytest.mark.parametrize("smooth", [False, True])
def test_resampling_makes_a_wrong_guide_exact(smooth: bool) -> None:
    problem = diagonal_problem(images=2)
    model = problem.model()
    guide = ExactGuide(problem, model, problem.y, shift=0.3)
    with vp.count_calls() as count:
        drawn = resample(model, guide, problem.y, 40_000, 40_000, seed=10, smooth=smooth)
    assert count.nfe == drawn.nfe == 40_000 * 2 * 3  # the exact marginal needs no call
    exact = problem.prior.posterior(problem.likelihood, problem.y, problem.keypoints)
    x, raw = model.reconstruct(drawn.z), model.reconstruct(vp.sample(guide, problem.y, 40_000, seed=11))
    error = exact.stddev / drawn.effective_sample_size[:, None] ** 0.5
    # Weight and value are correlated: the error of a mean is up to twice that of ESS independent draws.
    assert_within(x.mean(0), exact.mean, 2 * error)
    assert_within(x.std(0), exact.stddev, 2 * error)
    assert ((raw.mean(0) - exact.mean).abs() / exact.stddev > 0.1).any(), "the guide is wrong to begin with"


def test_the_effective_sample_size_has_its_closed_form() -> None:
    """A shift of d standard deviations keeps exp(-d^2) of the draws."""
    problem, model, guide, _ = build(shift=0.8)
    size = effective_sample_size(log_weights(model, guide, problem.y, 20_000, seed=12)) / 20_000
    # By the delta method on E[w] = 1, E[w^2] = exp(d^2) the error is below 2 % of the ratio.
    assert_within(size, math.exp(-0.64), 0.02 * math.exp(-0.64))
    assert torch.allclose(effective_sample_size(torch.zeros(7, 2)), torch.full((2,), 7.0))


def test_systematic_resampling_copies_by_weight() -> None:
    """Each draw has floor or ceil of its share of copies, and its share on average."""
    weights = torch.tensor([[0.1, 0.25], [0.2, 0.25], [0.7, 0.5]])
    counts = torch.stack(
        [torch.stack([(systematic_indices(weights.log(), 8) == i).sum(0) for i in range(3)]) for _ in range(1000)]
    ).double()
    assert ((counts - 8 * weights).abs() < 1).all()
    mean, error = mean_and_error(counts)
    assert_within(mean, 8 * weights, error, slack=1e-9)


def test_numbers_of_draws_must_be_positive() -> None:
    problem, model, guide, _ = build()
    for call in (
        lambda: log_weights(model, guide, problem.y, 0),
        lambda: log_weights(model, guide, problem.y, 5, batch_size=0),
        lambda: resample(model, guide, problem.y, 5, 0),
        lambda: iwae_bound(torch.zeros(5, 1), 6),
    ):
        with pytest.raises(ValueError, match="must be"):
            call()
