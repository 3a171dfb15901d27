"""The laws of every prior in tests/every_prior.py, and of every schedule there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.errors import InputError
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior
from pyro_vipaint.models.priors.schedules import EDM, as_time, noise_level, time_of
from tests.every_prior import EXACT, ONE_OF_EACH, PRESERVING, PRIORS, SCHEDULES, Kind
from tests.problems import Unscaled
from tests.statistics import STANDARD_ERRORS, mean_and_error

each_prior = pytest.mark.parametrize("kind", PRIORS.values(), ids=PRIORS.keys())
each_exact_prior = pytest.mark.parametrize("kind", EXACT.values(), ids=EXACT.keys())
TIMES = (0.1, 0.5, 1.0)


def latents(prior: DiffusionPrior, *leading: int) -> Tensor:
    return torch.randn(*leading, *prior.event_shape, dtype=torch.float64)


def half_mask(prior: DiffusionPrior) -> Tensor:
    """Every other element is observed."""
    return (torch.arange(torch.Size(prior.event_shape).numel()) % 2 == 0).double().reshape(prior.event_shape)


# schedules


def test_the_noise_level_grows_strictly_and_time_of_inverts_it() -> None:
    """sigma/alpha is finite, not negative and increasing; time_of refuses levels beyond its ends and names them."""
    for schedule in SCHEDULES:
        level = noise_level(schedule, torch.linspace(0, 1, 1001, dtype=torch.float64))
        assert level.isfinite().all() and level[0] >= 0 and (level.diff() > 0).all()
        for t in (0.02, 0.4, 0.95):
            assert time_of(schedule, noise_level(schedule, t).item()) == pytest.approx(t, abs=1e-9)
        for outside in (-0.1, 1.01 * level[-1].item(), float("nan")):
            with pytest.raises(InputError, match="outside the schedule's range"):
                time_of(schedule, outside)


def test_a_schedule_is_elementwise_in_the_dtype_of_its_times() -> None:
    """Times of any shape give, element by element, the values of each time alone; float32 agrees with float64."""
    for schedule in SCHEDULES:
        exact = torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.4, 0.7]], dtype=torch.float32).double()
        for dtype in (torch.float32, torch.float64):
            t = exact.to(dtype)
            both = torch.stack(schedule(t))
            assert both.dtype == dtype
            alone = torch.stack([torch.stack(schedule(time)) for time in t.flatten()], -1).reshape(2, 2, 3)
            torch.testing.assert_close(both, alone)
            rtol = 1e-12 if dtype == torch.float64 else 1e-4
            torch.testing.assert_close(both.double(), torch.stack(schedule(exact)), rtol=rtol, atol=1e-12)


def test_variance_is_preserved() -> None:
    """alpha^2 + sigma^2 = 1 on every variance-preserving schedule."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for schedule in PRESERVING:
        alpha, sigma = schedule(t)
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-14)


# denoisers and transitions


@each_prior
def test_each_latent_is_denoised_by_itself(kind: Kind) -> None:
    """Samples × images equal a loop, each at its own time and condition, also with seven singleton dimensions.

    The gradient is the numerical one.
    """
    prior: DiffusionPrior = kind.build()
    z, t = latents(prior, 3, 2), torch.linspace(0.1, 0.9, 6, dtype=torch.float64).reshape(3, 2)
    together = prior.denoise(z, t, **kind.condition)
    assert together.shape == z.shape
    for i, j in product(range(3), range(2)):
        torch.testing.assert_close(together[i, j], prior.denoise(z[i, j], t[i, j].item(), **kind.of(j)))
    padded = prior.denoise(z.reshape(*(1,) * 7, *z.shape), torch.tensor(0.4), **kind.condition)
    torch.testing.assert_close(padded.reshape(z.shape), prior.denoise(z, torch.tensor(0.4), **kind.condition))
    assert torch.autograd.gradcheck(lambda z: prior.denoise(z, 0.4, **kind.condition), (z[0].requires_grad_(),))


@each_prior
def test_a_transition_is_the_bridge_at_the_denoised_latent(kind: Kind) -> None:
    """Eq. 3 written out: N(a z_t + b x_hat, v) with the coefficients of q(z_s | z_t, x)."""
    for schedule in ONE_OF_EACH:
        prior, t, s = kind.build(schedule), 0.6, 0.35
        z = latents(prior, 3, 2)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = ([v.item() for v in schedule(as_time(u))] for u in (t, s))
        fresh = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
        x_hat = prior.denoise(z, t, **kind.condition)
        mean = alpha_t / alpha_s * sigma_s**2 / sigma_t**2 * z + alpha_s * fresh / sigma_t**2 * x_hat
        step = prior.transition(z, t, s, **kind.condition)
        torch.testing.assert_close(step.mean, mean, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(
            step.variance, torch.full_like(z, fresh * sigma_s**2 / sigma_t**2), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize("name", [name for name, kind in PRIORS.items() if kind.portable])
def test_a_prior_does_not_depend_on_the_scale_of_z(name: str) -> None:
    """z / alpha on the variance-exploding version of a schedule has the same denoised latent and transition."""
    kind = PRIORS[name]
    for schedule in ONE_OF_EACH:
        scaled, unscaled = kind.build(schedule), kind.build(Unscaled(schedule))
        for t, s in ((0.8, 0.5), (0.3, 0.29)):
            (alpha_t, _), (alpha_s, _) = schedule(as_time(t)), schedule(as_time(s))
            z = latents(scaled, 2)
            ours = scaled.transition(z, t, s, **kind.condition)
            theirs = unscaled.transition(z / alpha_t, t, s, **kind.condition)
            torch.testing.assert_close(ours.mean / alpha_s, theirs.mean, rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(ours.stddev / alpha_s, theirs.stddev, rtol=1e-6, atol=1e-8)


@each_prior
def test_calls_and_nfe_are_counted(kind: Kind) -> None:
    """One call per prediction, and per image as many evaluations as the network sees; an exact marginal needs none."""
    prior: DiffusionPrior = kind.build(dtype=torch.float32)
    z = latents(prior, 3, 2).float()

    def count(run: Callable[[], Any]) -> tuple[int, int]:
        with vp.count_calls() as count:
            run()
        return count.calls, count.nfe

    once = (1, 6 * kind.passes)
    assert count(lambda: prior.denoise(z, 0.5, **kind.condition)) == once
    assert count(lambda: prior.transition(z, 0.5, 0.4, **kind.condition)) == once
    marginal: Any = prior.marginal(0.5, steps=9, **kind.condition).expand(torch.Size((2,)))
    assert count(lambda: marginal.log_prob(z)) == ((0, 0) if kind.exact else once)
    assert count(lambda: marginal.sample((3,))) == ((0, 0) if kind.exact else (9, 9 * once[1]))


@each_prior
def test_the_model_runs_and_counts(kind: Kind) -> None:
    """An SVI step of K = 3 levels costs K calls with an exact marginal and K + 1 with an estimate."""
    whole: Any = kind.build(dtype=torch.float32)
    for prior, calls in ((whole, 3), (whole.diffusion(), 4)) if kind.exact else ((whole, 4),):
        mask = half_mask(prior).float()
        likelihood, y = vp.Laplace(vp.Inpainting(mask), 0.2), mask * torch.randn(2, *prior.event_shape)
        model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=[4.0, 1.0, 0.3]), **kind.condition)
        guide = HierarchicalGuide(model, vp.initial_latent(prior, likelihood, y))
        with vp.count_calls() as count:
            vp.BetaELBO(num_particles=7).differentiable_loss(model, guide, y).backward()
        assert (count.calls, count.nfe) == (calls, calls * 14 * kind.passes)
        for name, parameter in guide.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name
        assert model(num_images=2).shape == y.shape


@each_prior
def test_expanding_a_marginal_keeps_its_density(kind: Kind) -> None:
    prior: DiffusionPrior = kind.build()
    marginal: Any = prior.marginal(0.5, **kind.condition)
    expanded = marginal.expand(torch.Size((3, 2)))
    assert (expanded.batch_shape, expanded.event_shape) == ((3, 2), tuple(prior.event_shape))
    value, densities = latents(prior, 3, 2), []
    for distribution in (marginal, expanded):
        torch.manual_seed(5)
        densities.append(distribution.log_prob(value))
    assert torch.equal(*densities)


# exact priors


@each_exact_prior
def test_tweedie(kind: Kind) -> None:
    """alpha x_hat = z + sigma^2 ∇ log p(z_t), the gradient by automatic differentiation of the marginal."""
    for schedule, t in product(ONE_OF_EACH, TIMES):
        prior = kind.build(schedule)
        marginal = prior.marginal(t, **kind.condition)
        alpha, sigma = (v.item() for v in schedule(as_time(t)))
        z = marginal.expand(torch.Size((2,))).sample((4,)).requires_grad_()
        (score,) = torch.autograd.grad(marginal.log_prob(z).sum(), z)
        # the difference cancels to about alpha, which a rectified flow ends at 1e-5
        expected = z + sigma**2 * score
        torch.testing.assert_close(alpha * prior.denoise(z, t, **kind.condition), expected, rtol=1e-9, atol=1e-9)


@each_exact_prior
def test_the_estimated_marginal_is_a_lower_bound(kind: Kind) -> None:
    """``diffusion()``: the mean estimate is below the exact log density, by a fraction of a nat on a fine grid."""
    prior = kind.build(EDM(sigma_max=40.0))
    t = time_of(prior.schedule, 1.0)
    exact = prior.marginal(t, **kind.of(0))
    for z in exact.expand(torch.Size((1,))).sample((2,)):
        bound, error = mean_and_error(prior.diffusion().marginal(t, **kind.of(0)).log_prob(z.expand(40_000, *z.shape)))
        gap = exact.log_prob(z) - bound
        assert -STANDARD_ERRORS * error < gap < 0.3 + STANDARD_ERRORS * error
        assert error < 0.1, "the comparison is too noisy to mean anything"


# a correlated Gaussian refuses its own covariance at large sigma in float32: rounding makes it asymmetric
@pytest.mark.parametrize("name", [name for name in EXACT if name != "gaussian, full"])
def test_single_precision_agrees_with_double(name: str) -> None:
    """From hardly any noise to all of it, and for observations with hardly any noise; the dtype is kept."""
    kind = EXACT[name]
    for schedule in ONE_OF_EACH:
        small, large = (kind.build(schedule, dtype) for dtype in (torch.float32, torch.float64))
        for t in (0.01, 0.5, 1.0):
            z = large.marginal(t).sample((8,)).float()
            ours, expected = small.denoise(z, t), large.denoise(z.double(), t)
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours.double(), expected, rtol=kind.rounding, atol=kind.rounding)
            difference = small.marginal(t).log_prob(z).double() - large.marginal(t).log_prob(z.double())
            assert difference.abs().max() < 10 * kind.rounding
    small, large = (kind.build(dtype=dtype) for dtype in (torch.float32, torch.float64))
    likelihood, y = vp.Gaussian(vp.Inpainting(half_mask(large)), 1e-3), torch.randn(2, *large.event_shape)
    ours, expected = small.posterior(likelihood, y), large.posterior(likelihood, y.double())
    assert ours.sample().dtype == torch.float32
    torch.testing.assert_close(ours.mean.double(), expected.mean, rtol=1e-3, atol=1e-3)


@each_exact_prior
def test_evidence_and_posterior_read_what_is_observed(kind: Kind) -> None:
    """NaN where the mask is 0 changes nothing, nor do other images; if nothing is observed, the evidence is 1."""
    prior = kind.build()
    mask, y = half_mask(prior), latents(prior, 2)
    likelihood, hidden = vp.Gaussian(vp.Inpainting(mask), 0.3), torch.where(mask.bool(), y, torch.nan)
    for ask in (prior.log_evidence, lambda *given, **condition: prior.posterior(*given, **condition).mean):
        expected = ask(likelihood, y, **kind.condition)
        torch.testing.assert_close(ask(likelihood, hidden, **kind.condition), expected)
    alone = torch.cat([prior.log_evidence(likelihood, y[n : n + 1], **kind.of(n)) for n in range(2)])
    torch.testing.assert_close(prior.log_evidence(likelihood, y, **kind.condition), alone)
    nothing = vp.Gaussian(vp.Inpainting(torch.zeros(prior.event_shape)), 0.3)
    none = torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(prior.log_evidence(nothing, y, **kind.condition), none, rtol=0, atol=1e-6)
    unknown = prior.posterior(nothing, y, **kind.condition).mean
    other = prior.posterior(nothing, -y, **kind.condition).mean
    torch.testing.assert_close(unknown, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["gaussian, full", "mixture, full"])
def test_what_has_no_closed_form_is_refused(name: str) -> None:
    """Laplace noise and one mask per image: D of them would broadcast over the columns of the matrix."""
    prior = PRIORS[name].build()
    size = prior.event_shape[0]
    mask, y = half_mask(prior), latents(prior, size)
    for ask in (prior.log_evidence, prior.posterior):
        with pytest.raises(InputError, match="for a Gaussian likelihood"):
            ask(vp.Laplace(vp.Inpainting(mask)), y)
        for count in (2, size):
            with pytest.raises(InputError, match="each image alone"):
                ask(vp.Gaussian(vp.Inpainting(mask.expand(count, size))), y[:count])
    alone, shared = vp.Gaussian(vp.Inpainting(mask[None])), vp.Gaussian(vp.Inpainting(mask))
    torch.testing.assert_close(prior.log_evidence(alone, y[:1]), prior.log_evidence(shared, y[:1]))
