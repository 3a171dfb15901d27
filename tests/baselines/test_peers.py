"""Our DPS against DeepInverse's, on one network, one noise and the same steps.

DeepInverse (0.5) takes the gradient of the same per-sample norm |y - A(x_hat)|, but adds it to the score, where the
authors and we subtract it from the drawn state: a step from t to s moves the state by

    lambda b sigma_t^2 / alpha_t * grad,        b the weight of x_hat in the bridge, grad with respect to z_t,

where we move it by zeta. So the chains are equal, state by state, for the zeta of each step that this gives; one zeta
for all steps, as the authors have it, is another weight for each of DeepInverse's. Otherwise the two agree: the linear
VP schedule, the bridge with its own variance, one call a step. DeepInverse clips the prediction to [-1, 1] before the
residual is taken, which is turned off here, and it corrects the last step, to t = 0, as well.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_vipaint as vp
from pyro_vipaint.baselines import blended
from pyro_vipaint.baselines.dps import dps_step
from pyro_vipaint.corrections import residual_norm
from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.models.priors.denoisers import EpsilonDenoiser, integer_timestep
from pyro_vipaint.models.priors.kernels import bridge_coefficients
from pyro_vipaint.models.priors.schedules import LinearVP, noise_level, time_of
from tests.networks import random_unet

deepinv = pytest.importorskip("deepinv")

SCHEDULE, STEPS, WEIGHT = LinearVP(), 12, 0.5
MAX_LEVEL = float(noise_level(SCHEDULE, 1.0))


def small_prior() -> DiffusionPrior:
    denoiser = EpsilonDenoiser(random_unet(), SCHEDULE, integer_timestep(1000))
    return DiffusionPrior(SCHEDULE, denoiser, (1, 8, 8))


class ForDeepInverse(nn.Module):
    """The prior as DeepInverse calls a denoiser: z_t / alpha_t and the noise level sigma_t / alpha_t."""

    def __init__(self, prior: DiffusionPrior) -> None:
        super().__init__()
        self.prior, self.calls = prior, 0

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        t = time_of(SCHEDULE, min(float(sigma), MAX_LEVEL))
        alpha, _ = SCHEDULE(torch.tensor(t, dtype=torch.float64))
        return self.prior.denoise(x * float(alpha), t)


@pytest.fixture
def problem() -> tuple[DiffusionPrior, Any, Tensor]:
    """A prior, DeepInverse's operator (1 = kept), and three observations."""
    torch.manual_seed(0)
    mask = (torch.rand(1, 8, 8) > 0.4).float()
    physics = deepinv.physics.Inpainting(img_size=(1, 8, 8), mask=mask)
    return small_prior(), physics, physics.A(torch.rand(3, 1, 8, 8) * 2 - 1)


def our_operator(physics: Any) -> vp.Inpainting:
    return vp.Inpainting(physics.mask[0])


def their_dps(prior: DiffusionPrior, weight: float = WEIGHT) -> Any:
    """STEPS steps on STEPS + 1 times, in float32, so that the noise is that of torch.randn_like here."""
    dps = deepinv.sampling.DPS(
        ForDeepInverse(prior), num_steps=STEPS + 1, weight=weight, dtype=torch.float32, minus_one_one=False
    )
    dps.data_fidelity.clip = None
    return dps


def our_zeta(t: float, s: float) -> float:
    """The zeta of one step that is DeepInverse's weight."""
    alpha, sigma = SCHEDULE(torch.tensor(t, dtype=torch.float64))
    return float(WEIGHT * bridge_coefficients(SCHEDULE, t, s)[1] * sigma**2 / alpha)


def our_chain(
    prior: DiffusionPrior, operator: Any, z: Tensor, y: Tensor, zeta: Callable[[float, float], float]
) -> list[Tensor]:
    """Every state of DPS from ``z``, with a correction in the last step too."""
    states = [z]
    for t, s in pairwise(torch.linspace(1, 0, STEPS + 1).tolist()):
        states.append(dps_step(prior, vp.Gaussian(operator, 0.1), states[-1], y, (t, s), zeta(t, s), {})[0])
    return states


def test_the_chains_are_equal_state_by_state(problem: tuple) -> None:
    prior, physics, y = problem
    z, dps = torch.randn(3, 1, 8, 8), their_dps(prior)
    torch.manual_seed(1)
    _, theirs = dps(y, physics, x_init=z.clone(), get_trajectory=True)
    torch.manual_seed(1)
    ours = our_chain(prior, our_operator(physics), z, y, our_zeta)
    assert dps.data_fidelity.denoiser.calls == STEPS
    for state, expected in zip(ours, theirs, strict=True):
        assert torch.allclose(state, expected, atol=1e-4 * float(expected.abs().max()))
    torch.manual_seed(1)
    free = our_chain(prior, our_operator(physics), z, y, lambda t, s: 0.0)
    assert (free[-1] - theirs[-1]).abs().max() > 0.1, "without zeta the comparison means nothing"


def test_their_data_term_is_the_gradient_of_our_residual_norm(problem: tuple) -> None:
    """With respect to z_t / alpha_t, sample by sample."""
    prior, physics, y = problem
    t, x = 0.4, torch.randn(3, 1, 8, 8)
    alpha, sigma = (v.float() for v in SCHEDULE(torch.tensor(t, dtype=torch.float64)))
    fidelity = deepinv.sampling.DPSDataFidelity(ForDeepInverse(prior))
    theirs = fidelity.grad(x.clone(), y, physics, sigma / alpha)
    z = (alpha * x).requires_grad_()
    norm = residual_norm(vp.Gaussian(our_operator(physics), 0.1), prior.denoise(z, t), y)
    (ours,) = torch.autograd.grad(norm.sum(), z)
    assert torch.allclose(alpha * ours, theirs, atol=1e-5 * float(theirs.abs().max()))


def test_their_mask_serves_our_methods(problem: tuple) -> None:
    """DeepInverse's inpainting operator as it is, and ours: the same images."""
    prior, physics, y = problem
    images = [
        blended(prior, vp.Gaussian(operator, 0.1), y, 2, 4, seed=0).samples
        for operator in (physics, our_operator(physics))
    ]
    assert torch.equal(images[0], images[1])
