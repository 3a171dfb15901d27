"""Sequential Monte Carlo on Gaussians whose evidence and posterior are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pyro.distributions import Normal

import pyro_vipaint as vp
from pyro_vipaint.corrections import DPS
from pyro_vipaint.diagnostics import iwae_bound, log_weights
from pyro_vipaint.guides import FeatureGuide, HierarchicalGuide, MixtureGuide, PriorGuide
from pyro_vipaint.guides.twisted import TwistedGuide
from pyro_vipaint.models import DiffusionModel
from pyro_vipaint.smc import _Particles
from tests.problems import LIKELIHOOD, Y, four_pixels
from tests.statistics import assert_within, mean_and_error

TIMES = [1 - i / 8 for i in range(8)]
MANY = Y.expand(400, -1, -1, -1)  # independent runs: images share nothing


def _model() -> DiffusionModel:
    return DiffusionModel(four_pixels(), LIKELIHOOD, TIMES)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("correction", [DPS(0.0), DPS(0.01)])
def test_the_evidence_is_unbiased(correction: Any, threshold: float) -> None:
    """The mean of p_hat(y) / p(y) over independent runs is 1, whatever the proposal."""
    model = _model()
    run = vp.smc(model, TwistedGuide(model, correction=correction), MANY, 32, threshold=threshold)
    exact = four_pixels().log_evidence(LIKELIHOOD, Y, TIMES).double()
    mean, error = mean_and_error((run.log_evidence - exact).exp())
    assert_within(mean, 1.0, error)
    assert (run.resampled > 0).any() and run.calls == len(TIMES)


def test_its_draws_are_those_of_the_posterior() -> None:
    """The first draw of each of the independent runs, against the moments of E[x | z_1] given y."""
    model, prior = _model(), four_pixels()
    run = vp.smc(model, TwistedGuide(model, correction=DPS(0.0)), MANY, 1, num_particles=200)
    x = prior.denoise(run.z[0], TIMES[-1]).flatten(1)
    exact = prior.posterior(LIKELIHOOD, Y, TIMES)
    mean, error = mean_and_error(x)
    assert_within(mean, exact.mean[0], error, slack=0.01)  # .01: the bias of 200 particles, a fifth of the std
    assert torch.allclose(x.var(0), exact.variance[0], rtol=0.5)


@pytest.mark.parametrize("family", [HierarchicalGuide, FeatureGuide, PriorGuide])
def test_without_resampling_it_is_importance_sampling(family: Any) -> None:
    model, y = _model(), torch.cat([Y, Y + 0.2])
    guide = family(model, y)
    run = vp.smc(model, guide, y, 5, num_particles=50, threshold=0.0, seed=3)
    assert torch.allclose(run.log_evidence, iwae_bound(log_weights(model, guide, y, 50, seed=3)).estimate, atol=1e-4)


def test_only_images_with_poor_particles_are_resampled() -> None:
    """Even weights stay with their particles; of the other image the one particle that counts has all descendants."""
    particles = _Particles(_model(), torch.cat([Y, Y]), 4, threshold=0.5)
    weights = torch.tensor([[0.0, 0.0], [-1.0, -50.0], [0.0, -50.0], [-1.0, -50.0]], dtype=torch.float64)
    particles.log_weights = weights
    index = particles._ancestors()
    assert index.T.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert torch.equal(particles.log_weights, weights * torch.tensor([1.0, 0.0]))
    assert particles.evidence() == pytest.approx([math.log((2 + 2 / math.e) / 4), math.log(1 / 4)])


def test_other_guides_are_refused() -> None:
    model = _model()
    with pytest.raises(vp.InputError, match="Gaussian below T_e"):
        vp.smc(model, MixtureGuide(model, Y), Y)
    with pytest.raises(vp.InputError, match="built on the model"):
        vp.smc(_model(), PriorGuide(model, Y), Y)


@dataclass
class Minimal:
    """A likelihood with the members that :func:`smc` follows and no more."""

    operator: Any = LIKELIHOOD.operator
    noise_std: Any = LIKELIHOOD.sigma

    def __call__(self, x: Any) -> Any:
        return Normal(self.operator.A(x), self.noise_std)

    def residual(self, x: Any, y: Any) -> Any:
        return y - self.operator.A(x)


def test_a_likelihood_need_not_have_a_mask_and_a_function_is_refused() -> None:
    model = DiffusionModel(four_pixels(), Minimal(), TIMES)
    run = vp.smc(model, TwistedGuide(model, correction=DPS(0.0)), Y, 4)
    assert run.log_evidence.isfinite().all()
    function = DiffusionModel(four_pixels(), Minimal().__call__, TIMES)
    with pytest.raises(vp.InputError, match=r"a likelihood with operator, residual, noise_std, .*has no operator"):
        vp.smc(function, PriorGuide(function, Y), Y)
