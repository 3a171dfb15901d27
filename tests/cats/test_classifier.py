"""The classifier of parts: its file, its shapes, its draws, and that the shipped one reads cats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pyro_vipaint.cats.classifier import (
    PartsClassifier,
    draw_labels,
    load_classifier,
    part_probabilities,
    shipped_classifier,
)
from pyro_vipaint.cats.parts import draw_parts, shipped_layers
from pyro_vipaint.diagnostics import is_shown, parts_posterior
from pyro_vipaint.errors import InputError
from pyro_vipaint.models import load_prior
from recipes.cats64.classifier import LARGEST_BLUR, blurred, labels_of, save_classifier, through_autoencoder
from tests.statistics import assert_within

SLOTS = {"body": 3, "mouth": 2}


@pytest.mark.parametrize("size", [32, 64])
def test_a_file_comes_back_in_half_precision(size: int, tmp_path: Path) -> None:
    network = PartsClassifier(SLOTS, size)
    save_classifier(network, tmp_path / "classifier.safetensors")
    loaded = load_classifier(tmp_path / "classifier.safetensors")
    assert loaded.num_classes == SLOTS and not any(p.requires_grad for p in loaded.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float()), name


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "no_slots")
    save_file({"weight": torch.zeros(1)}, tmp_path / "no_network", {"slots": "body=3"})
    weights = PartsClassifier(SLOTS).state_dict()
    save_file(weights, tmp_path / "huge", {"slots": "body=1000000000000"})
    save_file(weights, tmp_path / "negative", {"slots": f"body={sum(SLOTS.values()) + 1} hat=-1"})
    save_file({name: value / 0 for name, value in weights.items()}, tmp_path / "infinite", {"slots": "body=3"})
    for name in ("missing", "no_slots", "no_network", "huge", "negative", "infinite"):
        with pytest.raises(InputError, match=r"classifier|does not exist|safetensors file|NaN or infinite"):
            load_classifier(tmp_path / name)


def test_leading_dimensions_equal_a_loop() -> None:
    """No image sees its neighbours, whatever the batches."""
    network, images = PartsClassifier(SLOTS), torch.rand(2, 3, 3, 64, 64) * 2 - 1
    together = part_probabilities(network, images)
    for slot, size in SLOTS.items():
        assert together[slot].shape == (2, 3, size)
        torch.testing.assert_close(together[slot].sum(-1), torch.ones(2, 3))
        torch.testing.assert_close(part_probabilities(network, images[1, 2])[slot], together[slot][1, 2])


def test_drawn_labels_have_their_probabilities() -> None:
    num, probs = 20_000, torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7]])
    labels = draw_labels({"body": probs.expand(num, 2, 3)}, torch.Generator().manual_seed(0))["body"]
    found = torch.stack([(labels == c).float().mean(0) for c in range(3)], -1)
    assert_within(found, probs, (probs * (1 - probs) / num).sqrt(), slack=1e-9)


@pytest.mark.parametrize("damage", ["none", "blur", pytest.param("autoencoder", marks=pytest.mark.slow)])
def test_the_shipped_network_reads_held_out_cats(damage: str) -> None:
    """Every head is right on at least 97 of 100; of a mouth that an accessory covers, no class is likely.

    The exact posterior of such a picture is uniform over mouths, too.
    """
    layers, network = shipped_layers(), shipped_classifier()
    index = draw_parts(layers, 100, held_out=True, generator=torch.Generator().manual_seed(7))
    images, labels = layers.compose(index), labels_of(layers, index)
    covered = (index[:, 4] == 0) | (index[:, 4] == 7)
    one = covered.nonzero()[:1, 0]
    posterior = parts_posterior(layers, images[one], torch.ones(1, 1, 64, 64), 0.05)
    assert not is_shown(posterior.marginals)["mouth"].any()
    if damage != "none":
        images = (
            blurred(images, LARGEST_BLUR) if damage == "blur" else through_autoencoder(load_prior("cats64"), images)
        )
    for slot, probs in part_probabilities(network, images).items():
        right = probs.argmax(-1) == labels[slot]
        assert right[~covered if slot == "mouth" else slice(None)].double().mean() >= 0.97, slot
        if slot == "mouth":
            assert probs[covered].max() < 0.5
