r"""CoPaint-TT (Zhang et al. 2023, section 4.3): :mod:`pyro_vipaint.baselines.copaint` with time travel.

Of the steps N, ..., 1, with t = n / N, each n = 1, 1 + tau, 1 + 2 tau, ... below N - tau is a landing. The first r - 1
times that the chain arrives at a landing it takes its gradient steps, is noised back to the time of n + tau,

.. math:: z_{t(n + \tau)} \sim q(z_{t(n + \tau)} \mid z_{t(n)}),

and descends from there again, with the rates that belong to those times; after that it passes. Unlike the rest of the
chain this adds noise, which the later gradient steps can use to make seams agree.

Defaults are those of the authors' script ``copaint-tt.sh``, and CoPaint's own. The authors undo one step after the
other, with the same law. As in their code (``new_scheduler.py``) the last landing is the least
noisy time at which the network is called. With at most tau steps there is no landing, and it is CoPaint, whose bias
travelling does not remove.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.baselines.copaint import GRADIENT_STEPS, GROWTH, LR, REGULARISATION, STEPS, Coherence, copaint_calls
from pyro_vipaint.baselines.repaint import call_levels
from pyro_vipaint.errors import whole
from pyro_vipaint.models.priors.kernels import ddim, diffuse
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback

TAU, REPEATS = 10, 2


def copaint_tt(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = STEPS,
    *,
    tau: int = TAU,
    repeats: int = REPEATS,
    gradient_steps: int = GRADIENT_STEPS,
    lr: float = LR,
    growth: float = GROWTH,
    regularisation: float = REGULARISATION,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Images by CoPaint-TT; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: ``callback`` is called more often, once for each move of :func:`itinerary`.
        tau: how many steps are undone at once, at least 1.
        repeats: r, how often each stretch is passed. With 1 it is CoPaint.
        gradient_steps, lr, growth, regularisation: as for :func:`pyro_vipaint.baselines.copaint`.
    """
    moves = itinerary(steps, tau, repeats)
    coherence = Coherence(prior, likelihood, y, condition, gradient_steps, lr, growth, regularisation)

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        for here, there in moves:
            z, x_hat = coherence(z, times[here], here / steps)
            if there > here:
                z = ddim(prior.schedule, z, x_hat, times[here], times[there])
            else:
                z = diffuse(prior.schedule, z, times[here], times[there]).sample()
            yield x_hat

    return run("copaint_tt", chain, prior, likelihood, y, num_samples, steps, seed, callback, condition, len(moves))


def copaint_tt_calls(
    steps: int = STEPS, tau: int = TAU, repeats: int = REPEATS, gradient_steps: int = GRADIENT_STEPS
) -> int:
    """Network calls of :func:`copaint_tt` if L never rises, as for :func:`pyro_vipaint.baselines.copaint_calls`."""
    return copaint_calls(len(itinerary(steps, tau, repeats)), gradient_steps)


def itinerary(steps: int, tau: int, repeats: int) -> list[tuple[int, int]]:
    """The moves ``(from, to)`` of the chain, as indices of its times: 0 is t = 1, ``steps`` is t = 0.

    >>> itinerary(4, 2, 2)
    [(0, 1), (1, 2), (2, 3), (3, 1), (1, 2), (2, 3), (3, 4)]

    The landings are those of RePaint, which does not call the network there before it jumps.

    Raises:
        InputError: an argument is less than 1.
    """
    moves = []
    for level, following in pairwise([*call_levels(steps, whole("tau", tau), whole("repeats", repeats)), 0]):
        landing = steps - level + 1
        moves.append((landing - 1, landing))
        if following >= level:
            moves.append((landing, steps - following))
    return moves
