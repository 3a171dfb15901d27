r"""Classifier-free guidance (Ho & Salimans 2022), in the parametrisation of Stable Diffusion.

.. math:: f_w(z, t, c) = f(z, t, \varnothing) + w \, (f(z, t, c) - f(z, t, \varnothing))

for a network f and a null condition. w = 1 is the conditional prior itself; w > 1 sharpens it towards the condition,
and the result is no longer the score of a diffused density. The combination is linear, so it is the same for eps, v,
x_0 and velocities. Both terms are computed in one batch, the null half first: one call, twice the NFE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import on_device
from pyro_vipaint.errors import InputError, number

WEIGHT = "guidance_scale"  # the name of w among the conditions


def is_guided(condition: Mapping[str, Any]) -> bool:
    """Whether a call under ``condition`` doubles the batch: w is given and not 1, and there is a condition to weigh.

    >>> is_guided({"class_labels": torch.tensor([3]), "guidance_scale": 2.0})
    True
    >>> is_guided({"guidance_scale": 2.0}) or is_guided({"class_labels": torch.tensor([3]), "guidance_scale": 1.0})
    False

    Raises:
        InputError: w is negative, infinite, NaN or no number.
    """
    weight = condition.get(WEIGHT)
    if weight is None or number(WEIGHT, weight) == 1:
        return False
    return any(v is not None for name, v in condition.items() if name != WEIGHT)


@dataclass(frozen=True, eq=False)
class GuidedNetwork:
    """A network with ``guidance_scale`` among its conditions, which uses the null condition for those not given.

    Args:
        network: called as ``network(z, timestep, **condition)`` with one batch dimension; returns a tensor.
        null: the null condition of one image, without a batch dimension: a label, the embedding of the empty prompt.
        required: the conditions that ``network`` needs, each with the message that asks for it.

    Raises:
        InputError: a call omits a required condition that has no null, or weighs a condition that has no null.
    """

    network: Callable[..., Tensor]
    null: Mapping[str, Tensor] = field(default_factory=dict)
    required: Mapping[str, str] = field(default_factory=dict)

    __repr__, _repr_html_ = compact, as_html

    def __call__(self, z: Tensor, timestep: Tensor, guidance_scale: float | None = None, **condition: Any) -> Tensor:
        given = {name: value for name, value in condition.items() if value is not None}
        null = {name: on_device(value, z.device).expand(len(z), *value.shape) for name, value in self.null.items()}
        for name in self.required.keys() - null.keys() - given.keys():
            raise InputError(self.required[name])
        if guidance_scale is None or not is_guided({**given, WEIGHT: guidance_scale}):
            return self.network(z, timestep, **{**null, **given})
        for name in given.keys() - null.keys():
            raise InputError(f"guidance_scale needs a null condition to weigh {name} against; this prior has none.")
        both = {name: torch.cat([value, given.get(name, value).to(value)]) for name, value in null.items()}
        without, with_condition = self.network(torch.cat([z, z]), torch.cat([timestep, timestep]), **both).chunk(2)
        return without + guidance_scale * (with_condition - without)
