r"""Only T_e is learnt; below it the posterior is the prior's own transition (gamma = 1).

.. math:: q(z_{T_e}) = N(\alpha_{T_e} \mu_K, \tau_K^2), \quad
    q(z_{s(i)} \mid z_{s(i+1)}) = p_\theta(z_{s(i)} \mid z_{s(i+1)})

The KL terms below T_e are exactly zero, and the observation is felt through z_Te alone.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vipaint.guides.base import LatentGuide, ModelLike, gaussian


class PriorGuide(LatentGuide):
    """A Gaussian at T_e, ``mu_K`` (clean scale) and ``tau_K`` of shape ``(N, *event)``, and the prior below it.

    Args:
        model: the :class:`DiffusionModel` to be approximated.
        init: where mu starts, shape ``(N, *event)``, clean scale; zeros if not given. tau starts at sigma.
    """

    def __init__(self, model: ModelLike, init: Tensor | None = None) -> None:
        super().__init__(model, init)
        init, top = self._start(model, init), model.levels[0]
        index = top.name.removeprefix("z_")
        self._create(f"mu_{index}", init.clone())
        self._create(f"tau_{index}", torch.full_like(init, top.sigma), constraints.positive)

    def get_posterior(self, name: str, prior: Any) -> Distribution:
        """The learnt Gaussian at T_e, ``prior`` itself below."""
        if name != self._top:
            return prior
        return gaussian(self._location(name), self._of("tau", name), prior.event_dim)
