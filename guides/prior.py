r"""A learnt Gaussian at T_e, with the prior's own transitions below it (gamma = 1).

.. math:: q(z_{T_e}) = N(\alpha_{T_e} \mu_K, \tau_K^2), \quad
    q(z_{s(i)} \mid z_{s(i+1)}) = p_\theta(z_{s(i)} \mid z_{s(i+1)})

The KL terms below T_e are exactly zero, and the observation acts through z_Te alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vipaint.guides.base import LatentGuide, gaussian

if TYPE_CHECKING:
    from pyro_vipaint.models import DiffusionModel


class PriorGuide(LatentGuide):
    """``mu_K`` (clean scale) and ``tau_K``, which starts at sigma, of shape ``(N, *event)``; the prior below them."""

    def __init__(self, model: DiffusionModel, init: Tensor | None = None) -> None:
        super().__init__(model, init)
        start, top = self._start(model, init), model.levels[0]
        self._create("mu", top.name, start)
        self._create("tau", top.name, torch.full_like(start, top.sigma), constraints.positive)

    def get_posterior(self, name: str, prior: Any) -> TorchDistribution:
        """The learnt Gaussian at T_e, ``prior`` itself below."""
        if name != self._top:
            return prior
        return gaussian(self._location(name), self._of("tau", name), prior.event_dim)
