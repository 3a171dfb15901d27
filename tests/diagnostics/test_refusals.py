"""Diagnostics and measures refuse what they cannot judge: NaN, too few draws, other shapes, ranks out of range."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, randn

from pyro_vipaint import diagnostics, metrics
from pyro_vipaint.cats import scores
from pyro_vipaint.errors import InputError

NAN, INF = math.nan, math.inf
WEIGHTS = [
    diagnostics.elbo_estimate,
    diagnostics.iwae_bound,
    diagnostics.pareto_smooth,
    diagnostics.pareto_k,
    diagnostics.effective_sample_size,
]
RANKS = [diagnostics.rank_histogram, diagnostics.chi_square_test, diagnostics.ecdf_test]
EYE, ORIGIN, SHARES = torch.eye(3), torch.zeros(3), torch.full((2, 3), 1 / 3)
ONES = torch.ones(4, 4)


def uncalibrated(sampler: Any = None, quantities: Any = None, simulations: Any = 5, draws: Any = 5) -> diagnostics.SBC:
    sampler = sampler or (lambda y, count: randn(count, *y.shape))
    quantities = {"first": lambda theta, y: theta[..., 0]} if quantities is None else quantities
    return diagnostics.sbc(lambda n: (randn(n, 2), randn(n, 2)), sampler, quantities, simulations, draws)


# Functions of one tensor, which holds one value that is not finite.
FINITE: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Any]]] = {
    "wasserstein": ((5,), lambda x: diagnostics.wasserstein(x, randn(5))),
    "wasserstein, y": ((5,), lambda x: diagnostics.wasserstein(randn(5), x)),
    "sliced_wasserstein": ((5, 2), lambda x: diagnostics.sliced_wasserstein(x, randn(5, 2))),
    "sliced_wasserstein, y": ((5, 2), lambda x: diagnostics.sliced_wasserstein(randn(5, 2), x)),
    "c2st": ((20, 2), lambda x: diagnostics.c2st(x, randn(20, 2))),
    "c2st, y": ((20, 2), lambda x: diagnostics.c2st(randn(20, 2), x)),
    "moments": ((5, 2, 3), lambda x: diagnostics.project_onto_moments(x, ORIGIN, EYE)),
    "moments, mean": ((3,), lambda x: diagnostics.project_onto_moments(randn(5, 2, 3), x, EYE)),
    "moments, covariance": ((3, 3), lambda x: diagnostics.project_onto_moments(randn(5, 2, 3), ORIGIN, x)),
    "samples": ((5, 2, 3), lambda x: diagnostics.project_onto_samples(x, randn(5, 2, 3))),
    "reference": ((5, 2, 3), lambda x: diagnostics.project_onto_samples(randn(5, 2, 3), x)),
    "coverage": ((40, 2, 3), lambda x: diagnostics.coverage(x, randn(2, 3), [0.5])),
    "coverage, truth": ((2, 3), lambda x: diagnostics.coverage(randn(40, 2, 3), x, [0.5])),
    "energy_score": ((5, 2, 3), lambda x: diagnostics.energy_score(x, randn(2, 3))),
    "energy_score, truth": ((2, 3), lambda x: diagnostics.energy_score(randn(5, 2, 3), x)),
    "error_over_spread": ((5, 2, 3), lambda x: diagnostics.error_over_spread(x, randn(2, 3))),
    "lpips_features": ((2, 3, 32, 32), metrics.lpips_features),
    "credible_interval": ((40,), lambda x: diagnostics.credible_interval(x.sort(0).values, 0.5)),
    "rank_statistics": ((3,), lambda x: diagnostics.rank_statistics(x, randn(5, 3))),
    "rank_statistics, draws": ((5, 3), lambda x: diagnostics.rank_statistics(randn(3), x)),
    "vsbc": ((3,), lambda x: diagnostics.vsbc(x, randn(5, 3))),
    "sbc": ((5, 5, 2), lambda x: uncalibrated(lambda y, count: x)),
    "symmetry_test": ((5,), diagnostics.symmetry_test),
    "total_variation": ((2, 3), lambda x: scores.total_variation(x, SHARES)),
    "expected_total_variation": ((2, 3), lambda x: scores.expected_total_variation(x, 5)),
    "coverage_of_classes": ((2, 3), lambda x: scores.coverage_of_classes(x, SHARES)),
    "expected_coverage": ((2, 3), lambda x: scores.expected_coverage(x, 5)),
    "is_shown": ((2, 3), lambda x: scores.is_shown({"slot": x})),
    "part_scores": ((2, 3), lambda x: scores.part_scores({"slot": x}, {"slot": torch.zeros(4, 2).long()})),
    "psnr": ((1, 4, 4), lambda x: metrics.psnr(x, randn(1, 4, 4))),
    "psnr, y": ((1, 4, 4), lambda x: metrics.psnr(randn(1, 4, 4), x)),
    "lpips_distance": ((1, 32, 32), lambda x: metrics.lpips_distance(x, randn(1, 32, 32))),
    "alexnet_features": ((1, 32, 32), metrics.alexnet_features),
    "observed_error": ((1, 4, 4), lambda x: metrics.observed_error(x, randn(1, 4, 4), ONES)),
    "observed_error, mask": ((4, 4), lambda x: metrics.observed_error(ONES[None], ONES[None], x)),
    "hidden_std": ((3, 1, 4, 4), lambda x: metrics.hidden_std(x, 0 * ONES)),
    "kernel_distance": ((20, 3), lambda x: metrics.kernel_distance(x, randn(20, 3))),
    "kernel_distance, y": ((20, 3), lambda x: metrics.kernel_distance(randn(20, 3), x)),
    "restored_kernel_distance": ((4, 2, 3), lambda x: metrics.restored_kernel_distance(x, randn(4, 3))),
    **{judge.__name__: ((30, 2), judge) for judge in WEIGHTS},
}


@pytest.mark.parametrize(("shape", "call"), FINITE.values(), ids=FINITE)
def test_a_value_that_is_not_finite_is_refused(shape: tuple[int, ...], call: Callable[[Tensor], Any]) -> None:
    for value in (NAN, INF):
        x = randn(shape)
        x.view(-1)[0] = value
        refused(lambda x=x: call(x), "must be finite.*: .* elements? are not")


def refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    # log weights
    **{f"{f.__name__}, no draw": (lambda f=f: f(torch.zeros(0, 2)), "at least 1, not 0") for f in WEIGHTS},
    **{f"{f.__name__}, a row": (lambda f=f: f(randn(30)), r"shape \(30,\), not \(S, N\)") for f in WEIGHTS},
    **{f"{f.__name__}, a list": (lambda f=f: f([1.0]), "tensor of floats, not list") for f in WEIGHTS},
    **{f"{f.__name__}, no weight": (lambda f=f: f(torch.full((5, 2), -INF)), "2 of 2") for f in WEIGHTS},
    "a threshold of no draws": (lambda: diagnostics.pareto_threshold(0), "num_samples must be at least 1"),
    # ranks
    **{f"{f.__name__}, too large": (lambda f=f: f(torch.tensor([0, 11]), 9), "from 0 to 9: 1 of 2") for f in RANKS},
    **{f"{f.__name__}, negative": (lambda f=f: f(torch.tensor([0, -1]), 9), "from 0 to 9: 1 of 2") for f in RANKS},
    **{f"{f.__name__}, fractions": (lambda f=f: f(torch.rand(5), 9), "integers, not torch.float32") for f in RANKS},
    **{f"{f.__name__}, none": (lambda f=f: f(torch.zeros(0).long(), 9), "of ranks must be at least 1") for f in RANKS},
    **{f"{f.__name__}, of no draws": (lambda f=f: f(torch.zeros(9).long(), 0), "num_draws must be") for f in RANKS},
    "a band of no simulations": (lambda: diagnostics.ecdf_band(0, 9), "num_simulations must be at least 1"),
    "a band of level 1": (lambda: diagnostics.ecdf_band(9, 9, 1.0), "1 - level must be positive"),
    "probabilities beyond 1": (lambda: diagnostics.symmetry_test(torch.tensor([0.5, 1.5])), "from 0 to 1: 1 of 2"),
    "no probability": (lambda: diagnostics.symmetry_test(torch.zeros(0)), "at least 1, not 0"),
    "ranks of other shapes": (lambda: diagnostics.rank_statistics(randn(3), randn(5, 4)), r"not \(L, 3\)"),
    "ranks among nothing": (lambda: diagnostics.rank_statistics(randn(3), randn(0, 3)), "at least 1, not 0"),
    # simulations
    "no simulation": (lambda: uncalibrated(simulations=0), "num_simulations must be at least 1"),
    "no draw": (lambda: uncalibrated(draws=0), "num_draws must be at least 1"),
    "no quantity": (lambda: uncalibrated(quantities={}), "number of quantities must be at least 1"),
    "a transposed sampler": (lambda: uncalibrated(lambda y, n: randn(5, n, 2), draws=7), r"\(5, 7\), not \(L, 5\)"),
    "one simulation has no error": (lambda: uncalibrated(simulations=1).data_averaged(), "at least 2, not 1"),
    # distances
    "lines of other shapes": (lambda: diagnostics.wasserstein(randn(3, 5), randn(2, 5)), r"\(2, 5\), not \(3, m\)"),
    "an empty line": (lambda: diagnostics.wasserstein(randn(0), randn(5)), "draws must be at least 1"),
    "samples of other shapes": (lambda: diagnostics.c2st(randn(9, 2), randn(9, 3)), r"\(9, 3\), not \(m, 2\)"),
    "integers": (lambda: diagnostics.c2st(randn(9, 2).long(), randn(9, 2)), "floats, not torch.int64"),
    "an array": (lambda: diagnostics.sliced_wasserstein(randn(9, 2).numpy(), randn(9, 2)), "floats, not ndarray"),  # type: ignore[arg-type]
    "no direction": (lambda: diagnostics.sliced_wasserstein(randn(9, 2), randn(9, 2), 0), "num_projections must be"),
    "one sample has no spread": (lambda: diagnostics.project_onto_moments(randn(1, 2, 3), ORIGIN, EYE), "at least 2"),
    "another dimension": (
        lambda: diagnostics.project_onto_moments(randn(5, 2, 3), randn(4), EYE),
        r"\(4,\), not \(3\)",
    ),
    "a negative variance": (lambda: diagnostics.project_onto_moments(randn(5, 2, 3), ORIGIN, -EYE), "no spread"),
    "a constant": (lambda: diagnostics.project_onto_samples(randn(5, 2, 3), torch.zeros(5, 2, 3)), "no spread"),
    "other images": (lambda: diagnostics.project_onto_samples(randn(5, 2, 3), randn(5, 1, 3)), r"not \(R, 2, 3\)"),
    # intervals
    "draws in no order": (lambda: diagnostics.credible_interval(randn(40), 0.5), "must ascend along its first dim"),
    "draws along the last": (lambda: diagnostics.credible_interval(randn(7, 40).sort(1).values, 0.5), "must ascend"),
    "level 1": (lambda: diagnostics.credible_interval(randn(40).sort(0).values, 1.0), "do not resolve a level of 1"),
    "truths of other images": (lambda: diagnostics.coverage(randn(9, 2, 3), randn(3, 3)), r"\(3, 3\), not \(2, 3\)"),
    "a mask of other pixels": (
        lambda: diagnostics.coverage(randn(9, 2, 3), randn(2, 3), [0.5], ONES),
        "cannot be broadcast to",
    ),
    "no sequence": (lambda: diagnostics.coverage(randn(9, 2, 3), randn(2, 3), 0.5), "levels must be a sequence"),  # type: ignore[arg-type]
    # parts
    "no such class": (
        lambda: scores.part_scores({"ear": SHARES}, {"ear": torch.full((4, 2), 3)}),
        "labels of ear must be finite and from 0 to 2",
    ),
    "no such slot": (lambda: scores.part_scores({"ear": SHARES}, {}), "no slot among the labels 'ear'"),
    # images
    "bytes as floats": (lambda: metrics.psnr(randn(1, 4, 4), 99 * ONES[None]), "from -8 to 8: 16 of 16"),
    "bytes": (lambda: metrics.psnr(ONES[None].byte(), ONES[None]), "floats, not torch.uint8"),
    "no channel": (lambda: metrics.psnr(ONES, ONES), r"shape \(4, 4\), not \(…, C, H, W\)"),
    "another size": (lambda: metrics.observed_error(randn(1, 4, 4), randn(1, 5, 4), ONES), "cannot be broadcast"),
    "another mask": (lambda: metrics.hidden_std(randn(2, 1, 4, 4), torch.ones(5, 4)), "mask of shape .* cannot"),
    "no samples": (lambda: metrics.hidden_std(randn(0, 1, 4, 4), ONES), "samples must be at least 1"),
    "other features": (lambda: metrics.kernel_distance(randn(20, 3), randn(20, 4)), r"not \(m, 3\)"),
    "features of other images": (
        lambda: metrics.restored_kernel_distance(randn(4, 2, 3), randn(5, 3)),
        r"not \(4, 3\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line(call: Callable[[], Any], message: str) -> None:
    refused(call, message)


def test_a_weight_of_zero_is_a_weight() -> None:
    """-inf, where the likelihood excludes a draw: two equal weights beside it are two effective draws of three."""
    log_weights = torch.tensor([[0.0], [-INF], [0.0]])
    assert diagnostics.effective_sample_size(log_weights).item() == pytest.approx(2)
    assert diagnostics.iwae_bound(log_weights).estimate.item() == pytest.approx(math.log(2 / 3))
    assert diagnostics.elbo_estimate(log_weights).estimate.item() == -INF
    assert diagnostics.pareto_smooth(log_weights).log_weights.exp().flatten().tolist() == pytest.approx([0.5, 0, 0.5])


def test_one_draw_has_no_spread_and_says_so_without_a_warning() -> None:
    """NaN for an error and a deviation; k-hat is infinite, not that of weights without a tail."""
    one = randn(1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert diagnostics.iwae_bound(one).standard_error.isnan().all()
        assert diagnostics.elbo_estimate(one).standard_error.isnan().all()
        assert metrics.hidden_std(randn(1, 3, 1, 4, 4), 0 * ONES).isnan().all()
        assert diagnostics.pareto_k(one).tolist() == [INF, INF]
    assert diagnostics.pareto_k(torch.zeros(30, 1)).item() == -INF
