"""PSLD: its bias on the Gaussian truth, its two norms, its cost, and what must not change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.baselines import psld
from pyro_vipaint.baselines.base import pure_noise
from pyro_vipaint.baselines.psld import psld_calls
from pyro_vipaint.models.priors.kernels import ddim
from pyro_vipaint.models.priors.schedules import LinearVP
from tests.baseline_truth import GaussianTruth, gaussian_truth, measure_bias
from tests.latent_truth import latent_truth, unconditional_chain
from tests.problems import Unscaled

SAMPLES = 1000


@dataclass(frozen=True)
class Curved:
    """A codec that is neither linear nor orthogonal, and whose encoder is not the inverse of its decoder."""

    def encode(self, x: Tensor) -> Tensor:
        return 2 * x + 0.1 * x**2

    def decode(self, z: Tensor) -> Tensor:
        return torch.tanh(z / 2)

    def image_shape(self, event_shape: Sequence[int]) -> torch.Size:
        return torch.Size(event_shape)


def images(truth: GaussianTruth, y: Tensor | None = None, steps: int = 20, **options: Any) -> Tensor:
    y = truth.y if y is None else y
    return psld(truth.prior, truth.likelihood, y, 3, steps, seed=0, **options).samples


@pytest.mark.parametrize(
    ("omega", "gamma", "expected"),
    [(1.0, 0.1, (0.86, 1.31, 2.36, 0.84)), (0.1, 0.01, (0.70, 0.77, 0.24, 0.86))],
)
def test_the_bias_is_the_documented_one(omega: float, gamma: float, expected: tuple[float, ...]) -> None:
    """1000 steps; the Monte-Carlo error of each figure is below 2.4 / sqrt(1000) = .08."""
    bias = measure_bias(
        latent_truth(),
        lambda truth: psld(truth.prior, truth.likelihood, truth.y, SAMPLES, omega=omega, gamma=gamma, seed=0),
    )
    measured = (bias.mean_observed, bias.mean_hidden, bias.std_observed, bias.std_hidden)
    assert measured == pytest.approx(expected, abs=0.15)


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


def test_the_same_weights_mean_the_same_on_every_schedule() -> None:
    preserving = images(latent_truth(LinearVP()), omega=0.1)
    exploding = images(latent_truth(Unscaled(LinearVP())), omega=0.1)
    assert torch.allclose(preserving, exploding, atol=1e-3)


def test_a_sample_depends_neither_on_its_neighbours_nor_on_hidden_elements() -> None:
    truth = latent_truth()
    alone = images(truth, torch.cat([truth.y, truth.y]))[:, 0]
    beside = images(truth, torch.cat([truth.y, 100 + truth.y]))[:, 0]
    assert torch.allclose(alone, beside, atol=1e-5)
    hidden = torch.where(truth.observed, truth.y, torch.nan)
    assert torch.equal(images(truth, hidden), images(truth))


def test_calls_are_steps_and_each_is_reported() -> None:
    truth, steps = latent_truth(), []
    with vp.count_calls() as count:
        result = psld(truth.prior, truth.likelihood, truth.y, 3, 7, callback=steps.append)
    assert result.calls == count.calls == psld_calls(7) == 7
    assert result.nfe == 21
    assert steps == list(range(7))


def test_a_pixel_prior_is_refused() -> None:
    truth = gaussian_truth()
    with pytest.raises(vp.InputError, match="latent prior"):
        psld(truth.prior, truth.likelihood, truth.y)
