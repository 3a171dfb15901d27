"""The facade with any linear operator: what its result promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.corrections import PiGDM
from pyro_vipaint.models import DataCovariance, GaussianPrior
from pyro_vipaint.models.measurements.operators import Operator, apply
from pyro_vipaint.results.approximation import explaining
from pyro_vipaint.settings import PRESETS, SIGMA, default_settings, restoration_settings, settings_for, within

QUICK: dict[str, Any] = {"levels": 2, "num_samples": 2, "steps": 2, "refine_steps": 2, "seed": 0, "device": "cpu"}
SHAPE = (1, 8, 8)
PRIOR = GaussianPrior.diagonal(torch.zeros(SHAPE), torch.full(SHAPE, 0.5)).diffusion()  # the marginal is estimated
MASK = (torch.arange(64).reshape(SHAPE) % 3 > 0).float()
OPERATORS: dict[str, Callable[[], Operator]] = {
    "super-resolution": lambda: vp.SuperResolution(2),
    "bicubic": lambda: vp.SuperResolution(2, "bicubic"),
    "blur": lambda: vp.GaussianBlur(0.7),
    "motion": lambda: vp.MotionBlur(3, 45.0),
    "hole after a blur": lambda: vp.Compose(vp.Inpainting(MASK), vp.GaussianBlur(0.7)),
}
each_operator = pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS.keys())


def images(count: int = 2) -> Tensor:
    """Ramps from -0.8 to 0.8, one way and the other."""
    ramp = torch.linspace(-0.8, 0.8, 64).reshape(SHAPE)
    return torch.stack([ramp if n % 2 == 0 else -ramp for n in range(count)])


# the result


@pytest.mark.parametrize("preset", PRESETS)
@each_operator
def test_shapes_and_calls(make: Callable[[], Operator], preset: str) -> None:
    """Samples are sample × image × event; calls are those of inpainting with K = 1 from noise, or with the levels."""
    operator = make()
    y = apply(operator, images())
    with vp.count_calls() as count:
        result = vp.restore(y, operator, PRIOR, **QUICK, preset=preset)
    assert result.samples.shape == (2, 2, *SHAPE)
    assert torch.equal(result.observation, y)
    assert result.calls == count.calls == (2 * 1 + 2 if preset == "inference" else 1 + 2 * 3 + 1 + 2)
    assert result.nfe == count.nfe


@each_operator
def test_it_comes_nearer_to_the_observation(make: Callable[[], Operator]) -> None:
    """Samples explain their own observation several times better than the other one's."""
    operator = make()
    y = apply(operator, images())
    samples = vp.restore(y, operator, PRIOR, 2, 4, seed=0, device="cpu").samples
    likelihood = vp.Gaussian(operator)
    errors = [float(likelihood.residual(samples, other).abs().mean()) for other in (y, y.flip(0))]
    assert errors[0] < 0.5 * errors[1]


def test_an_inpainting_operator_gives_what_inpaint_gives() -> None:
    """The two facades are one method with the same defaults, bit for bit, and report the same."""
    image = images(1)[0]
    inpainted = vp.inpaint(image, MASK, PRIOR, **QUICK)
    restored = vp.restore(image * MASK, vp.Inpainting(MASK), PRIOR, **QUICK)
    assert torch.equal(inpainted.samples, restored.samples)
    assert torch.equal(inpainted.observation, restored.observation)
    assert inpainted.mask is not None and restored.mask is not None and torch.equal(inpainted.mask, restored.mask)
    assert (inpainted.calls, inpainted.nfe) == (restored.calls, restored.nfe)


def test_the_objective_and_the_correction_of_the_settings_change_nothing() -> None:
    """Both, given by hand, are the default bit for bit, and others are not; an objective states its own beta."""
    image, chosen = images(1)[0], settings_for(1, PRIOR, vp.Inpainting(MASK), images(1))
    default, others = vp.inpaint(image, MASK, PRIOR, **QUICK), (vp.BetaELBO(3.0, 1), PiGDM())
    by_hand = vp.inpaint(
        image, MASK, PRIOR, **QUICK, elbo=vp.BetaELBO(1.0, chosen.num_particles), correction=chosen.correction
    )
    assert torch.equal(default.samples, by_hand.samples) and default.fit.losses == by_hand.fit.losses
    assert vp.inpaint(image, MASK, PRIOR, **QUICK, elbo=others[0]).fit.losses != default.fit.losses
    assert not torch.equal(vp.inpaint(image, MASK, PRIOR, **QUICK, correction=others[1]).samples, default.samples)
    with pytest.raises(vp.InputError, match="The objective states beta"):
        vp.inpaint(image, MASK, PRIOR, **QUICK, elbo=others[0], beta=2.0)


def test_the_posterior_of_independent_pixels() -> None:
    """The mean of a block is y, within a fifth of its prior spread; what the block leaves open stays open.

    Four independent pixels N(0, 0.5^2): their mean has spread 0.25 under the prior; y says nothing about contrasts,
    whose exact spread is 0.5 (a short fit from a narrow start has less of it).
    """
    operator = vp.SuperResolution(2)
    y = 0.3 * torch.ones(1, 1, 4, 4)
    y[..., :2] = -0.3
    settings = replace(restoration_settings(2), scale=0.02, steps=150, zeta=0.4)
    samples = vp.restore(y, operator, PRIOR, 2, 64, settings=settings, seed=0, device="cpu").samples
    assert float((operator.A(samples) - y).square().mean().sqrt()) < 0.05
    contrasts = (samples[..., ::2, ::2] - samples[..., 1::2, ::2]) / 2**0.5
    assert 0.25 < float(contrasts.std()) < 0.6


def test_hidden_elements_have_no_influence() -> None:
    """NaN may mark them; here each of two observations has a mask of its own."""
    operator = vp.Inpainting(torch.stack([MASK, 1 - MASK]))
    y = apply(operator, images())
    spoilt = torch.where(operator.mask.bool(), y, torch.nan)
    results = [vp.restore(each, operator, PRIOR, **QUICK) for each in (y, spoilt)]
    assert torch.equal(results[0].samples, results[1].samples)
    assert torch.equal(results[1].observation, y)


@dataclass(frozen=True)
class Scaled:
    """Another operator in other units."""

    operator: Operator
    factor: float

    def A(self, x: Tensor) -> Tensor:
        return self.factor * self.operator.A(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.factor * self.operator.A_adjoint(y)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("factor", [0.02, 30.0])
def test_units_of_the_observation_do_not_matter_to_refinement(factor: float, preset: str) -> None:
    """y and A in other units, the likelihood's scale with them: the same samples by the default zeta."""
    operator, y = vp.GaussianBlur(0.7), vp.GaussianBlur(0.7).A(images())
    scaled = Scaled(operator, factor)
    expected = vp.restore(y, operator, PRIOR, **QUICK, preset=preset)
    zeta = vp.restore(factor * y, scaled, PRIOR, **QUICK, preset=preset).settings.zeta
    sigma = expected.settings.sigma and factor * expected.settings.sigma
    settings = replace(expected.settings, scale=factor * expected.settings.scale, sigma=sigma, zeta=zeta)
    result = vp.restore(factor * y, scaled, PRIOR, **QUICK, settings=settings)
    torch.testing.assert_close(result.samples, expected.samples, rtol=1e-3, atol=1e-3)


def test_plot_enlarges_the_observation() -> None:
    """Five panels of the image's size: observation, mean, standard deviation and two samples."""
    scale = 4
    operator = vp.SuperResolution(scale)
    result = vp.restore(operator.A(images()), operator, PRIOR, **QUICK)
    assert result.mask is None
    picture = result.plot().axes[0].images[0].get_array()
    assert picture is not None and picture.shape[:2] == (2 * 8 + 1, 5 * 8 + 4)
    block = np.asarray(picture)[:8, :8, 0]
    assert (block == np.kron(block[::scale, ::scale], np.ones((scale, scale)))).all()
    assert len(result.plot(images().numpy()).axes[0].get_xticks()) == 6
    with pytest.raises(vp.InputError, match="true image has shape"):
        result.plot(torch.zeros(2, 1, 4, 4))


# noise


def test_the_likelihood_is_as_wide_as_the_noise() -> None:
    """More noise than the settings were tuned for widens the likelihood, less of it changes nothing."""
    operator = vp.GaussianBlur(1.0)
    y = operator.A(images())
    tuned = restoration_settings(2).scale
    for noise, scale in ((None, tuned), (0.0, tuned), (tuned / 2, tuned), (0.3, 0.3)):
        assert vp.restore(y, operator, PRIOR, **QUICK, noise=noise, preset="pictures").settings.scale == scale
    for noise, sigma in ((None, SIGMA), (0.0, SIGMA), (SIGMA / 2, SIGMA), (0.3, 0.3)):
        assert vp.restore(y, operator, PRIOR, **QUICK, noise=noise).settings.sigma == sigma


# the settings of inference

KNOWN = DataCovariance(torch.eye(64)[:3].reshape(3, *SHAPE), torch.full((3,), 0.4), 0.2)


@pytest.mark.parametrize(
    ("known", "operator", "levels", "correction"),
    [
        (True, vp.Inpainting(MASK), 4, "ByLevel"),
        (True, vp.GaussianBlur(0.7), 1, "ByLevel"),
        (False, vp.Inpainting(MASK), 1, "MMPS"),
        (False, vp.GaussianBlur(0.7), 1, "MMPS"),
    ],
)
def test_what_inference_falls_back_to(known: bool, operator: Operator, levels: int, correction: str) -> None:
    """Few levels need a covariance and a mask; without a covariance gradients take its place. It runs."""
    prior = replace(PRIOR, data_covariance=KNOWN if known else None)
    y = apply(operator, images())
    settings = settings_for(4, prior, operator, y)
    assert settings.levels == levels and type(settings.correction).__name__ == correction
    assert vp.restore(y, operator, prior, num_samples=2, refine_steps=2, seed=0).settings.levels == levels


def test_latent_priors_have_a_fitted_guide_in_both_presets() -> None:
    latent = replace(PRIOR, codec=Halved())
    for preset in PRESETS:
        settings = settings_for(4, latent, vp.Inpainting(MASK), images(), preset)
        expected = replace(default_settings(4, True, preset), perceptual_weight=settings.perceptual_weight)
        assert settings == expected and settings.twist is None and settings.correction is None


# spare draws


def test_spare_draws_make_room_for_those_that_explain_y() -> None:
    """A run with three spares of six is one of nine, less the three worst of each image, latents and all."""
    y, operator = images() * MASK, vp.Inpainting(MASK)
    settings = replace(default_settings(2, preset="pictures"), steps=2, refine_steps=2)
    run = partial(vp.restore, y, operator, PRIOR, seed=0, device="cpu")
    chosen = run(num_samples=6, settings=replace(settings, spare=0.5))
    whole = run(num_samples=9, settings=settings)
    assert (chosen.calls, chosen.nfe, chosen.gradients) == (whole.calls, whole.nfe, whole.gradients)
    assert chosen.latents is not None and whole.latents is not None
    for n in range(2):
        misfit = [float(((sample - y[n]) * MASK).square().sum().sqrt()) for sample in whole.samples[:, n]]
        worst = sorted(range(9), key=lambda s: max(misfit[s], 1.05 * min(misfit)))[6:]
        left = [s for s in range(9) if s not in worst]
        assert torch.equal(chosen.samples[:, n], whole.samples[left, n])
        for name, latents in chosen.latents.items():
            assert torch.equal(latents[:, n], whole.latents[name][left, n])
    assert chosen.sample(4, seed=1).samples.shape == (4, 2, *SHAPE)


def test_draws_that_explain_y_alike_stay_as_they_come() -> None:
    """By image: within a twentieth of the least the first stay; then the nearest; all that is left, in order."""
    misfit = torch.tensor([[1.04, 9.0], [1.0, 2.0], [1.2, 1.0], [1.05, 3.0], [1.06, 1.0]])
    residual = misfit[..., None, None] * torch.tensor([0.6, -0.8])
    assert explaining(residual, 3).T.tolist() == [[0, 1, 3], [1, 2, 4]]
    assert explaining(residual, 4).T.tolist() == [[0, 1, 3, 4], [1, 2, 3, 4]]
    assert explaining(residual, 1).T.tolist() == [[0], [2]]
    assert explaining(residual, 5).T.tolist() == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize(("preset", "levels"), [("inference", 1), ("pictures", 2), ("pictures", 4)])
def test_spare_draws_are_within_the_budget(preset: str, levels: int) -> None:
    """All images of a run are at most the budget, and within one step of it; the least that is stated is enough."""
    settings, y = replace(default_settings(levels, preset=preset), spare=0.3), images(1) * MASK
    prior = replace(PRIOR, data_covariance=KNOWN)
    for nfe, count in ((14, 10), (25, 3)):
        numbers = within(settings, nfe, count)
        result = vp.restore(y, vp.Inpainting(MASK), prior, levels, count, settings=numbers, seed=0, device="cpu")
        assert nfe * count - numbers.drawn(count) - numbers.levels - 1 < result.nfe <= nfe * count
    with pytest.raises(vp.InputError) as error:
        within(settings, 1, 10)
    least = int(str(error.value).split(" needs ")[1].split()[0])
    assert within(settings, least, 10).refine_steps >= 1
    with pytest.raises(vp.InputError, match=f"needs {least} "):
        within(settings, least - 1, 10)


class Halved:
    """Latents are images divided by two."""

    def image_shape(self, event_shape: Any) -> torch.Size:
        return torch.Size(event_shape)

    def encode(self, x: Tensor) -> Tensor:
        return x / 2

    def decode(self, z: Tensor) -> Tensor:
        return 2 * z
