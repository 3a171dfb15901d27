"""The grid: every guide family under every objective on every prior, with one level and with three.

In each cell: the loss is finite; every parameter has a finite gradient that is not all zero; and the network is called
K times where the prior's marginal is exact, K + 1 times where it is estimated, whatever guide and objective are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import pyro_vipaint as vp
from pyro_vipaint import guides
from pyro_vipaint.guides import (
    DeltaGuide,
    FeatureGuide,
    FlowGuide,
    HierarchicalGuide,
    LowRankGuide,
    MeanFieldGuide,
    MixtureGuide,
    PriorGuide,
)
from pyro_vipaint.guides.base import LatentGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, EmpiricalPrior, GaussianMixturePrior, GaussianPrior
from pyro_vipaint.models.priors.denoisers import EDMDenoiser
from pyro_vipaint.models.priors.schedules import EDM

EVENT, IMAGES, PARTICLES = (1, 4, 4), 2, 4
NOISE = (3.0, 1.0, 0.3)
PYROS: dict[str, Any] = {"num_particles": PARTICLES, "max_plate_nesting": 1, "vectorize_particles": True}
RENYI: dict[str, Any] = PYROS | {"alpha": 0.5}

FAMILIES: dict[str, Callable[[DiffusionModel, Tensor], LatentGuide]] = {
    "DeltaGuide": DeltaGuide,
    "FeatureGuide": FeatureGuide,
    "FlowGuide": lambda model, init: FlowGuide(model, init, num_couplings=2, width=4),
    "HierarchicalGuide": HierarchicalGuide,
    "LowRankGuide": lambda model, init: LowRankGuide(model, init, rank=2),
    "MeanFieldGuide": MeanFieldGuide,
    "MixtureGuide": lambda model, init: MixtureGuide(model, init, num_components=2),
    "PriorGuide": PriorGuide,
}
OBJECTIVES: dict[str, Callable[[], Any]] = {
    "BetaELBO": lambda: vp.BetaELBO(3.0, PARTICLES),
    "SampledELBO": lambda: vp.SampledELBO(3.0, PARTICLES),
    "StickingTheLandingELBO": lambda: vp.StickingTheLandingELBO(3.0, PARTICLES),
    "RenyiELBO": lambda: vp.RenyiELBO(0.5, PARTICLES),
    "AnnealedELBO": lambda: vp.AnnealedELBO(5.0, steps=2, num_particles=PARTICLES),
    "Pyro's Trace_ELBO": lambda: Trace_ELBO(**PYROS),
    "Pyro's TraceMeanField_ELBO": lambda: TraceMeanField_ELBO(**PYROS),
    "Pyro's RenyiELBO": lambda: RenyiELBO(**RENYI),
}


class RandomNetwork(nn.Module):
    """Two convolutions that see the noise and, where it is given, the class."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.label = nn.Embedding(3, 4)

    def forward(self, z: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        hidden = self.first(z) + timestep.view(-1, 1, 1, 1)
        if class_labels is not None:
            hidden = hidden + self.label(class_labels)[..., None, None]
        return self.last(torch.tanh(hidden))


def gaussian() -> DiffusionPrior:
    return GaussianPrior.diagonal(0.5 * torch.randn(EVENT), 0.3 + torch.rand(EVENT))


def mixture() -> DiffusionPrior:
    return GaussianMixturePrior.diagonal(torch.ones(3), torch.randn(3, *EVENT), 0.4)


def empirical() -> DiffusionPrior:
    return EmpiricalPrior(torch.rand(9, *EVENT) * 2 - 1, labels=torch.arange(9) % 3)


def network() -> DiffusionPrior:
    return DiffusionPrior(EDM(), EDMDenoiser(RandomNetwork(), EDM()), EVENT)


PRIORS: dict[str, tuple[Callable[[], DiffusionPrior], dict[str, Tensor]]] = {
    "Gaussian": (gaussian, {}),
    "mixture": (mixture, {}),
    "empirical": (empirical, {}),
    "empirical, labels": (empirical, {"class_labels": torch.tensor([0, 2])}),
    "network": (network, {}),
    "network, labels": (network, {"class_labels": torch.tensor([0, 2])}),
}


def build(prior_name: str, levels: int) -> tuple[DiffusionModel, Tensor]:
    """Two images of which the left half is observed."""
    make, condition = PRIORS[prior_name]
    prior = make()
    mask = torch.zeros(EVENT)
    mask[..., :2] = 1
    times = vp.keypoints(prior, noise_levels=NOISE[-levels:])
    model = DiffusionModel(prior, vp.Laplace(vp.Inpainting(mask)), times, **condition)
    return model, torch.rand(IMAGES, *EVENT) * mask


def perturbed(guide: LatentGuide) -> LatentGuide:
    """The guide away from its start, where a flow is the identity and components weigh the same."""
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return guide


def test_no_family_and_no_objective_is_left_out() -> None:
    assert set(FAMILIES) == set(guides.__all__)
    ours = {name for name in vp.__all__ if name.endswith("ELBO")}
    assert ours == {name for name in OBJECTIVES if not name.startswith("Pyro's")}


@pytest.mark.parametrize("prior_name", PRIORS)
@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_of_the_grid(family: str, objective: str, levels: int, prior_name: str) -> None:
    model, y = build(prior_name, levels)
    guide = perturbed(FAMILIES[family](model, y))
    with vp.count_calls() as count:
        loss = OBJECTIVES[objective]().loss_and_grads(model, guide, y)
    assert torch.tensor(loss).isfinite()
    assert count.calls == levels + prior_name.startswith("network")
    assert count.nfe == count.calls * PARTICLES * IMAGES
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("prior_name", [name for name in PRIORS if "labels" in name])
def test_labels_reach_every_site(prior_name: str) -> None:
    """Another class for the second image changes all terms of that image and none of the first."""
    terms = []
    for labels in ([0, 2], [0, 1]):
        torch.manual_seed(0)
        model, y = build(prior_name, 3)
        model.condition["class_labels"] = torch.tensor(labels)
        elbo = vp.SampledELBO(num_particles=PARTICLES)
        elbo.loss(model, perturbed(HierarchicalGuide(model, y)), y)
        terms.append(torch.stack(list(elbo.terms.values())))
    assert len(terms[0]) == 4
    torch.testing.assert_close(terms[0][:, 0], terms[1][:, 0])
    assert (terms[0][:, 1] != terms[1][:, 1]).all()
