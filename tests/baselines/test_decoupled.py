"""DAPS, DDSMC, DING and MGDM by closed forms: on a Gaussian prior every chain is linear."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.baselines import BaselineResult, daps, ddsmc, ding, mgdm
from pyro_vipaint.baselines.daps import HIGHEST, LOWEST
from pyro_vipaint.baselines.decoupled import FLOW_END, falling_levels, flow, given_y, level_at, mean_given_y
from pyro_vipaint.baselines.mgdm import variational_draw
from pyro_vipaint.models import GaussianMixturePrior
from pyro_vipaint.models.measurements.operators import Matrix
from pyro_vipaint.models.priors.kernels import ddim
from pyro_vipaint.models.priors.schedules import LinearVP
from tests.problems import LIKELIHOOD, Y, four_pixels
from tests.statistics import assert_within, mean_and_error

PRIOR = four_pixels()
MEAN, VARIANCE, NOISE = 0.2, 0.09, 0.01  # of the pixels, and the variance of y
SEEN = torch.tensor([True, True, False, False])
OBSERVED = Y.flatten().double()


def predicted(noise: float) -> tuple[float, float]:
    """(c, b) of E[x given u] = c + b u at the noise level."""
    b = VARIANCE / (VARIANCE + noise**2)
    return MEAN * (1 - b), b


def moments_of_ddsmc(steps: int, eta: float, share: float) -> tuple[Tensor, Tensor]:
    """The prior's chain is linear, so that its x is a Gaussian; y conditions it."""
    levels = [level.noise for level in falling_levels(PRIOR, HIGHEST, FLOW_END, steps)]
    mean, variance = 0.0, levels[0] ** 2
    for high, low in pairwise(levels):
        c, b = predicted(high)
        keep = eta * low**2 / (eta * low**2 + high**2 - low**2)
        mean = keep * mean + (1 - keep) * (c + b * mean)
        variance = (keep + (1 - keep) * b) ** 2 * variance + (1 - keep) * low**2
    c, b = predicted(levels[-1])
    width = share * VARIANCE * levels[-1] ** 2 / (VARIANCE + levels[-1] ** 2)
    mean, variance = c + b * mean, b**2 * variance + width
    gain = SEEN * variance / (variance + NOISE)
    return mean + gain * (OBSERVED - mean), variance * (1 - gain)


def moments_of_daps(steps: int, spread: float | None) -> tuple[Tensor, Tensor]:
    """The chain of one Euler step, which ends just above 0, level by level."""
    levels = [level.noise for level in falling_levels(PRIOR, HIGHEST, LOWEST, steps)]
    mean, variance = torch.zeros(4, dtype=torch.float64), torch.full((4,), levels[0] ** 2, dtype=torch.float64)
    for index, level in enumerate(levels):
        c, b = predicted(level)
        left = min(FLOW_END * PRIOR.sigma_data, level / 10) / level
        slope = b + left * (1 - b)
        mean, variance = (1 - left) * c + slope * mean, slope**2 * variance
        r = level**2 if spread is None else (width := spread**2 * VARIANCE) * level**2 / (width + level**2)
        gain = SEEN * r / (r + NOISE)
        mean, variance = mean + gain * (OBSERVED - mean), (1 - gain) ** 2 * variance
        if index + 1 < steps:
            variance = variance + r * (1 - gain) + levels[index + 1] ** 2
    return mean, variance


def moments_of_ding(steps: int, delayed: bool) -> tuple[Tensor, Tensor]:
    """z_s = (1 - g) (mean + std e) + g (y + s noise) with the noise seen at t, or at the trial point."""
    tops = [PRIOR.sigma_data * 3 * (1 - i / steps) / max(i / steps, 1e-9) for i in range(steps)]
    levels = [min(level, PRIOR.noise_range[1]) for level in tops]
    mean, variance = torch.zeros(4, dtype=torch.float64), torch.full((4,), levels[0] ** 2, dtype=torch.float64)
    for high, low in pairwise(levels):
        c, b = predicted(high)
        share = low / (PRIOR.sigma_data + low)
        kept, std = low * (1 - share**2) ** 0.5, low * share
        noise = (-c / high, (1 - b) / high)  # intercept and slope in u
        centre = (c + kept * noise[0], b + kept * noise[1])
        fresh = 0.0
        if not delayed:
            c, b = predicted(low)
            noise = (((1 - b) * centre[0] - c) / low, (1 - b) * centre[1] / low)
            fresh = (1 - b) * std
        gain = SEEN * std**2 / (std**2 + NOISE)
        slope = centre[1] + gain * (low * noise[1] - centre[1])
        mean = centre[0] + gain * (OBSERVED + low * noise[0] - centre[0]) + slope * mean
        variance = slope**2 * variance + (gain * fresh) ** 2 + std**2 * (1 - gain)
    c, b = predicted(levels[-1])
    return c + b * mean, b**2 * variance


CHAINS: dict[str, tuple[Callable[[int, Tensor], BaselineResult], tuple[Tensor, Tensor]]] = {
    **{f"DDSMC, eta {eta}, share {share}": (
        lambda s, y, eta=eta, share=share: ddsmc(PRIOR, LIKELIHOOD, y, s, 8, eta=eta, share=share, seed=0),
        moments_of_ddsmc(8, eta, share),
    ) for eta, share in ((0.0, 0.5), (0.5, 1.0), (1.0, 0.5), (1.0, 1.0))},
    **{f"DAPS, spread {spread}": (
        lambda s, y, spread=spread: daps(PRIOR, LIKELIHOOD, y, s, 20, ode_steps=1, spread=spread, seed=0),
        moments_of_daps(20, spread),
    ) for spread in (None, 1.0)},
    **{f"DING, delayed {delayed}": (
        lambda s, y, delayed=delayed: ding(PRIOR, LIKELIHOOD, y, s, 8, delayed=delayed, seed=0),
        moments_of_ding(8, delayed),
    ) for delayed in (False, True)},
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_the_chain_has_its_moments_on_a_gaussian_prior(name: str) -> None:
    """Sixty images of the same y, which are independent, with 300 draws each; few levels, so that bias would show.

    The weights of DDSMC are right if its moments are those of the prior's chain given y, whatever rho is.
    """
    run, (mean, variance) = CHAINS[name]
    x = run(300, Y.expand(60, -1, -1, -1)).samples.flatten(2).double()
    for draws, exact in ((x.mean(0), mean), ((x - mean).square().mean(0), variance)):
        found, error = mean_and_error(draws)
        assert_within(found, exact, error)


def test_the_modes_of_ddsmc_have_their_weights() -> None:
    """Two modes that y hardly tells apart: the share of draws in the first one is its posterior weight."""
    means = torch.stack([torch.full((1, 2, 2), 0.4), torch.full((1, 2, 2), -0.3)])
    prior = GaussianMixturePrior.diagonal(torch.tensor([0.7, 0.3]), means, 0.12)
    likelihood = vp.Gaussian(LIKELIHOOD.operator, 0.6)
    y = torch.tensor([[[[-0.1, -0.2], [0.0, 0.0]]]])
    exact = prior.posterior(likelihood, y).mixture_distribution.probs[0, 0].double()
    assert 0.4 < exact < 0.6
    x = ddsmc(prior, likelihood, y.expand(40, -1, -1, -1), 50, 40, num_particles=100, seed=0).samples
    found, error = mean_and_error((x[..., 1, :].sum((2, 3)) > 0.1).double().mean(0))
    assert_within(found, exact, error)


def test_x_given_y_is_the_gaussian_of_the_closed_form() -> None:
    """By conjugate gradients, for two measurements of three numbers; the mean is that of the draws."""
    matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, -0.7, 0.9]])
    likelihood, y = vp.Gaussian(Matrix(matrix), 0.3), torch.tensor([[0.4, -1.0]])
    x_hat, r2 = torch.tensor([0.2, 0.1, -0.3]), 0.25
    gain = r2 * matrix.T @ torch.linalg.inv(r2 * matrix @ matrix.T + 0.09 * torch.eye(2))
    mean, covariance = x_hat + gain @ (y[0] - matrix @ x_hat), r2 * (torch.eye(3) - gain @ matrix)
    assert torch.allclose(mean_given_y(likelihood, y, x_hat[None], r2, 1)[0], mean, atol=1e-5)
    torch.manual_seed(0)
    x = given_y(likelihood, y, x_hat.expand(20_000, 1, 3), r2, 2)[:, 0] - mean
    for draws, exact in ((x, torch.zeros(3)), (x[:, :, None] * x[:, None], covariance)):
        found, error = mean_and_error(draws.flatten(1))
        assert_within(found, exact.flatten(), error)


def test_the_flow_is_ddims_chain_and_tends_to_the_quantile() -> None:
    """Euler's steps of the probability-flow ODE in u are DDIM's in z on every schedule, and of first order."""
    prior = four_pixels(LinearVP())
    level, end = level_at(prior, 0.6), FLOW_END * PRIOR.sigma_data
    u = level.noise * torch.randn(3, 1, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    below = falling_levels(prior, level.noise / prior.sigma_data, FLOW_END, 3)[1]
    z = ddim(prior.schedule, level.alpha * u, level.denoise(prior, u, {}), level.t, below.t)
    middle = z / below.alpha
    x_hat = below.denoise(prior, middle, {})
    assert torch.allclose(flow(prior, u, level, 2, {}), x_hat + end / below.noise * (middle - x_hat), atol=1e-4)
    quantile = MEAN + (u - MEAN) * ((VARIANCE + end**2) / (VARIANCE + level.noise**2)) ** 0.5
    errors = [(flow(prior, u, level, steps, {}) - quantile).norm().item() for steps in (100, 200)]
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.1)


def test_the_variational_step_of_mgdm_ends_at_the_product_of_two_gaussians() -> None:
    """N(mean, s^2) exp(-(v - a)^2 / 2 d^2): precision 1/s^2 + 1/d^2; the jitter of Adam is of the order of its rate."""
    torch.manual_seed(0)
    mean, a, s, d = 0.3, 0.0, 0.4, 0.3
    precision = 1 / s**2 + 1 / d**2
    v = variational_draw(
        torch.full((1000,), mean), torch.tensor(s), lambda v: ((v - a) ** 2).sum() / (2 * d**2), 400, 0.006
    )
    found, error = mean_and_error(v)
    assert_within(found, (mean / s**2 + a / d**2) / precision, error)
    assert v.std().item() == pytest.approx(precision**-0.5, rel=0.1)


def test_the_draws_of_mgdm_are_independent() -> None:
    """The means over images of runs with different seeds agree within their standard errors: no tau is shared."""
    y = Y.expand(1000, -1, -1, -1)
    runs = [
        mgdm(PRIOR, LIKELIHOOD, y, 2, 6, lr=0.1, seed=seed).samples.mean((0, 2, 3, 4)).double() for seed in range(8)
    ]
    (means, errors) = (torch.stack(values) for values in zip(*map(mean_and_error, runs), strict=True))
    assert_within(means, means.roll(1), (errors.square() + errors.roll(1).square()).sqrt())
