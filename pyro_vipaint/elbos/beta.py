r"""The bound of VIPaint with its prior side weighted by beta (Eq. 13), analytic where possible.

.. math::
    -E_q \log p(y \mid z_1) + \sum_i \beta_i\, E_q KL(q(z_i \mid z_{i+1}) \| p_\theta(z_i \mid z_{i+1}))
    + \beta_K \big( E_q[-\log p(z_K)] - H[q(z_K)] \big)

KL terms and entropies are analytic where the distributions allow it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pyro.distributions import Delta
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vipaint.elbos.base import WeightedELBO, sampled_term


class BetaELBO(WeightedELBO, TraceMeanField_ELBO):
    """-log p(y | z) + beta × (the prior side), Eq. 13, with analytic KL divergences; minimised.

    With one beta for all sites it is beta times KL(q || p(z) p(y | z)^(1/beta) / Z), up to a constant: its optimum
    is the posterior with the likelihood tempered to the power 1/beta. beta = 1 is the true bound on -log p(y).

    Arguments, costs, ``terms`` and errors are those of :class:`WeightedELBO`. Pyro's condition for analytic KL terms
    holds when guide and model have the same dependency structure (each level depends on the one above it). Where a KL
    has no closed form the term is -H[q] - log p at the draw, and where the entropy has none, log q - log p.
    """

    def _latent_term(self, model_site: Any, guide_site: Any) -> Tensor:
        q, p = guide_site["fn"], model_site["fn"]
        if not isinstance(q, Delta):  # whose KL in Pyro omits log_density and evaluates p, maybe a network, again
            with suppress(NotImplementedError):
                return kl_divergence(q, p)
            with suppress(NotImplementedError):
                return -q.entropy() - model_site["unscaled_log_prob"]
        return sampled_term(model_site, guide_site)
