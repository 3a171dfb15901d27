"""The chain that the baselines with a correction share: predict, correct, move (:mod:`pyro_vipaint.corrections`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._torch import gradients
from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.corrections import Correction, predict
from pyro_vipaint.errors import InputError
from pyro_vipaint.models.priors.prior import DiffusionPrior
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
    """:func:`run` with the chain z_s ~ N(mean + shift, std^2), whose predictions are the corrected ones, x_hat + c.

    Raises:
        InputError: the prior is one of latents, in which A is not linear.
    """
    if prior.is_latent:
        raise InputError(f"{type(correction).__name__} needs a pixel prior, since A must be linear; use psld or dps.")

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        for t, s in pairwise(times):
            with gradients() if correction.takes_gradients else nullcontext():
                at = predict(prior, likelihood, y, z, t, s, condition)
                c = correction(at).detach()
            yield at.x_hat.detach() + c
            if s > 0:
                mean, shift, std = correction.move(at, c)
                z = (mean + shift).detach() + std * torch.randn_like(shift)

    return run(
        method, chain, prior, likelihood, y, num_samples, steps, seed, callback, condition, needs=("noise_std",)
    )  # fmt: skip
