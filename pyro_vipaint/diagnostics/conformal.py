r"""Conformal intervals: coverage that holds for any guide, from problems whose truth is known.

For M numbers of each of n calibration problems (pixels, or functionals), with mean m and standard deviation s of the
draws, the **score** of a truth t is how far it lies off, in spreads, and an interval reaches as far as most scores do:

.. math:: e_{ij} = \frac{|t_{ij} - m_{ij}|}{s_{ij} \sqrt{1 + 1/S}}, \qquad
          m \pm \hat e\, s \sqrt{1 + 1/S}, \qquad
          \hat e = \text{the } c\text{-quantile of } \frac{1}{n + 1} \Big( \delta_\infty +
          \sum_i \frac{1}{M_i} \sum_{j \le M_i} \delta_{e_{ij}} \Big).

**What is guaranteed.** If the n problems and a new one are exchangeable (their images, masks and noise come from one
source, in any order), and all are answered by the same method with the same number of draws, then

.. math:: c \le P(t_j \in \text{its interval}) \le c + \frac{1}{n + 1} + \frac{1}{(n + 1) M}

for j uniform among the M numbers of the new problem, over the calibration problems as well as the new one; the second
half needs scores without ties and as many numbers in each problem. For M = 1 this is split conformal prediction:
:math:`\hat e` is the score of rank :math:`\lceil (n + 1) c \rceil`, and the upper bound is c + 1 / (n + 1) (Vovk et al.
2005; Lei et al. 2018). M > 1 is its form for groups (Lee, Barber & Willett 2023): the numbers of one problem depend on
each other, so that n counts problems and not numbers.

**What is not.** The coverage is that of problems on average: not given this image, not of all numbers at once, and not
of each functional by itself where several are calibrated together. Nor does it move to other images: intervals
calibrated on draws of the prior cover draws of the prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._torch import double
from pyro_vipaint.errors import InputError, broadcast, instance, number, numbers

ROUNDING = 1e-9  # of a sum of weights


@dataclass(frozen=True)
class Conformal:
    """Calibrated intervals.

    Attributes:
        scale: the half width of an interval in predictive spreads, s sqrt(1 + 1/S); for a Gaussian posterior and many
            draws, and a level of .9, 1.64 would do. A larger one says by how much the draws are too sure.
        level: c.
        problems: n.
        num_samples: S, which the draws of a new problem must have.
    """

    scale: float
    level: float
    problems: int
    num_samples: int

    def interval(self, samples: Any) -> tuple[Tensor, Tensor]:
        """Lower and upper end for new problems, ``(N, …)`` each, in the units of the draws.

        Args:
            samples: S draws ``(S, N, …)`` of the numbers that were calibrated, or a :class:`pyro_vipaint.Result`, whose
                numbers are its pixels.

        Raises:
            InputError: another number of draws than S, whose scores would have another law.
        """
        draws = _draws(samples)
        if len(draws) != self.num_samples:
            todo = f"draw as many, result.sample({self.num_samples})"
            raise InputError(f"The intervals were calibrated on {self.num_samples} samples, not {len(draws)}: {todo}.")
        center, spread = _moments(draws)
        return center - self.scale * spread, center + self.scale * spread


def conformalize(samples: Any, truth: Tensor, level: float = 0.9, where: Tensor | None = None) -> Conformal:
    """Intervals that cover ``level`` of the truths of exchangeable problems, however sure the draws are.

    >>> calibrated = conformalize(f(result.samples), f(truth[None])[0])  # doctest: +SKIP
    >>> lower, upper = calibrated.interval(f(new.samples))  # doctest: +SKIP

    Args:
        samples: S >= 2 draws for each of n problems, ``(S, n)`` of one functional, ``(S, n, M)`` of several, or images
            ``(S, n, C, H, W)``; or a :class:`pyro_vipaint.Result` of n images, whose pixels are calibrated, all
            together. Functionals on one scale go together best.
        truth: ``(n, …)``, of images held out or simulated, on which neither the prior nor the method was tuned.
        level: c in (0, 1); it needs n >= c / (1 - c), nine problems for .9.
        where: nonzero or True for the numbers that count, broadcast against ``truth``: ``mask == 0`` for the hole. A
            problem without any is refused.

    Raises:
        InputError: too few problems or draws, shapes that do not fit, values that are not finite; or the draws of too
            many numbers have no spread at all and miss the truth, so that no factor makes intervals of them.
    """
    draws = _draws(samples)
    if not 0 < number("level", level, most=1.0) < 1:
        raise InputError(f"level must lie between 0 and 1, not {level:g}: .9 for nine of ten.")
    numbers("truth", truth, tuple(draws.shape[1:]))
    count = len(truth)
    needed = math.ceil(level / (1 - level) - ROUNDING)
    if count < needed:
        raise InputError(f"A level of {level:g} needs {needed} problems whose truth is known, not {count}: give more.")
    center, spread = _moments(draws)
    error = (truth - center).abs()
    scores = double(torch.where(error == 0, 0.0, error / spread)).reshape(count, -1)
    counted = torch.ones_like(scores, dtype=torch.bool)
    if where is not None:
        counted = (broadcast(truth.shape, where=where)[0] != 0).reshape(count, -1).to(scores.device)
    sizes = counted.sum(1, keepdim=True)
    if (sizes == 0).any():
        raise InputError("A problem has no number that counts: where is zero in all of it.")
    scale = _quantile(scores[counted], (counted / (sizes * (count + 1.0)))[counted], level)
    if math.isinf(scale):
        todo = "calibrate those that are open, with where=mask == 0, or draw more samples"
        raise InputError(f"The draws of too many numbers have no spread and miss the truth: {todo}.")
    return Conformal(scale, level, count, len(draws))


def _draws(samples: Any) -> Tensor:
    """The draws ``(S, N, …)`` of a tensor or a result, S >= 2."""
    draws = getattr(samples, "samples", samples)
    instance("samples", draws, isinstance(draws, Tensor), "draws (S, N, …) or a Result")
    return numbers("samples", draws, ("S", "N", ...), least=2)


def _moments(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the draws and spread of one more of them around it."""
    return draws.mean(0), draws.std(0) * math.sqrt(1 + 1 / len(draws))


def _quantile(scores: Tensor, weights: Tensor, level: float) -> float:
    """The smallest score at or below which weights of ``level`` lie; infinite where all of them are less."""
    ordered, index = scores.sort()
    below = double(weights)[index].cumsum(0)
    place = int(torch.searchsorted(below, level - ROUNDING))
    return float(ordered[place]) if place < len(ordered) else math.inf
