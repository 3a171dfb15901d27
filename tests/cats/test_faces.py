"""``faces32``: its parts are DiceBear's, every face shows its parts, and prior and classifier know them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_vipaint.cats.classifier import load_classifier, part_probabilities
from pyro_vipaint.cats.parts import class_labels, draw_held_out, draw_parts, is_held_out, load_layers
from pyro_vipaint.cats.posterior import parts_posterior
from pyro_vipaint.demo import DEMO_FACES, demo_problem
from pyro_vipaint.models import load_prior
from pyro_vipaint.models.priors.schedules import time_of
from recipes.cats64.classifier import blurred, labels_of
from recipes.faces32 import card, evaluate, parts, train
from recipes.faces32.classifier import CLASSIFIER, LARGEST_BLUR
from tests.statistics import assert_within

LAYERS = load_layers(parts.TARGET)


def test_the_parts_are_those_of_the_recipe() -> None:
    slots = parts.slots()
    assert list(LAYERS.parts) == list(slots)
    assert LAYERS.sizes == tuple(map(len, slots.values())) == tuple(LAYERS.num_classes.values())
    assert math.prod(LAYERS.sizes) == card.faces() == 552_960
    assert all(part.shape[1:] == (4, 32, 32) for part in LAYERS.parts.values())


@pytest.mark.slow
def test_faces_equal_the_renderers() -> None:
    """Parts to the byte; composed of them, a face is within one of 255 steps of the one that is rendered whole."""
    for module in ("dicebear", "dicebear_styles", "resvg_py"):
        pytest.importorskip(module)
    definition = parts.style_definition()
    for slot, rendered in parts.render_parts(definition).items():
        assert torch.equal(rendered, (LAYERS.parts[slot] * 255).round().byte()), slot
    assert parts.largest_difference(LAYERS, definition, num=40, seed=3) <= 1


def test_faces_that_differ_in_one_part_differ_by_much() -> None:
    """A squared distance of 8 or more, under any of 40 choices of the other parts: 1600 nats at a noise of .05."""
    others = LAYERS.draw(40, torch.Generator().manual_seed(0))
    for slot, size in enumerate(LAYERS.sizes):
        faces = []
        for number in range(size):
            index = others.clone()
            index[:, slot] = number
            faces.append(LAYERS.compose(index).flatten(1))
        for a, b in itertools.combinations(faces, 2):
            assert (a - b).square().sum(1).min() > 8


def test_training_draws_are_uniform_and_never_held_out() -> None:
    torch.manual_seed(0)
    num = 40_000
    index = train.draw_training_parts(LAYERS, num)
    assert index.shape == (num, 6) and not is_held_out(index).any()
    for slot, size in enumerate(LAYERS.sizes):
        shares = index[:, slot].bincount(minlength=size) / num
        assert_within(shares, 1 / size, math.sqrt((1 - 1 / size) / size / num), slack=1e-3)  # held-out ones shift a bit


def test_labels_are_styles_of_hair() -> None:
    names = [part.name for part in parts.slots()["hair"]]
    index = torch.zeros(len(names), 6, dtype=torch.long)
    index[:, -1] = torch.arange(len(names))
    styles = list(parts.HAIR_STYLES)
    for name, label in zip(names, parts.labels_of(index).tolist(), strict=True):
        assert name.endswith(f" {styles[label]}")


def test_the_rate_is_constant_and_then_falls_to_zero() -> None:
    clock = train.Clock(learning_rate=2.0, warm_up=10, constant=0.5)
    assert [clock.rate(4, 0.0), clock.rate(99, 0.0), clock.rate(99, 0.5)] == pytest.approx([1.0, 2.0, 2.0])
    assert [clock.rate(99, 0.75), clock.rate(99, 1.0), clock.rate(99, 1.1)] == pytest.approx([1.0, 0.0, 0.0])


def test_a_training_by_the_clock_goes_on(tmp_path: Path) -> None:
    """The seconds before are counted in; weights, average and Adam's state are those of the checkpoint."""

    def trained(seconds: float) -> tuple[train.Trainer, int]:
        torch.manual_seed(0)

        def batch_loss(forward: Callable[..., Any]) -> Tensor:
            return (forward(torch.randn(4, 3)) - 1).square().mean()

        trainer = train.Trainer(nn.Linear(3, 2), batch_loss, "cpu", compiled=False)
        return trainer, train.train(trainer, tmp_path, seconds, train.Clock(warm_up=1))

    first, steps = trained(0.2)
    before = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert steps == before["step"] > 0 and before["seconds"] >= 0.2
    again, same = trained(0.1)
    assert same == steps and torch.equal(again.average.state_dict()["weight"], first.average.state_dict()["weight"])
    assert trained(before["seconds"] + 0.2)[1] > steps


@torch.inference_mode()
def test_the_prior_is_near_the_exact_posterior_mean() -> None:
    """At a noise of 2, where parts are undecided, and at .2, where the face is known; with the label and without."""
    prior, generator = load_prior(parts.TARGET.parent), torch.Generator().manual_seed(0)
    assert prior.class_names == tuple(parts.HAIR_STYLES) and prior.event_shape == (3, 32, 32)
    index = draw_parts(LAYERS, 4, held_out=True, generator=generator)
    x, labels = LAYERS.compose(index), parts.labels_of(index)
    for sigma, bound in ((2.0, 2e-3), (0.2, 1e-4)):
        y = x + sigma * torch.randn(x.shape, generator=generator)
        mean, _ = evaluate.posterior_moments(LAYERS, y, sigma, labels)
        for condition in ({"class_labels": labels}, {}):
            denoised = prior.denoise(y, time_of(prior.schedule, sigma), **condition)
            assert (denoised - mean).square().mean() < bound, (sigma, condition)


def test_the_classifier_reads_held_out_faces() -> None:
    """As they are and blurred; and the exact posterior of a whole face is sure of every part."""
    network = load_classifier(CLASSIFIER)
    index = draw_parts(LAYERS, 100, held_out=True, generator=torch.Generator().manual_seed(7))
    x, labels = LAYERS.compose(index), labels_of(LAYERS, index)
    for images in (x, blurred(x, LARGEST_BLUR)):
        for slot, probabilities in part_probabilities(network, images).items():
            assert (probabilities.argmax(-1) == labels[slot]).double().mean() >= 0.99, slot
    posterior = parts_posterior(LAYERS, x[:2], torch.ones_like(x[:2, :1]), 0.05)
    assert posterior.log_probs.flatten(1).exp().max(1).values.min() > 0.999
    assert torch.equal(evaluate.nearest_parts(LAYERS, x[:2]), index[:2])


def test_the_card_is_that_of_the_measured_weights() -> None:
    folder = parts.TARGET.parent
    measured = json.loads((folder / "evaluation.json").read_text())
    assert measured["prior"] == evaluate.describe(folder)
    assert (folder / "README.md").read_text() == card.card(measured)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 10_000_000


def test_the_library_labels_faces_as_the_recipe_does() -> None:
    index = draw_parts(LAYERS, 200, held_out=False)
    labels = class_labels("faces32", index)
    assert labels is not None and torch.equal(labels, parts.labels_of(index))
    assert class_labels("cats64", index) is None


def test_the_demonstration_shows_held_out_faces() -> None:
    images, masks, labels = demo_problem("faces32")
    index = torch.tensor(DEMO_FACES)
    assert is_held_out(index).all() and torch.equal(images, LAYERS.compose(index))
    assert masks.shape == (4, 1, 32, 32) and torch.equal(labels, parts.labels_of(index))
    drawn, classes = draw_held_out("faces32", 3)
    assert drawn.shape == (3, 3, 32, 32) and classes is not None and classes.shape == (3,)
