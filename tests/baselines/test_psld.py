"""PSLD: its step by the formula of the paper, and its two norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.bias import GaussianTruth, latent_truth
from pyro_vipaint.baselines import psld
from pyro_vipaint.models.priors.kernels import ddim
from pyro_vipaint.models.priors.schedules import LinearVP
from tests.baselines.chains import pure_noise, unconditional_chain


@dataclass(frozen=True)
class Curved:
    """A codec that is neither linear nor orthogonal, and whose encoder is not the inverse of its decoder."""

    def encode(self, x: Tensor) -> Tensor:
        return 2 * x + 0.1 * x**2

    def decode(self, z: Tensor) -> Tensor:
        return torch.tanh(z / 2)

    def image_shape(self, event_shape: Sequence[int]) -> torch.Size:
        return torch.Size(event_shape)


def images(truth: GaussianTruth, **options: Any) -> Tensor:
    return psld(truth.prior, truth.likelihood, truth.y, 3, 20, seed=0, **options).samples


def test_without_weights_it_is_the_priors_own_chain() -> None:
    truth = latent_truth()
    torch.manual_seed(0)
    expected = unconditional_chain(truth.prior, truth.y, 3, 20)
    assert torch.allclose(images(truth, omega=0.0, gamma=0.0), expected, atol=1e-5)


def test_for_an_orthogonal_codec_the_two_norms_are_the_same() -> None:
    """z_hat - E(glued) = Q (D(z_hat) - y) on what is observed: only omega + gamma matters."""
    truth = latent_truth()
    both = images(truth, omega=0.06, gamma=0.04)
    assert torch.allclose(both, images(truth, omega=0.1, gamma=0.0), atol=1e-4)
    assert (both - images(truth, omega=0.1, gamma=0.04)).abs().max() > 1e-3


def test_one_step_is_the_papers_formula() -> None:
    """The authors' A^T y + (I - A^T A) x_hat, written out, for a codec that is not orthogonal."""
    truth = latent_truth(LinearVP())
    prior, mask = replace(truth.prior, codec=Curved()), truth.observed.float()
    torch.manual_seed(0)
    z = pure_noise(prior, 3, truth.y).requires_grad_()
    z_hat = prior.denoise(z, 1.0)
    x_hat = prior.decode(z_hat)
    gap = z_hat - prior.encode(mask * truth.y + (x_hat - mask * (mask * x_hat)))
    norms = [0.7 * (truth.y - mask * x_hat)[i].norm() + 0.3 * gap[i].norm() for i in range(3)]
    (gradient,) = torch.autograd.grad(sum(norms, torch.zeros(())), z)
    z = ddim(prior.schedule, z, z_hat, 1.0, 0.5).detach() - gradient
    expected = prior.decode(prior.denoise(z, 0.5)).clamp(-1, 1)
    ours = psld(prior, truth.likelihood, truth.y, 3, 2, omega=0.7, gamma=0.3, seed=0).samples
    assert torch.allclose(ours, expected, atol=1e-5)
