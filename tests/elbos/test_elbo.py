"""Weights on the latent side only, refused weights, and Pyro's own objectives on the same models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import JitTrace_ELBO, JitTraceMeanField_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroParam
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.errors import InputError
from pyro_vipaint.guides.base import LatentGuide
from pyro_vipaint.models import DiffusionModel
from tests.elbos.by_hand import build
from tests.problems import diagonal_problem

WEIGHTED = [vp.BetaELBO, vp.SampledELBO, vp.StickingTheLandingELBO]


@pytest.mark.parametrize("kind", WEIGHTED)
def test_weights_are_positive_finite_numbers_of_sites_that_exist(kind: Any) -> None:
    for beta in (0.0, -1.0, float("nan"), float("inf"), {"z_1": 0.0}, [1.0, 2.0], "1", None, {"z_1": [1.0]}):
        with pytest.raises(InputError, match="positive and finite number, a mapping such as"):
            kind(beta)
    model, guide, y = build()
    with pytest.raises(InputError, match="z_4"):
        kind({"z_4": 2.0, "z_3": 1.0}).differentiable_loss(model, guide, y)


def test_scaling_the_model_alone_does_not_weight_the_latent_terms() -> None:
    """The trap: under TraceMeanField_ELBO poutine.scale on the model scales the observation only."""
    model, _, y = build()

    def guide(y: Tensor) -> None:
        with pyro.plate("images", 2, dim=-1):
            for i in (3, 2, 1):
                pyro.sample(f"z_{i}", dist.Normal(torch.zeros(2, 16), 0.5).to_event(1))

    def loss(elbo: TraceMeanField_ELBO, program: Callable[..., Any]) -> Tensor:
        torch.manual_seed(5)
        return elbo.differentiable_loss(program, guide, y)

    pyros, ours = TraceMeanField_ELBO(max_plate_nesting=1), vp.BetaELBO(5.0, num_particles=1)
    plain, bugged, right = loss(pyros, model), loss(pyros, poutine.scale(model, scale=5.0)), loss(ours, model)
    latent = torch.stack([ours.terms[f"z_{i}"] for i in (1, 2, 3)]).sum()
    observed = ours.terms["y"].sum()
    assert torch.allclose(plain, latent + observed, rtol=1e-5)
    assert torch.allclose(right, 5 * latent + observed, rtol=1e-5)
    assert torch.allclose(bugged, latent + 5 * observed, rtol=1e-5), "Pyro behaves as this library assumes"


class Point(LatentGuide):
    """A point at every level: a minimal guide whose posterior is a Delta."""

    def __init__(self, model: DiffusionModel, shape: tuple[int, ...]) -> None:
        super().__init__(model)
        for level in model.levels:
            setattr(self, f"mu_{level.name[-1]}", PyroParam(torch.randn(shape)))

    def get_posterior(self, name: str, prior: Any) -> Tensor:
        return getattr(self, f"mu_{name[-1]}").expand(prior.shape())


def test_the_term_of_a_point_is_its_log_density_and_costs_no_second_call() -> None:
    """Pyro's own KL of a Delta would evaluate the marginal, a network call, once more."""
    problem = diagonal_problem(images=2)
    model, estimated = problem.model(), problem.model(problem.prior.diffusion())
    guide, elbo = Point(model, (2, 16)), vp.BetaELBO(num_particles=1)
    elbo.differentiable_loss(model, guide, problem.y)
    log_p = problem.prior.marginal(problem.keypoints[0]).log_prob(guide.mu_3)
    assert torch.allclose(elbo.terms["z_3"], -log_p)
    with vp.count_calls() as count:
        elbo.differentiable_loss(estimated, Point(estimated, (2, 16)), problem.y)
    assert count.calls == 4


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("jit", [JitTrace_ELBO, JitTraceMeanField_ELBO])
def test_pyros_jit_does_not_find_parameters_that_are_kept_in_the_guide(jit: type) -> None:
    """It looks them up by name in the global store, which is empty under ``module_local_params``."""
    model, guide, y = build()
    with pytest.raises(KeyError, match=r"mu|tau|gamma"):
        jit(num_particles=3, vectorize_particles=True, max_plate_nesting=1).differentiable_loss(model, guide, y)
