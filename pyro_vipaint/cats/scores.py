r"""Scores of sampled parts against their exact posterior: total variation, agreement where a part shows, coverage.

For one observation and slot let p_c be the exact probability of class c, and f_c the share of the S samples that have
it. A slot is *shown* if its largest p_c is at least .99, else *open*.

- Total variation, every slot: :math:`\tfrac12 \sum_c |f_c - p_c|`, in [0, 1].
- Agreement, shown slots: f_c of the class that is shown. It measures whether the sampler keeps visible parts.
- Coverage, open slots: :math:`\sum_c p_c\, 1[f_c > 0]`, the exact mass of the classes drawn at least once. It measures
  diversity; the total variation also counts classes that should *not* be drawn.

All depend on S. With few samples even exact ones are far from f = p, so that each stands beside its expectation under S
exact draws, which is exact too because S f_c is binomial:

.. math:: \tfrac{1}{2S} \sum_c E|F_c - S p_c|, \qquad \max_c p_c, \qquad \sum_c p_c (1 - (1 - p_c)^S) .

None of them shows whether slots depend on each other as they should, or anything that is not a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Binomial
from torch.nn.functional import one_hot

from pyro_vipaint._torch import double
from pyro_vipaint.errors import choice, numbers, whole

if TYPE_CHECKING:
    import pandas as pd

ROUNDING = 1e-5  # by which a sum of float32 probabilities may exceed 1
SHOWN = 0.99  # a slot is shown when its exact posterior puts at least this on one class


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the sum of absolute differences of probabilities ``(..., n)``, of leading shape, in [0, 1].

    As all functions here it raises ``InputError`` for probabilities that are not in [0, 1], or of other shapes.
    """
    _check_probabilities("p", p)
    _check_probabilities("q", q, tuple(p.shape))
    return (p - q).abs().sum(-1) / 2


def expected_total_variation(p: Tensor, num_samples: int) -> Tensor:
    """E[total variation] between p ``(..., n)`` and the frequencies of ``num_samples`` exact draws, exact."""
    _check_probabilities("p", p)
    whole("num_samples", num_samples)
    probs = double(p)[..., None]
    counts = torch.arange(num_samples + 1, dtype=torch.float64, device=probs.device)
    weights = Binomial(num_samples, probs=probs.clamp(0, 1)).log_prob(counts).exp()
    return ((counts / num_samples - probs).abs() * weights).sum((-1, -2)) / 2


def coverage_of_classes(p: Tensor, frequencies: Tensor) -> Tensor:
    """The mass under p ``(..., n)`` of the classes that were drawn at least once, of leading shape."""
    _check_probabilities("p", p)
    _check_probabilities("frequencies", frequencies, tuple(p.shape))
    return (p * (frequencies > 0)).sum(-1)


def expected_coverage(p: Tensor, num_samples: int) -> Tensor:
    """E[:func:`coverage_of_classes`] of ``num_samples`` exact draws, exact."""
    _check_probabilities("p", p)
    whole("num_samples", num_samples)
    return (p * (1 - (1 - p) ** num_samples)).sum(-1)


def is_shown(marginals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """slot -> whether it is shown ``(N,)``, from exact marginals ``(N, n)``."""
    return {slot: _check_probabilities(slot, p).max(-1).values >= SHOWN for slot, p in marginals.items()}


def part_scores(marginals: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> pd.DataFrame:
    """All scores, one row per image and slot.

    Args:
        marginals: slot -> exact probabilities of the classes ``(N, n)``; see :attr:`PartsPosterior.marginals`.
        labels: slot -> class numbers of S samples ``(S, N)``.

    Returns:
        Columns ``image``, ``slot``, ``shown``; ``total_variation``, ``agreement`` (NaN where the slot is open),
        ``coverage`` (NaN where it is shown); and each with the suffix ``_exact``, its expectation under S exact draws.
    """
    import pandas as pd

    tables = []
    for slot, p in marginals.items():
        choice("slot among the labels", slot, labels)
        numbers(f"labels of {slot}", labels[slot], ("S", len(p)), least=1, low=0, high=p.shape[-1] - 1, integers=True)
        count, p = len(labels[slot]), double(p)
        largest, best = p.max(-1)
        shares, shown = double(one_hot(labels[slot], p.shape[-1])).mean(0).to(p.device), largest >= SHOWN
        columns = {
            "total_variation": total_variation(shares, p),
            "total_variation_exact": expected_total_variation(p, count),
            "agreement": shares.gather(-1, best[:, None])[:, 0].where(shown, torch.nan),
            "agreement_exact": largest.where(shown, torch.nan),
            "coverage": coverage_of_classes(p, shares).where(~shown, torch.nan),
            "coverage_exact": expected_coverage(p, count).where(~shown, torch.nan),
        }
        keys = {"image": range(len(p)), "slot": slot, "shown": shown.tolist()}
        tables.append(pd.DataFrame(keys | {name: values.tolist() for name, values in columns.items()}))
    return pd.concat(tables).sort_values("image", kind="stable", ignore_index=True)


def _check_probabilities(name: str, p: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    return numbers(name, p, (..., "n") if shape is None else shape, low=-ROUNDING, high=1 + ROUNDING)
