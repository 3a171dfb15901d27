r"""Gaussians with low-rank plus diagonal covariance over images, N(mean, F F^T + diag(v)), and their KL divergences.

The Woodbury identity keeps the cost linear in the number of elements D of an event: :math:`D r^2` for rank r.
"""

from __future__ import annotations

import torch
from pyro.distributions import LowRankMultivariateNormal, TransformedDistribution  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence, register_kl
from torch.distributions.transforms import ReshapeTransform


class ReshapedLowRank(TransformedDistribution):
    """A ``LowRankMultivariateNormal`` with reshaped events; mean, entropy and KL terms are those of the flat one."""

    @property
    def mean(self) -> Tensor:
        """Of the batch and event shape."""
        return self.base_dist.mean.reshape(*self.batch_shape, *self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The diagonal of the covariance, of the batch and event shape."""
        return self.base_dist.variance.reshape(*self.batch_shape, *self.event_shape)

    def moved(self, index: Tensor) -> ReshapedLowRank:
        """With the means of particle ``index``, ``(particles, N)``, in the place of each; covariances stay."""
        images = torch.arange(index.shape[1], device=index.device)
        base = self.base_dist
        loc = base.loc.expand(*base.batch_shape, -1)[index, images]
        return self._of(loc, base._unbroadcasted_cov_factor, base._unbroadcasted_cov_diag)

    def detached(self) -> ReshapedLowRank:
        """The same without its graph."""
        base = self.base_dist
        parts = (base.loc, base._unbroadcasted_cov_factor, base._unbroadcasted_cov_diag)
        return self._of(*(part.detach() for part in parts))

    def _of(self, loc: Tensor, factor: Tensor, diagonal: Tensor) -> ReshapedLowRank:
        flat = LowRankMultivariateNormal(loc, factor, diagonal, validate_args=False)
        return ReshapedLowRank(flat, self.transforms, validate_args=False)

    def entropy(self) -> Tensor:
        """Analytic, of the batch shape, in nats."""
        return self.base_dist.entropy()


def low_rank_normal(mean: Tensor, factor: Tensor, variance: Tensor, event_dim: int) -> ReshapedLowRank:
    """N(mean, F F^T + diag(variance)), without argument checks.

    Args:
        mean: ``(*batch, *event)``.
        factor: the columns of F, ``(…, r, *event)``; what stands in front broadcasts to the batch.
        variance: broadcasts to ``mean``, which may have more dimensions in front.
        event_dim: number of dimensions of an event.
    """
    batch, event = mean.shape[: mean.ndim - event_dim], mean.shape[mean.ndim - event_dim :]
    columns = factor.flatten(factor.ndim - event_dim).mT
    diagonal = variance.expand(*variance.shape[: max(0, variance.ndim - event_dim)], *event).flatten(-event_dim)
    flat = LowRankMultivariateNormal(mean.reshape(*batch, -1), columns, diagonal, validate_args=False)
    return ReshapedLowRank(flat, [ReshapeTransform(flat.event_shape, event)], validate_args=False)


@register_kl(ReshapedLowRank, Independent)
def _kl_independent(q: ReshapedLowRank, p: Independent) -> Tensor:
    """Against independent Gaussians: log p is quadratic, so that the KL needs only mean and variance of q."""
    if not isinstance(p.base_dist, Normal):
        raise NotImplementedError
    spread = (q.variance / p.base_dist.variance).flatten(len(q.batch_shape)).sum(-1)
    return spread / 2 - p.log_prob(q.mean) - q.entropy()


@register_kl(ReshapedLowRank, MultivariateNormal)
def _kl_multivariate(q: ReshapedLowRank, p: MultivariateNormal) -> Tensor:
    return kl_divergence(q.base_dist, p)


@register_kl(ReshapedLowRank, ReshapedLowRank)
def _kl_low_rank(q: ReshapedLowRank, p: ReshapedLowRank) -> Tensor:
    return kl_divergence(q.base_dist, p.base_dist)
