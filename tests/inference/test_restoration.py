"""Restoration by any linear operator: what the facade takes, what it refuses, and what its result promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.models import DiffusionPrior, GaussianPrior
from pyro_vipaint.models.measurements.operators import Matrix, Operator, apply
from pyro_vipaint.settings import restoration_settings

QUICK: dict[str, Any] = {"levels": 2, "num_samples": 2, "steps": 2, "refine_steps": 2, "seed": 0, "device": "cpu"}
SHAPE = (1, 8, 8)
MASK = (torch.arange(64).reshape(SHAPE) % 3 > 0).float()
OPERATORS: dict[str, Callable[[], Operator]] = {
    "super-resolution": lambda: vp.SuperResolution(2),
    "bicubic": lambda: vp.SuperResolution(2, "bicubic"),
    "blur": lambda: vp.GaussianBlur(0.7),
    "motion": lambda: vp.MotionBlur(3, 45.0),
    "hole after a blur": lambda: vp.Compose(vp.Inpainting(MASK), vp.GaussianBlur(0.7)),
}
each_operator = pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS.keys())


@pytest.fixture(scope="module")
def prior() -> DiffusionPrior:
    """Independent pixels N(0, 0.5^2), with the estimated marginal that a network would have."""
    return GaussianPrior.diagonal(torch.zeros(SHAPE), torch.full(SHAPE, 0.5)).diffusion()


def images(count: int = 2) -> Tensor:
    """Ramps from -0.8 to 0.8, one way and the other."""
    ramp = torch.linspace(-0.8, 0.8, 64).reshape(SHAPE)
    return torch.stack([ramp if n % 2 == 0 else -ramp for n in range(count)])


# what the result is


@each_operator
def test_shapes_calls_and_moments(make: Callable[[], Operator], prior: DiffusionPrior) -> None:
    """Samples are sample × image × event in [-1, 1]; calls are those of inpainting, 1 + steps (K + 1) + K - 1 + DPS."""
    operator = make()
    y = apply(operator, images())
    with vp.count_calls() as count:
        result = vp.restore(y, operator, prior, **QUICK)
    assert result.samples.shape == (2, 2, *SHAPE) and result.samples.abs().max() <= 1
    assert torch.equal(result.observation, y)
    assert result.calls == count.calls == 1 + 2 * 3 + 1 + 2
    assert result.nfe == count.nfe
    torch.testing.assert_close(result.mean, result.samples.sum(0) / 2)
    torch.testing.assert_close(result.std, (result.samples[0] - result.samples[1]).abs() / 2**0.5)
    bounds = torch.stack(list(result.fit.final_terms().values())).sum(0)
    assert bounds.shape == (2,) and bounds.isfinite().all()


@each_operator
def test_it_comes_nearer_to_the_observation(make: Callable[[], Operator], prior: DiffusionPrior) -> None:
    """Samples explain their own observation several times better than the other one's."""
    operator = make()
    y = apply(operator, images())
    samples = vp.restore(y, operator, prior, 2, 4, seed=0, device="cpu").samples
    likelihood = vp.Gaussian(operator)
    errors = [float(likelihood.residual(samples, other).abs().mean()) for other in (y, y.flip(0))]
    assert errors[0] < 0.5 * errors[1]


def test_an_inpainting_operator_gives_what_inpaint_gives(prior: DiffusionPrior) -> None:
    """The two facades are one method with the same defaults, bit for bit, and report the same."""
    image = images(1)[0]
    inpainted = vp.inpaint(image, MASK, prior, **QUICK)
    restored = vp.restore(image * MASK, vp.Inpainting(MASK), prior, **QUICK)
    assert torch.equal(inpainted.samples, restored.samples)
    assert torch.equal(inpainted.observation, restored.observation)
    assert restored.mask is not None and torch.equal(inpainted.mask, restored.mask)
    assert (inpainted.calls, inpainted.nfe) == (restored.calls, restored.nfe)


def test_the_posterior_of_independent_pixels(prior: DiffusionPrior) -> None:
    """The mean of a block is y, within a fifth of its prior spread; what the block leaves open stays open.

    Four independent pixels N(0, 0.5^2): their mean has spread 0.25 under the prior; y says nothing about contrasts,
    whose exact spread is 0.5 (a short fit from a narrow start has less of it).
    """
    operator = vp.SuperResolution(2)
    y = 0.3 * torch.ones(1, 1, 4, 4)
    y[..., :2] = -0.3
    settings = replace(restoration_settings(2), scale=0.02, steps=150, zeta=0.4)
    samples = vp.restore(y, operator, prior, 2, 64, settings=settings, seed=0, device="cpu").samples
    assert float((operator.A(samples) - y).square().mean().sqrt()) < 0.05
    contrasts = (samples[..., ::2, ::2] - samples[..., 1::2, ::2]) / 2**0.5
    assert 0.25 < float(contrasts.std()) < 0.6


def test_hidden_elements_are_not_looked_at(prior: DiffusionPrior) -> None:
    """NaN may mark them; one mask each for two observations."""
    operator = vp.Inpainting(torch.stack([MASK, 1 - MASK]))
    y = apply(operator, images())
    spoilt = torch.where(operator.mask.bool(), y, torch.nan)
    results = [vp.restore(each, operator, prior, **QUICK) for each in (y, spoilt)]
    assert torch.equal(results[0].samples, results[1].samples)
    assert torch.equal(results[1].observation, y)


@pytest.mark.parametrize(
    "form", [lambda y: y[0], lambda y: y[0].numpy(), lambda y: np.array(y.tolist()), lambda y: y.double()]
)
def test_forms_of_an_observation(prior: DiffusionPrior, form: Callable[[Tensor], Any]) -> None:
    operator = vp.SuperResolution(2)
    y = operator.A(images(1))
    expected = vp.restore(y, operator, prior, **QUICK).samples
    assert torch.equal(vp.restore(form(y), operator, prior, **QUICK).samples, expected)


def test_single_numbers_override_the_settings(prior: DiffusionPrior) -> None:
    operator = vp.GaussianBlur(0.5)
    result = vp.restore(operator.A(images(1)), operator, prior, **QUICK, zeta=0.25, beta=2.0)
    assert (result.settings.zeta, result.settings.beta, result.settings.steps) == (0.25, 2.0, 2)


@dataclass(frozen=True)
class Scaled:
    """Another operator in other units."""

    operator: Operator
    factor: float

    def A(self, x: Tensor) -> Tensor:
        return self.factor * self.operator.A(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.factor * self.operator.A_adjoint(y)


@pytest.mark.parametrize("factor", [0.02, 0.3, 30.0])
def test_units_of_the_observation_do_not_matter_to_refinement(prior: DiffusionPrior, factor: float) -> None:
    """y and A in other units, the likelihood's scale with them: the same samples by the default zeta."""
    operator, y = vp.GaussianBlur(0.7), vp.GaussianBlur(0.7).A(images())
    scaled = Scaled(operator, factor)
    expected = vp.restore(y, operator, prior, **QUICK)
    zeta = vp.restore(factor * y, scaled, prior, **QUICK).settings.zeta
    settings = replace(expected.settings, scale=factor * expected.settings.scale, zeta=zeta)
    result = vp.restore(factor * y, scaled, prior, **QUICK, settings=settings)
    torch.testing.assert_close(result.samples, expected.samples, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [2, 4])
def test_plot_enlarges_the_observation(prior: DiffusionPrior, scale: int) -> None:
    """Five panels of the image's size: observation, mean, standard deviation and two samples."""
    operator = vp.SuperResolution(scale)
    result = vp.restore(operator.A(images()), operator, prior, **QUICK)
    assert result.mask is None
    picture = result.plot().axes[0].images[0].get_array()
    assert picture is not None and picture.shape[:2] == (2 * 8 + 1, 5 * 8 + 4)
    block = np.asarray(picture)[:8, :8, 0]
    assert (block == np.kron(block[::scale, ::scale], np.ones((scale, scale)))).all()
    assert len(result.plot(images()).axes[0].get_xticks()) == 6


# what is refused


class NoAdjoint:
    def A(self, x: Tensor) -> Tensor:
        return x


def observation(**change: Any) -> dict[str, Any]:
    operator = vp.SuperResolution(2)
    return {"y": operator.A(images(1)), "operator": operator, **change}


def spoilt(value: float) -> Tensor:
    y = observation()["y"].clone()
    y[0, 0, 1, 1] = value
    return y


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "the size of the image": (observation(y=images(1)), r"shape \(1, 1, 8, 8\), the operator makes \(1, 4, 4\)"),
    "no observation": (observation(y=torch.zeros(0, 1, 4, 4)), r"shape \(0, 1, 4, 4\)"),
    "bytes": (observation(y=torch.zeros(1, 1, 4, 4, dtype=torch.uint8)), "not floats in the units of images"),
    "floats of bytes": (observation(y=torch.full((1, 1, 4, 4), 200.0)), "values from 200 to 200, not in"),
    "NaN": (observation(y=spoilt(float("nan"))), "NaN or infinite, and are not hidden"),
    "a text": (observation(y="y"), "must be a tensor or an array of numbers"),
    "no operator": (observation(operator=MASK), "must have A and A_adjoint, Tensor has not"),
    "no adjoint": (observation(operator=NoAdjoint()), "must have A and A_adjoint, NoAdjoint has not"),
    "a factor that does not divide": (observation(operator=vp.SuperResolution(3)), "3 of super-resolution does not"),
    "an operator for other images": (
        observation(operator=Matrix(torch.ones(2, 5))),
        r"The operator cannot take images of shape \(1, 8, 8\)",
    ),
    "two masks for three": (
        {"y": images(3), "operator": vp.Inpainting(torch.stack([MASK, 1 - MASK]))},
        "3 observations and 2 masks do not go together",
    ),
    "a perceptual term for a small picture": (
        observation(settings=replace(restoration_settings(2), perceptual_weight=1.0)),
        "LPIPS cannot take images of 4×4 with 1 channels",
    ),
    "an operator that sees nothing": (
        observation(y=torch.zeros(1, 1, 8, 8), operator=Scaled(vp.GaussianBlur(1.0), 0.0)),
        "makes zero of every image",
    ),
    "zeta": (observation(zeta=-1.0), "zeta must be finite and not negative, it is -1"),
    "label": (observation(label=0), "has no classes"),
    "samples": (observation(num_samples=0), "samples must be at least 1, not 0"),
    "prior": (observation(prior=3), "must be a name, a folder or a DiffusionPrior"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_refused_in_one_line_before_the_network_is_called(
    prior: DiffusionPrior, arguments: dict[str, Any], message: str
) -> None:
    with vp.count_calls() as count, pytest.raises(vp.InputError, match=message) as error:
        vp.restore(**{"prior": prior, **QUICK, **arguments})
    assert "\n" not in str(error.value)
    assert count.calls == 0


# noise


def test_the_likelihood_is_as_wide_as_the_noise(prior: DiffusionPrior) -> None:
    """More noise than the settings were tuned for widens the likelihood, less of it changes nothing."""
    operator = vp.GaussianBlur(1.0)
    y = operator.A(images())
    tuned = restoration_settings(2).scale
    for noise, scale in ((None, tuned), (0.0, tuned), (tuned / 2, tuned), (0.3, 0.3)):
        assert vp.restore(y, operator, prior, **QUICK, noise=noise).settings.scale == scale
    assert vp.restore(images(), vp.Inpainting(MASK), prior, **QUICK, noise=0.01).settings.scale > 0.01


def test_noise_may_leave_the_range_of_images(prior: DiffusionPrior) -> None:
    """So far as its standard deviation explains."""
    operator, y = vp.GaussianBlur(1.0), torch.full((1, 1, 8, 8), 3.0)
    with pytest.raises(vp.InputError, match="scale it, or state its noise"):
        vp.restore(y, operator, prior, **QUICK)
    assert vp.restore(y, operator, prior, **QUICK, noise=0.4).samples.isfinite().all()
    with pytest.raises(vp.InputError, match="noise must be finite and not negative"):
        vp.restore(y, operator, prior, **QUICK, noise=-0.1)


def test_a_truth_may_be_an_array(prior: DiffusionPrior) -> None:
    operator = vp.GaussianBlur(1.0)
    result = vp.restore(operator.A(images()), operator, prior, **QUICK)
    assert len(result.plot(images().numpy()).axes[0].get_xticks()) == 6
