r"""The bound of VIPaint with its prior side weighted by beta (Eq. 13), analytic where it can be.

.. math::
    -E_q \log p(y \mid z_1) + \sum_i \beta_i\, E_q KL(q(z_i \mid z_{i+1}) \| p_\theta(z_i \mid z_{i+1}))
    + \beta_K \big( E_q[-\log p(z_K)] - H[q(z_K)] \big)

beta = 1 is a bound on -log p(y). KL terms and entropies are analytic where the distributions allow it.
"""

from __future__ import annotations

from typing import Any

from pyro.distributions import Delta
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vipaint.elbos.base import Beta, WeightedELBO, sampled_term


class BetaELBO(WeightedELBO, TraceMeanField_ELBO):
    """-log p(y | z) + beta × (the prior side), Eq. 13, with analytic KL divergences; minimised.

    With one beta for all sites it is beta times KL(q || p(z) p(y | z)^(1/beta) / Z), up to a constant: its optimum
    is the posterior with the likelihood tempered to the power 1/beta. beta = 1 is the true bound on -log p(y).

    A step costs K + 1 network calls for a K-level model, each on ``num_particles`` × N images.

    Args:
        beta: weight of the latent sites: a positive number, a mapping from site name to one (absent names keep 1),
            or a schedule, which is called with the number of steps already taken and returns either.
        num_particles: Monte-Carlo draws of the guide in one step, run as one batch (5 in the paper's code).

    After each evaluation ``terms`` holds the *unweighted* terms by site, each of shape ``(N,)``, in nats: they sum to
    a one-step estimate of the bound on -log p(y) whatever beta is. Pyro's condition for analytic KL terms holds when
    guide and model have the same dependency structure (each level depends on the one above it). Where a KL has no
    closed form the term is -H[q] - log p at the draw, and where the entropy has none, log q - log p.

    Raises:
        ValueError: a weight that is not positive and finite, or a site that does not exist; from a schedule, at the
            step that meets it.
    """

    def __init__(self, beta: Beta = 1.0, num_particles: int = 5) -> None:
        super().__init__(beta, num_particles)

    def _latent_term(self, model_site: Any, guide_site: Any) -> Tensor:
        q, p = guide_site["fn"], model_site["fn"]
        if isinstance(q, Delta):
            # Pyro's KL of a Delta drops its log_density and evaluates p anew: another network call where p is one.
            return sampled_term(model_site, guide_site)
        try:
            return kl_divergence(q, p)
        except NotImplementedError:
            return -_entropy(q, guide_site) - model_site["unscaled_log_prob"]


def _entropy(q: Any, guide_site: Any) -> Tensor:
    """H[q], or its one-sample estimate where it has no closed form."""
    try:
        return q.entropy()
    except NotImplementedError:
        return -guide_site["unscaled_log_prob"]
