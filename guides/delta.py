r"""The mode of the posterior over all levels (MAP): a point at each.

.. math:: q(z_i) = \delta(z_i - \alpha_i \mu_i), \quad
    \mu = \arg\min\, -\log p(z_K) - \sum_i \log p_\theta(z_i \mid z_{i+1}) - \log p(y \mid z_1)

A density at a point is no probability: what the objective reports here is -log p(z, y), which may lie on either side
of -log p(y) and must not be compared with the bound of another guide.
"""

from __future__ import annotations

from typing import Any

from pyro.distributions import Delta, Distribution
from torch import Tensor

from pyro_vipaint.guides.base import LatentGuide, ModelLike


class DeltaGuide(LatentGuide):
    """A point at every level: ``mu_i``, ``(N, *event)``, in the clean scale.

    With Pyro's ``Trace_ELBO`` and ``TraceMeanField_ELBO`` and with :class:`BetaELBO` the objective is
    -log p(z, y), beta weighting the prior's part. One particle says all that several would, but for the estimate of
    log p(z_K), which is random for a diffusion prior.

    Args:
        model: the :class:`DiffusionModel` to be approximated.
        init: where mu starts at every level, shape ``(N, *event)``, clean scale; zeros if not given.
    """

    def __init__(self, model: ModelLike, init: Tensor | None = None) -> None:
        super().__init__(model, init)
        init = self._start(model, init)
        for level in model.levels:
            self._create(f"mu_{level.name.removeprefix('z_')}", init.clone())

    def get_posterior(self, name: str, prior: Any) -> Distribution:
        """The point alpha_i mu_i.

        An ``Independent`` of scalar points: for ``Delta`` itself Pyro has an analytic KL, which would evaluate
        log p(z_K), and with it the network, a second time.
        """
        return Delta(self._location(name)).to_event(prior.event_dim)
