"""A guide, a model and observations that do not belong together, and guides that are Pyro's own."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal

import pyro_vipaint as vp
from pyro_vipaint.errors import InputError
from pyro_vipaint.guides import HierarchicalGuide, MixtureGuide
from pyro_vipaint.guides.base import LatentGuide
from pyro_vipaint.models import DiffusionModel, GaussianPrior
from tests.problems import diagonal_problem
from tests.statistics import assert_within, mean_and_error

FAMILIES = [HierarchicalGuide, MixtureGuide]


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_of_one_image_are_not_shared_by_all(family: type[LatentGuide]) -> None:
    problem = diagonal_problem(images=2)
    model = problem.model()
    with pytest.raises(InputError, match="parameters for 1 images and runs on 2"):
        vp.fit(model, family(model), problem.y, vp.BetaELBO(), 1)
    with pytest.raises(InputError, match="parameters for 2 images and runs on 16"):
        vp.sample(family(model, problem.y), problem.y[0])  # one observation without its batch dimension
    with pytest.raises(InputError, match="parameters for 1 images"):
        Trace_ELBO(num_particles=2, vectorize_particles=True).differentiable_loss(model, family(model), problem.y)


@pytest.mark.parametrize("family", FAMILIES)
def test_init_has_the_events_shape(family: type[LatentGuide]) -> None:
    with pytest.raises(InputError, match="init"):
        family(diagonal_problem(images=2).model(), torch.zeros(16))


def test_fit_refuses_another_model_but_not_the_same_one_wrapped() -> None:
    problem = diagonal_problem(images=2)
    model, other = problem.model(), problem.model()
    with pytest.raises(InputError, match="another model"):
        vp.fit(other, HierarchicalGuide(model, problem.y), problem.y, vp.BetaELBO(), 1)
    wrapped = poutine.scale(model, scale=1.0)
    assert len(vp.fit(wrapped, HierarchicalGuide(model, problem.y), problem.y, vp.BetaELBO(), 1).losses) == 1


def test_hidden_elements_may_be_nan() -> None:
    problem = diagonal_problem(images=2)
    model = problem.model()
    hidden = ~problem.likelihood.observed(problem.y)
    assert hidden.any()
    fits = []
    for fill in (0.0, torch.nan):
        guide = HierarchicalGuide(model, torch.zeros_like(problem.y))
        y = torch.where(hidden, torch.full_like(problem.y, fill), problem.y)
        fits.append(vp.fit(model, guide, y, vp.BetaELBO(), 5, seed=0))
    assert fits[0].losses == fits[1].losses
    torch.testing.assert_close(fits[0].bounds, fits[1].bounds, rtol=0, atol=0)


def test_an_objective_without_terms_has_no_bounds() -> None:
    problem = diagonal_problem(images=2)
    model = problem.model()
    fit = vp.fit(model, HierarchicalGuide(model, problem.y), problem.y, Trace_ELBO(), 2)
    with pytest.raises(InputError, match="reported no terms"):
        _ = fit.bounds


@pytest.mark.parametrize("family", [AutoNormal, AutoDiagonalNormal])
def test_pyros_autoguides_fit_and_sample_in_one_line(family: type[AutoNormal]) -> None:
    """A fresh one, whose parameters do not exist yet; its draws have the moments of its own parameters."""
    problem = diagonal_problem(images=2)
    model = problem.model()
    guide = family(model)
    before = vp.fit(model, guide, problem.y, vp.BetaELBO(num_particles=4), 200, seed=0)
    assert sum(before.losses[-20:]) < sum(before.losses[:20])
    draws = vp.sample(guide, problem.y, 400, seed=1)
    assert draws.shape == (400, *problem.y.shape)
    assert torch.equal(draws, vp.sample(guide, problem.y, 400, seed=1))
    mean, error = mean_and_error(draws)
    assert_within(mean, guide.median(problem.y)["z_1"], error)


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 1, 1, 4)])
def test_an_observation_of_another_shape_does_not_broadcast(shape: tuple[int, ...]) -> None:
    """Without its channel dimension each image would be compared with the observations of all."""
    prior = GaussianPrior.diagonal(torch.zeros(1, 4, 4), torch.ones(1, 4, 4))
    likelihood, y = vp.Gaussian(vp.Inpainting(torch.ones(1, 4, 4))), torch.randn(3, 1, 4, 4)
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=(2.0, 0.5)))
    guide, wrong = HierarchicalGuide(model, y), torch.zeros(shape)
    z = vp.sample(guide, y, 2)
    for run in (
        lambda y: vp.initial_latent(prior, likelihood, y),
        lambda y: vp.fit(model, guide, y, vp.BetaELBO(), 1),
        lambda y: vp.refine(model, z, y, 2),
    ):
        run(y)
        with pytest.raises(InputError, match=r"y has shape|parameters for 3 images"):
            run(wrong)
    with pytest.raises(InputError, match=r"z has shape \(2, 3, 1, 4, 4\), not \(S, 1, 1, 4, 4\)"):
        vp.refine(model, z, y[:1], 2)
