"""Gaussians of low rank over images, against dense ones."""

from __future__ import annotations

import torch
from pyro.distributions import Normal
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vipaint.distributions import ReshapedLowRank, low_rank_normal

EVENT, BATCH = (1, 2, 3), (5, 2)


def pair(*leading: int) -> tuple[ReshapedLowRank, MultivariateNormal]:
    """N(mean, F F^T + diag(v)) with F for each of the ``leading`` entries, over events and flat."""
    mean, factor = torch.randn(*BATCH, *EVENT).double(), torch.randn(*leading, 2, *EVENT).double()
    variance = 0.3 + torch.rand(*leading, *EVENT).double()
    columns = factor.flatten(-3).mT
    dense = columns @ columns.mT + torch.diag_embed(variance.flatten(-3))
    return low_rank_normal(mean, factor, variance, 3), MultivariateNormal(mean.flatten(2), dense)


def close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other)


def test_density_entropy_and_moments_are_those_of_the_dense_gaussian() -> None:
    for leading in ((), (2,), BATCH):
        q, dense = pair(*leading)
        x = torch.randn(*BATCH, *EVENT).double()
        assert q.batch_shape == BATCH and q.event_shape == EVENT
        assert close(q.log_prob(x), dense.log_prob(x.flatten(2))) and close(q.entropy(), dense.entropy())
        assert close(q.mean.flatten(2), dense.mean) and close(q.variance.flatten(2), dense.variance)


def test_divergences_are_those_of_the_dense_gaussians() -> None:
    """To another of its kind, to a dense one, and to independent elements."""
    for leading in ((), (2,), BATCH):
        (q, dense), (p, other) = pair(*leading), pair(2)
        exact = kl_divergence(dense, other)
        assert close(kl_divergence(q, p), exact) and close(kl_divergence(q, other), exact)
        scale = 0.5 + torch.rand(*BATCH, *EVENT).double()
        free = Normal(p.mean, scale)
        exact = kl_divergence(dense, MultivariateNormal(other.mean, torch.diag_embed(scale.flatten(2) ** 2)))
        assert close(kl_divergence(q, free.to_event(3)), exact)


def test_particles_move_with_their_means() -> None:
    q, dense = pair(2)
    index = torch.tensor([[0, 4], [0, 1], [3, 1], [3, 3], [2, 0]])
    moved, images = q.moved(index), torch.arange(2)
    assert torch.equal(moved.mean, q.mean[index, images]) and close(moved.variance, q.variance)
    x = torch.randn(*BATCH, *EVENT).double()
    expected = MultivariateNormal(dense.mean[index, images], dense.covariance_matrix)
    assert close(moved.log_prob(x), expected.log_prob(x.flatten(2)))
