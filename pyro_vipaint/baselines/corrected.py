"""The chain that the baselines with a correction share: predict, correct, move (:mod:`pyro_vipaint.corrections`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

from torch import Tensor

from pyro_vipaint._torch import gradients
from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.corrections import Correction, predict
from pyro_vipaint.models.priors.kernels import expand_event
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import noise_level
from pyro_vipaint.progress import Callback


def run_corrected(
    method: str,
    correction: Correction,
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int,
    steps: int,
    seed: int | None,
    callback: Callback | None,
    condition: Mapping[str, Any],
) -> BaselineResult:
    """:func:`run` with :func:`corrected_chain`."""

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        return corrected_chain(prior, likelihood, z, y, times, correction, condition)

    correction.check(prior)
    return run(
        method, chain, prior, likelihood, y, num_samples, steps, seed, callback, condition, needs=("noise_std",)
    )  # fmt: skip


def corrected_chain(
    prior: DiffusionPrior,
    likelihood: Any,
    z: Tensor,
    y: Tensor,
    times: Sequence[float],
    correction: Correction,
    condition: Mapping[str, Any],
    limit: float | None = None,
    order: int = 1,
) -> Iterator[Tensor]:
    r"""The corrected predictions x_hat + c along ``times``, one network call each; z_s ~ N(mean + shift, std^2).

    With ``limit`` the shift of a sample is at most that many lengths of the step's noise, sqrt(D) std.

    The first order takes the prediction x = x_hat + c for the whole step; the second extrapolates it to the middle of
    the step from the step before (the multistep solver of Lu et al. 2023, SDE-DPM-Solver++(2M)),

    .. math:: x + \frac{h}{2 h_{before}} (x - x_{before}), \qquad h = \log(\alpha_s \sigma_t / (\sigma_s \alpha_t)).
    """
    before: tuple[Tensor, float] | None = None
    for t, s in pairwise(times):
        here = correction.at_level(float(noise_level(prior.schedule, t)) / prior.sigma_data)
        with gradients() if here.takes_gradients else nullcontext():
            at = predict(prior, likelihood, y, z, t, s, condition)
            c = here(at).detach()
        yield at.x_hat.detach() + c
        if s > 0:
            move = here.move(at, c)
            if limit is not None:
                share = _share(move.shift, limit * _length(move.std, move.shift, at.leading), at.leading)
                c, move = share * c, move._replace(shift=share * move.shift)
            x, h = at.x_hat.detach() + c, math.log(at.alpha_s * at.sigma_t / (at.sigma_s * at.alpha_t))
            if order == 2 and before is not None:
                ahead = here.move(at, h / (2 * before[1]) * (x - before[0])).shift
                move = move._replace(shift=move.shift + ahead)
            before = x, h
            z = move.draw()


def _length(std: float | Tensor, like: Tensor, leading: int) -> float | Tensor:
    """The root of the expected squared length of noise."""
    if isinstance(std, Tensor):
        return std.expand(like.shape).flatten(leading).norm(dim=-1)
    return std * math.prod(like.shape[leading:]) ** 0.5


def _share(shift: Tensor, longest: float | Tensor, leading: int) -> Tensor:
    """The share of its ``shift`` that each sample keeps so that it is no longer than ``longest``."""
    length = shift.flatten(leading).norm(dim=-1).clamp(min=longest)
    return expand_event(longest / length, shift)
