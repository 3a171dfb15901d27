r"""The hierarchical posterior of VIPaint (Eq. 11-12).

.. math::
    q(z_{T_e}) &= N(\alpha_{T_e} \mu_K, \tau_K^2) \\
    q(z_{s(i)} \mid z_{s(i+1)}) &= N(\gamma_i \hat z_{s(i)} + (1 - \gamma_i) \alpha_{s(i)} \mu_i, \tau_i^2)
"""

from __future__ import annotations

from typing import Any

from pyro.distributions import Distribution

from pyro_vipaint.guides.base import gaussian
from pyro_vipaint.guides.chain import ChainGuide


class HierarchicalGuide(ChainGuide):
    """q(z_Te) prod_i q(z_s(i) given z_s(i+1)), Eq. 11-12: one Gaussian at T_e, the levels of :class:`ChainGuide` below.

    The arguments are those of :class:`ChainGuide`. All KL terms are analytic where the prior's marginal at T_e is
    Gaussian; otherwise the entropy at T_e is analytic and the rest sampled.
    """

    def get_top(self, prior: Any) -> Distribution:
        """N(alpha_Te mu_K, tau_K^2)."""
        return gaussian(self._location(self._top), self.get_tau(self._top), prior.event_dim)
