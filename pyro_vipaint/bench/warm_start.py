r"""The control of VIPaint: its start and its refinement without the fit in between.

.. math:: z_{T_e} = \alpha x_0 + \sigma \epsilon, \qquad \epsilon \sim N(0, I),

with x_0 of :func:`pyro_vipaint.initial_latent`, the data where observed and the prior's mean elsewhere, and then
:func:`pyro_vipaint.refine` from T_e to 0. Where this is as good as VIPaint, the fit does not pay. T_e and all numbers
of the refinement are the defaults of VIPaint for the prior and the operator, unless they are given.

Bias: that of the refinement, and that all draws start around the same image.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._torch import seeded
from pyro_vipaint.baselines import BaselineResult
from pyro_vipaint.bench.methods import Baseline
from pyro_vipaint.calls import count_calls
from pyro_vipaint.corrections import Correction
from pyro_vipaint.errors import instance, number, whole
from pyro_vipaint.models import DiffusionModel, DiffusionPrior
from pyro_vipaint.models.measurements.problem import FOLLOWED, check_problem
from pyro_vipaint.models.priors.schedules import as_time, keypoints
from pyro_vipaint.progress import Callback, Progress
from pyro_vipaint.refinement import DEFAULT_STEPS, refine
from pyro_vipaint.sampling import initial_latent
from pyro_vipaint.settings import default_settings, restoration_settings, settings_for


def warm_start(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = DEFAULT_STEPS,
    *,
    noise_level: float | None = None,
    zeta: float | None = None,
    correction: Correction | None = None,
    order: int = 1,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """Images from noise around the start; the arguments of all baselines are in :mod:`pyro_vipaint.baselines`.

    Args:
        steps: of the refinement.
        noise_level: sigma/alpha at T_e in units of the prior's ``sigma_data``; VIPaint's own if not given.
        zeta: weight of the observation at the first step; VIPaint's own if not given.
        correction, order: as for :func:`pyro_vipaint.refine`.

    Raises:
        InputError: as for all baselines, or the schedule does not reach the noise level.
    """
    whole("num_samples", num_samples)
    instance("callback", callback, callback is None or callable(callback), "a function of a Progress")
    check_problem(prior, likelihood, y, condition, FOLLOWED)
    numbers = settings_for(2, prior, likelihood.operator, y, "pictures")
    level = numbers.noise_levels[0] if noise_level is None else number("noise_level", noise_level, positive=True)
    model = DiffusionModel(prior, likelihood, keypoints(prior, noise_levels=[level * prior.sigma_data]), **condition)

    def told(progress: Progress) -> None:
        if callback is not None:
            callback(progress._replace(phase="warm_start"))

    begun = time.perf_counter()
    with seeded(seed), count_calls() as count:
        start = initial_latent(prior, likelihood, y, **condition)
        alpha, sigma = (float(value) for value in prior.schedule(as_time(model.keypoints[0])))
        z = alpha * start + sigma * torch.randn(num_samples, *start.shape, device=y.device)
        samples = refine(
            model, z, y, steps, zeta=numbers.zeta if zeta is None else zeta, zeta_decay=numbers.zeta_decay,
            polyak=numbers.polyak, correction=correction, order=order, callback=told,
        )  # fmt: skip
    return BaselineResult(samples, count.calls, count.nfe, time.perf_counter() - begun, count.gradients)


def warm_start_calls(steps: int = DEFAULT_STEPS) -> int:
    """Network calls of :func:`warm_start`: one for the start, one per step."""
    return 1 + steps


@dataclass(frozen=True)
class Control(Baseline):
    """:func:`warm_start` as a method of the comparison, which runs with the defaults of VIPaint."""

    def numbers(self) -> str:
        makers = (default_settings, restoration_settings)
        return repr([super().numbers(), *(make(2, latent) for make in makers for latent in (False, True))])
