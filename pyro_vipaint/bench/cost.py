r"""The cost of a method in forward calls, on one machine.

With r the seconds of a network call with its gradient over those of the call alone, NFE f and g gradients per sample
(:mod:`pyro_vipaint.calls`) cost as much as

.. math:: f + (r - 1) g

calls without a gradient: the *forward equivalents*. r depends on the machine and the network, and is measured. Passes
of a decoder, and work outside of the network, are not in it.
"""

from __future__ import annotations

import math
import time
from functools import lru_cache
from statistics import median

import torch

from pyro_vipaint._torch import gradients
from pyro_vipaint.bench.trials import warm_prior

IMAGES, REPEATS = 4, 7  # of a measured call


@lru_cache(maxsize=8)
def gradient_ratio(name: str, device: str) -> float:
    """r for a prior on a device: the median over interleaved pairs of calls, after one pair that warms up.

    NaN for a prior that cannot be called so, for example without a text; its cells have the error.
    """
    try:
        return median([_pair(name, device) for _ in range(REPEATS + 1)][1:])
    except Exception:
        return math.nan


def _pair(name: str, device: str) -> float:
    """r from one call with its gradient and one without."""
    alone, both = _seconds(name, device, False), _seconds(name, device, True)
    return both / alone


def _seconds(name: str, device: str, with_gradient: bool) -> float:
    prior = warm_prior(name, device)
    z = torch.randn(IMAGES, *prior.event_shape, generator=torch.Generator().manual_seed(0)).to(device)
    labels = {"class_labels": torch.zeros(IMAGES, dtype=torch.long, device=device)} if prior.class_names else {}
    with gradients():
        z.requires_grad_(with_gradient)
        begun = time.perf_counter()
        x = prior.denoise(z, 0.5, **labels)
        if with_gradient:
            (x,) = torch.autograd.grad(x.sum(), z)
        x.flatten()[0].item()  # the device has done it
    return time.perf_counter() - begun
