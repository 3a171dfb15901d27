"""One test for each trap in Pyro: shared calls, parameter stores, analytic KL terms, singleton dimensions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from pyro.distributions import Independent
from pyro.infer.importance import psis_diagnostic
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior
from pyro_vipaint.models.priors.denoisers import EDMDenoiser
from pyro_vipaint.models.priors.schedules import EDM
from tests.networks import random_unet
from tests.problems import diagonal_problem


def network_model(levels: int, images: int = 2) -> tuple[DiffusionModel, Tensor, nn.Module]:
    """A class-conditional model on a small random UNet."""
    network = random_unet(num_class_embeds=3)
    prior = DiffusionPrior(EDM(), EDMDenoiser(network, EDM()), (1, 8, 8))
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    times = vp.keypoints(prior, noise_levels=[5 * 0.5**i for i in range(levels)])
    labels = torch.arange(images) % 3
    model = DiffusionModel(prior, vp.Laplace(vp.Inpainting(mask)), times, class_labels=labels)
    return model, (2 * torch.rand(images, 1, 8, 8) - 1) * mask, network


def test_two_fits_in_one_process_do_not_influence_each_other() -> None:
    problem = diagonal_problem()
    model = problem.model()

    def run() -> Tensor:
        guide = HierarchicalGuide(model, problem.y)
        vp.fit(model, guide, problem.y, vp.BetaELBO(), steps=5, seed=7)
        return guide.mu_1.detach()

    alone = run()
    other = HierarchicalGuide(model, problem.y + 1)
    vp.fit(model, other, problem.y, vp.BetaELBO(3.0), steps=4, seed=8)
    assert torch.equal(run(), alone)


def test_the_posterior_at_each_site_has_an_analytic_kl() -> None:
    """A transformed distribution would silently turn the KL into a sampled one."""
    problem = diagonal_problem()
    model = problem.model()
    guide = HierarchicalGuide(model, problem.y)
    prior = Independent(Normal(torch.zeros(1, 16), 1.0), 1)
    for level in model.levels:
        posterior = guide.get_posterior(level.name, prior)
        assert isinstance(posterior, Independent)
        assert kl_divergence(posterior, prior).shape == (1,)


def test_parameters_exist_before_the_first_step_and_have_no_particle_dimension() -> None:
    model, y, _ = network_model(2)
    guide = HierarchicalGuide(model, y)
    before = {name: value.shape for name, value in guide.named_parameters()}
    vp.fit(model, guide, y, vp.BetaELBO(num_particles=3), steps=1)
    assert {name: value.shape for name, value in guide.named_parameters()} == before
    assert set(before.values()) == {y.shape}
    assert len(before) == 5


def test_psis_runs_through_seven_singleton_dimensions() -> None:
    """Pyro's diagnostic passes samples to the denoiser with singleton dimensions in front of the image."""
    model, y, _ = network_model(2, images=1)
    guide = HierarchicalGuide(model, y)
    assert (
        0 <= psis_diagnostic(model, guide, y, num_particles=64, max_simultaneous_particles=32, max_plate_nesting=7) < 50
    )


def test_the_network_is_frozen_and_not_seen_by_the_optimiser() -> None:
    model, y, network = network_model(2)
    guide = HierarchicalGuide(model, y)
    before = [parameter.clone() for parameter in network.parameters()]
    vp.fit(model, guide, y, vp.BetaELBO(), steps=2)
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    ours = {id(parameter) for parameter in guide.parameters()}
    assert not ours & {id(parameter) for parameter in network.parameters()}
    assert not any(isinstance(module, UNet2DModel) for module in guide.modules())


def test_the_model_runs_forward_as_a_prior_predictive() -> None:
    """Unconditioned, the program draws: on a Gaussian prior the moments of y are those of the K-level model."""
    problem = diagonal_problem()
    model = problem.model()
    y = model(num_images=20_000)[:, :6]
    mean, covariance = problem.prior.prediction_moments(problem.keypoints)
    std = (covariance.diagonal()[:6] + 0.1**2).sqrt()
    assert ((y.mean(0) - mean[:6]).abs() < 5 * std / 20_000**0.5).all()
    assert ((y.std(0) / std - 1).abs() < 5 / 40_000**0.5).all()


@pytest.mark.parametrize("shape", ["one for each image", "one number"])
def test_a_term_of_another_shape_is_refused(shape: str) -> None:
    """It would be summed over the particles that it lacks, and the loss be wrong without a word."""

    class Reduced(vp.BetaELBO):
        def _latent_term(self, model_site: Any, guide_site: Any) -> Tensor:
            term = super()._latent_term(model_site, guide_site)
            return term.mean(0) if shape == "one for each image" else term.mean()

    problem = diagonal_problem()
    model = problem.model()
    with pytest.raises(vp.InputError, match="must be a tensor"):
        vp.fit(model, HierarchicalGuide(model, problem.y), problem.y, Reduced(num_particles=5), steps=1)


def test_a_posterior_of_elements_is_refused_by_name() -> None:
    class Elements(HierarchicalGuide):
        def get_posterior(self, name: str, prior: Any) -> Any:
            return Normal(prior.mean, torch.ones_like(prior.mean))

    problem = diagonal_problem()
    model = problem.model()
    with pytest.raises(vp.InputError, match=r"Elements.get_posterior.*to_event"):
        vp.fit(model, Elements(model, problem.y), problem.y, vp.BetaELBO(), steps=1)
