r"""Exact tests of uniform ranks and of symmetric probabilities.

Ranks r_1 … r_N lie in 0 … L. Under uniformity the counts R_i = #{r < i} are Bin(N, i / (L + 1)), and given R_i the
increment R_{i+1} - R_i is Bin(N - R_i, 1 / (L + 1 - i)). The probability that the whole ECDF stays inside a band is
therefore a product of transition matrices (Säilynoja, Bürkner & Vehtari, *Graphical test for discrete uniformity*,
Statistics and Computing 2022), which gives both the p-value of the simultaneous ECDF test and the band for plots
without simulation.

A test can show that ranks are not uniform, never that they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vipaint._torch import double
from pyro_vipaint.errors import InputError, number, numbers, whole


def rank_histogram(ranks: Tensor, num_draws: int, bins: int | None = None) -> Tensor:
    """Counts of ranks ``(N, ...)`` in equal bins, ``(bins, ...)``.

    Args:
        ranks: integers in 0 … num_draws.
        num_draws: L, the posterior draws behind each rank.
        bins: a divisor of L + 1, so that bins are equally likely. If not given, the largest one between 2 and 20 with
            20 ranks per bin on average (Talts et al. 2018).

    Raises:
        InputError: no such divisor: choose L such that L + 1 has small divisors, for example 99; or no rank, ranks
            that are not integers, or out of range.
    """
    values = _check_ranks(ranks, num_draws) + 1
    if bins is None:
        bins = max((b for b in range(2, _most_bins(len(ranks), values) + 1) if values % b == 0), default=1)
    if whole("bins", bins) < 2 or values % bins:
        raise InputError(
            f"num_draws={num_draws} gives {values} possible ranks, which cannot be divided into equal bins as asked: "
            "choose num_draws such that num_draws + 1 has small divisors, for example 99."
        )
    return _counts(ranks, values, bins)


def chi_square_test(ranks: Tensor, num_draws: int, bins: int | None = None) -> Tensor:
    """p-value of the chi-square test of uniformity, of the trailing shape of ``ranks`` ``(N, ...)``.

    It ignores the order of the bins; its p-value is asymptotic, and valid for 5 or more ranks per bin.

    Args:
        ranks, num_draws: as for :func:`rank_histogram`.
        bins: 2 … L + 1, as equal as possible: if it does not divide L + 1, some bins are one rank wider and expect
            more. If not given, between 2 and 20 bins with 20 ranks per bin on average.

    Raises:
        InputError: ``num_draws``, ``bins`` or a rank is out of range; no rank, or ranks that are not integers.
    """
    values = _check_ranks(ranks, num_draws) + 1
    bins = _most_bins(len(ranks), values) if bins is None else whole("bins", bins)
    if not 2 <= bins <= values:
        raise InputError(f"with num_draws={num_draws} there can be 2 … {values} bins, not {bins}.")
    counts, widths = double(_counts(ranks, values, bins)), _counts(torch.arange(values), values, bins)
    expected = (len(ranks) * widths.double() / values).to(counts.device).reshape(-1, *[1] * (counts.ndim - 1))
    statistic = ((counts - expected) ** 2 / expected).sum(0)
    return torch.special.gammaincc(torch.full_like(statistic, (bins - 1) / 2), statistic / 2)


def ecdf_test(ranks: Tensor, num_draws: int) -> Tensor:
    """Exact p-value of the simultaneous ECDF test, of the trailing shape of ``ranks`` ``(N, ...)``.

    The statistic is the smallest two-sided binomial tail over the L inner points of the ECDF. Time grows as L N^2,
    memory as N^2. A p-value below 1e-13 is lost to rounding. Errors are those of :func:`rank_histogram`.
    """
    _check_ranks(ranks, num_draws)
    count, shape = len(ranks), ranks.shape[1:]
    below = torch.stack([(ranks < i).sum(0).flatten() for i in range(1, num_draws + 1)]).cpu()
    tails = _binomial_tails(count, num_draws)
    smallest = tails.gather(1, below).min(0).values
    # A tail equal to the smallest one, up to rounding, is as extreme.
    inside = tails > smallest[:, None, None] * (1 + 1e-9)
    return (1 - _stay_inside(inside)).clamp(0, 1).reshape(shape)


def ecdf_band(num_simulations: int, num_draws: int, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds ``(L,)`` that contain the whole ECDF of uniform ranks with probability >= ``level``.

    The ECDF at point i = 1 … L is the share of ranks below i; its expectation is i / (L + 1).

    Raises:
        InputError: a number of simulations or draws below 1, or a level outside (0, 1).
    """
    whole("num_simulations", num_simulations)
    whole("num_draws", num_draws)
    number("1 - level", 1 - number("level", level, positive=True), positive=True)
    tails = _binomial_tails(num_simulations, num_draws)
    # Bonferroni over the points is too strict, no correction is too lax: the right pointwise level is in between.
    candidates = torch.logspace(math.log10((1 - level) / num_draws), math.log10(1 - level), 200, dtype=torch.float64)
    covered = _stay_inside(tails > candidates[:, None, None]) >= level
    inside = tails > candidates[covered].max()
    counts = torch.arange(num_simulations + 1, dtype=torch.float64).expand(inside.shape)
    lower = torch.where(inside, counts, math.inf).min(1).values
    upper = torch.where(inside, counts, -math.inf).max(1).values
    return lower / num_simulations, upper / num_simulations


def symmetry_test(p: Tensor) -> Tensor:
    r"""Exact p-value that continuous ``p`` ``(N, ...)`` in (0, 1) is symmetric about 1/2, of the trailing shape.

    The statistic is the Kolmogorov-Smirnov distance between the ECDFs of p and 1 - p. These two samples are dependent,
    so that the two-sample table does not hold; ordered by |p - 1/2|, the signs of p - 1/2 are fair coins, and the
    distance is :math:`\max_k |s_1 + … + s_k| / N`, the largest excursion of a random walk (Butler, *A test for symmetry
    using the sample distribution function*, Annals of Mathematical Statistics 1969).

    Raises:
        InputError: no value, or one outside [0, 1] or NaN.
    """
    numbers("p", p, ("N", ...), least=1, low=0.0, high=1.0)
    shape, p = p.shape[1:], p.flatten(1).cpu().double()
    order = (p - 0.5).abs().argsort(0, descending=True)
    steps = (p - 0.5).sign().gather(0, order)
    excursion = steps.cumsum(0).abs().max(0).values
    count = len(p)
    inside = torch.arange(-count, count + 1).abs() < excursion[:, None]
    walk = torch.zeros(inside.shape, dtype=torch.float64)
    walk[:, count] = 1
    for _ in range(count):
        # A walk inside never reaches the ends, so that rolling does not wrap around.
        walk = 0.5 * (walk.roll(1, 1) + walk.roll(-1, 1)) * inside
    return (1 - walk.sum(1)).clamp(0, 1).reshape(shape)


def _check_ranks(ranks: Tensor, num_draws: int) -> int:
    """``num_draws``; refuses ranks that are not integers in 0 … ``num_draws``, at least one."""
    largest = whole("num_draws", num_draws)
    numbers("ranks", ranks, ("N", ...), least=1, low=0, high=largest, integers=True)
    return largest


def _most_bins(count: int, values: int) -> int:
    """2 to 20 bins for ``count`` ranks with ``values`` possible values, 20 ranks per bin where that is possible."""
    return min(values, max(2, min(20, count // 20)))


def _counts(ranks: Tensor, values: int, bins: int) -> Tensor:
    """The number of ``ranks`` ``(N, ...)`` in each bin, ``(bins, ...)``."""
    index = ranks * bins // values
    return torch.stack([(index == i).sum(0) for i in range(bins)])


def _log_factorials(count: int) -> Tensor:
    return torch.lgamma(torch.arange(1, count + 2, dtype=torch.float64))


def _binomial_tails(count: int, num_draws: int) -> Tensor:
    """2 min(P(B <= r), P(B >= r)) for B ~ Bin(N, i / (L + 1)): ``(L, N + 1)``."""
    r, factorials = torch.arange(count + 1), _log_factorials(count)
    chance = torch.arange(1, num_draws + 1, dtype=torch.float64)[:, None] / (num_draws + 1)
    log_choose = factorials[count] - factorials[r] - factorials[count - r]
    mass = (log_choose + r * chance.log() + (count - r) * torch.log1p(-chance)).exp()
    return 2 * torch.minimum(mass.cumsum(1), mass.flip(1).cumsum(1).flip(1))


def _stay_inside(inside: Tensor) -> Tensor:
    """The probability that R_i is inside at every point, ``(Q,)``, for allowed counts ``(Q, L, N + 1)``."""
    _, num_draws, values = inside.shape
    before, after, count = torch.arange(values)[:, None], torch.arange(values), values - 1
    moved, left, factorials = (after - before).clamp(min=0), count - after, _log_factorials(count)
    log_choose = factorials[count - before] - factorials[moved] - factorials[left]
    log_choose = torch.where(after >= before, log_choose, -math.inf)
    moved, left = moved.double(), left.double()  # the product of an integer and a Python float has single precision
    state = torch.zeros(len(inside), values, dtype=torch.float64)
    state[:, 0] = 1
    for i in range(num_draws):
        chance = 1 / (num_draws + 1 - i)
        step = (log_choose + moved * math.log(chance) + left * math.log1p(-chance)).exp()
        state = state @ step * inside[:, i]
    return state.sum(1)
