"""The facade with a mask: what its result promises, its randomness, and its guides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.corrections import MMPS, Wiener
from pyro_vipaint.guides import (
    DeltaGuide,
    FlowGuide,
    HierarchicalGuide,
    LowRankGuide,
    MeanFieldGuide,
    MixtureGuide,
    PriorGuide,
    TwistedGuide,
)
from pyro_vipaint.models import DataCovariance, DiffusionModel, DiffusionPrior, GaussianPrior, MatchedPrior, load_prior
from pyro_vipaint.models.pretrained.load import weights_folder
from pyro_vipaint.models.priors.schedules import EDM, as_time
from pyro_vipaint.restoration import GuideFactory
from pyro_vipaint.settings import PRESETS, Settings, default_settings

QUICK: dict[str, Any] = {"levels": 2, "num_samples": 2, "steps": 2, "refine_steps": 2, "seed": 0, "device": "cpu"}
SHAPE = (1, 8, 8)
PRIOR = GaussianPrior.diagonal(torch.zeros(SHAPE), torch.full(SHAPE, 0.5)).diffusion()  # the marginal is estimated
KNOWN = replace(PRIOR, data_covariance=DataCovariance(torch.eye(64)[:3].reshape(3, *SHAPE), torch.full((3,), 0.4), 0.2))
IMAGE = torch.linspace(-0.8, 0.8, 64).reshape(SHAPE)
MASK = (torch.arange(64).reshape(SHAPE) % 8 < 4).float()  # the left half is observed


@dataclass(frozen=True)
class TwoClasses:
    """E[x given z_t] for x ~ N(m, 0.1^2) in every pixel, m = -0.6 for class 0 and 0.6 for class 1."""

    schedule: EDM

    def __call__(self, z_t: Tensor, t: Tensor, class_labels: Any = None, **condition: Any) -> Tensor:
        mean = torch.zeros(()) if class_labels is None else (1.2 * class_labels - 0.6)[..., None, None, None]
        _, sigma = self.schedule(as_time(t))
        gain = (0.01 / (0.01 + sigma**2)).to(z_t)
        gain = gain[..., None, None, None] if gain.ndim else gain
        return mean + gain * (z_t - mean)


# the result


def test_shapes_moments_and_ranges() -> None:
    """Mean and standard deviation (over S - 1) are those of the samples in [-1, 1]; one sample has deviation zero."""
    result = vp.inpaint(IMAGE, MASK, PRIOR, **{**QUICK, "num_samples": 3})
    assert result.samples.shape == (3, 1, *SHAPE)
    assert result.samples.abs().max() <= 1 and not result.samples.requires_grad
    assert torch.equal(result.observation, (IMAGE * MASK).unsqueeze(0))
    assert result.mask is not None and torch.equal(result.mask, MASK.unsqueeze(0))
    torch.testing.assert_close(result.mean, result.samples.sum(0) / 3)
    torch.testing.assert_close(result.std, ((result.samples - result.mean).square().sum(0) / 2).sqrt())
    single = vp.inpaint(IMAGE, MASK, PRIOR, **{**QUICK, "num_samples": 1})
    assert torch.equal(single.std, torch.zeros(1, *SHAPE))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("levels", "steps", "refine_steps"), [(1, 1, 1), (4, 2, 5)])
def test_network_calls(levels: int, steps: int, refine_steps: int, preset: str) -> None:
    """1 + steps (K + 1) + (K - 1) + refine_steps, from t = 1 steps K + (K - 1) + refine_steps; as they are counted."""
    numbers: dict[str, Any] = {"steps": steps, "refine_steps": refine_steps, "preset": preset}
    with vp.count_calls() as count:
        result = vp.inpaint(IMAGE, MASK, KNOWN, levels, 3, **numbers, seed=0, device="cpu")
    assert result.settings.levels == levels and result.gradients == count.gradients
    fits = preset == "pictures"  # needs a start, and the marginal at T_e; that at t = 1 is known
    assert result.calls == count.calls == fits + steps * (levels + fits) + (levels - 1) + refine_steps
    particles = result.settings.num_particles
    assert result.nfe == count.nfe
    assert result.nfe == fits + steps * (levels + fits) * particles + 3 * (levels - 1 + refine_steps)


def test_the_callback_sees_every_step() -> None:
    """Each step of both phases, and in the fit the bound on -log p(y)."""
    seen: list[Any] = []
    result = vp.inpaint(IMAGE, MASK, PRIOR, callback=seen.append, **QUICK)
    assert [event[:3] for event in seen] == [("fit", 1, 2), ("fit", 2, 2), ("refine", 1, 2), ("refine", 2, 2)]
    assert [event.bound for event in seen[:2]] == pytest.approx((-result.fit.bounds[:, 0]).tolist())
    assert [event.bound for event in seen[2:]] == [None, None]


def test_every_number_of_the_settings_reaches_its_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed number changes the samples; those that act beside others are compared where they are handed over."""
    settings = replace(
        default_settings(2, preset="pictures"), scale=0.3, beta=2.0, steps=3, num_particles=2,
        lr={"mu": 0.1, "tau": 0.02, "gamma": 0.03}, lr_decay=0.5, average=2, gamma_logit=0.5, tau_scale=0.6,
        refine_steps=4, zeta=0.7, zeta_decay=0.6, polyak=0.5, spare=2.0,
    )  # fmt: skip
    given: dict[str, Any] = {}

    def spy_fit(model: Any, guide: Any, y: Tensor, elbo: Any, steps: int, lr: Any, **named: Any) -> Any:
        given.update(named, scale=model.likelihood.scale, beta=elbo.beta, num_particles=elbo.num_particles, steps=steps)
        assert type(guide) is HierarchicalGuide, "the default"
        given.update(lr={kind: lr[kind] for kind in settings.lr})
        given.update(gamma_logit=float(guide.gamma_1.detach().logit().mean()))
        given.update(tau_scale=float(guide.tau_1.detach().mean() / model.levels[1].step_std))
        return vp.fit(model, guide, y, elbo, steps, lr, **named)

    def spy_refine(model: Any, z: Tensor, y: Tensor, steps: int, **named: Any) -> Tensor:
        given.update(named, refine_steps=steps, spare=len(z) - 1)
        return vp.refine(model, z, y, steps, **named)

    monkeypatch.setattr("pyro_vipaint.restoration.fit", spy_fit)
    monkeypatch.setattr("pyro_vipaint.results.approximation.refine", spy_refine)
    vp.inpaint(IMAGE, MASK, PRIOR, num_samples=1, settings=settings, seed=0)
    for name in vars(settings).keys() - {"noise_levels", "perceptual_weight", "sigma", "twist"}:
        expected = getattr(settings, name)
        assert given[name] == (None if expected is None else pytest.approx(expected, rel=1e-5)), name


@pytest.mark.parametrize("preset", PRESETS)
def test_the_presets_are_their_settings(preset: str) -> None:
    """The preset is that of the settings for its name, and the first is the default; another guide is for pictures."""
    given: dict[str, Any] = {"num_samples": 2, "steps": 1, "seed": 0, "device": "cpu"}
    chosen = vp.inpaint(IMAGE, MASK, KNOWN, preset=preset, **given)
    settings = replace(default_settings(4, preset=preset), steps=1)
    assert chosen.settings == replace(settings, twist=chosen.settings.twist, correction=chosen.settings.correction)
    assert str(chosen.settings) == str(settings)
    assert torch.equal(chosen.samples, vp.inpaint(IMAGE, MASK, KNOWN, settings=settings, **given).samples)
    unnamed = vp.inpaint(IMAGE, MASK, KNOWN, guide=None if preset == "inference" else HierarchicalGuide, **given)
    assert str(unnamed.settings) == str(settings)


def test_the_guide_of_inference_is_that_of_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its correction, the noise of y and the covariance of the prior; the refinement is on the prior itself."""
    settings = Settings((30.0,), sigma=0.3, twist=MMPS(1), correction=Wiener(), order=2, steps=2, refine_steps=3)
    seen: list[Any] = []
    monkeypatch.setattr(
        "pyro_vipaint.restoration.fit", lambda *args, **named: seen.append(args) or vp.fit(*args, **named)
    )
    monkeypatch.setattr(
        "pyro_vipaint.results.approximation.refine",
        lambda *args, **named: seen.append((args, named)) or vp.refine(*args, **named),
    )
    vp.inpaint(IMAGE, MASK, KNOWN, num_samples=1, settings=settings, noise=0.4, seed=0)
    (model, guide, *_), ((refined, _, _, steps), named) = seen
    assert type(guide) is TwistedGuide and guide.correction is settings.twist
    assert isinstance(model.prior, MatchedPrior) and model.prior.errors is KNOWN.data_covariance
    assert model.likelihood.sigma == refined.likelihood.sigma == 0.4 and refined.prior is KNOWN
    assert model.keypoints == refined.keypoints == (1.0, vp.keypoints(KNOWN, noise_levels=[30.0 * KNOWN.sigma_data])[0])
    assert (steps, named["correction"], named["order"]) == (3, settings.correction, 2)


# randomness


def test_a_seed_reproduces_and_others_differ() -> None:
    """The same seed gives the same numbers, another one others; a negative seed is a seed like any other."""
    first, again, other, negative = (
        vp.inpaint(IMAGE, MASK, PRIOR, **{**QUICK, "seed": seed}) for seed in (5, 5, 6, -5)
    )
    assert torch.equal(first.samples, again.samples) and first.fit.losses == again.fit.losses
    assert not torch.equal(first.samples, other.samples)
    assert not torch.equal(first.samples, negative.samples)


def test_a_seeded_call_neither_reads_nor_moves_the_global_generator() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = vp.inpaint(IMAGE, MASK, PRIOR, **QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(vp.inpaint(IMAGE, MASK, PRIOR, **QUICK).samples, first.samples)


# images, masks, labels


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("filling", [0.7, float("nan")])
def test_hidden_pixels_have_no_influence(filling: float, preset: str) -> None:
    """Whatever the image holds at hidden pixels, NaN included, the result is the same to the last bit."""
    clean = vp.inpaint(IMAGE, MASK, KNOWN, preset=preset, **QUICK)
    filled = vp.inpaint(torch.where(MASK == 1, IMAGE, filling), MASK, KNOWN, preset=preset, **QUICK)
    assert torch.equal(filled.samples, clean.samples)
    assert torch.equal(filled.observation, clean.observation)


def test_one_mask_or_image_equals_its_copies() -> None:
    """One mask for N images is the same mask N times, and one image with N masks the same image N times."""
    images, masks = torch.stack([IMAGE, -IMAGE]), torch.stack([MASK, 1 - MASK])
    pairs = [((images, MASK), (images, MASK.repeat(2, 1, 1, 1))), ((IMAGE, masks), (IMAGE.repeat(2, 1, 1, 1), masks))]
    for short, long in pairs:
        one, two = (vp.inpaint(*pair, PRIOR, **QUICK) for pair in (short, long))
        assert torch.equal(one.samples, two.samples) and torch.equal(one.observation, two.observation)
        assert one.mask is not None and two.mask is not None and torch.equal(one.mask, two.mask)
        assert all(term.shape == (2, 2) for term in one.fit.terms.values())


def test_each_image_has_its_label() -> None:
    """Labels reach the network image by image: the hole takes the brightness of the class."""
    schedule = EDM()
    prior = DiffusionPrior(schedule, TwoClasses(schedule), SHAPE, class_names=("dark", "bright"), name="two")
    quick = {**QUICK, "refine_steps": 10}
    result = vp.inpaint(torch.zeros(2, *SHAPE), MASK, prior, label=torch.tensor([0, 1]), **quick)
    dark, bright = result.mean[..., 4:].mean((1, 2, 3)).tolist()
    assert dark < -0.3 and bright > 0.3


def test_the_shipped_prior_by_name_folder_and_object() -> None:
    image, mask = torch.zeros(1, 32, 32), torch.ones(1, 32, 32)
    mask[..., 16:] = 0
    priors = ("fashion32", weights_folder() / "fashion32", load_prior("fashion32"))
    first, *others = (vp.inpaint(image, mask, prior, label=9, **QUICK).samples for prior in priors)
    assert first.shape == (2, 1, 1, 32, 32)
    assert all(torch.equal(first, other) for other in others)


# guides


@pytest.mark.parametrize("family", [MixtureGuide, LowRankGuide, FlowGuide, MeanFieldGuide, PriorGuide, DeltaGuide])
def test_the_guide_can_be_swapped(family: GuideFactory) -> None:
    """Whatever kinds of parameters it has, it is fitted at the same number of network calls."""
    made: list[Any] = []
    before: list[dict[str, Tensor]] = []

    def factory(model: DiffusionModel, start: Tensor) -> Any:
        made.append(family(model, start))
        before.append({name: value.clone() for name, value in made[-1].named_parameters()})
        return made[-1]

    result = vp.inpaint(IMAGE, MASK, PRIOR, **QUICK, guide=factory)
    assert result.calls == 1 + 2 * 3 + 1 + 2
    [guide], [start] = made, before
    moved = [name for name, value in guide.named_parameters() if not torch.equal(value, start[name])]
    assert any(name.startswith("mu_2") for name in moved)


# a fit that breaks


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": dict.fromkeys(("mu", "tau", "gamma"), 1e35)}, r"step 2 in the term of .*z_2"),
        ({"scale": 1e-44}, r"step 1 in the term of y:"),
    ],
)
def test_a_fit_that_breaks_names_the_terms(change: dict[str, Any], message: str) -> None:
    """It stops at that step, and names only the terms that broke."""
    settings = replace(default_settings(2, preset="pictures"), steps=3, **change)
    with pytest.raises(vp.NonFiniteError, match=message):
        vp.inpaint(IMAGE, MASK, PRIOR, settings=settings, seed=0, device="cpu")
