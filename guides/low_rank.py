r"""A Gaussian with a low-rank plus diagonal covariance at T_e, the hierarchical levels below it.

.. math:: q(z_{T_e}) = N(\alpha_{T_e} \mu_K,\; \sigma_{T_e}^2 F F^T + \mathrm{diag}(\tau_K^2)), \quad
    F \in \mathbb{R}^{D \times r}

over the flattened event of D elements. It can say that elements vary together, which a diagonal cannot, at D r more
numbers; the Woodbury identity keeps the cost linear in D.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import (
    Distribution,
    LowRankMultivariateNormal,
    TransformedDistribution,  # pyright: ignore[reportAttributeAccessIssue]
)
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence, register_kl
from torch.distributions.transforms import ReshapeTransform

from pyro_vipaint.errors import InputError
from pyro_vipaint.guides.base import ModelLike
from pyro_vipaint.guides.hierarchical import ChainGuide

DEFAULT_RANK = 8  # fewer numbers an element than the eleven that four levels have without it; not tuned
FACTOR_START = 0.1  # F F^T is 0.01 I on average: next to nothing beside tau = sigma, but zero would be a saddle point


class LowRankGuide(ChainGuide):
    """Low rank plus diagonal at T_e, the levels of :class:`ChainGuide` below.

    One parameter more than :class:`HierarchicalGuide`: ``factor_K``, F, of shape ``(N, D, rank)``, in units of sigma
    at T_e. It starts at fixed pseudo-random numbers, the same for each image and each new guide.

    Args:
        model: the :class:`DiffusionModel` to be approximated.
        init: where mu starts at every level, shape ``(N, *event)``, clean scale; zeros if not given.
        rank: columns of F, from 1 to D.
        gamma_logit, tau_scale, gamma, tau: as in :class:`ChainGuide`; ``tau`` is the diagonal at T_e as well.

    Raises:
        InputError: a rank outside its range, and what :class:`ChainGuide` refuses.
    """

    def __init__(
        self,
        model: ModelLike,
        init: Tensor | None = None,
        *,
        rank: int = DEFAULT_RANK,
        gamma_logit: float | Tensor = 4.0,
        tau_scale: float = 0.7,
        gamma: str = "element",
        tau: str = "element",
    ) -> None:
        super().__init__(model, init, gamma_logit=gamma_logit, tau_scale=tau_scale, gamma=gamma, tau=tau)
        self.settings["rank"] = rank
        init, top = self._start(model, init), model.levels[0]
        size = init[0].numel()
        if not 1 <= rank <= size:
            raise InputError(f"rank must be between 1 and {size}, not {rank}.")
        start = torch.randn(size, rank, generator=torch.Generator().manual_seed(0)) * FACTOR_START / rank**0.5
        self._create(f"factor_{top.name.removeprefix('z_')}", start.to(init).repeat(len(init), 1, 1))

    def get_top(self, prior: Any) -> Distribution:
        """The low-rank Gaussian, reshaped to the event."""
        mean = self._location(self._top)
        variance = self.get_tau(self._top).expand(mean.shape).square()
        factor = self._levels[self._top].sigma * self._of("factor", self._top)
        flat = LowRankMultivariateNormal(mean.flatten(1), factor, variance.flatten(1), validate_args=False)
        return ReshapedLowRank(flat, [ReshapeTransform(flat.event_shape, mean.shape[1:])], validate_args=False)


class ReshapedLowRank(TransformedDistribution):
    """A ``LowRankMultivariateNormal`` with events of another shape; entropy and KL terms are those of the flat one."""

    def entropy(self) -> Tensor:
        """Analytic, of the batch shape, in nats."""
        return self.base_dist.entropy()


@register_kl(ReshapedLowRank, Independent)
def _kl_independent(q: ReshapedLowRank, p: Independent) -> Tensor:
    """Against independent Gaussians: log p is quadratic, so that mean and variance of q are all it needs."""
    if not isinstance(p.base_dist, Normal):
        raise NotImplementedError
    shape = (*q.batch_shape, *q.event_shape)
    mean, variance = q.base_dist.mean.reshape(shape), q.base_dist.variance.reshape(shape)
    spread = (variance / p.base_dist.variance).flatten(len(q.batch_shape)).sum(-1)
    return spread / 2 - p.log_prob(mean) - q.entropy()


@register_kl(ReshapedLowRank, MultivariateNormal)
def _kl_multivariate(q: ReshapedLowRank, p: MultivariateNormal) -> Tensor:
    return kl_divergence(q.base_dist, p)
