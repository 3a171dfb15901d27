"""Ancestral samples of a guide, from T_e to T_s, and the start of its means."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from pyro_vipaint._torch import seeded
from pyro_vipaint.errors import InputError, finite, whole
from pyro_vipaint.models.diffusion import DiffusionModel
from pyro_vipaint.models.measurements.likelihoods import weighted
from pyro_vipaint.models.measurements.linalg import cgls
from pyro_vipaint.models.measurements.operators import Broadcasting, Operator, pseudo_inverse
from pyro_vipaint.models.measurements.problem import check_observation, check_problem
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback, Progress, showing


@torch.no_grad()
def sample(
    guide: Any,
    y: Tensor,
    num_samples: int = 10,
    *,
    seed: int | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor:
    """Posterior draws of z_Ts, shape ``(num_samples, N, *event)``: K - 1 network calls on all of them at once.

    Args:
        guide: a guide of :mod:`pyro_vipaint.guides`, fitted or not. One of Pyro's own is run ``num_samples`` times,
            without a network call unless its program makes one.
        y: observations ``(N, *observation)``; the guides of this library read only their number.
        num_samples: S >= 1.
        seed: seed of these draws, different from that of the fit, whose noise they would repeat; ``None`` continues
            the global generator. The same call gives the same bits; another batch or number of samples gives other
            draws of the same law (docs/bound.md, "What a seed promises").
        callback: called after each level with its :class:`pyro_vipaint.progress.Progress`, phase ``sample``; after each
            draw of a guide of Pyro.
        progress: draw a bar, on a terminal or in a notebook.

    Raises:
        InputError: ``num_samples`` or ``seed`` is not a whole number in its range, or ``guide`` is a model or a class.
        NonFiniteError: a draw is infinite or NaN.
    """
    whole("num_samples", num_samples)
    _check_guide(guide)
    check_observation(y, None)
    with seeded(seed), showing(progress, callback) as callback:
        if hasattr(guide, "sample_latents"):
            with pyro.plate("samples", num_samples, dim=-2), _Levels(guide, callback):
                z = guide.sample_latents(len(y), y)
        else:
            draws = []
            for step in range(1, num_samples + 1):
                draws.append(poutine.trace(guide).get_trace(y).nodes["z_1"]["value"])
                if callback is not None:
                    callback(Progress("sample", step, num_samples))
            z = torch.stack(draws)
    return finite("The sampling of the guide", z, "fit the guide anew with a lower learning rate")


class _Levels(Messenger):
    """Tells a ``callback`` of every level that a guide has drawn."""

    def __init__(self, guide: Any, callback: Callback | None) -> None:
        super().__init__()
        self.callback, self.done, self.total = callback, 0, len(guide.model.levels)

    def _pyro_post_sample(self, msg: Message) -> None:
        if self.callback is not None and str(msg["name"]).startswith("z_"):
            self.done += 1
            self.callback(Progress("sample", self.done, self.total, note=str(msg["name"])))


def _check_guide(guide: Any) -> None:
    """Refuses what is no guide before a model, say, draws z_K from the prior at the cost of hundreds of calls."""
    if isinstance(guide, (type, DiffusionModel)) or not callable(guide):
        raise InputError("sample takes a fitted guide, not a model or a class: for draws of the model call it.")


@torch.no_grad()
def initial_latent(prior: DiffusionPrior, likelihood: Any, y: Tensor, **condition: Any) -> Tensor:
    r"""The start of a guide's means, ``(N, *event)``: the data where observed, the prior's mean elsewhere.

    .. math:: E(m + A^+ (y - A m)), \qquad m = decode(E[z_0 \mid z_1 = 0])

    at t = 1, one network call. A^+ is the pseudo-inverse of operators of this library that have one. For others it is a
    few steps of conjugate gradients (:func:`pyro_vipaint.models.cgls`), which do not amplify noise as the
    pseudo-inverse of a blur does. Hidden pixels that start at the mean of the class are closer to the posterior than
    zero, which is grey in images in [-1, 1].

    Args:
        prior, likelihood: as for :class:`DiffusionModel`.
        y: observations ``(N, *observation)``.
        condition: passed to the denoiser, e.g. ``class_labels`` of shape ``(N,)``.

    Raises:
        InputError: the observations, the likelihood or the conditions cannot be used.
    """
    check_problem(prior, likelihood, y, condition)
    mean = prior.decode(prior.denoise(torch.zeros(len(y), *prior.event_shape).to(y), 1.0, **condition))
    operator: Operator = likelihood.operator
    solve = pseudo_inverse if isinstance(operator, Broadcasting) and hasattr(operator, "A_dagger") else cgls
    return prior.encode(mean + solve(operator, weighted(likelihood, likelihood.residual(mean, y))))
