"""The driver of all baselines: from pure noise along a method's chain to images, with their cost.

A method is a *chain*, a generator: it starts at z_1 and yields after each step the clean latent ``(S, N, *event)`` that
it predicts. The image is the last of them, decoded and clamped to [-1, 1]. Chains run without gradients; a step that
needs them opens :func:`pyro_vipaint._torch.gradients`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import seeded
from pyro_vipaint.calls import count_calls
from pyro_vipaint.errors import MOST_STEPS, finite, instance, whole
from pyro_vipaint.models.measurements.problem import FOLLOWED, check_problem
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time
from pyro_vipaint.progress import Callback, Progress

Chain = Callable[[Tensor, list[float]], Iterator[Tensor]]


@dataclass(frozen=True, eq=False)
class BaselineResult:
    """Images ``(S, N, C, H, W)`` in [-1, 1], and what they cost (:mod:`pyro_vipaint.calls`)."""

    samples: Tensor
    calls: int
    nfe: int
    seconds: float
    gradients: int = 0

    __repr__, _repr_html_ = compact, as_html


def run(
    method: str,
    chain: Chain,
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int,
    steps: int,
    seed: int | None,
    callback: Callback | None,
    condition: Mapping[str, Any],
    total: int | None = None,
    start: Callable[[], Tensor] | None = None,
    needs: Sequence[str] = (),
) -> BaselineResult:
    """The images at the end of a method's chain, after the check of the problem that all methods share.

    Args:
        method: the phase that ``callback`` is told.
        chain: called with z_1 and the ``steps`` + 1 times from 1 to 0.
        prior, likelihood, y, num_samples, steps, seed, callback, condition: as :mod:`pyro_vipaint.baselines` describes
            them.
        total: how many predictions the chain yields; ``steps`` if not given.
        start: makes what the chain starts at, ``(S, N, *event)``; z_1 ~ N(0, sigma_1^2 I) if not given.
        needs: members of the likelihood that the method uses, besides its operator and residual.
    """
    steps, num_samples = whole("steps", steps, most=MOST_STEPS), whole("num_samples", num_samples)
    check_problem(prior, likelihood, y, condition, (*FOLLOWED, *needs))
    instance("callback", callback, callback is None or callable(callback), "a function of a Progress")
    times = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64).tolist()
    begun = time.perf_counter()
    with seeded(seed), count_calls() as count, torch.no_grad():
        if start is None:
            _, sigma = prior.schedule(as_time(1.0))
            z = float(sigma) * torch.randn(num_samples, len(y), *prior.event_shape, device=y.device)
        else:
            z = start()
        for step, z_hat in enumerate(chain(z, times), 1):
            z = z_hat
            if callback is not None:
                callback(Progress(method, step, total or steps))
        images = finite(f"The chain of {method}", prior.decode(z), "try smaller weights or rates")
        samples = images.clamp(-1, 1)
    return BaselineResult(samples, count.calls, count.nfe, time.perf_counter() - begun, count.gradients)
