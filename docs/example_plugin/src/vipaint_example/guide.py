r"""A guide: each level is the prior's mean pulled towards one image, by the same share at every pixel of a level.

.. math:: q(z_s \mid z_t) = N(\gamma_s \hat z_s + (1 - \gamma_s) \alpha_s \mu,\; \tau_s^2)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vipaint.guides import LatentGuide
from pyro_vipaint.guides.base import gaussian


class ExampleGuide(LatentGuide):
    """One image ``mu``, one ``gamma`` and one ``tau`` per level and image."""

    def __init__(self, model: Any, init: Tensor | None = None) -> None:
        super().__init__(model, init)
        start = self._start(model, init)
        ones = torch.ones(len(start), *[1] * (start.ndim - 1)).to(start)
        for level in model.levels:
            self._create("mu", level.name, start)
            self._create("gamma", level.name, 0.7 * ones, constraints.unit_interval)
            self._create("tau", level.name, self._initial_tau(level, 0.7) * ones, constraints.positive)

    def get_posterior(self, name: str, prior: Any) -> Any:
        """The Gaussian of one level, given the one above, whose prediction is in ``prior``."""
        location, gamma, tau = self._location(name), self._of("gamma", name), self._of("tau", name)
        if name == self._top:
            return gaussian(location, tau, prior.event_dim)
        return gaussian(gamma * prior.mean + (1 - gamma) * location, tau, prior.event_dim)
