r"""The mode of the posterior over all levels (MAP): one point per level.

.. math:: q(z_i) = \delta(z_i - \alpha_i \mu_i), \quad
    \mu = \arg\min\, -\log p(z_K) - \sum_i \log p_\theta(z_i \mid z_{i+1}) - \log p(y \mid z_1)

The objective reports -log p(z, y), a density, which must not be compared with the bound of another guide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyro.distributions import Delta, TorchDistribution
from torch import Tensor

from pyro_vipaint.guides.base import LatentGuide

if TYPE_CHECKING:
    from pyro_vipaint.models import DiffusionModel


class DeltaGuide(LatentGuide):
    """A point at every level: ``mu_i``, ``(N, *event)``, in the clean scale.

    With Pyro's ``Trace_ELBO`` and ``TraceMeanField_ELBO`` and with :class:`BetaELBO` the objective is
    -log p(z, y), where beta weights the part of the prior. One particle is enough where the marginal is exact.
    """

    def __init__(self, model: DiffusionModel, init: Tensor | None = None) -> None:
        super().__init__(model, init)
        start = self._start(model, init)
        for level in model.levels:
            self._create("mu", level.name, start)

    def get_posterior(self, name: str, prior: Any) -> TorchDistribution:
        """The point alpha_i mu_i.

        It is an ``Independent`` of scalar points: for ``Delta`` itself Pyro has an analytic KL, which would evaluate
        log p(z_K), and with it the network, a second time.
        """
        return Delta(self._location(name)).to_event(prior.event_dim)
