"""Hostile calls of the diagnostics and the metrics."""

# Arguments of wrong types are the point of this file.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any

import torch

from pyro_vipaint import diagnostics as d
from pyro_vipaint import metrics as m
from tests.hostile.harness import refused, working
from tests.hostile.world import IMAGE, INF, MODEL, NAN, ONE, PAIR, SHAPE, guide, spoilt

Y = ONE * (IMAGE > 0)
X = torch.linspace(-1, 1, 200).reshape(100, 2)
BROKEN = torch.full((100, 2), NAN)
WEIGHTS = torch.linspace(-1, 1, 100).reshape(100, 1)
RANKS = torch.arange(100)
DRAWS, TRUTH = torch.randn(50, 2, *SHAPE, generator=torch.Generator().manual_seed(0)), PAIR
LARGE = torch.zeros(1, 1, 32, 32)
bad: Any = None


def weighted(y: Any = Y, num_samples: Any = 10, **named: Any) -> Any:
    return d.weighted_draws(MODEL, guide(), y, num_samples, **named)


CASES = [
    *refused({
        "c2st: NaN": (lambda: d.c2st(X, BROKEN), "finite|NaN"),
        "c2st: infinite": (lambda: d.c2st(X * INF, X), "finite"),
        "c2st: two draws": (lambda: d.c2st(X[:2], X[:2]), "draws|rows|few|folds|samples|at least"),
        "c2st: none": (lambda: d.c2st(X[:0], X[:0]), "draws|rows|few|folds|samples|at least"),
        "c2st: other dimensions": (lambda: d.c2st(X, X[:, :1]), "shape|dimension|elements"),
        "c2st: folds 1": (lambda: d.c2st(X, X, folds=1), "folds"),
        "c2st: folds 1000": (lambda: d.c2st(X, X, folds=1000), "folds|draws|rows|samples"),
        "c2st: steps 0": (lambda: d.c2st(X, X, steps=0), "steps"),
        "c2st: hidden 0": (lambda: d.c2st(X, X, hidden=0), "hidden"),
        "c2st: a list": (lambda: d.c2st(bad or X.tolist(), X), "tensor"),
        "c2st: whole numbers": (lambda: d.c2st(X.long(), X.long()), "float|int64"),
        "c2st: seed 0.5": (lambda: d.c2st(X, X, seed=bad or 0.5), "seed"),
        "wasserstein: NaN": (lambda: d.wasserstein(BROKEN[:, 0], X[:, 0]), "finite|NaN"),
        "wasserstein: none": (lambda: d.wasserstein(X[:0, 0], X[:, 0]), "draws|few|rows|one|at least"),
        "sliced_wasserstein: NaN": (lambda: d.sliced_wasserstein(X, BROKEN), "finite|NaN"),
        "sliced_wasserstein: other dimensions": (lambda: d.sliced_wasserstein(X, X[:, :1]), "shape|dimension|elements"),
        "sliced_wasserstein: projections 0": (lambda: d.sliced_wasserstein(X, X, 0), "projections"),
        "sliced_wasserstein: none": (lambda: d.sliced_wasserstein(X[:0], X), "draws|few|rows|one|at least"),
        "conformalize: NaN": (lambda: d.conformalize(X * NAN, X[0]), "finite|NaN"),
        "conformalize: one problem": (lambda: d.conformalize(X[:, :1], X[0, :1]), "problems"),
        "conformalize: no draws": (lambda: d.conformalize(X[:0], X[0]), "at least"),
        "conformalize: a list": (lambda: d.conformalize(bad or X.tolist(), X[0]), "draws"),
        "conformalize: level 90": (lambda: d.conformalize(X, X[0], 90), "level"),
        "conformalize: truth of others": (lambda: d.conformalize(X, X[0, :1]), "shape"),
        "elbo_estimate: NaN": (lambda: d.elbo_estimate(WEIGHTS * NAN), "finite|NaN"),
        "elbo_estimate: a vector": (lambda: d.elbo_estimate(WEIGHTS[:, 0]), "shape"),
        "iwae_bound: NaN": (lambda: d.iwae_bound(WEIGHTS * NAN), "finite|NaN"),
        "iwae_bound: plus infinity": (lambda: d.iwae_bound(WEIGHTS * INF), "finite"),
        "iwae_bound: weights 0": (lambda: d.iwae_bound(WEIGHTS, 0), "weights"),
        "iwae_bound: more weights than draws": (lambda: d.iwae_bound(WEIGHTS, 101), "weights|most|draws"),
        "iwae_bound: 2.5 weights": (lambda: d.iwae_bound(WEIGHTS, bad or 2.5), "weights"),
        "pareto_k: NaN": (lambda: d.pareto_k(WEIGHTS * NAN), "finite|NaN"),
        "pareto_smooth: NaN": (lambda: d.pareto_smooth(WEIGHTS * NAN), "finite|NaN"),
        "pareto_smooth: none": (lambda: d.pareto_smooth(WEIGHTS[:0]), "draws|few|weights"),
        "pareto_threshold: 0": (lambda: d.pareto_threshold(0), "samples"),
        "effective_sample_size: NaN": (lambda: d.effective_sample_size(WEIGHTS * NAN), "finite|NaN"),
        "effective_sample_size: none": (lambda: d.effective_sample_size(WEIGHTS[:0]), "draws|few|weights"),
        "resample: proposals 0": (lambda: d.resample(MODEL, guide(), Y, 0), "proposals|samples"),
        "resample: samples 0": (lambda: d.resample(MODEL, guide(), Y, 50, 0), "samples"),
        "resample: y NaN": (lambda: d.resample(MODEL, guide(), spoilt(NAN)[None], 50), "finite|NaN"),
        "weighted_draws: samples 0": (lambda: weighted(num_samples=0), "samples"),
        "weighted_draws: samples 2.5": (lambda: weighted(num_samples=2.5), "samples"),
        "weighted_draws: batch 0": (lambda: weighted(batch_size=0), "batch"),
        "weighted_draws: seed a string": (lambda: weighted(seed="0"), "seed"),
        "weighted_draws: y bytes": (lambda: weighted(Y.byte()), "float|uint8"),
        "weighted_draws: y NaN": (lambda: weighted(spoilt(NAN)[None]), "finite|NaN"),
        "weighted_draws: y of another shape": (lambda: weighted(Y[..., :4]), "shape"),
        "log_weights: a class of guides": (lambda: d.log_weights(MODEL, type(guide()), Y, 10), "guide"),
        "log_weights: no model": (lambda: d.log_weights(bad or 3, guide(), Y, 10), "model"),
        "coverage: NaN samples": (lambda: d.coverage(DRAWS * NAN, TRUTH), "finite|NaN"),
        "coverage: NaN truth": (lambda: d.coverage(DRAWS, TRUTH * NAN), "finite|NaN"),
        "coverage: five samples": (lambda: d.coverage(DRAWS[:5], TRUTH), "samples"),
        "coverage: other shapes": (lambda: d.coverage(DRAWS, TRUTH[:, :, :4]), "shape"),
        "coverage: the truth without images": (lambda: d.coverage(DRAWS, TRUTH[0]), "shape"),
        "coverage: level 1": (lambda: d.coverage(DRAWS, TRUTH, (1.0,)), "level"),
        "coverage: level 0": (lambda: d.coverage(DRAWS, TRUTH, (0.0,)), "level"),
        "coverage: level NaN": (lambda: d.coverage(DRAWS, TRUTH, (NAN,)), "level"),
        "coverage: no level": (lambda: d.coverage(DRAWS, TRUTH, ()), "level"),
        "coverage: a level as a string": (lambda: d.coverage(DRAWS, TRUTH, bad or ("0.9",)), "level"),
        "coverage: nothing counted": (lambda: d.coverage(DRAWS, TRUTH, where=torch.zeros(8, 8)), "where|elements"),
        "credible_interval: unsorted": (lambda: d.credible_interval(DRAWS, 0.5), "sort|order"),
        "credible_interval: NaN": (lambda: d.credible_interval(DRAWS * NAN, 0.5), "finite|NaN"),
        "credible_interval: level 1.5": (lambda: d.credible_interval(DRAWS.sort(0).values, 1.5), "level"),
        "credible_interval: none": (lambda: d.credible_interval(DRAWS[:0], 0.5), "samples|at least"),
        "project_onto_moments: NaN": (
            lambda: d.project_onto_moments(BROKEN[:, None], torch.zeros(2), torch.eye(2)), "finite|NaN",
        ),
        "project_onto_moments: covariance of another shape": (
            lambda: d.project_onto_moments(X[:, None], torch.zeros(2), torch.eye(3)), "covariance|shape",
        ),
        "project_onto_moments: one sample": (
            lambda: d.project_onto_moments(X[:1, None], torch.zeros(2), torch.eye(2)), "sample|few|draws",
        ),
        "project_onto_samples: NaN": (lambda: d.project_onto_samples(X[:, None], BROKEN[:, None]), "finite|NaN"),
        "project_onto_samples: projections 0": (
            lambda: d.project_onto_samples(X[:, None], X[:, None], 0), "projections",
        ),
        "project_onto_samples: other dimensions": (
            lambda: d.project_onto_samples(X[:, None], X[:, None, :1]), "shape|dimension|elements",
        ),
        "rank_histogram: rank too large": (lambda: d.rank_histogram(RANKS, 50), "rank"),
        "rank_histogram: rank negative": (lambda: d.rank_histogram(RANKS - 1, 99), "rank"),
        "rank_histogram: ranks NaN": (lambda: d.rank_histogram(RANKS * NAN, 99), "rank|whole|finite"),
        "rank_histogram: ranks 0.5": (lambda: d.rank_histogram(RANKS + 0.5, 100), "rank|whole"),
        "rank_histogram: bins no divisor": (lambda: d.rank_histogram(RANKS, 99, 7), "bins"),
        "rank_histogram: draws 0": (lambda: d.rank_histogram(RANKS, 0), "draws|rank"),
        "chi_square_test: rank too large": (lambda: d.chi_square_test(RANKS, 50), "rank"),
        "chi_square_test: ranks NaN": (lambda: d.chi_square_test(RANKS * NAN, 99), "rank|whole|finite"),
        "chi_square_test: no ranks": (lambda: d.chi_square_test(RANKS[:0], 99), "rank|few|simulation"),
        "ecdf_test: rank too large": (lambda: d.ecdf_test(RANKS, 50), "rank"),
        "ecdf_test: no ranks": (lambda: d.ecdf_test(RANKS[:0], 99), "rank|few|simulation"),
        "ecdf_band: level 2": (lambda: d.ecdf_band(100, 99, 2.0), "level"),
        "ecdf_band: level NaN": (lambda: d.ecdf_band(100, 99, NAN), "level"),
        "ecdf_band: simulations 0": (lambda: d.ecdf_band(0, 99), "simulations"),
        "symmetry_test: NaN": (lambda: d.symmetry_test(WEIGHTS * NAN), "finite|NaN|0"),
        "symmetry_test: outside (0, 1)": (lambda: d.symmetry_test(WEIGHTS * 5), "0"),
        "symmetry_test: none": (lambda: d.symmetry_test(WEIGHTS[:0]), "few|simulation|p|one"),
        "rank_statistics: NaN": (lambda: d.rank_statistics(torch.zeros(2), torch.full((9, 2), NAN)), "finite|NaN"),
        "rank_statistics: other shapes": (lambda: d.rank_statistics(torch.zeros(2), torch.zeros(9, 3)), "shape"),
        "vsbc: NaN": (lambda: d.vsbc(TRUTH, DRAWS * NAN), "finite|NaN"),
        "vsbc: other shapes": (lambda: d.vsbc(TRUTH[:, :, :4], DRAWS), "shape"),
        "sbc: no simulations": (
            lambda: d.sbc(lambda n: (torch.zeros(n), torch.zeros(n)), lambda y, n: torch.zeros(n, len(y)), {}, 0),
            "simulations|quantit",
        ),
        "psnr: NaN": (lambda: m.psnr(ONE * NAN, ONE), "finite|NaN"),
        "psnr: other shapes": (lambda: m.psnr(ONE, torch.zeros(1, 1, 7, 8)), "shape"),
        "psnr: bytes": (lambda: m.psnr(ONE.byte(), ONE.byte()), "float|uint8"),
        "psnr: 0..255": (lambda: m.psnr((ONE + 1) * 127.5, (ONE + 1) * 127.5), r"\[-1, 1\]|from -8 to 8"),
        "lpips_distance: bytes": (lambda: m.lpips_distance(LARGE.byte(), LARGE.byte()), "float"),
        "lpips_distance: two channels": (lambda: m.lpips_distance(LARGE.expand(1, 2, 32, 32), LARGE), "C = 1 or 3"),
        "lpips_distance: 30 pixels": (lambda: m.lpips_distance(LARGE[..., :30], LARGE[..., :30]), "31"),
        "lpips_distance: NaN": (lambda: m.lpips_distance(LARGE * NAN, LARGE), "finite|NaN"),
        "lpips_distance: other sizes": (lambda: m.lpips_distance(LARGE, torch.zeros(1, 1, 40, 40)), "shape|size"),
        "kernel_distance: three rows": (lambda: m.kernel_distance(X[:3], X), "rows"),
        "kernel_distance: blocks 1": (lambda: m.kernel_distance(X, X, 1), "blocks"),
        "kernel_distance: NaN": (lambda: m.kernel_distance(BROKEN, X), "finite|NaN"),
        "kernel_distance: other dimensions": (lambda: m.kernel_distance(X, X[:, :1]), "shape|feature"),
    }),
    *working({
        "elbo_estimate: one weight has no standard error": (
            lambda: d.elbo_estimate(WEIGHTS[:1]), lambda e: e.estimate == -1 and e.standard_error.isnan(),
        ),
        "pareto_k: of three draws is infinite, as documented": (
            lambda: d.pareto_k(WEIGHTS[:3]), lambda k: (k == INF).all(),
        ),
        "pareto_threshold: no k-hat is reliable with one draw": (lambda: d.pareto_threshold(1), lambda k: k == -INF),
        "vsbc: one draw": (lambda: d.vsbc(TRUTH, DRAWS[:1]), lambda v: ((v.p > 0) & (v.p < 1)).all()),
        "iwae_bound: weights of -infinity": (
            lambda: d.iwae_bound(torch.cat([WEIGHTS, torch.full((100, 1), -INF)])).estimate,
            lambda e: torch.allclose(e.double(), WEIGHTS.double().logsumexp(0) - torch.tensor(200.0).double().log()),
        ),
        "wasserstein: of unequal numbers": (
            lambda: d.wasserstein(torch.zeros(3), torch.ones(7)), lambda w: torch.allclose(w.float(), torch.ones(())),
        ),
        "coverage: constant draws that are the truth": (
            lambda: d.coverage(TRUTH.expand(50, -1, -1, -1, -1), TRUTH), lambda t: (t["coverage"] == 1).all(),
        ),
        "hidden_std: one sample is NaN, as documented": (
            lambda: m.hidden_std(ONE[None], torch.zeros(1)), lambda x: x.isnan().all(),
        ),
        "observed_error: nothing observed is NaN, as documented": (
            lambda: m.observed_error(ONE, ONE, torch.zeros(1)), lambda x: x.isnan().all(),
        ),
        "psnr: equal images": (lambda: m.psnr(ONE, ONE), lambda p: (p == INF).all()),
        "chi_square_test: perfect ranks": (lambda: d.chi_square_test(RANKS, 99), lambda p: (p > 0.9).all()),
    }),
]  # fmt: skip
