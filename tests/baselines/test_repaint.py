"""RePaint: its schedule and step equal those of diffusers, and its jumps have the right law."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import RePaintScheduler
from torch import Tensor

import pyro_vipaint as vp
from benchmarks.bias import GaussianTruth, gaussian_truth
from pyro_vipaint.baselines import repaint
from pyro_vipaint.baselines.repaint import call_levels, repaint_calls, repaint_step
from pyro_vipaint.baselines.replacement import Known
from pyro_vipaint.models import GaussianPrior
from pyro_vipaint.models.priors.kernels import bridge_coefficients, relative
from pyro_vipaint.models.priors.schedules import EDM, TableVP
from tests.statistics import assert_within

NETWORK_STEPS = 1000


def visited_levels(calls: list[int]) -> list[int]:
    """The levels of :func:`call_levels` with those that a jump passes."""
    path = []
    for level, following in pairwise([*calls, 0]):
        path += [level, *range(level - 1, following)] if following >= level else [level]
    return path


def diffusers_scheduler(steps: int, jump_length: int = 10, resamples: int = 10) -> RePaintScheduler:
    scheduler = RePaintScheduler(NETWORK_STEPS, eta=1.0, clip_sample=False)
    scheduler.set_timesteps(steps, jump_length, resamples)
    return scheduler


def table(scheduler: RePaintScheduler) -> TableVP:
    return TableVP(scheduler.alphas_cumprod.double().tolist())


def test_the_levels_are_those_of_diffusers() -> None:
    """Level k is their timestep (k - 1) stride."""
    for setting in ((250, 10, 10), (20, 3, 4), (10, 10, 10), (7, 1, 3), (50, 10, 1)):
        stride = NETWORK_STEPS // setting[0]
        path = visited_levels(call_levels(*setting))
        assert [(level - 1) * stride for level in path] == diffusers_scheduler(*setting).timesteps.tolist()


def test_the_paper_makes_2410_calls() -> None:
    assert repaint_calls() == 2410
    assert repaint_calls(resamples=1) == 250


@pytest.mark.parametrize("timestep", [996, 500, 0])
def test_the_step_equals_that_of_diffusers(timestep: int) -> None:
    """From one network output and one noise; timestep n lies at t = (n + 1) / N, and the last step ends at t = 0."""
    scheduler = diffusers_scheduler(250)
    z, epsilon, y = torch.randn(3, 4, 1, 8, 8).unbind(0)
    mask = torch.rand(4, 1, 8, 8) > 0.5
    alpha, sigma = (float(v) for v in table(scheduler)(torch.tensor((timestep + 1) / NETWORK_STEPS)))
    z_hat = (z - sigma * epsilon) / alpha
    torch.manual_seed(0)
    theirs = scheduler.step(epsilon, timestep, z, y, mask.float()).prev_sample  # pyright: ignore
    torch.manual_seed(0)
    t, s = (timestep + 1) / NETWORK_STEPS, max(timestep + 1 - 4, 0) / NETWORK_STEPS
    ours = repaint_step(table(scheduler), z, z_hat, Known(y, mask), t, s)
    assert torch.allclose(ours, theirs, atol=1e-5 * float(1 / alpha))


def exact_without_noise(truth: GaussianTruth) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the hidden pixels given that the observed ones are y."""
    vector: GaussianPrior = truth.prior.denoiser.vector  # pyright: ignore[reportAttributeAccessIssue]
    mask = truth.observed.flatten().float()
    exact = vector.posterior(vp.Gaussian(vp.Inpainting(mask), 1e-3), truth.y.flatten(1))
    hidden = ~truth.observed.flatten()
    return exact.mean[0, hidden], exact.stddev[0, hidden]


@pytest.mark.slow
def test_resampling_brings_the_hidden_pixels_to_the_posterior_of_an_exact_observation() -> None:
    """In the limit only the noise of y is wrong; the Monte-Carlo error of 1000 samples is .03."""
    truth = gaussian_truth()
    mean, std = exact_without_noise(truth)
    errors = []
    for resamples in (1, 8, 40):
        result = repaint(truth.prior, truth.likelihood, truth.y, 1000, 100, resamples=resamples, seed=0)
        hidden = result.samples[:, 0][:, ~truth.observed]
        errors.append(float(((hidden.mean(0) - mean) / std).square().mean().sqrt()))
    assert errors[0] > 2 * errors[1] > 2 * errors[2]
    assert errors[2] < 0.2


def spread_of_the_chain(prior: GaussianPrior, steps: int, levels: list[int]) -> float:
    """Standard deviation of the image of independent pixels after the network calls at ``levels``, in closed form."""
    variance, (_, top) = float(prior.denoiser.variance.flatten()[0]), prior.noise_range
    current = top**2
    for level, following in pairwise(levels):
        t, s, up = level / steps, (level - 1) / steps, following / steps
        a, b, extra = (float(v) for v in bridge_coefficients(prior.schedule, t, s))
        alpha, noise = (float(v) for v in relative(prior.schedule, s, max(s, up)))
        current = alpha**2 * ((a + b * gain(prior, variance, t)) ** 2 * current + extra) + noise
    return gain(prior, variance, levels[-1] / steps) * current**0.5


def gain(prior: GaussianPrior, variance: float, t: float) -> float:
    """The derivative of the prediction with respect to z_t."""
    alpha, sigma = (float(v) for v in prior.schedule(torch.tensor(t, dtype=torch.float64)))
    return alpha * variance / (alpha**2 * variance + sigma**2)


def test_nothing_observed_is_the_priors_chain_with_jumps() -> None:
    """In closed form; NaN where nothing is seen does not matter."""
    prior = GaussianPrior.diagonal(torch.full((1, 2, 2), 0.2), torch.full((1, 2, 2), 0.2), EDM(sigma_max=20.0))
    likelihood, y = vp.Gaussian(vp.Inpainting(torch.zeros(1, 2, 2)), 0.1), torch.full((1, 1, 2, 2), torch.nan)
    x = repaint(prior, likelihood, y, 5000, 20, jump_length=4, resamples=3, seed=0).samples.flatten()
    exact = spread_of_the_chain(prior, 20, call_levels(20, 4, 3))
    assert exact < 0.17, "so coarse a grid shrinks the images: the comparison sees the jumps"
    assert_within(x.mean(), 0.2, exact / len(x) ** 0.5, slack=0.001)
    assert_within(x.std(), exact, exact / (2 * len(x)) ** 0.5)


def test_operators_that_only_have_a_mask_are_refused() -> None:
    truth = gaussian_truth()
    likelihood = vp.Gaussian(Halved(truth.observed), 0.1)
    with pytest.raises(vp.InputError, match="needs an inpainting mask, not Halved"):
        repaint(truth.prior, likelihood, truth.y, 1, 2)


class Halved(vp.Inpainting):
    """It has a mask, and does more than hide pixels."""

    def A(self, x: Tensor) -> Tensor:
        return super().A(x) / 2
