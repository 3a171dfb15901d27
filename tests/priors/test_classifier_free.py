"""Classifier-free guidance: the formula, one call for both terms, and the same weight in both phases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.errors import InputError
from pyro_vipaint.models import DiffusionModel, DiffusionPrior
from pyro_vipaint.models.priors.classifier_free import GuidedNetwork, is_guided
from pyro_vipaint.models.priors.denoisers import (
    SampleDenoiser,
)
from pyro_vipaint.models.priors.schedules import LinearVP
from pyro_vipaint.restoration import inpaint

EVENT = (1, 4, 4)
MEANS = torch.tensor([-0.6, 0.1, 0.8])  # of the classes; the last one is "no label"
NULL = {"class_labels": torch.tensor(2)}
WEIGHT = 2.5
LABELS = torch.tensor([0, 1])


@dataclass
class ClassMeans:
    """Predicts tanh(z) plus the mean of the class and records the sizes of its batches."""

    batches: list[int] = field(default_factory=list)

    def __call__(self, z: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        self.batches.append(len(z))
        return z.tanh() + (MEANS.to(z)[class_labels] * (1 + timestep)).reshape(-1, 1, 1, 1)


def guided_prior(network: ClassMeans, null: dict[str, Tensor] = NULL) -> DiffusionPrior:
    """The class means as a prior on 4×4 pixels."""
    required = {"class_labels": "give a label"}
    denoiser = SampleDenoiser(GuidedNetwork(network, null, required), LinearVP())
    return DiffusionPrior(
        denoiser.schedule, denoiser, EVENT, class_names=("low", "middle"), name="means", guided_by=tuple(null)
    )


def test_the_formula_in_one_call() -> None:
    """null + w (cond - null), each image by its own label and time, in one network call on the doubled batch."""
    network, plain = ClassMeans(), ClassMeans()
    z, t = torch.randn(2, *EVENT), torch.tensor([0.2, 0.9])
    ours = GuidedNetwork(network, NULL)(z, t, class_labels=LABELS, guidance_scale=WEIGHT)
    null, condition = plain(z, t, torch.tensor([2, 2])), plain(z, t, LABELS)
    torch.testing.assert_close(ours, null + WEIGHT * (condition - null))
    assert network.batches == [4]


@pytest.mark.parametrize(
    ("condition", "labels"),
    [
        ({"class_labels": LABELS}, LABELS),
        ({"class_labels": LABELS, "guidance_scale": 1.0}, LABELS),
        ({"guidance_scale": WEIGHT}, torch.tensor([2, 2])),
        ({"class_labels": None, "guidance_scale": WEIGHT}, torch.tensor([2, 2])),
        ({}, torch.tensor([2, 2])),
    ],
    ids=["no_weight", "weight_one", "no_condition", "condition_none", "nothing"],
)
def test_no_doubling_where_nothing_is_weighed(condition: dict[str, Any], labels: Tensor) -> None:
    """Without a weight, with weight 1, or without a condition, the network sees its batch once."""
    network, z, t = ClassMeans(), torch.randn(2, *EVENT), torch.tensor([0.2, 0.9])
    ours = GuidedNetwork(network, NULL)(z, t, **condition)
    assert network.batches == [2] and not is_guided(condition)
    torch.testing.assert_close(ours, ClassMeans()(z, t, labels))


def test_both_phases_are_guided() -> None:
    """With a weight, inpaint makes as many calls as without, each on twice the images, and counts them."""
    network, image = ClassMeans(), torch.zeros(2, *EVENT)
    mask = torch.ones(4, 4)
    mask[:, :2] = 0
    results, nfe = [], []
    for weight in (None, WEIGHT):
        network.batches.clear()
        result = inpaint(
            image, mask, guided_prior(network), 2, 3, label=LABELS, guidance_scale=weight, steps=3, refine_steps=3,
            seed=0,
        )  # fmt: skip
        assert (result.calls, result.nfe) == (len(network.batches), sum(network.batches))
        results.append(result)
        nfe.append(list(network.batches))
    assert nfe[1] == [2 * batch for batch in nfe[0]]
    assert (results[0].samples - results[1].samples).abs().max() > 0.01


def model_with(**condition: Any) -> DiffusionModel:
    """Two labelled images whose right halves are observed."""
    prior = guided_prior(ClassMeans())
    mask = torch.ones(1, 4, 4)
    mask[..., :2] = 0
    likelihood = vp.Gaussian(vp.Inpainting(mask), sigma=0.1)
    keypoints = vp.keypoints(prior, noise_levels=[2.0, 0.5])
    return DiffusionModel(prior, likelihood, keypoints, class_labels=LABELS, **condition)


def test_refine_takes_another_weight() -> None:
    """refine(guidance_scale=w) is the refinement of a model with that weight, and does not change the model."""
    z, y = torch.randn(3, 2, *EVENT), torch.zeros(2, *EVENT)
    model, other = model_with(guidance_scale=1.5), model_with(guidance_scale=WEIGHT)
    overridden = vp.refine(model, z, y, 4, guidance_scale=WEIGHT, seed=0)
    assert torch.equal(overridden, vp.refine(other, z, y, 4, seed=0))
    assert not torch.equal(overridden, vp.refine(model, z, y, 4, seed=0))
    assert model.condition["guidance_scale"] == 1.5


def test_conditions_without_a_null_are_not_guided() -> None:
    """An omitted required condition, or a weight on a condition without null, raises InputError that names it."""
    prior, z = guided_prior(ClassMeans(), null={}), torch.randn(2, *EVENT)
    with pytest.raises(InputError, match="give a label"):
        prior.denoise(z, 0.5)
    with pytest.raises(InputError, match="class_labels"):
        prior.denoise(z, 0.5, class_labels=LABELS, guidance_scale=WEIGHT)
