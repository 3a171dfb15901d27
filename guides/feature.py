r"""A Gaussian at z_0 in the limit of zero variance: the family of RED-Diff (Mardani et al. 2023).

With q(z_0) = N(mu, 0), the forward diffusion gives all levels,

.. math::
    q(z_{T_e}) = N(\alpha_{T_e} \mu, \sigma_{T_e}^2), \quad
    q(z_s \mid z_t) = q(z_s \mid z_t, z_0 = \mu)
        = N\Big(\frac{\alpha_{ts} \sigma_s^2}{\sigma_t^2} z_t + \frac{\alpha_s \sigma_{ts}^2}{\sigma_t^2} \mu,
        \frac{\sigma_{ts}^2 \sigma_s^2}{\sigma_t^2}\Big).

The prior's transition is the same bridge with the denoiser's prediction in place of mu, hence

.. math::
    KL(q(z_s \mid z_t) \| p_\theta(z_s \mid z_t)) = \tfrac12 (r_s - r_t) |\mu - \hat z_\theta(z_t, t)|^2,
    \quad r = \alpha^2 / \sigma^2,

which is the regulariser of RED-Diff: for this family the bound reduces to its objective (VIPaint states this). The
time weighting of RED-Diff corresponds to one beta per site.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vipaint.guides.base import LatentGuide, gaussian

if TYPE_CHECKING:
    from pyro_vipaint.models import DiffusionModel


class FeatureGuide(LatentGuide):
    """The diffusion of one clean point: ``mu_0``, ``(N, *event)``, is the only parameter; all KL terms are analytic.

    Its spread is that of the noise alone: after refinement its samples represent one mode, as those of RED-Diff do.
    """

    def __init__(self, model: DiffusionModel, init: Tensor | None = None) -> None:
        super().__init__(model, init)
        self._create("mu", "0", self._start(model, init))

    def get_posterior(self, name: str, prior: Any) -> TorchDistribution:
        """N(alpha mu, sigma^2) at T_e; below it the bridge to mu from the draw above, which is in the guide's trace."""
        level, mean = self._levels[name], self._levels[name].alpha * self.mu_0
        if name in self._above:
            above = self._above[name]
            keep = above.alpha / level.alpha * (level.sigma / above.sigma) ** 2
            pull = (level.step_std / level.sigma) ** 2  # sigma_ts^2 / sigma_t^2, from the step: no cancellation
            z_t: Any = self.upstream_value(above.name)
            mean = keep * z_t + pull * mean
        return gaussian(mean, mean.new_full((), level.step_std), prior.event_dim)
