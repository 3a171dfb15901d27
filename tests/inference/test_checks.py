"""The checks of user input: every form that means the same, and one line for everything that cannot be used."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyro.distributions import Normal
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint._torch import device_of, resolve_device
from pyro_vipaint.baselines import dps
from pyro_vipaint.cats.parts import draw_held_out
from pyro_vipaint.checks import check_prior, check_truth, checked, checked_settings, masked
from pyro_vipaint.corrections import ByLevel, PiGDM, Wiener
from pyro_vipaint.demo import held_out_images
from pyro_vipaint.diagnostics.draws import weighted_draws
from pyro_vipaint.errors import choice
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import MASKS, DiffusionModel, DiffusionPrior, GaussianPrior
from pyro_vipaint.models.exact.gaussian import GaussianDenoiser
from pyro_vipaint.models.measurements.operators import Matrix
from pyro_vipaint.models.measurements.problem import ON_0_1, check_values
from pyro_vipaint.models.priors.schedules import EDM
from pyro_vipaint.settings import BOTTOM, TOP, Settings, default_settings, restoration_settings

SHAPE = (1, 8, 8)
CPU = torch.device("cpu")
PLAIN = replace(GaussianPrior.diagonal(torch.zeros(SHAPE), torch.full(SHAPE, 0.5)).diffusion(), name="plain")
COLOUR = GaussianPrior.diagonal(torch.zeros(3, 8, 8), torch.ones(3, 8, 8)).diffusion()
LABELLED = replace(PLAIN, class_names=("dark", "bright"), name="labelled")
IMAGE = torch.linspace(-0.8, 0.8, 64).reshape(SHAPE)
MASK = (torch.arange(64).reshape(SHAPE) % 8 < 4).float()
PAIR = torch.stack([IMAGE, -IMAGE])


class Unchanged:
    """A codec that is not the identity by its class: of a latent prior."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z

    def image_shape(self, event_shape: Any) -> torch.Size:
        return torch.Size(event_shape)


def inpainting(image: Any = IMAGE, mask: Any = MASK, prior: Any = PLAIN, **named: Any) -> Any:
    """The problem of ``vp.inpaint``."""
    y, operator, loaded = masked(image, mask, prior, named.get("device", "cpu"))
    return checked(y, operator, loaded, **{"device": "cpu", **named})


def restoration(y: Any = None, operator: Any = None, **named: Any) -> Any:
    """The problem of ``vp.restore``; super-resolution by two if not given."""
    operator = vp.SuperResolution(2) if operator is None else operator
    return checked(vp.SuperResolution(2).A(PAIR[:1]) if y is None else y, operator, PLAIN, **named)


def settings(
    problem: Any = None,
    levels: Any = 2,
    samples: Any = 2,
    chosen: Any = None,
    preset: Any = "inference",
    **changes: Any,
) -> Settings:
    """The numbers of ``vp.inpaint``."""
    return checked_settings(problem or inpainting(), levels, samples, chosen, None, changes, preset)


# forms that mean the same

IMAGE_FORMS: dict[str, Callable[[Tensor], Any]] = {
    "a batch of one": lambda x: x.unsqueeze(0),
    "one channel without its dimension": lambda x: x[0],
    "an array with negative strides": lambda x: x.flip(-1).numpy()[..., ::-1],
    "double precision": lambda x: x.double(),
    "part of a graph": lambda x: x.clone().requires_grad_(),
}
MASK_FORMS: dict[str, Callable[[Tensor], Any]] = {
    "(H, W)": lambda m: m[0],
    "bool": lambda m: m.bool(),
    "an array of bool": lambda m: m[0].numpy().astype(bool),
    "nested lists": lambda m: m[0].int().tolist(),
}
LABEL_FORMS: dict[str, Any] = {
    "a number": 1,
    "array": np.array([1, 1]),
    "numpy number": np.int64(1),
    "list": [1, 1],
    "a name": "bright",
    "names in any case": ["Bright", "BRIGHT"],
    "a name and a number": ("bright", 1),
}


@pytest.mark.parametrize("form", IMAGE_FORMS.values(), ids=IMAGE_FORMS)
def test_forms_of_an_image(form: Callable[[Tensor], Any]) -> None:
    assert torch.equal(inpainting(form(IMAGE)).y, (IMAGE * MASK).unsqueeze(0))


@pytest.mark.parametrize("form", MASK_FORMS.values(), ids=MASK_FORMS)
def test_forms_of_a_mask(form: Callable[[Tensor], Any]) -> None:
    problem = inpainting(mask=form(MASK))
    assert torch.equal(problem.operator.mask, MASK.unsqueeze(0)) and torch.equal(problem.y[0], IMAGE * MASK)


@pytest.mark.parametrize("label", LABEL_FORMS.values(), ids=LABEL_FORMS)
def test_forms_of_a_label(label: Any) -> None:
    assert inpainting(PAIR, prior=LABELLED, label=label).condition["class_labels"].tolist() == [1, 1]


@pytest.mark.parametrize("form", [lambda y: y[0], lambda y: y[0].numpy(), lambda y: y.tolist(), lambda y: y.double()])
def test_forms_of_an_observation(form: Callable[[Tensor], Any]) -> None:
    y = vp.SuperResolution(2).A(PAIR[:1])
    assert torch.equal(restoration(form(y)).y, y)


def test_models_take_the_names_of_classes() -> None:
    """One for all images or one for each; an unknown name is refused with the list of names."""
    for names, numbers in (("bright", [1]), (["bright", "Dark"], [1, 0])):
        model = DiffusionModel(LABELLED, vp.Gaussian(vp.Inpainting(MASK)), (0.5,), class_labels=names)
        assert model.condition["class_labels"].tolist() == numbers
    with pytest.raises(vp.InputError, match=r"There is no class 'brigt': choose from dark, bright. The nearest is"):
        DiffusionModel(LABELLED, vp.Gaussian(vp.Inpainting(MASK)), (0.5,), class_labels=["dark", "brigt"])


@pytest.mark.parametrize(
    ("value", "nearest"), [("handbag", "Bag"), ("boot", "Ankle boot"), ("SANDALS", "Sandal"), ("sneeker", "Sneaker")]
)
def test_the_nearest_name_is_one_that_holds_the_other(value: str, nearest: str) -> None:
    names = ("T-shirt/top", "Sandal", "Sneaker", "Bag", "Ankle boot")
    with pytest.raises(vp.InputError, match=f"The nearest is {nearest}\\."):
        choice("class", value, names)


def test_a_warning_names_the_line_that_called_the_library() -> None:
    """Not a line of the library, whose depth a user does not know."""
    quick: dict[str, Any] = {"levels": 1, "num_samples": 1, "steps": 1, "refine_steps": 1, "device": "cpu"}
    everywhere, image = vp.Inpainting(torch.ones(1, 8, 8)), (IMAGE + 0.8) / 1.6
    for call in (
        lambda: vp.restore(image, everywhere, PLAIN, **quick),
        lambda: dps(PLAIN, vp.Gaussian(everywhere, 0.1), image[None], 1, 2),
    ):
        with pytest.warns(UserWarning) as caught:
            call()
        assert [Path(each.filename).name for each in caught] == [Path(__file__).name]


def test_colour_becomes_grey_when_told_so() -> None:
    """By the weights of BT.601, as Pillow does; grey on a prior in colour has three equal channels."""
    colour = torch.stack([IMAGE[0], -IMAGE[0], 0 * IMAGE[0]])
    y, *_ = masked(colour, MASK, PLAIN, "cpu", grey=True)
    torch.testing.assert_close(y[0, 0], (0.299 - 0.587) * IMAGE[0])
    for image in (IMAGE, IMAGE[0], IMAGE[None]):
        y, *_ = masked(image, MASK, COLOUR, "cpu", grey=True)
        assert torch.equal(y, IMAGE.expand(1, 3, 8, 8))


def test_images_and_masks_broadcast() -> None:
    """One mask for two images, two masks for one image, and one mask for all channels."""
    masks = torch.stack([MASK, 1 - MASK])
    assert torch.equal(inpainting(PAIR).y, PAIR * MASK)
    assert torch.equal(inpainting(IMAGE, masks).y, IMAGE * masks)
    assert torch.equal(inpainting(IMAGE.expand(3, -1, -1), MASK, COLOUR).y[0], (IMAGE * MASK).expand(3, -1, -1))


def test_hidden_values_are_zeroed_and_inputs_are_not_changed() -> None:
    spoilt = torch.where(MASK == 1, IMAGE, torch.nan)
    before = spoilt.clone(), MASK.clone()
    assert torch.equal(inpainting(spoilt).y, inpainting().y)
    assert torch.equal(restoration(spoilt, vp.Inpainting(MASK)).y, inpainting().y)
    torch.testing.assert_close(spoilt, before[0], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(MASK, before[1])


def test_counts_may_be_integers_of_any_size() -> None:
    y = torch.arange(64).reshape(1, *SHAPE) * 10
    assert torch.equal(counts(y).y, y.float()) and torch.equal(counts(y.float()).y, y.float())


def test_noise_extends_the_range_of_averages_only() -> None:
    """Six standard deviations of noise beyond 2; an operator in other units has no range."""
    far = torch.full((1, 1, 4, 4), 3.0)
    assert restoration(far, noise=0.4).y.max() == 3
    assert restoration(torch.full((1, 1, 8, 8), 300.0), Scaled(100.0)).y.max() == 300
    with pytest.raises(vp.InputError, match="state the noise"):
        restoration(far)


@dataclass(frozen=True)
class Scaled:
    """Images in other units."""

    factor: float

    def A(self, x: Tensor) -> Tensor:
        return self.factor * x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.factor * y


# what is refused


def spoilt(value: float, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Zeros whose first element, which the mask observes, is ``value``."""
    x = torch.zeros(shape)
    x.view(-1)[0] = value
    return x


def elsewhere() -> DiffusionPrior:
    """A prior on the meta device."""
    numbers = torch.ones(SHAPE, device="meta")
    return DiffusionPrior(EDM(), GaussianDenoiser(EDM(), numbers, numbers), SHAPE)


class Halved(Scaled):
    """Its adjoint is half of that of A."""

    def A_adjoint(self, y: Tensor) -> Tensor:
        return super().A_adjoint(y) / 2


class Detached(Scaled):
    """torch cannot differentiate its A."""

    def A(self, x: Tensor) -> Tensor:
        return super().A(x).detach()


def counts(y: Tensor) -> Any:
    """The problem of ``vp.restore`` with photon counts."""
    operator = vp.GaussianBlur(0.7)
    return restoration(y, operator, likelihood=vp.Poisson(operator, gain=50.0))


class NoAdjoint:
    def A(self, x: Tensor) -> Tensor:
        return x


def chosen(**changes: Any) -> Settings:
    return replace(default_settings(2, preset="pictures"), **changes)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    # images
    "image of another size": (lambda: inpainting(torch.zeros(1, 10, 12)), r"shape \(1, 10, 12\), .*resize"),
    "a number": (lambda: inpainting(torch.tensor(0.0)), r"image has shape \(\)"),
    "no images": (lambda: inpainting(torch.zeros(0, *SHAPE)), r"image has shape \(0, 1, 8, 8\)"),
    "bytes": (lambda: inpainting(np.full(SHAPE, 200, np.uint8)), "image holds torch.uint8, not floats"),
    "on [0, 255]": (lambda: inpainting(spoilt(200)), r"in \[-1, 1\].* range from 0 to 200"),
    "NaN": (lambda: inpainting(spoilt(float("nan"))), "must be finite: hide NaN"),
    "three channels": (lambda: inpainting(IMAGE.expand(3, -1, -1)), "grey=True turns colour grey"),
    "grey, a prior in colour": (lambda: inpainting(prior=COLOUR), "grey=True gives a grey picture equal channels"),
    "four channels": (lambda: inpainting(IMAGE.expand(4, -1, -1), prior=COLOUR), "give it 3 channels"),
    "channels last": (lambda: inpainting(IMAGE.movedim(0, -1)), "put its channels first"),
    "a file name": (lambda: inpainting("shoe.png"), "image must be a tensor or an array of numbers, not str"),
    # masks
    "mask of another size": (lambda: inpainting(mask=torch.eye(10)), r"mask has shape \(10, 10\), .*resize"),
    "no mask": (lambda: inpainting(mask=torch.ones(0, *SHAPE)), r"mask has shape \(0, 1, 8, 8\)"),
    "all observed": (lambda: inpainting(mask=torch.ones(8, 8)), "must hold 0 .*all 1, nothing is hidden"),
    "one of two hidden": (
        lambda: inpainting(mask=torch.stack([MASK, 0 * MASK])),
        "must hold 0 .*all 0, nothing is observed",
    ),
    "0 and 255": (lambda: inpainting(mask=255 * torch.eye(8)), "divide it by 255"),
    "soft beyond 1": (lambda: inpainting(mask=1.5 * torch.eye(8)), "set it to 0 where hidden and 1 where observed"),
    "a faint mask": (lambda: inpainting(mask=torch.full((8, 8), 1e-5)), "nothing is observed"),
    "a mask of three channels": (lambda: inpainting(mask=MASK.expand(3, -1, -1)), "one channel masks all"),
    "masks of two images": (lambda: inpainting(PAIR, MASK.expand(2, -1, -1)), r"one mask per image is mask\[:, None\]"),
    "two and three": (lambda: inpainting(PAIR, MASK.repeat(3, 1, 1, 1)), "2 observations and 3 masks"),
    # observations and operators
    "the size of the image": (lambda: restoration(PAIR), r"shape \(2, 1, 8, 8\), the operator makes \(1, 4, 4\)"),
    "NaN in other units": (lambda: restoration(spoilt(float("nan")), Scaled(9.0)), "must be finite: hide"),
    "no operator": (lambda: restoration(operator=MASK), "an object with A and A_adjoint, .*not Tensor"),
    "no adjoint": (lambda: restoration(operator=NoAdjoint()), "an object with A and A_adjoint, .*not NoAdjoint"),
    "a task": (lambda: restoration(operator="deblur"), "an object with A and A_adjoint, .*not 'deblur'"),
    "a class": (lambda: restoration(operator=vp.GaussianBlur), "not the class GaussianBlur"),
    "an operator of NumPy": (lambda: restoration(IMAGE, Detached(1.0)), "A has no gradient, compute it by torch"),
    "a wrong adjoint": (lambda: restoration(spoilt(0.1), Halved(1.0)), "A_adjoint must be the adjoint of A"),
    "a factor that does not divide": (lambda: restoration(operator=vp.SuperResolution(3)), "does not divide a side"),
    "an operator for vectors": (
        lambda: restoration(operator=Matrix(torch.ones(2, 5))),
        r"operator cannot take images of shape \(1, 8, 8\)",
    ),
    "three and two": (
        lambda: restoration(torch.zeros(3, *SHAPE), vp.Inpainting(torch.stack([MASK, 1 - MASK]))),
        "3 observations and 2 masks",
    ),
    "another operator's likelihood": (
        lambda: restoration(spoilt(9.0), Scaled(1.0), likelihood=vp.Poisson(Scaled(1.0), 9.0)),
        "one of the given operator",
    ),
    "noise twice": (lambda: restoration(likelihood=vp.Poisson(Scaled(1.0), 9.0), noise=0.1), "states the noise"),
    "images as counts": (lambda: counts(PAIR), "must be counts, whole numbers of at least 0, they range from -0.8"),
    "negative noise": (lambda: restoration(noise=-0.1), "noise must be finite and not negative"),
    "an operator that sees nothing": (
        lambda: settings(restoration(torch.zeros(1, *SHAPE), Scaled(0.0))),
        "maps every image to zero",
    ),
    "a perceptual term for a small picture": (
        lambda: settings(restoration(), chosen=replace(restoration_settings(2), perceptual_weight=1.0)),
        r"LPIPS cannot take observations of shape \(1, 4, 4\)",
    ),
    # conditions
    "no such class": (lambda: inpainting(prior=LABELLED, label=2), "whole number from 0 to 1, .*not 2"),
    "a negative class": (lambda: inpainting(prior=LABELLED, label=-1), "not -1"),
    "three labels for one": (lambda: inpainting(prior=LABELLED, label=[1, 1, 1]), "for each of 1 images"),
    "a matrix of labels": (lambda: inpainting(prior=LABELLED, label=[[1]]), r"not \[\[1\]\]"),
    "a fraction of a class": (lambda: inpainting(prior=LABELLED, label=1.0), "whole number"),
    "a truth value": (lambda: inpainting(prior=LABELLED, label=True), "whole number"),
    "no classes": (lambda: inpainting(label=0), "plain has no classes"),
    "no text": (lambda: inpainting(prompt="a cat"), "plain takes no text"),
    "negative guidance": (lambda: inpainting(guidance_scale=-0.1), "guidance-scale must be finite and not negative"),
    "guidance by nothing": (lambda: inpainting(guidance_scale=3), "nothing to guide by"),
    "no null": (lambda: inpainting(prior=LABELLED, label=0, guidance_scale=3), "no null condition"),
    # priors, devices, truths
    "no such prior": (lambda: inpainting(prior="no-such-prior"), "Unknown prior 'no-such-prior': use one of .*cats64"),
    "a network": (lambda: inpainting(prior=torch.nn.Identity()), "not Identity; see from_diffusers"),
    "vectors": (
        lambda: inpainting(prior=GaussianPrior.diagonal(torch.zeros(16), torch.ones(16))),
        r"not GaussianPrior of events \(16,\)",
    ),
    "another device": (lambda: inpainting(prior=elsewhere()), "prior lies on meta, not on cpu"),
    "no such device": (lambda: resolve_device("abacus"), "Device 'abacus' is not available"),
    "a device without numbers": (lambda: resolve_device("meta"), "Device 'meta' is not available"),
    "another truth": (lambda: check_truth(PAIR, (1, 8, 9)), r"true image has shape \(1, 8, 8\), the images"),
    # numbers
    "no samples": (lambda: settings(samples=0), "samples must be at least 1, not 0"),
    "2.0 samples": (lambda: settings(samples=2.0), "samples must be a whole number, not 2.0"),
    "no levels": (lambda: settings(levels=0), "levels must be at least 1, not 0"),
    "too many levels": (lambda: settings(levels=101), "levels must be at most 100, not 101"),
    "no steps": (lambda: settings(steps=0), "steps must be at least 1"),
    "no refinement": (lambda: settings(refine_steps=0), "refine-steps must be at least 1"),
    "no particles": (lambda: settings(chosen=chosen(num_particles=0)), "num-particles must be at least 1"),
    "beta": (lambda: settings(beta=0.0), "beta must be positive and finite, not 0"),
    "zeta": (lambda: settings(zeta=-1.0), "zeta must be finite and not negative, not -1"),
    "scale": (lambda: settings(chosen=chosen(scale=0.0)), "scale must be positive"),
    "tau": (lambda: settings(chosen=chosen(tau_scale=0.0)), "tau-scale must be positive"),
    "polyak": (lambda: settings(chosen=chosen(polyak=0.0)), "polyak must be positive"),
    "gamma": (lambda: settings(chosen=chosen(gamma_logit=float("nan"))), "gamma-logit must be finite"),
    "decay of the rate": (lambda: settings(chosen=chosen(lr_decay=0.0)), "lr-decay must be positive"),
    "a rate": (lambda: settings(chosen=chosen(lr={"mu": -0.1})), "lr must be finite and not negative"),
    "a share for an average": (lambda: settings(chosen=chosen(average=0.5)), "average must be a whole number"),
    "too long an average": (lambda: settings(chosen=chosen(average=31)), "average must be at most 30, not 31"),
    "decay of zeta": (lambda: settings(chosen=chosen(zeta_decay=-0.1)), "zeta-decay must be finite and not negative"),
    "a perceptual term": (lambda: settings(chosen=chosen(perceptual_weight=1.0)), "LPIPS cannot take"),
    "noise of nothing": (lambda: settings(chosen=chosen(sigma=0.0)), "sigma must be positive"),
    "a second order of DPS": (lambda: settings(chosen=chosen(order=2)), "order must be at most 1, not 2"),
    "the class of a twist": (lambda: settings(chosen=chosen(twist=Wiener)), "twist must be a Correction"),
    "the name of a correction": (lambda: settings(chosen=chosen(correction="MMPS")), "correction must be a Correction"),
    "a third order": (lambda: settings(chosen=chosen(order=3, correction=PiGDM())), "order must be at most 2, not 3"),
    "no covariance": (
        lambda: settings(chosen=chosen(correction=ByLevel(PiGDM(), Wiener(), 1.0))),
        "Wiener needs a covariance",
    ),
    "settings of pixels": (
        lambda: settings(inpainting(prior=replace(PLAIN, codec=Unchanged())), chosen=default_settings(2)),
        r"plain is one of latents: take default_settings\(levels, latent=True\)",
    ),
    "an empty dictionary as settings": (lambda: settings(chosen={}), "settings must be Settings such as"),
    "no such preset": (lambda: settings(preset="picture"), "no preset 'picture': .*The nearest is pictures"),
    "no such preset, settings given": (lambda: settings(preset=2, chosen=chosen()), "no preset 2"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line_without_a_network_call(call: Callable[[], Any], message: str) -> None:
    with vp.count_calls() as count, pytest.raises(vp.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert count.calls == 0


# below the facade

KEYPOINTS = vp.keypoints(PLAIN, noise_levels=[2.0, 0.5])
LIKELIHOOD = vp.Gaussian(vp.Inpainting(MASK), sigma=0.1)
Y = PAIR * MASK
LABELS = torch.tensor([0, 1])
NAMED = replace(
    GaussianPrior.diagonal(torch.zeros(SHAPE), torch.full(SHAPE, 0.5)),
    name="named", class_names=("dark", "bright"), conditions=("class_labels",),
)  # fmt: skip


def model(likelihood: Any = LIKELIHOOD, prior: Any = NAMED, **condition: Any) -> DiffusionModel:
    return DiffusionModel(prior, likelihood, KEYPOINTS, **condition)


MODEL = model()
GUIDE = HierarchicalGuide(MODEL, Y)
DOORS: dict[str, Callable[[Any], Any]] = {
    "fit": lambda y: vp.fit(MODEL, GUIDE, y, vp.BetaELBO(), 1),
    "compare": lambda y: vp.compare(
        MODEL, {"h": lambda m: HierarchicalGuide(m, Y)}, {"b": vp.BetaELBO()}, y, steps=1, num_draws=2
    ),
    "weights": lambda y: weighted_draws(MODEL, GUIDE, y, 2),
    "start": lambda y: vp.initial_latent(PLAIN, LIKELIHOOD, y),
    "refine": lambda y: vp.refine(MODEL, torch.zeros(1, 2, *SHAPE), y, 1),
    "baseline": lambda y: dps(PLAIN, LIKELIHOOD, y, 1, 2),
    "model": MODEL,  # the last two read no values
    "sample": lambda y: vp.sample(GUIDE, y, 1),
}
BAD_TYPES: dict[str, tuple[Any, str]] = {
    "bytes": (Y.to(torch.uint8), r"y holds torch.uint8, .*bytes: y / 127.5 - 1"),
    "half precision": (Y.half(), "y holds torch.float16"),
    "truth values": (Y > 0, "y holds torch.bool"),
    "complex": (Y + 0j, "y holds torch.complex64"),
    "an array": (Y.numpy(), "must be a tensor .*not ndarray"),
    "no images": (Y[:0], r"at least one image, not one of shape \(0, 1, 8, 8\)"),
}
BAD_VALUES: dict[str, tuple[Any, str]] = {
    "another shape": (Y[:, 0], r"y has shape \(2, 8, 8\), not"),
    "on [0, 255]": ((Y + 1) * 127.5, r"in \[-1, 1\] up to noise, they range from"),
    "NaN": (torch.where(Y > 0.3, torch.nan, Y), "must be finite: hide NaN"),
    "infinite": (torch.where(Y > 0.3, -torch.inf, Y), "must be finite: hide NaN"),
    "elsewhere": (Y.to("meta"), "y lies on meta, the prior on cpu"),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_what_is_no_observation(door: str) -> None:
    """In one line, before a network call: by the one check of ``models/measurements/problem.py``."""
    for y, message in (BAD_TYPES | ({} if door in ("model", "sample") else BAD_VALUES)).values():
        with vp.count_calls() as count, pytest.raises(vp.InputError, match=message) as caught:
            DOORS[door](y)
        assert count.calls == 0 and "\n" not in str(caught.value)
    DOORS[door](Y)
    DOORS[door](torch.where(MASK == 1, Y, torch.nan).double())


def masks(count: int) -> vp.Gaussian:
    return vp.Gaussian(vp.Inpainting(MASK.repeat(count, 1, 1, 1)), sigma=0.1)


def of(family: Any) -> Callable[[Tensor], Any]:
    """A likelihood that is a plain function."""
    return lambda x: family(x, 1.0)


REFUSED_BELOW: dict[str, tuple[Callable[[], Any], str]] = {
    # conditions
    "no such class": (lambda: model(class_labels=torch.tensor([0, 2])), "from 0 to 1, .*not \\[0, 2\\]"),
    "a label that is no tensor": (lambda: model(class_labels=1), "class_labels must be a tensor .*not 1"),
    "a fraction of a class": (lambda: model(class_labels=torch.ones(2)), "must be a whole number"),
    "another name": (lambda: model(labels=LABELS), "no condition .*'labels': choose from class_labels, guidance_scale"),
    "labels elsewhere": (lambda: model(class_labels=LABELS.to("meta")), "class_labels lies on meta, the images on cpu"),
    "guidance that is no number": (lambda: model(guidance_scale=float("nan")), "guidance_scale must be finite"),
    "a network call": (lambda: NAMED.denoise(Y, 0.5, class_labels=LABELS + 1), "from 0 to 1"),
    "a condition of a baseline": (lambda: dps(NAMED, LIKELIHOOD, Y, 1, 2, class_labels=LABELS + 1), "from 0 to 1"),
    "three labels for two": (
        lambda: model(class_labels=torch.tensor([0, 1, 0]))(Y),
        "2 images and conditions or masks for 3 do not go together",
    ),
    # numbers of images
    "three masks for two": (lambda: model(masks(3))(num_images=2), "2 images and conditions or masks for 3"),
    "three masks in a baseline": (lambda: dps(PLAIN, masks(3), Y, 1, 2), "2 images and masks or filters for 3"),
    "no samples": (lambda: dps(PLAIN, LIKELIHOOD, Y, 0, 2), "num_samples must be at least 1"),
    "half a sample": (lambda: dps(PLAIN, LIKELIHOOD, Y, 0.5, 2), "num_samples must be a whole number"),  # type: ignore[arg-type]
    "half a step": (lambda: dps(PLAIN, LIKELIHOOD, Y, 1, 2.5), "steps must be a whole number"),  # type: ignore[arg-type]
    # likelihoods
    "an operator as a likelihood": (
        lambda: model(vp.Inpainting(MASK)),
        "a function of images .*not Inpainting",
    ),
    "a class as a likelihood": (lambda: model(vp.Gaussian), "not the class Gaussian"),
    "no distribution": (lambda: model(lambda x: x), "must return a distribution of Pyro .*not Tensor"),
    "a distribution of torch": (
        lambda: model(of(torch.distributions.Normal)),
        "a distribution of Pyro .*, not the Normal of torch: import it from pyro.distributions",
    ),
    "images of another size": (lambda: model(vp.Gaussian(vp.Inpainting(torch.ones(1, 4, 4)))), "cannot take images"),
    "a map of another size": (lambda: model(replace(LIKELIHOOD, sigma=torch.ones(1, 4, 4))), "cannot take images"),
    "a function refined": (
        lambda: vp.refine(model(of(Normal)), torch.zeros(1, 2, *SHAPE), Y, 1),
        "a likelihood with operator, residual, .*function has no operator",
    ),
    "a function in a baseline": (lambda: dps(PLAIN, of(Normal), Y, 1, 2), "a likelihood with operator, residual"),
    "the class of an operator": (lambda: vp.Gaussian(vp.Inpainting), "not the class Inpainting"),  # type: ignore[arg-type]
    "a map of NumPy": (
        lambda: vp.Gaussian(vp.Inpainting(MASK), MASK.numpy()),  # type: ignore[arg-type]
        "sigma must be a number or a tensor, not ndarray",
    ),
    "a map of zeros": (lambda: vp.Gaussian(vp.Inpainting(MASK), torch.zeros(1, 8, 8)), "map of sigma must hold"),
    "no photons": (lambda: vp.Poisson(vp.Inpainting(MASK), gain=0.0), "gain must be positive"),
    # masks
    **{
        name: (partial(vp.Inpainting, mask), message)  # type: ignore[arg-type]
        for name, mask, message in (
            ("a mask of 255", 255 * MASK, "divide it by 255"),
            ("a soft mask", 0.5 * MASK, "state the noise of each pixel"),
            ("a negative mask", -MASK, "set it to 0 where hidden"),
            ("a mask of NaN", MASK * torch.nan, "set it to 0 where hidden"),
            ("a mask that is no tensor", MASK.numpy(), "must be a tensor of 0 .*not ndarray"),
        )
    },
}


@pytest.mark.parametrize(("call", "message"), REFUSED_BELOW.values(), ids=REFUSED_BELOW)
def test_refused_below_the_facade_too(call: Callable[[], Any], message: str) -> None:
    test_refused_in_one_line_without_a_network_call(call, message)


def test_what_is_refused_nowhere() -> None:
    """A likelihood may be a function; several masks describe as many images; a prior may not state its conditions."""
    assert model(of(Normal))(Y).shape == Y.shape
    assert model(masks(3))().shape == (3, *SHAPE)
    assert model(prior=replace(NAMED, conditions=None), colour="red")(Y).shape == Y.shape
    assert model(class_labels=LABELS[:1])(Y).shape == Y.shape


def test_observations_with_a_history_are_read_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model().check(Y.clone().requires_grad_())


# images on [0, 1]


def warned(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(each.message) for each in caught if "[0, 1]" in str(each.message)]


def test_images_on_0_1_are_warned_about_once() -> None:
    """By the facade, whose fit and refinement see the same observations, and below it; by each call anew.

    Also where nobody keeps a register: a first call imports parts of PyTorch whose filters empty that of Python.
    """
    image = (IMAGE + 0.8) / 1.6
    quick: dict[str, Any] = {"levels": 1, "num_samples": 1, "steps": 1, "refine_steps": 1, "device": "cpu"}
    everywhere = vp.Inpainting(torch.ones(1, 8, 8))
    assert warned(lambda: vp.restore(2 * image - 1, everywhere, PLAIN, **quick)) == []
    assert warned(lambda: vp.restore(image, everywhere, PLAIN, **quick)) == [ON_0_1]
    assert warned(lambda: dps(PLAIN, vp.Gaussian(everywhere, 0.1), image[None], 1, 2)) == [ON_0_1]


@pytest.mark.parametrize("name", ["fashion32", "cats64", "faces32"])
def test_shipped_pictures_are_not_warned_about(name: str) -> None:
    """Under any mask of the paper, nor blurred; on [0, 1] most of them are."""
    images = held_out_images()[0] if name == "fashion32" else draw_held_out(name, 16)[0]
    size, found, alarms = images.shape[-1], 0, 0
    operators = [vp.Inpainting(make(size, 16, seed=1)) for make in MASKS.values()]
    operators += [vp.Inpainting(torch.ones(16, 1, size, size)), vp.GaussianBlur(1.0), vp.SuperResolution(2)]
    for n, operator in product(range(len(images)), operators):
        mask = getattr(operator, "mask", None)
        likelihood = vp.Gaussian(operator if mask is None else vp.Inpainting(mask[n % 16]), 0.1)
        y, unsigned = (likelihood.operator.A(x[None]) for x in (images[n], (images[n] + 1) / 2))
        alarms += len(warned(partial(check_values, likelihood, y, None, 2.0)))
        found += len(warned(partial(check_values, likelihood, unsigned, None, 2.0)))
    assert alarms == 0 and found > 0.5 * len(images) * len(operators)


RUNS: dict[str, Callable[[], Any]] = {
    "image": lambda: vp.inpaint(spoilt(200), MASK, PLAIN),
    "keypoints out of order": lambda: vp.inpaint(IMAGE, MASK, PLAIN, settings=Settings((1.0, 5.0))),
    "keypoints off the schedule": lambda: vp.inpaint(IMAGE, MASK, PLAIN, settings=Settings((1e9, 1.0))),
    "fraction of a seed": lambda: vp.inpaint(IMAGE, MASK, PLAIN, seed=1.5),  # type: ignore[arg-type]
    "restored": lambda: vp.restore(PAIR, vp.SuperResolution(2), PLAIN),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_facades_refuse_before_a_network_call(run: Callable[[], Any]) -> None:
    with vp.count_calls() as count, pytest.raises(vp.InputError):
        run()
    assert count.calls == 0


BAD_KEYPOINTS: list[tuple[dict[str, Any], str]] = [
    ({"start": 0.4, "stop": 0.4}, "must decrease"),
    ({"start": 1.2}, r"lie in \(0, 1\], not 1.2"),
    ({"start": float("nan")}, "start must be finite"),
    ({"levels": 0}, "levels must be at least 1"),
    ({"noise_levels": []}, "not none"),
    ({"noise_levels": [0.6, 5.0]}, "must decrease"),
    ({"noise_levels": [5.0, float("nan")]}, "noise level must be finite"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_KEYPOINTS)
def test_bad_keypoints(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(vp.InputError, match=message):
        vp.keypoints(PLAIN, **arguments)


# errors of other libraries, devices


def test_errors_of_other_libraries_become_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("size mismatch\n\tfor conv_in.weight: " + 300 * "x")

    monkeypatch.setattr("pyro_vipaint.checks.load_prior", fail)
    with pytest.raises(vp.InputError, match="'any' cannot be loaded: size mismatch for conv_in") as caught:
        check_prior("any", CPU)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_auto_is_the_device_of_a_loaded_prior() -> None:
    assert restoration().y.device == device_of(PLAIN) == CPU
    assert resolve_device("cpu") == resolve_device(CPU) == CPU
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}
    assert device_of(torch.nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(torch.nn.Identity()) is None and device_of(EDM()) is None


@pytest.mark.parametrize(
    ("latent", "preset", "start", "stop"),
    [(False, "pictures", 3.0, 0.9), (True, "pictures", 12.0, 3.0), (True, "inference", 24.0, 8.0)],
)
def test_default_noise_levels_fall_geometrically_to_the_last(
    latent: bool, preset: str, start: float, stop: float
) -> None:
    assert default_settings(1, latent, preset).noise_levels == (stop,)
    levels = torch.tensor(default_settings(5, latent, preset).noise_levels)
    torch.testing.assert_close(levels, torch.logspace(math.log10(start), math.log10(stop), 5))


def test_the_levels_of_inference_begin_at_t_1() -> None:
    """One of K is t = 1, the other noise levels fall geometrically."""
    numbers = default_settings(5)
    torch.testing.assert_close(
        torch.tensor(numbers.noise_levels), torch.logspace(math.log10(TOP), math.log10(BOTTOM), 4)
    )
    wide = replace(PLAIN, schedule=EDM(sigma_max=1e3))
    for levels in (1, 2, 3, 5):
        numbers = default_settings(levels)
        assert numbers.levels == levels == len(numbers.keypoints(wide)) and numbers.keypoints(wide)[0] == 1
