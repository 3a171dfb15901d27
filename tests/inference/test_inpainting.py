"""The facade: what it takes, what it refuses, and what it promises about its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint._torch import device_of, resolve_device
from pyro_vipaint.guides import (
    DeltaGuide,
    FlowGuide,
    HierarchicalGuide,
    LowRankGuide,
    MeanFieldGuide,
    MixtureGuide,
    PriorGuide,
)
from pyro_vipaint.guides.base import LatentGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, GaussianPrior, load_prior
from pyro_vipaint.models.exact.gaussian import GaussianDenoiser
from pyro_vipaint.models.priors.schedules import EDM, as_time
from pyro_vipaint.restoration import GuideFactory
from pyro_vipaint.settings import Settings, default_settings

QUICK: dict[str, Any] = {"levels": 2, "num_samples": 2, "steps": 2, "refine_steps": 2, "seed": 0, "device": "cpu"}


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


def gaussian(channels: int = 1) -> DiffusionPrior:
    """Independent pixels N(0, 0.5^2) on 8×8, with the estimated marginal that a network would have."""
    shape = (channels, 8, 8)
    return GaussianPrior.diagonal(torch.zeros(shape), torch.full(shape, 0.5)).diffusion()


@pytest.fixture(scope="module")
def prior() -> DiffusionPrior:
    return gaussian()


@pytest.fixture(scope="module")
def labelled() -> DiffusionPrior:
    schedule = EDM()
    return DiffusionPrior(schedule, TwoClasses(schedule), (1, 8, 8), class_names=("dark", "bright"), name="two")


@pytest.fixture
def image() -> Tensor:
    """A ramp ``(1, 8, 8)`` from -0.8 to 0.8."""
    return torch.linspace(-0.8, 0.8, 64).reshape(1, 8, 8)


@pytest.fixture
def mask() -> Tensor:
    """The left half is observed, ``(1, 8, 8)``."""
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    return mask


# what the result is


def test_shapes_and_ranges(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """Samples are sample × image × event in [-1, 1]; observation and mask have the images' leading dimension."""
    result = vp.inpaint(image, mask, prior, **QUICK)
    assert result.samples.shape == (2, 1, 1, 8, 8)
    assert result.samples.abs().max() <= 1
    assert torch.equal(result.observation, (image * mask).unsqueeze(0))
    assert torch.equal(result.mask, mask.unsqueeze(0))
    assert not result.samples.requires_grad


def test_mean_and_std_are_over_samples(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """Mean and standard deviation (over S - 1) are those of the samples; one sample has deviation zero."""
    result = vp.inpaint(image, mask, prior, **{**QUICK, "num_samples": 3})
    torch.testing.assert_close(result.mean, result.samples.sum(0) / 3)
    torch.testing.assert_close(result.std, ((result.samples - result.mean).square().sum(0) / 2).sqrt())
    single = vp.inpaint(image, mask, prior, **{**QUICK, "num_samples": 1})
    assert torch.equal(single.std, torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(("levels", "steps", "refine_steps"), [(1, 1, 1), (2, 3, 4), (4, 2, 5)])
def test_network_calls(
    prior: DiffusionPrior, image: Tensor, mask: Tensor, levels: int, steps: int, refine_steps: int
) -> None:
    """A run makes steps (K + 1) + (K - 1) + refine_steps network calls, and reports those that were counted."""
    with vp.count_calls() as count:
        result = vp.inpaint(image, mask, prior, levels, 3, steps=steps, refine_steps=refine_steps, seed=0, device="cpu")
    assert result.calls == count.calls == 1 + steps * (levels + 1) + (levels - 1) + refine_steps
    particles = result.settings.num_particles
    assert result.nfe == count.nfe
    assert result.nfe == 1 + steps * (levels + 1) * particles + 3 * (levels - 1 + refine_steps)


def test_the_default_guide_can_be_given(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """Hierarchical, with gamma and tau of the settings."""
    settings = default_settings(2)

    def factory(model: DiffusionModel, start: Tensor) -> HierarchicalGuide:
        return HierarchicalGuide(model, start, gamma_logit=settings.gamma_logit, tau_scale=settings.tau_scale)

    given = vp.inpaint(image, mask, prior, **QUICK, guide=factory)
    assert torch.equal(given.samples, vp.inpaint(image, mask, prior, **QUICK).samples)


def test_the_average_is_a_share_of_the_steps(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """Half of four steps: the guide is sampled with the mean of the third and the fourth, for no further call."""
    settings, made, iterates = replace(default_settings(2), steps=4, refine_steps=2, average=0.5), [], []

    def factory(model: DiffusionModel, start: Tensor) -> HierarchicalGuide:
        made.append(HierarchicalGuide(model, start))
        return made[-1]

    result = vp.inpaint(
        image, mask, prior, settings=settings, guide=factory, num_samples=3, seed=0, device="cpu",
        progress=lambda phase, *_: iterates.append(made[0].mu_2.detach().clone()) if phase == "fit" else None,
    )  # fmt: skip
    torch.testing.assert_close(made[0].mu_2.detach(), (iterates[2] + iterates[3]) / 2)
    last = vp.inpaint(image, mask, prior, settings=replace(settings, average=0.0), num_samples=3, seed=0, device="cpu")
    assert result.calls == last.calls


@pytest.mark.parametrize("family", [MixtureGuide, LowRankGuide, FlowGuide, MeanFieldGuide, PriorGuide, DeltaGuide])
def test_the_guide_can_be_swapped(prior: DiffusionPrior, image: Tensor, mask: Tensor, family: GuideFactory) -> None:
    """Whatever kinds of parameters it has, it is fitted at the same number of network calls."""
    made: list[LatentGuide] = []

    def factory(model: DiffusionModel, start: Tensor) -> LatentGuide:
        made.append(family(model, start))
        before.append({name: value.clone() for name, value in made[-1].named_parameters()})
        return made[-1]

    before: list[dict[str, Tensor]] = []
    result = vp.inpaint(image, mask, prior, **QUICK, guide=factory)
    assert result.calls == vp.inpaint(image, mask, prior, **QUICK).calls
    [guide], [start] = made, before
    moved = [name for name, value in guide.named_parameters() if not torch.equal(value, start[name])]
    assert any(name.startswith("mu_2") for name in moved)


def test_bounds_are_minus_the_sum_of_the_terms(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """The bound of each step is minus the sum of its unweighted terms, whatever beta is."""
    result = vp.inpaint(image, mask, prior, beta=3.0, **QUICK)
    assert set(result.fit.terms) == {"z_2", "z_1", "y"}
    torch.testing.assert_close(result.fit.bounds, -sum(result.fit.terms.values()))  # type: ignore[arg-type]
    weighted = 3 * (result.fit.terms["z_2"] + result.fit.terms["z_1"]) + result.fit.terms["y"]
    torch.testing.assert_close(weighted.sum(1), torch.tensor(result.fit.losses), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("with_truth", [False, True])
def test_plot_has_a_panel_for_everything(
    prior: DiffusionPrior, image: Tensor, mask: Tensor, images: int, with_truth: bool
) -> None:
    """A row an image; the columns are truth where given, observation, mean, deviation, and the samples."""
    result = vp.inpaint(image.expand(images, -1, -1, -1), mask, prior, **QUICK)
    (axes,) = result.plot(image if with_truth else None).axes
    titles = [label.get_text() for label in axes.get_xticklabels()]
    assert titles == ["truth"] * with_truth + ["observation", "mean", "std. dev.", "sample 1", "sample 2"]
    height, width = axes.get_images()[0].get_size()
    gap = round(0.1 * image.shape[-1])
    assert height == images * (image.shape[-2] + gap) - gap
    assert width == len(titles) * (image.shape[-1] + gap) - gap


def test_plot_refuses_a_truth_of_another_shape(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """A truth that does not fit the images is named as such."""
    result = vp.inpaint(image, mask, prior, **QUICK)
    with pytest.raises(vp.InputError, match="true image has shape"):
        result.plot(torch.zeros(2, 1, 8, 8))


def test_progress_reports_every_step(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """The callback sees each step of both phases, and in the fit the bound on -log p(y)."""
    seen: list[tuple[str, int, int, float | None]] = []
    result = vp.inpaint(image, mask, prior, progress=lambda *event: seen.append(event), **QUICK)
    assert [event[:3] for event in seen] == [("fit", 1, 2), ("fit", 2, 2), ("refine", 1, 2), ("refine", 2, 2)]
    assert [event[3] for event in seen[:2]] == pytest.approx((-result.fit.bounds[:, 0]).tolist())
    assert [event[3] for event in seen[2:]] == [None, None]


# randomness


def test_a_seed_reproduces_and_others_differ(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """The same seed gives the same numbers, another one others; a negative seed is a seed like any other."""
    first, again, other, negative = (
        vp.inpaint(image, mask, prior, **{**QUICK, "seed": seed}) for seed in (5, 5, 6, -5)
    )
    assert torch.equal(first.samples, again.samples) and first.fit.losses == again.fit.losses
    assert not torch.equal(first.samples, other.samples)
    assert not torch.equal(first.samples, negative.samples)


def test_the_global_generator_is_left_alone(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """A seeded call neither reads nor moves the global random state."""
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = vp.inpaint(image, mask, prior, **QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(vp.inpaint(image, mask, prior, **QUICK).samples, first.samples)


def test_no_seed_means_the_global_generator(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """Without a seed the caller's own generator decides."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = vp.inpaint(image, mask, prior, **{**QUICK, "seed": None})
        second = vp.inpaint(image, mask, prior, **{**QUICK, "seed": None})
        torch.manual_seed(3)
        again = vp.inpaint(image, mask, prior, **{**QUICK, "seed": None})
    assert torch.equal(first.samples, again.samples) and not torch.equal(first.samples, second.samples)


# what it looks at


@pytest.mark.parametrize("filling", [0.7, 1e6, float("nan"), float("inf")])
def test_hidden_pixels_have_no_influence(prior: DiffusionPrior, image: Tensor, mask: Tensor, filling: float) -> None:
    """Whatever the image holds at hidden pixels, NaN included, the result is the same to the last bit."""
    clean = vp.inpaint(image, mask, prior, **QUICK)
    filled = vp.inpaint(torch.where(mask == 1, image, filling), mask, prior, **QUICK)
    assert torch.equal(filled.samples, clean.samples)
    assert torch.equal(filled.observation, clean.observation)


def test_the_inputs_are_not_changed(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """Image and mask are as they were after the call, NaN included."""
    image = torch.where(mask == 1, image, torch.nan)
    before = image.clone(), mask.clone()
    vp.inpaint(image, mask, prior, **QUICK)
    torch.testing.assert_close(image, before[0], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(mask, before[1])


IMAGE_FORMS: dict[str, Callable[[Tensor], Any]] = {
    "a batch of one": lambda x: x.unsqueeze(0),
    "one channel without its dimension": lambda x: x[0],
    "an array": lambda x: x.numpy(),
    "an array with negative strides": lambda x: x.flip(-1).numpy()[..., ::-1],
    "double precision": lambda x: x.double(),
    "part of a graph": lambda x: x.clone().requires_grad_(),
    "not contiguous": lambda x: x.mT.contiguous().mT,
}


@pytest.mark.parametrize("form", IMAGE_FORMS.values(), ids=IMAGE_FORMS.keys())
def test_forms_of_an_image(prior: DiffusionPrior, image: Tensor, mask: Tensor, form: Callable[[Tensor], Any]) -> None:
    """However the same image is handed over, the result is the same."""
    expected = vp.inpaint(image, mask, prior, **QUICK)
    assert torch.equal(vp.inpaint(form(image), mask, prior, **QUICK).samples, expected.samples)


MASK_FORMS: dict[str, Callable[[Tensor], Any]] = {
    "(H, W)": lambda m: m[0],
    "(1, 1, H, W)": lambda m: m.unsqueeze(0),
    "bool": lambda m: m.bool(),
    "bytes": lambda m: m.byte(),
    "whole numbers": lambda m: m.long(),
    "double precision": lambda m: m.double(),
    "an array of bool": lambda m: m[0].numpy().astype(bool),
    "nested lists": lambda m: m[0].int().tolist(),
}


@pytest.mark.parametrize("form", MASK_FORMS.values(), ids=MASK_FORMS.keys())
def test_forms_of_a_mask(prior: DiffusionPrior, image: Tensor, mask: Tensor, form: Callable[[Tensor], Any]) -> None:
    """However the same mask is handed over, the result is the same."""
    expected = vp.inpaint(image, mask, prior, **QUICK)
    assert torch.equal(vp.inpaint(image, form(mask), prior, **QUICK).samples, expected.samples)


def test_several_images_with_several_masks(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """Each image goes with its own mask, in one fit."""
    images, masks = torch.stack([image, -image, image / 2]), torch.stack([mask, 1 - mask, mask.mT])
    result = vp.inpaint(images, masks, prior, **QUICK)
    assert result.samples.shape == (2, 3, 1, 8, 8)
    assert torch.equal(result.observation, images * masks)
    assert all(term.shape == (2, 3) for term in result.fit.terms.values())


def test_one_mask_for_several_images(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """One mask for N images equals the same mask N times."""
    images = torch.stack([image, -image])
    one, two = (vp.inpaint(images, m, prior, **QUICK) for m in (mask, mask.repeat(2, 1, 1, 1)))
    assert torch.equal(one.samples, two.samples) and torch.equal(one.mask, two.mask)


def test_one_image_with_several_masks(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """One image with N masks equals the same image N times."""
    masks = torch.stack([mask, 1 - mask])
    one, two = (vp.inpaint(x, masks, prior, **QUICK) for x in (image, image.repeat(2, 1, 1, 1)))
    assert torch.equal(one.samples, two.samples) and torch.equal(one.observation, two.observation)


def test_one_mask_for_all_channels(mask: Tensor) -> None:
    """A mask hides a pixel in every channel."""
    result = vp.inpaint(torch.full((3, 8, 8), 0.4), mask, gaussian(channels=3), **QUICK)
    assert result.samples.shape == (2, 1, 3, 8, 8)
    assert torch.equal(result.observation != 0, mask.bool().expand(1, 3, 8, 8))


# labels

LABEL_FORMS: dict[str, Any] = {
    "0-d": torch.tensor(1),
    "(1,)": torch.tensor([1]),
    "(N,)": torch.tensor([1, 1]),
    "int32": torch.tensor(1, dtype=torch.int32),
    "array": np.array([1, 1]),
    "numpy number": np.int64(1),
    "list": [1, 1],
}


@pytest.mark.parametrize("label", LABEL_FORMS.values(), ids=LABEL_FORMS.keys())
def test_forms_of_a_label(labelled: DiffusionPrior, image: Tensor, mask: Tensor, label: Any) -> None:
    """A label as a number, a tensor or a list, one for all or one each, means the same."""
    images = torch.stack([image, -image])
    expected = vp.inpaint(images, mask, labelled, label=1, **QUICK)
    assert torch.equal(vp.inpaint(images, mask, labelled, label=label, **QUICK).samples, expected.samples)


def test_each_image_has_its_label(labelled: DiffusionPrior, mask: Tensor) -> None:
    """Labels reach the network image by image: the hole takes the class's own brightness."""
    quick = {**QUICK, "refine_steps": 10}
    result = vp.inpaint(torch.zeros(2, 1, 8, 8), mask, labelled, label=torch.tensor([0, 1]), **quick)
    dark, bright = result.mean[..., 4:].mean((1, 2, 3)).tolist()
    assert dark < -0.3 and bright > 0.3


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (2, "Label 2 is out of range: the prior has classes 0 to 1"),
        (-1, "Label -1 is out of range"),
        (torch.tensor([1]).repeat(3), r"Labels of shape \(3,\) for 1 images"),
        (torch.zeros(1, 1, dtype=torch.long), r"Labels of shape \(1, 1\)"),
        (1.0, "whole numbers"),
        (True, "whole numbers"),
        ("bright", "label must be a tensor or an array of numbers, not str"),
    ],
)
def test_bad_labels(labelled: DiffusionPrior, image: Tensor, mask: Tensor, label: Any, message: str) -> None:
    """A label that is no class of the prior, or not one for each image, is refused."""
    with pytest.raises(vp.InputError, match=message):
        vp.inpaint(image, mask, labelled, label=label, **QUICK)


def test_a_label_for_a_prior_without_classes(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """A label is refused where there are no classes."""
    with pytest.raises(vp.InputError, match="has no classes"):
        vp.inpaint(image, mask, prior, label=0, **QUICK)


# what is refused


def spoilt(value: float) -> Tensor:
    """An image whose pixel (0, 0), observed by the mask, is ``value``."""
    image = torch.zeros(1, 8, 8)
    image[0, 0, 0] = value
    return image


BAD_IMAGES: dict[str, tuple[Any, str]] = {
    "another size": (torch.zeros(1, 10, 12), "image is 12×10, the prior wants 8×8: resize it"),
    "another number of channels": (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\), the prior wants .* \(1, 8, 8\)"),
    "channels last": (torch.zeros(8, 8, 3), r"shape \(8, 8, 3\)"),
    "a batch without channels": (torch.zeros(5, 8, 8), r"shape \(5, 8, 8\)"),
    "one number": (torch.tensor(0.0), r"shape \(\)"),
    "a row": (torch.zeros(8), r"shape \(8,\)"),
    "five dimensions": (torch.zeros(1, 1, 1, 8, 8), r"shape \(1, 1, 1, 8, 8\)"),
    "no images": (torch.zeros(0, 1, 8, 8), r"shape \(0, 1, 8, 8\)"),
    "bytes": (torch.full((1, 8, 8), 200, dtype=torch.uint8), "torch.uint8, not floats"),
    "an array of bytes": (np.full((1, 8, 8), 200, dtype=np.uint8), "torch.uint8, not floats"),
    "on [0, 255]": (spoilt(200), r"from 0 to 200, not in \[-1, 1\]"),
    "below the range": (spoilt(-128), r"from -128 to 0, not in"),
    "complex": (torch.zeros(1, 8, 8, dtype=torch.complex64), "torch.complex64, not floats"),
    "NaN": (spoilt(float("nan")), "observed pixels that are NaN or infinite"),
    "infinite": (spoilt(float("inf")), "observed pixels that are NaN or infinite"),
    "a file name": ("shoe.png", "must be a tensor or an array of numbers, not str"),
    "nothing": (None, "must be a tensor or an array of numbers, not NoneType"),
}


@pytest.mark.parametrize(("image", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_bad_images(prior: DiffusionPrior, mask: Tensor, image: Any, message: str) -> None:
    """What is not an image of the prior's shape, finite and on [-1, 1] where observed, is refused in one line."""
    with pytest.raises(vp.InputError, match=message) as caught:
        vp.inpaint(image, mask, prior, **QUICK)
    assert "\n" not in str(caught.value)


BAD_MASKS: dict[str, tuple[Any, str]] = {
    "another size": (torch.ones(1, 10, 12), "mask is 12×10, the prior wants 8×8: resize it"),
    "all observed": (torch.ones(1, 8, 8), "every pixel as observed"),
    "all hidden": (torch.zeros(1, 8, 8), "hides every pixel"),
    "all hidden in one of two": (torch.stack([torch.eye(8), torch.zeros(8, 8)]).unsqueeze(1), "hides every pixel"),
    "0 and 255": (255 * torch.eye(8, dtype=torch.uint8), "must hold 0"),
    "grey": (torch.full((8, 8), 0.5), "must hold 0"),
    "NaN": (torch.full((8, 8), float("nan")), "must hold 0"),
    "three channels": (torch.ones(3, 8, 8), r"shape \(3, 8, 8\)"),
    "a row": (torch.ones(8), r"shape \(8,\)"),
    "none": (torch.ones(0, 1, 8, 8), r"shape \(0, 1, 8, 8\)"),
    "nothing": (None, "mask must be a tensor or an array of numbers"),
}


@pytest.mark.parametrize(("mask", "message"), BAD_MASKS.values(), ids=BAD_MASKS.keys())
def test_bad_masks(prior: DiffusionPrior, image: Tensor, mask: Any, message: str) -> None:
    """What is not a 0/1 mask of the prior's size with both values is refused in one line."""
    with pytest.raises(vp.InputError, match=message) as caught:
        vp.inpaint(image, mask, prior, **QUICK)
    assert "\n" not in str(caught.value)


def test_numbers_of_images_and_masks_must_agree(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """Two images and three masks do not go together."""
    with pytest.raises(vp.InputError, match="2 images and 3 masks"):
        vp.inpaint(image.repeat(2, 1, 1, 1), mask.repeat(3, 1, 1, 1), prior, **QUICK)


def test_the_numbers_of_the_refinement_reach_it(image: Tensor, mask: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps, both weights and the limit are those of the settings."""
    schedule = EDM()
    prior = DiffusionPrior(schedule, TwoClasses(schedule), (1, 8, 8))
    settings = replace(default_settings(2), steps=1, refine_steps=3, zeta=0.7, zeta_decay=0.6, polyak=0.5)
    given: dict[str, Any] = {}

    def spy(*arguments: Any, **options: Any) -> Tensor:
        given.update(options, steps=arguments[3])
        return vp.refine(*arguments, **options)

    monkeypatch.setattr("pyro_vipaint.restoration.refine", spy)
    vp.inpaint(image, mask, prior, num_samples=1, settings=settings, seed=0)
    numbers = {"steps": settings.refine_steps, **{n: getattr(settings, n) for n in ("zeta", "zeta_decay", "polyak")}}
    assert {name: given[name] for name in numbers} == numbers


BAD_NUMBERS: list[tuple[dict[str, Any], str]] = [
    ({"num_samples": 0}, "samples must be at least 1, not 0"),
    ({"num_samples": 2.0}, "samples must be a whole number, not 2.0"),
    ({"num_samples": "two"}, "samples must be a whole number"),
    ({"levels": 0}, "levels must be at least 1"),
    ({"levels": 101}, "levels must be between 1 and 100, not 101"),
    ({"levels": 2.5}, "levels must be a whole number"),
    ({"steps": 0}, "steps must be at least 1"),
    ({"steps": 1.5}, "steps must be a whole number"),
    ({"refine_steps": 0}, "refine-steps must be at least 1"),
    ({"beta": 0.0}, "beta must be positive"),
    ({"beta": -1.0}, "beta must be positive"),
    ({"beta": float("nan")}, "beta must be positive and finite, not nan"),
    ({"beta": float("inf")}, "beta must be positive and finite, not inf"),
    ({"seed": 1.5}, "seed must be a whole number"),
    ({"seed": 2**64}, "seed must fit into 64 bits"),
    ({"device": "abacus"}, "Device 'abacus' is not available"),
    ({"device": "cuda:99"}, "Device 'cuda:99' is not available"),
    ({"device": "meta"}, "Device 'meta' holds no numbers"),
    ({"device": 1.5}, "Device '1.5' is not available"),
    ({"settings": Settings(noise_levels=(1.0, 5.0))}, "must decrease from T_e to T_s"),
    ({"settings": Settings(noise_levels=(5.0, 5.0))}, "must decrease from T_e to T_s"),
    ({"settings": Settings(noise_levels=())}, "at least one time"),
    ({"settings": Settings(noise_levels=(1e9, 1.0))}, "outside the schedule's range"),
    ({"settings": Settings(noise_levels=(5.0, float("nan")))}, "outside the schedule's range"),
    ({"settings": replace(default_settings(2), num_particles=0)}, "num-particles must be at least 1"),
    ({"settings": replace(default_settings(2), scale=0.0)}, "scale must be positive"),
    ({"settings": replace(default_settings(2), lr_decay=0.0)}, "final-lr must be positive"),
    ({"settings": replace(default_settings(2), tau_scale=0.0)}, "tau-scale must be positive"),
    ({"settings": replace(default_settings(2), polyak=0.0)}, "polyak must be positive"),
    ({"settings": replace(default_settings(2), gamma_logit=float("nan"))}, "gamma-logit must be finite"),
    ({"settings": replace(default_settings(2), lr={"mu": -0.1})}, "lr must be finite and not negative"),
    ({"settings": replace(default_settings(2), average=1.5)}, "average is a share"),
    ({"settings": replace(default_settings(2), zeta_decay=-0.1)}, "final-zeta must be finite and not negative"),
    ({"settings": replace(default_settings(2), perceptual_weight=1.0)}, "LPIPS cannot take images of 8×8"),
]


@pytest.mark.parametrize(("change", "message"), BAD_NUMBERS, ids=[message for _, message in BAD_NUMBERS])
def test_bad_numbers(image: Tensor, mask: Tensor, change: dict[str, Any], message: str) -> None:
    """A number that cannot be used is refused by name, before a network call is made."""
    schedule = EDM()  # a denoiser without tensors: the device is the caller's choice
    unlabelled = DiffusionPrior(schedule, TwoClasses(schedule), (1, 8, 8))
    with vp.count_calls() as count, pytest.raises(vp.InputError, match=message):
        vp.inpaint(image, mask, unlabelled, **{**QUICK, **change})
    assert count.calls == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 0.4, "stop": 0.5}, "must decrease"),
        ({"start": 0.4, "stop": 0.4}, "must decrease"),
        ({"start": 1.2}, "strictly between 0 and 1"),
        ({"stop": 0.0}, "strictly between 0 and 1"),
        ({"start": float("nan")}, "strictly between 0 and 1"),
        ({"levels": 0}, "levels must be at least 1"),
        ({"noise_levels": []}, "at least one"),
        ({"noise_levels": [0.6, 5.0]}, "must decrease"),
        ({"noise_levels": [-1.0]}, "outside the schedule's range"),
    ],
)
def test_bad_keypoints(prior: DiffusionPrior, arguments: dict[str, Any], message: str) -> None:
    """Keypoints out of order or outside (0, 1) are refused."""
    with pytest.raises(vp.InputError, match=message):
        vp.keypoints(prior, **arguments)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("no-such-prior", "Unknown prior 'no-such-prior': use one of .*fashion32"),
        (Path("no/such/folder"), "Unknown prior"),
        (torch.nn.Identity(), "not Identity; see from_diffusers"),
        (None, "not NoneType"),
        (GaussianPrior.diagonal(torch.zeros(16), torch.ones(16)), r"events of shape \(16,\), not about images"),
    ],
)
def test_bad_priors(image: Tensor, mask: Tensor, prior: Any, message: str) -> None:
    """What is not a prior of images is refused in one line."""
    with pytest.raises(vp.InputError, match=message):
        vp.inpaint(image, mask, prior, **QUICK)


def test_input_errors_are_value_errors() -> None:
    """Who catches ``ValueError`` catches bad input."""
    assert issubclass(vp.InputError, ValueError) and issubclass(vp.NonFiniteError, ArithmeticError)


# devices


def test_auto_is_where_a_loaded_prior_lies(image: Tensor, mask: Tensor) -> None:
    """``device="auto"`` never parts the images from a prior that is loaded already."""
    prior = gaussian()
    assert device_of(prior) == torch.device("cpu")
    assert vp.inpaint(image, mask, prior, **{**QUICK, "device": "auto"}).samples.device.type == "cpu"


def test_a_prior_on_another_device_is_named(image: Tensor, mask: Tensor) -> None:
    """A device that is not the prior's is refused with both names."""
    schedule, numbers = EDM(), torch.ones(1, 8, 8, device="meta")
    prior = DiffusionPrior(schedule, GaussianDenoiser(schedule, numbers, numbers), (1, 8, 8))
    with pytest.raises(vp.InputError, match="prior lies on meta, not on cpu"):
        vp.inpaint(image, mask, prior, **QUICK)


def test_devices_by_name() -> None:
    """A name, a ``torch.device`` and ``auto`` all give a device."""
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}


def test_where_a_network_lies() -> None:
    """A module's device is its parameters'; what holds no tensor has none."""
    assert device_of(torch.nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(torch.nn.Identity()) is None and device_of(EDM()) is None


# a fit that breaks


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_an_enormous_learning_rate_names_the_terms(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """A fit that leaves the numbers stops at that step and names the terms."""
    settings = replace(default_settings(2), steps=3, lr=dict.fromkeys(("mu", "tau", "gamma"), 1e35))
    with pytest.raises(vp.NonFiniteError, match=r"step 2 in the term of .*z_2"):
        vp.inpaint(image, mask, prior, settings=settings, seed=0, device="cpu")


def test_a_vanishing_scale_names_the_likelihood(prior: DiffusionPrior, image: Tensor, mask: Tensor) -> None:
    """Only the term that broke is named."""
    settings = replace(default_settings(2), steps=3, scale=1e-44)
    with pytest.raises(vp.NonFiniteError, match=r"step 1 in the term of y:"):
        vp.inpaint(image, mask, prior, settings=settings, seed=0, device="cpu")


# by name


def test_the_shipped_prior_by_name() -> None:
    """A shipped name, its folder and the loaded prior are the same prior."""
    image, mask = torch.zeros(1, 32, 32), torch.ones(1, 32, 32)
    mask[..., 16:] = 0
    loaded = load_prior("fashion32")
    results = [vp.inpaint(image, mask, prior, label=9, **QUICK) for prior in ("fashion32", loaded)]
    assert torch.equal(results[0].samples, results[1].samples)
    assert results[0].samples.shape == (2, 1, 1, 32, 32)
