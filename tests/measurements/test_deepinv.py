"""DeepInverse's physics in likelihoods, fit, refinement and baselines, and their equality with our operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.baselines import dps
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, GaussianPrior
from pyro_vipaint.models.measurements.blur import GaussianBlur, MotionBlur
from pyro_vipaint.models.measurements.linalg import cgls
from pyro_vipaint.models.measurements.operators import (
    Compose,
    Inpainting,
    adjoint,
    apply,
    observation_mask,
    pseudo_inverse,
)
from pyro_vipaint.models.measurements.super_resolution import SuperResolution

physics = pytest.importorskip("deepinv.physics", reason="extra deepinv")

SHAPE, COUNT, SAMPLES = (1, 8, 8), 2, 3
ONE_MASK = (torch.arange(64).reshape(1, 8, 8) % 3 > 0).float()
MASK_EACH = torch.stack([ONE_MASK, 1 - ONE_MASK])


def kernel() -> Tensor:
    """Not symmetric, so that a convolution differs from a correlation."""
    weights = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    return weights / weights.sum()


def kernel_each() -> Tensor:
    return torch.cat([kernel(), kernel().flip(-1)])


PHYSICS: dict[str, Callable[[], Any]] = {
    "inpainting": lambda: physics.Inpainting(SHAPE, mask=ONE_MASK),
    "one mask per image": lambda: physics.Inpainting(SHAPE, mask=MASK_EACH),
    "blur by FFT": lambda: physics.BlurFFT(SHAPE, filter=kernel()),
    "circular blur": lambda: physics.Blur(filter=kernel(), padding="circular"),
    "valid blur": lambda: physics.Blur(filter=kernel(), padding="valid"),
    "one kernel per image": lambda: physics.Blur(filter=kernel_each(), padding="circular"),
    "downsampling": lambda: physics.Downsampling(img_size=SHAPE, factor=2, filter="bicubic", padding="circular"),
    "downsampling as Matlab": lambda: physics.DownsamplingMatlab(factor=2),
    "vectors": lambda: physics.CompressedSensing(m=10, img_size=SHAPE, rng=torch.Generator().manual_seed(0)),
    "with noise": lambda: physics.Inpainting(SHAPE, mask=ONE_MASK, noise_model=physics.GaussianNoise(5.0)),
}
each_physics = pytest.mark.parametrize("make", PHYSICS.values(), ids=PHYSICS.keys())


@pytest.fixture(scope="module")
def prior() -> DiffusionPrior:
    return GaussianPrior.diagonal(torch.full(SHAPE, 0.1), torch.full(SHAPE, 0.4)).diffusion()


def images(*leading: int) -> Tensor:
    return 0.4 * torch.randn(*leading, *SHAPE)


def mask_of(operator: Any, y: Tensor) -> Tensor:
    mask = observation_mask(operator)
    return torch.ones_like(y) if mask is None else mask.expand(y.shape)


# calls


def test_which_masks_count() -> None:
    """Those of inpainting do; the spectrum that a blur by FFT calls its mask does not."""
    assert [name for name, make in PHYSICS.items() if observation_mask(make()) is not None] == [
        "inpainting", "one mask per image", "with noise",
    ]  # fmt: skip
    assert PHYSICS["blur by FFT"]().mask is not None


@each_physics
def test_likelihood(make: Callable[[], Any]) -> None:
    """Density and residual of y - A(x) over the observed elements, for samples of images; A itself draws no noise."""
    operator, x = make(), images(SAMPLES, COUNT)
    y = apply(operator, images(COUNT))
    mean = torch.stack([operator.A(each) for each in x])
    torch.testing.assert_close(apply(operator, x.expand(5, *x.shape))[3], mean)
    for kind, noise in ((vp.Gaussian, torch.distributions.Normal), (vp.Laplace, torch.distributions.Laplace)):
        expected = noise(mean, 0.3).log_prob(y) * mask_of(operator, mean)
        likelihood = kind(operator, 0.3)
        torch.testing.assert_close(likelihood(x).log_prob(y).flatten(2).sum(2), expected.flatten(2).sum(2))
        torch.testing.assert_close(likelihood.residual(x, y), (y - mean) * mask_of(operator, mean))


# fits and baselines


@each_physics
def test_fit_sample_refine_and_dps(make: Callable[[], Any], prior: DiffusionPrior) -> None:
    """A fit costs the usual number of network calls, and refinement and DPS come nearer to y than the prior."""
    operator, kind = make(), vp.Laplace if make is PHYSICS["one mask per image"] else vp.Gaussian
    y = apply(operator, torch.full((COUNT, *SHAPE), 0.7))
    likelihood = kind(operator, 0.1)
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=(2.0, 0.5)))
    guide = HierarchicalGuide(model, vp.initial_latent(prior, likelihood, y))
    with vp.count_calls() as count:
        vp.fit(model, guide, y, vp.BetaELBO(num_particles=2), steps=5, seed=0)
    assert count.calls == 5 * 3
    z = vp.sample(guide, y, SAMPLES, seed=0)
    refined = vp.refine(model, z, y, steps=20, zeta=0.2, seed=0)
    guided, unguided = (dps(prior, likelihood, y, SAMPLES, steps=40, zeta=v, seed=0).samples for v in (0.2, 0.0))

    def error(x: Tensor) -> float:
        return float(likelihood.residual(x, y).square().mean())

    assert refined.shape == guided.shape == (SAMPLES, COUNT, *SHAPE)
    assert max(error(refined), error(guided)) < 0.7 * error(unguided)


def test_the_start_keeps_noise_out_of_an_inverted_blur(prior: DiffusionPrior) -> None:
    """The pseudo-inverse of a blur amplifies noise; the guide starts from regularised least squares instead."""
    operator = physics.BlurFFT(SHAPE, filter=bell(1.0, 3))
    y = operator.A(images(COUNT)) + 0.05 * torch.randn(COUNT, *SHAPE)
    assert pseudo_inverse(operator, y).abs().max() > 20
    assert vp.initial_latent(prior, vp.Gaussian(operator, 0.05), y).abs().max() < 2


# equality with our operators


PAIRS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "one mask": lambda: (physics.Inpainting(SHAPE, mask=ONE_MASK), Inpainting(ONE_MASK)),
    "one mask per image": lambda: (physics.Inpainting(SHAPE, mask=MASK_EACH), Inpainting(MASK_EACH)),
    "hole after a blur": lambda: (
        physics.Inpainting(SHAPE, mask=ONE_MASK) * physics.Blur(filter=line(), padding="reflect"),
        Compose(Inpainting(ONE_MASK), MotionBlur(3, 30.0)),
    ),
    "motion": lambda: (physics.Blur(filter=line(), padding="reflect"), MotionBlur(3, 30.0)),
    "gaussian": lambda: (physics.Blur(filter=bell(0.6, 2), padding="reflect"), GaussianBlur(0.6, 5)),
}


def line() -> Tensor:
    return MotionBlur(3, 30.0).kernel[None, None].float()


def bell(std: float, radius: int) -> Tensor:
    weights = (-0.5 * (torch.arange(-radius, radius + 1) / std) ** 2).exp()
    return torch.outer(weights, weights)[None, None] / weights.sum() ** 2


@pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS.keys())
def test_equal_to_ours(make: Callable[[], tuple[Any, Any]]) -> None:
    """A and its adjoint agree, borders included."""
    theirs, ours = make()
    x = images(SAMPLES, COUNT)
    y = apply(ours, x)
    torch.testing.assert_close(apply(theirs, x), y)
    torch.testing.assert_close(adjoint(theirs, y), adjoint(ours, y), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cgls(theirs, y[0]), cgls(ours, y[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_downsampling_agrees_inside(factor: int) -> None:
    """The Matlab-like physics has the same kernel; borders differ, since it mirrors and ours renormalises."""
    x = images(COUNT).repeat(1, 1, 4, 4)
    theirs = apply(physics.DownsamplingMatlab(factor=factor), x)
    ours = SuperResolution(factor, "bicubic").A(x)
    torch.testing.assert_close(theirs[..., 2:-2, 2:-2], ours[..., 2:-2, 2:-2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["one mask per image", "one kernel per image", "vectors"])
def test_restore(name: str, prior: DiffusionPrior) -> None:
    """The facade takes a physics, also with one mask or kernel per image, or with vectors as observations."""
    operator = PHYSICS[name]()
    y = apply(operator, images(COUNT))
    result = vp.restore(y, operator, prior, 2, SAMPLES, steps=2, refine_steps=2, seed=0, device="cpu")
    assert result.samples.shape == (SAMPLES, COUNT, *SHAPE)
    assert result.samples.isfinite().all()
    torch.testing.assert_close(result.observation, y)


def test_physics_keep_the_laws() -> None:
    """Physics of every kind, with one image or with one for each mask or kernel."""
    for name, make in PHYSICS.items():
        vp.check_operator(make(), (COUNT if "per image" in name else 1, *SHAPE))
