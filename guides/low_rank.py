r"""A Gaussian with low-rank plus diagonal covariance at T_e, and the hierarchical levels (Eq. 12) below it.

.. math:: q(z_{T_e}) = N(\alpha_{T_e} \mu_K,\; \sigma_{T_e}^2 F F^T + \mathrm{diag}(\tau_K^2)), \quad
    F \in \mathbb{R}^{D \times r}

over the flattened event of D elements. With D r more numbers than a diagonal covariance it expresses correlations
between elements; the Woodbury identity keeps the cost linear in D.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vipaint.distributions import low_rank_normal
from pyro_vipaint.errors import whole
from pyro_vipaint.guides.hierarchical import ChainGuide

if TYPE_CHECKING:
    from pyro_vipaint.corrections import Correction
    from pyro_vipaint.models import DiffusionModel


class LowRankGuide(ChainGuide):
    """Low rank plus diagonal at T_e, the levels of :class:`ChainGuide` below.

    It has one parameter more than :class:`HierarchicalGuide`: ``factor_K``, F, of shape ``(N, D, rank)``, in units of
    sigma at T_e. F starts at fixed pseudo-random numbers, the same for each image and each new guide.

    Args:
        rank: columns of F, from 1 to D; 8 are fewer numbers than the other eleven of four levels; not tuned.
        model, init, gamma_logit, tau_scale, gamma, tau, correction: as for :class:`ChainGuide`; tau_K is the diagonal
            part at T_e.

    Raises:
        InputError: a rank outside 1 … D, or an error of :class:`ChainGuide`.
    """

    def __init__(
        self,
        model: DiffusionModel,
        init: Tensor | None = None,
        *,
        rank: int = 8,
        gamma_logit: float | Tensor = 4.0,
        tau_scale: float = 0.7,
        gamma: str = "element",
        tau: str = "element",
        correction: Correction | None = None,
    ) -> None:
        super().__init__(
            model, init, gamma_logit=gamma_logit, tau_scale=tau_scale, gamma=gamma, tau=tau, correction=correction
        )
        self.settings["rank"] = rank
        mu = self._location(self._top)
        size = whole(f"rank is {rank}: the event's number of elements", mu[0].numel(), least=whole("rank", rank))
        # F F^T is 0.01 I on average: small beside tau = sigma, and not zero, which is a saddle point.
        factor = torch.randn(size, rank, generator=torch.Generator().manual_seed(0)) * 0.1 / rank**0.5
        self._create("factor", self._top, factor.to(mu).repeat(len(mu), 1, 1))

    def get_top(self, prior: Any) -> TorchDistribution:
        """The low-rank Gaussian, reshaped to the event."""
        mean = self._location(self._top)
        variance = self.get_tau(self._top).expand(mean.shape).square()
        factor = self._levels[self._top].sigma * self._of("factor", self._top)
        return low_rank_normal(mean, factor.mT.unflatten(-1, mean.shape[1:]), variance, prior.event_dim)
