r"""The evidence bound of a guide, by site and in total, on the unscaled model.

.. math::
    E[\log w] = \log p(y) - KL(q(z) \| p(z \mid y)) \le E[\log \tfrac1L \textstyle\sum_l w_l] \le \log p(y)

Two guides of one model can be compared by their bounds, because log p(y) is the same for both; the gap between the ELBO
and a tight IWAE bound is a lower estimate of the guide's KL. The bounds do not show how large the remaining gap is
where the evidence is unknown, nor whether means or tails are right. KL(q || p) is small for a guide that covers one of
several modes.

**The estimated marginal.** :meth:`DiffusionMarginal.log_prob` is log p(z_Te) minus a slack plus noise of mean zero. The
ELBO is linear in it and remains a bound. The IWAE bound does not (:mod:`pyro_vipaint.elbos.renyi`): it is an optimistic
figure there, and compares only guides of similar noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint.diagnostics.draws import WeightedDraws, check_log_weights, weighted_draws
from pyro_vipaint.errors import whole

if TYPE_CHECKING:
    import pandas as pd


class Estimate(NamedTuple):
    """Monte-Carlo estimates and their standard errors, of one shape."""

    estimate: Tensor
    standard_error: Tensor

    __repr__, _repr_html_ = compact, as_html


def log_weights(
    model: Callable[..., Any],
    guide: Any,
    y: Tensor,
    num_samples: int = 1000,
    *,
    seed: int | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """log p(y, z) - log q(z) of ``num_samples`` draws of the guide, ``(S, N)``, float64, in nats.

    Arguments, costs and errors are those of :func:`weighted_draws`, which returns the draws as well.
    """
    return weighted_draws(model, guide, y, num_samples, seed=seed, batch_size=batch_size).log_weights


def elbo_estimate(log_weights: Tensor) -> Estimate:
    """The true (beta = 1) bound on log p(y) per image, in nats: the mean of the log weights ``(S, N)``.

    The standard error is that of independent draws, NaN for a single one. With an estimated marginal it may be too
    large, never too small: the times of :class:`DiffusionMarginal` are stratified, its draws negatively correlated.

    Raises:
        InputError: log weights of another shape, of no draw, or NaN or infinite; a weight of zero, -inf, is allowed if
            the image has another one.
    """
    return _mean(check_log_weights(log_weights))


def iwae_bound(log_weights: Tensor, num_weights: int | None = None) -> Estimate:
    """The importance-weighted bound of Burda et al. (2016) per image, in nats, from log weights ``(S, N)``.

    Args:
        log_weights: see :func:`log_weights`.
        num_weights: L, the weights in one bound; tighter for larger L. The estimate is the mean over the S // L
            complete blocks. If not given, L = S: one bound, whose standard error sd(w) / (mean(w) sqrt(S)) comes from
            the delta method and is too small where :func:`pareto_k` exceeds 0.5.

    Raises:
        InputError: L is not in 1 … S, or an error of :func:`elbo_estimate`.
    """
    count = len(check_log_weights(log_weights))
    if num_weights is None:
        relative = _mean((log_weights - log_weights.max(0).values).exp())
        return Estimate(_log_mean_exp(log_weights), relative.standard_error / relative.estimate)
    whole("the number of draws", count, least=whole("num_weights", num_weights))
    blocks = log_weights[: count // num_weights * num_weights].unflatten(0, (-1, num_weights))
    return _mean(_log_mean_exp(blocks, dim=1))


def terms_by_level(draws: WeightedDraws) -> pd.DataFrame:
    """The terms of the bound on -log p(y), one row per image and site, in nats.

    Columns ``image``, ``site``, ``term`` and ``standard_error``: E_q[log q - log p] at each latent site, small
    where the guide is close to the prior, and -E_q[log p(y | z_1)] at ``y``. They sum to minus the ELBO.
    """
    import pandas as pd

    rows = []
    for site, values in draws.terms.items():
        means, errors = (column.tolist() for column in _mean(values))
        rows += [(image, site, *pair) for image, pair in enumerate(zip(means, errors, strict=True))]
    table = pd.DataFrame(rows, columns=["image", "site", "term", "standard_error"])
    return table.sort_values("image", kind="stable", ignore_index=True)


def _log_mean_exp(values: Tensor, dim: int = 0) -> Tensor:
    return values.logsumexp(dim) - math.log(values.shape[dim])


def _mean(values: Tensor) -> Estimate:
    error = values.std(0) / math.sqrt(len(values)) if len(values) > 1 else torch.full_like(values[0], math.nan)
    return Estimate(values.mean(0), error)
