r"""No coupling between the levels.

.. math:: q(z_K, \dots, z_1) = \prod_i N(\alpha_i \mu_i, \tau_i^2)

The levels of the true posterior are strongly dependent, since each is the one above with noise taken away, so this
bound is the looser the closer the levels lie. It is the usual first choice in variational inference, and here to be
compared with.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vipaint.guides.base import LatentGuide, ModelLike, gaussian


class MeanFieldGuide(LatentGuide):
    """Independent Gaussians: ``mu_i`` (clean scale) and ``tau_i`` at every level, each ``(N, *event)``.

    KL terms below T_e are analytic given the level above.

    Args:
        model: the :class:`DiffusionModel` to be approximated.
        init: where mu starts at every level, shape ``(N, *event)``, clean scale; zeros if not given.
        tau_scale: tau below T_e at the start, in units of the prior's standard deviation there, 0.7 as for
            :class:`HierarchicalGuide`. At T_e it starts at sigma.

    Raises:
        InputError: ``tau_scale`` is not positive and finite.
    """

    def __init__(self, model: ModelLike, init: Tensor | None = None, *, tau_scale: float = 0.7) -> None:
        super().__init__(model, init)
        init = self._start(model, init)
        for level in model.levels:
            index = level.name.removeprefix("z_")
            tau = self._initial_tau(level, tau_scale)
            self._create(f"mu_{index}", init.clone())
            self._create(f"tau_{index}", torch.full_like(init, tau), constraints.positive)

    def get_posterior(self, name: str, prior: Any) -> Distribution:
        """N(alpha_i mu_i, tau_i^2), whatever the levels above are."""
        return gaussian(self._location(name), self._of("tau", name), prior.event_dim)
