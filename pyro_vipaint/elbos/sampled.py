r"""The weighted bound with every term taken at the draw, none in closed form.

.. math::
    -\log p(y \mid z_1) + \sum_i \beta_i \big( \log q(z_i \mid z_{i+1}) - \log p_\theta(z_i \mid z_{i+1}) \big),
    \quad z \sim q

Its mean is that of :class:`BetaELBO`. At beta = 1 it is minus the log of the importance weight: constant in
z if and only if q is the posterior.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_vipaint.elbos.base import Beta, WeightedELBO, sampled_term


class SampledELBO(WeightedELBO):
    """-log p(y | z) + beta × (log q(z) - log p(z)) at the draw, a Monte-Carlo KL; minimised.

    The bound on -log p(y) at beta = 1, as with :class:`BetaELBO`. It asks nothing of the guide but draws that are
    reparameterised and a density, and no particular dependency structure. Its *value* loses its variance as q
    approaches the posterior; its gradient does not (:class:`StickingTheLandingELBO`'s does).

    A step costs K + 1 network calls for a K-level model, each on ``num_particles`` × N images.

    Args:
        beta: weight of the latent sites: a positive number, a mapping from site name to one (absent names keep 1),
            or a schedule, which is called with the number of steps already taken and returns either.
        num_particles: Monte-Carlo draws of the guide in one step, run as one batch (5 in the paper's code).

    After each evaluation ``terms`` holds the *unweighted* terms by site, each of shape ``(N,)``, in nats: they sum to
    a one-step estimate of the bound on -log p(y) whatever beta is.

    Raises:
        ValueError: a weight that is not positive and finite, or a site that does not exist; from a schedule, at the
            step that meets it.
    """

    def __init__(self, beta: Beta = 1.0, num_particles: int = 5) -> None:
        super().__init__(beta, num_particles)

    def _latent_term(self, model_site: Any, guide_site: Any) -> Tensor:
        return sampled_term(model_site, guide_site)
