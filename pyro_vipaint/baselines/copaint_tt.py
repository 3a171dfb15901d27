r"""CoPaint with time travel (Zhang et al. 2023, section 4.3): :mod:`pyro_vipaint.baselines.copaint`, parts of it again.

Of the steps N, ..., 1, with t = n / N, each n = 1, 1 + tau, 1 + 2 tau, ... below N - tau is a landing: the first r - 1
times that the chain arrives there it takes its gradient steps, is noised back to the time of n + tau,

.. math:: z_{t(n + \tau)} \sim q(z_{t(n + \tau)} \mid z_{t(n)}),

and goes down from there again, with the rates that belong to those times; then it goes on. Unlike the rest of the
chain this adds noise, which the later gradient steps can use to make seams agree.

Defaults are those of the authors' script ``copaint-tt.sh``: tau 10, r = 2, and CoPaint's own. They undo one step after
the other; the ten together have the law above. As in their code (``new_scheduler.py``) the last landing is the least
noisy time that the network is called at. With at most tau steps there is no landing, and it is CoPaint.

Its bias on the Gaussian truth with these defaults (``test_the_bias_stated_in_the_docstring`` in
``tests/test_baseline_copaint_tt.py``): the mean is off by 0.70 exact standard deviations on observed and 0.51 on hidden
pixels, the spread is 0.00 and 0.87 of the exact one. The causes are CoPaint's; travelling does not remove them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_vipaint.baselines.base import BaselineResult, Callback, pure_noise, run, time_grid
from pyro_vipaint.baselines.copaint import (
    GRADIENT_STEPS,
    GROWTH,
    LR,
    REGULARISATION,
    STEPS,
    Coherence,
    copaint_calls,
    final_image,
)
from pyro_vipaint.models.priors.kernels import ddim, diffuse
from pyro_vipaint.models.priors.prior import DiffusionPrior

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
    """``num_samples`` images for each of the N observations; see :func:`copaint_tt_calls` for the cost.

    Args:
        prior, likelihood, y, num_samples, condition: as for :func:`copaint`.
        steps: the authors' default is 250.
        tau: how many steps are undone at once, at least 1; the authors' 10.
        repeats: r, how often each stretch is gone down; the authors' 2. With 1 it is :func:`copaint`.
        gradient_steps, lr, growth, regularisation: as for :func:`copaint`.
        seed: seed of all noise; ``None`` goes on with the global generator.
        callback: called as ``callback(step)``; with what is gone down again there are more than ``steps``.

    Raises:
        ValueError: ``tau`` or ``steps`` is less than 1.
    """
    coherence = Coherence(prior, likelihood, y, condition, gradient_steps, lr, growth, regularisation)

    def chain() -> Tensor:
        z, times = pure_noise(prior, num_samples, y), time_grid(steps)
        x_hat = z
        for step, (here, there) in enumerate(itinerary(steps, tau, repeats)):
            z, x_hat = coherence(z, times[here], here / steps)
            if there > here:
                z = ddim(prior.schedule, z, x_hat, times[here], times[there])
            else:
                z = diffuse(prior.schedule, z, times[here], times[there]).sample()
            if callback is not None:
                callback(step)
        return final_image(prior, x_hat)

    return run(chain, seed)


def copaint_tt_calls(
    steps: int = STEPS, tau: int = TAU, repeats: int = REPEATS, gradient_steps: int = GRADIENT_STEPS
) -> int:
    """Network calls of a run in which L never rises, as :func:`copaint_calls`."""
    return copaint_calls(len(itinerary(steps, tau, repeats)), gradient_steps)


def itinerary(steps: int, tau: int, repeats: int) -> list[tuple[int, int]]:
    """The moves ``(from, to)`` of the chain, indices into ``time_grid(steps)``: 0 is t = 1, ``steps`` is t = 0.

    >>> itinerary(4, 2, 2)
    [(0, 1), (1, 2), (2, 3), (3, 1), (1, 2), (2, 3), (3, 4)]
    """
    if tau < 1:
        raise ValueError(f"tau must be at least 1, not {tau}.")
    travels = {steps - 1 - above: repeats - 1 for above in range(0, steps - tau, tau)}
    moves, here = [], 0
    while here < steps:
        back = travels.get(here, 0) > 0
        if back:
            travels[here] -= 1
        there = here - tau if back else here + 1
        moves.append((here, there))
        here = there
    return moves
