"""Results that are questioned: new samples of one fit, quantiles, probabilities and their errors, weights, ArviZ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint import guides
from pyro_vipaint.corrections import PiGDM
from pyro_vipaint.diagnostics import weighted_draws
from pyro_vipaint.models import DataCovariance, GaussianPrior
from pyro_vipaint.results import questions
from pyro_vipaint.results.approximation import _Record
from pyro_vipaint.settings import PRESETS, default_settings
from tests.problems import diagonal_problem

QUICK: dict[str, Any] = {"levels": 3, "num_samples": 4, "steps": 2, "refine_steps": 2, "seed": 0, "device": "cpu"}
SHAPE = (1, 8, 8)
PLAIN = GaussianPrior.diagonal(torch.zeros(SHAPE), torch.full(SHAPE, 0.5)).diffusion()  # the marginal is estimated
PRIOR = replace(PLAIN, data_covariance=DataCovariance(torch.eye(64)[:3].reshape(3, *SHAPE), torch.full((3,), 0.4), 0.2))
IMAGES = torch.linspace(-0.8, 0.8, 128).reshape(2, *SHAPE)
MASK = (torch.arange(64).reshape(SHAPE) % 8 < 4).float()


def brightness(x: Tensor) -> Tensor:
    """The mean of an image."""
    return x.mean((2, 3, 4))


def result(**changes: Any) -> vp.Result:
    """Two images, four samples."""
    return vp.inpaint(IMAGES, MASK, PRIOR, **{**QUICK, **changes})


# new samples


@pytest.mark.parametrize("preset", PRESETS)
def test_new_samples_cost_the_guide_and_the_refinement_alone(preset: str) -> None:
    """K - 1 calls and the refinement's on S × N images; the guide stays as it was fitted."""
    first = result(preset=preset)
    before = {name: value.clone() for name, value in first.guide.state_dict().items()}
    with vp.count_calls() as count:
        new = first.sample(5, seed=3)
    assert new.calls == count.calls == 3 - 1 + 2
    assert new.nfe == count.nfe == 5 * 2 * new.calls and new.gradients == count.gradients
    assert new.samples.shape == (5, 2, *SHAPE) and new.fit is first.fit
    assert all(torch.equal(value, before[name]) for name, value in first.guide.state_dict().items())


def test_the_same_seed_gives_the_same_samples_and_the_run_s_own_seed_gives_others() -> None:
    """The seed of the run is no seed of its samples again; the global generator is left alone, or continued."""
    first = result(preset="pictures")
    state = torch.get_rng_state()
    assert torch.equal(first.sample(4, seed=3).samples, first.sample(4, seed=3).samples)
    assert not torch.equal(first.sample(4, seed=3).samples, first.sample(4, seed=4).samples)
    assert torch.equal(torch.get_rng_state(), state)
    same = vp.sample(first.guide, first.observation, 4, seed=0)
    assert first.latents is not None and first.sample(4, seed=0).latents is not None
    assert not torch.equal(first.sample(4, seed=0).latents["z_1"], same)  # type: ignore[index]
    assert not torch.equal(first.sample(4).samples, first.sample(4).samples)


def test_new_samples_have_the_law_of_the_first() -> None:
    """Means and standard deviations over 400 samples of each agree within five standard errors."""
    first = result(num_samples=400, preset="pictures")
    new = first.sample(400, seed=1)
    shift = (first.mean - new.mean) / ((first.std**2 + new.std**2) / 400).sqrt()
    assert shift.abs().max() < 5 and shift.square().mean() < 1.3
    assert (first.std / new.std).log().abs().max() < 5 / 400**0.5


def test_guides_of_pyro_draw_too() -> None:
    """They have no latents that can be replayed, and say so."""
    from pyro.infer.autoguide import AutoNormal

    first = result(guide=lambda model, start: AutoNormal(model, init_loc_fn=guides.init_to_start(model, start)))
    assert torch.equal(first.sample(3, seed=1).samples, first.sample(3, seed=1).samples)
    with pytest.raises(vp.InputError, match=r"diagnostics\.log_weights"):
        first.log_weights()


def test_samples_without_a_guide_say_so() -> None:
    with pytest.raises(vp.InputError, match="run inpaint or restore again"):
        replace(result(), approximation=None).sample(3)


# questions


def test_questions_are_answered_by_numpy_and_by_hand() -> None:
    """Weibull's quantiles; the mean and its error; k of S and the deviation of Beta(k + 1/2, S - k + 1/2)."""
    many = result(num_samples=19)
    x = many.samples.numpy()
    for q in (0.05, 0.3, 0.5, 0.95):
        expected = np.quantile(x, q, axis=0, method="weibull")
        assert np.array_equal(many.quantile(q).numpy(), expected)
        assert np.array_equal(
            many.quantile(q, brightness).numpy(), np.quantile(brightness(many.samples).numpy(), q, 0, method="weibull")
        )
    lower, upper = many.interval(0.9)
    assert torch.equal(lower, many.samples.min(0).values) and torch.equal(upper, many.samples.max(0).values)
    values = brightness(many.samples).double()
    mean = many.expectation(brightness)
    torch.testing.assert_close(mean.value, values.mean(0))
    torch.testing.assert_close(mean.error, values.std(0) / 19**0.5)
    threshold = float(values.median())
    share = many.probability(lambda x: brightness(x) > threshold)
    k = (values.float() > threshold).sum(0).double()
    torch.testing.assert_close(share.value, k / 19)
    beta = torch.distributions.Beta(k + 0.5, 19 - k + 0.5)
    torch.testing.assert_close(share.error, beta.variance.sqrt())
    assert (many.probability(lambda x: brightness(x) > 9).error > 0).all(), "0 of 19 is not certain"


def test_errors_are_those_of_repetition() -> None:
    """Over 2000 repetitions of 50 draws the errors are the spread of the estimates, within a twentieth."""
    torch.manual_seed(0)
    draws = torch.rand(50, 2000, 1, 1, 1)
    mean, share = questions.expectation(draws, brightness), questions.probability(draws, lambda x: brightness(x) < 0.3)
    for estimate in (mean, share):
        assert float(estimate.error.square().mean().sqrt() / estimate.value.std()) == pytest.approx(1, abs=0.05)


def test_a_quantile_is_calibrated() -> None:
    """A new draw lies below the q-quantile of S with probability q exactly, where (S + 1) q is whole."""
    torch.manual_seed(0)
    draws, new = torch.randn(19, 20000), torch.randn(20000)
    for q in (0.05, 0.5, 0.9):
        below = (new < questions.quantile(draws[..., None, None, None], q)[:, 0, 0, 0]).float().mean()
        assert abs(float(below) - q) < 4 * (q * (1 - q) / 20000) ** 0.5


@pytest.mark.parametrize(
    ("count", "level", "needed"), [(10, 0.9, 19), (18, 0.9, 19), (3, 0.8, 9), (38, 0.95, 39), (1, 0.5, 3)]
)
def test_too_few_samples_are_refused_with_the_number_needed(count: int, level: float, needed: int) -> None:
    samples = torch.randn(count, 1, 1, 2, 2)
    with pytest.raises(vp.InputError, match=rf"{count} samples cannot .* needs {needed}, result\.sample\({needed}\)"):
        questions.interval(samples, level)
    questions.interval(torch.randn(needed, 1, 1, 2, 2), level)


REFUSED: dict[str, tuple[Any, str]] = {
    "quantile at 0": (lambda r: r.quantile(0.0), "beyond any number"),
    "quantile in percent": (lambda r: r.quantile(5), "q must be"),
    "level in percent": (lambda r: r.interval(90), "level must be"),
    "level 1": (lambda r: r.interval(1.0), "between 0 and 1"),
    "tail": (lambda r: r.quantile(0.1), r"result\.sample\(9\)"),
    "no function": (lambda r: r.expectation(r.samples), "f must be a function"),
    "whole images": (lambda r: r.expectation(lambda x: x), r"\(4, 2\), not \(4, 2, 1, 8, 8\)"),
    "over samples": (lambda r: r.expectation(lambda x: x.mean((0, 2, 3, 4))), "one value per sample and image"),
    "numbers for truths": (lambda r: r.probability(brightness), "must return booleans"),
    "not finite": (lambda r: r.expectation(lambda x: brightness(x) / 0), "must be finite"),
    "no samples": (lambda r: r.sample(0), "num_samples"),
    "half a sample": (lambda r: r.sample(2.5), "num_samples"),
    "seed": (lambda r: r.sample(2, seed="a"), "seed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_answered_is_refused_in_one_line(name: str) -> None:
    ask, message = REFUSED[name]
    with pytest.raises(vp.InputError, match=message) as error:
        ask(result())
    assert "\n" not in str(error.value)


# weights


@pytest.mark.parametrize("name", [*guides.__all__, "TwistedGuide"])
def test_weights_are_those_of_the_draws(name: str) -> None:
    """Terms at earlier draws are those at which :func:`weighted_draws` makes the same draws from the same seed."""
    problem = diagonal_problem(images=2)  # the marginal of an exact prior is no estimate
    model = problem.model()
    family: Any = getattr(guides, name)
    guide = family(model, problem.y, correction=PiGDM()) if name == "TwistedGuide" else family(model, problem.y)
    if name == "DeltaGuide":
        with pytest.raises(vp.InputError, match="point mass"):
            weighted_draws(model, guide, problem.y, 5)
        return
    drawn = weighted_draws(model, guide, problem.y, 5, seed=1)
    with _Record() as record:
        z = vp.sample(guide, problem.y, 5, seed=1)
    assert torch.equal(z.detach(), drawn.z)
    again = weighted_draws(model, guide, problem.y, 5, seed=9, batch_size=2, at=record.values)
    assert torch.equal(again.z, drawn.z)
    torch.testing.assert_close(again.log_weights, drawn.log_weights, rtol=1e-5, atol=1e-3)


def test_the_weights_of_a_result_are_those_of_its_samples() -> None:
    """They differ between samples, belong to them in their order, and cost S × N × K images with T_e at t = 1."""
    first = result()
    with vp.count_calls() as count:
        weights = first.log_weights(seed=1)
    assert weights.shape == (4, 2) and count.nfe == 4 * 2 * 3
    assert first.latents is not None and first.approximation is not None
    turned = replace(first, latents={name: value.flip(0) for name, value in first.latents.items()})
    torch.testing.assert_close(turned.log_weights(seed=1), weights.flip(0), rtol=1e-4, atol=1e-3)


# ArviZ


def test_the_export_holds_images_predictions_data_and_weights() -> None:
    arviz = pytest.importorskip("arviz")
    first = result(num_samples=50)
    data = first.to_arviz(latents=True, seed=2)
    assert np.array_equal(data["posterior"]["x"].values[0], first.samples.numpy())
    assert first.latents is not None
    assert np.array_equal(data["posterior"]["z_1"].values[0], first.latents["z_1"].numpy())
    assert np.array_equal(data["observed_data"]["y"].values, first.observation.numpy())
    assert np.array_equal(data["sample_stats"]["log_weight"].values[0], first.log_weights(seed=2).numpy())
    predicted = torch.as_tensor(data["posterior_predictive"]["y"].values[0])
    residual = predicted - first.samples * MASK
    sigma = float(first.settings.sigma or 0)
    assert (residual[..., MASK == 0] == 0).all() and torch.std(residual[..., MASK == 1]) == pytest.approx(
        sigma, rel=0.05
    )
    by_hand = torch.distributions.Normal(first.samples * MASK, sigma).log_prob(first.observation) * MASK
    torch.testing.assert_close(
        torch.as_tensor(data["log_likelihood"]["y"].values[0]), by_hand.sum((2, 3, 4)), rtol=1e-4, atol=1e-2
    )
    summary = arviz.summary(data, var_names=["x"], kind="stats", round_to="none")
    assert np.allclose(np.asarray(summary["mean"], dtype=float), first.mean.flatten(), atol=1e-4)
    assert arviz.hdi(data, var_names=["x"])["x"].shape == (2, *SHAPE, 2)


def test_the_export_of_a_point_mass_has_no_weights() -> None:
    pytest.importorskip("arviz")
    settings = default_settings(2, preset="pictures")
    data = result(guide=guides.DeltaGuide, settings=replace(settings, steps=1, refine_steps=2)).to_arviz(seed=0)
    assert "x" in data["posterior"] and "y" in data["posterior_predictive"]
    assert "log_weight" not in dict(getattr(data, "sample_stats", {}))
