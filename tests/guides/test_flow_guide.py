"""The flow at T_e: a bijection with the right Jacobian, initially the hierarchical guide, after a fit not worse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.guides import FlowGuide, HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, GaussianPrior
from tests.problems import bound_draws, diagonal_problem, perturbed
from tests.statistics import STANDARD_ERRORS, mean_and_error

EVENTS = [(5,), (2, 3), (3, 2, 3)]


def model_of(event: tuple[int, ...]) -> DiffusionModel:
    prior = GaussianPrior.diagonal(torch.zeros(event), torch.ones(event))
    likelihood = vp.Gaussian(vp.Inpainting(torch.ones(event)), sigma=0.2)
    return DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=[2.0, 0.5]))


def top(guide: FlowGuide) -> Any:
    return guide.get_top(None)


@pytest.mark.parametrize("event", EVENTS)
def test_inverse_and_log_determinant_agree_with_the_jacobian(event: tuple[int, ...]) -> None:
    """log q(z) of a draw against the density of the noise and the determinant that autograd finds."""
    size = torch.Size(event).numel()
    guide = perturbed(FlowGuide(model_of(event), torch.randn(1, *event)).double())
    q = top(guide)
    noise = torch.randn(size, dtype=torch.float64)

    def forward(noise: Tensor) -> Tensor:
        z = noise[None]
        for part in q.transforms:
            z = part(z)
        return z.flatten()

    jacobian: Any = torch.autograd.functional.jacobian(forward, noise)
    z = forward(noise).reshape(1, *event)
    expected = q.base_dist.log_prob(noise[None]) - torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(q.log_prob(z), expected)
    back = z
    for part in reversed(q.transforms):
        back = part.inv(back)
    assert torch.allclose(back[0], noise)
    off_diagonal = jacobian / jacobian.abs().max()
    assert (off_diagonal - torch.diag(off_diagonal.diagonal())).abs().max() > 0.01, "the flow couples elements"


def test_the_density_integrates_to_one() -> None:
    guide = perturbed(FlowGuide(model_of((2,)), torch.tensor([[0.5, -1.0]])))
    axis = torch.linspace(-24, 24, 321)
    z = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    with torch.no_grad():
        total = top(guide).log_prob(z).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(float(total) - 1) < 1e-2


@pytest.mark.parametrize("event", EVENTS)
def test_initially_it_is_the_hierarchical_guide(event: tuple[int, ...]) -> None:
    """The same noise gives the same bound."""
    model, y = model_of(event), torch.randn(2, *event)
    elbo = Trace_ELBO(num_particles=6, vectorize_particles=True, max_plate_nesting=1)
    flow, hierarchical = FlowGuide(model, y), HierarchicalGuide(model, y)
    losses = []
    for guide in (hierarchical, flow):
        torch.manual_seed(4)
        losses.append(elbo.differentiable_loss(model, guide, y))
    assert torch.allclose(losses[0], losses[1], rtol=1e-5)
    assert torch.equal(vp.sample(flow, y, 3, seed=1), vp.sample(hierarchical, y, 3, seed=1))


def test_pyros_own_svi_finds_every_parameter() -> None:
    model, y = model_of((1, 4, 4)), torch.randn(2, 1, 4, 4)
    guide = perturbed(FlowGuide(model, y))
    before = [parameter.detach().clone() for parameter in guide.parameters()]
    SVI(model, guide, ClippedAdam({"lr": 0.01}), loss=vp.BetaELBO(num_particles=3)).step(y)
    assert not any(torch.equal(old, new) for old, new in zip(before, guide.parameters(), strict=True))


def correlated() -> tuple[DiffusionModel, Tensor, Tensor]:
    """Four strongly correlated elements, T_e so low that the posterior there is correlated too; the exact evidence."""
    covariance = 0.2 * torch.eye(4) + 4 * torch.ones(4, 4)
    prior = GaussianPrior.full(torch.zeros(4), covariance)
    likelihood = vp.Gaussian(vp.Inpainting(torch.tensor([1.0, 0.0, 0.0, 0.0])), sigma=2.0)
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=[0.4]))
    y = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    return model, y, prior.log_evidence(likelihood, y, model.keypoints)


def test_after_a_fit_it_is_better_where_elements_are_correlated_and_below_the_evidence() -> None:
    model, y, truth = correlated()
    bounds = []
    flow = FlowGuide(model, y, num_couplings=2, width=16)
    for guide, steps, lr in ((HierarchicalGuide(model, y), 100, 0.1), (flow, 300, 0.03)):
        vp.fit(model, guide, y, vp.BetaELBO(num_particles=32), steps=steps, lr=lr, lr_decay=0.05, seed=1)
        bounds.append(mean_and_error(bound_draws(model, guide, y, repeats=20)))
    (hierarchical, _), (bound, error) = bounds
    assert bound < truth + STANDARD_ERRORS * error
    assert bound > hierarchical + 0.5, "the Gaussian's gap is far more than Monte-Carlo error"
    assert truth - bound < 0.3


@pytest.mark.slow
def test_after_a_fit_it_is_no_worse_where_a_gaussian_is_exact() -> None:
    problem = diagonal_problem()
    model = problem.model()
    bounds = []
    for guide in (
        HierarchicalGuide(model, problem.y, gamma_logit=0.0),
        FlowGuide(model, problem.y, num_couplings=2, gamma_logit=0.0),
    ):
        lr = {"mu": 0.1, "tau": 0.1, "gamma": 0.1, "flow": 0.002}
        vp.fit(model, guide, problem.y, vp.BetaELBO(num_particles=16), steps=200, lr=lr, lr_decay=0.02, seed=1)
        bounds.append(mean_and_error(bound_draws(model, guide, problem.y, repeats=20)))
    (hierarchical, error), (flow, flow_error) = bounds
    assert flow > hierarchical - STANDARD_ERRORS * (error**2 + flow_error**2).sqrt() - 0.05


def test_the_initial_values_are_drawn_from_the_generator_alone() -> None:
    """The global generator is neither read nor changed."""
    model = model_of((1, 4, 4))
    state = torch.get_rng_state()
    first, again = (FlowGuide(model, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_flow_needs_two_elements() -> None:
    with pytest.raises(vp.InputError, match="elements of the event must be at least 2"):
        FlowGuide(model_of((1,)))
