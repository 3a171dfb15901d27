r"""Independent Gaussians: no dependence between the levels.

.. math:: q(z_K, \dots, z_1) = \prod_i N(\alpha_i \mu_i, \tau_i^2)

The levels of the true posterior depend strongly on each other, because each is the level above with some noise
removed. The bound is therefore looser the closer the levels are: this guide serves as a comparison.
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


class MeanFieldGuide(LatentGuide):
    """Independent Gaussians: ``mu_i`` (clean scale) and ``tau_i`` at every level, each ``(N, *event)``.

    KL terms below T_e are analytic given the level above. ``tau_scale`` is that of :class:`ChainGuide`.
    """

    def __init__(self, model: DiffusionModel, init: Tensor | None = None, *, tau_scale: float = 0.7) -> None:
        super().__init__(model, init)
        start = self._start(model, init)
        for level in model.levels:
            tau = torch.full_like(start, self._initial_tau(level, tau_scale))
            self._create("mu", level.name, start)
            self._create("tau", level.name, tau, constraints.positive)

    def get_posterior(self, name: str, prior: Any) -> TorchDistribution:
        """N(alpha_i mu_i, tau_i^2), independent of the levels above."""
        return gaussian(self._location(name), self._of("tau", name), prior.event_dim)
