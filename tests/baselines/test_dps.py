"""DPS: its step by hand, its chain, its residual norm, and hidden pixels.

The limits of a step are tested with the refinement, the equality with DeepInverse's chain in test_peers.py.
"""

from __future__ import annotations

import torch

from pyro_vipaint.baselines import dps
from pyro_vipaint.baselines.dps import dps_chain, dps_step
from pyro_vipaint.corrections import residual_norm
from pyro_vipaint.models.priors.schedules import EDM, LinearVP
from tests.problems import LIKELIHOOD, MASK, four_pixels
from tests.statistics import assert_within, mean_and_error


def test_one_step_is_the_one_computed_by_hand() -> None:
    """Variance preserving, prediction m + g (z - alpha m): the gradient of |y - m x_hat| is -g (y - x_hat) / r."""
    prior, y, z = four_pixels(LinearVP()), torch.rand(1, 1, 2, 2) * MASK, torch.randn(3, 1, 1, 2, 2)
    t, s, zeta = 0.3, 0.2, 0.7
    alpha, sigma = (float(value) for value in prior.schedule(torch.tensor(t, dtype=torch.float64)))
    gain = alpha * 0.09 / (alpha**2 * 0.09 + sigma**2)
    prediction = 0.2 + gain * (z - alpha * 0.2)
    difference = MASK * (y - prediction)
    unit = difference / difference.flatten(2).norm(dim=-1).reshape(3, 1, 1, 1, 1)
    torch.manual_seed(1)
    expected = prior.transition(z, t, s).sample() + zeta * gain * unit
    torch.manual_seed(1)
    moved, x_hat = dps_step(prior, LIKELIHOOD, z, y, (t, s), zeta, {})
    assert torch.allclose(x_hat, prediction, atol=1e-6)
    assert torch.allclose(moved, expected, atol=1e-6)


def test_each_step_but_the_last_has_its_own_zeta() -> None:
    prior, y, z = four_pixels(), torch.rand(1, 1, 2, 2) * MASK, torch.randn(3, 1, 1, 2, 2)
    torch.manual_seed(1)
    ours = list(dps_chain(prior, LIKELIHOOD, z, y, [0.8, 0.6, 0.4, 0.0], [0.8, 0.5], {}))
    torch.manual_seed(1)
    for t, s, zeta in ((0.8, 0.6, 0.8), (0.6, 0.4, 0.5)):
        z, _ = dps_step(prior, LIKELIHOOD, z, y, (t, s), zeta, {})
    assert len(ours) == 3
    torch.testing.assert_close(ours[-1], prior.denoise(z, 0.4))


def test_without_zeta_it_is_the_priors_own_chain() -> None:
    prior, y = four_pixels(), torch.zeros(1, 1, 2, 2)
    ours = dps(prior, LIKELIHOOD, y, 3, 4, zeta=0.0, seed=1).samples
    torch.manual_seed(1)
    z = 80.0 * torch.randn(3, 1, 1, 2, 2)
    for t, s in ((1.0, 0.75), (0.75, 0.5), (0.5, 0.25)):
        z = prior.transition(z, t, s).sample()
    assert torch.allclose(ours, prior.denoise(z, 0.25).clamp(-1, 1), atol=1e-6)


def test_residual_norms_are_euclidean_on_what_is_observed() -> None:
    x, y = torch.zeros(3, 2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    y[1, 0, 0] = torch.tensor([3.0, 4.0])
    y[1, 0, 1] = 99.0  # hidden
    assert torch.allclose(residual_norm(LIKELIHOOD, x, y), torch.tensor([0.0, 5.0]).expand(3, 2), atol=1e-6)


def test_hidden_pixels_of_an_independent_prior_keep_their_prior_moments() -> None:
    """DPS must leave independent hidden coordinates alone; the last prediction shrinks them by the last noise level."""
    prior, y = four_pixels(EDM(sigma_max=20.0)), 0.6 * MASK.unsqueeze(0)
    hidden = dps(prior, LIKELIHOOD, y, 4000, 60, seed=1).samples[:, 0, 0, 1]
    mean, error = mean_and_error(hidden)
    assert_within(mean, 0.2, error, slack=0.01)
    assert_within(hidden.std(0), 0.3, 0.3 / 8000**0.5, slack=0.02)
