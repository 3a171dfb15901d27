"""Twisted guides: the samplers that they are, corrections against closed forms of Gaussians, gradients and costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro.distributions import Normal
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.baselines import ddnm, diffpir, dps, mmps, pi_gdm
from pyro_vipaint.baselines.corrected import corrected_chain
from pyro_vipaint.corrections import (
    DDNM,
    DPS,
    MMPS,
    TMPD,
    ByLevel,
    DiffPIR,
    OptimalCovariance,
    PiGDM,
    Wiener,
    gmres,
    predict,
)
from pyro_vipaint.diagnostics import log_weights
from pyro_vipaint.guides import FlowGuide, HierarchicalGuide, LowRankGuide
from pyro_vipaint.guides.twisted import Prediction, TwistedGuide
from pyro_vipaint.models import DataCovariance, DiffusionModel, GaussianPrior, MatchedPrior, Matrix
from pyro_vipaint.models.priors.schedules import as_time, time_of
from tests.problems import LIKELIHOOD, MASK, Y, four_pixels

STEPS = 6
TIMES = [1 - i / STEPS for i in range(STEPS)]
BOTH = torch.cat([Y, Y + 0.2])


@pytest.mark.parametrize(
    ("baseline", "correction"),
    [(dps, DPS(0.5)), (pi_gdm, PiGDM()), (mmps, MMPS()), (ddnm, DDNM()), (diffpir, DiffPIR())],
)
def test_the_guide_is_the_sampler(baseline: Any, correction: Any) -> None:
    """The same noise gives the same chain: the guide's draw at the last level predicts the baseline's image."""
    prior = four_pixels()
    model = DiffusionModel(prior, LIKELIHOOD, TIMES)
    z = vp.sample(TwistedGuide(model, correction=correction), BOTH, 3, seed=1)
    expected = baseline(prior, LIKELIHOOD, BOTH, 3, steps=STEPS, seed=1).samples
    at = _prediction(prior, LIKELIHOOD, BOTH, z, TIMES[-1], 0.0)
    image = at.x_hat if baseline is dps else at.x_hat + correction(at)  # the image of DPS is the prediction
    assert torch.allclose(image.detach().clamp(-1, 1), expected, atol=1e-5)


def test_steps_with_noise_of_their_own_are_those_of_the_papers() -> None:
    """DDNM keeps the network's direction, DiffPIR takes the one from the corrected prediction."""
    at = _prediction(four_pixels(), LIKELIHOOD, BOTH, torch.randn(3, 2, 1, 2, 2), 0.6, 0.5)
    c = torch.randn(at.x_hat.shape)
    for correction, x in ((DDNM(0.85), at.x_hat), (DiffPIR(zeta=0.3), at.x_hat + c)):
        share = {DDNM: 0.85**2, DiffPIR: 0.3}[type(correction)]
        direction = (at.z - at.alpha_t * x) / at.sigma_t
        mean, shift, std, _ = correction.move(at, c)
        expected = at.alpha_s * (at.x_hat + c) + at.sigma_s * (1 - share) ** 0.5 * direction
        assert torch.allclose(mean + shift, expected, atol=1e-5)
        assert std == pytest.approx(share**0.5 * at.sigma_s)


def _prediction(prior: Any, likelihood: Any, y: Tensor, z: Tensor, t: float, s: float) -> Prediction:
    return predict(prior, likelihood, y, z, t, s, {})


def _correlated(dimensions: int = 6) -> tuple[GaussianPrior, vp.Gaussian, Tensor, Tensor, Tensor]:
    """A prior with correlated coordinates, three noisy combinations of them, their matrix, y and z_t, in float64."""
    root = torch.randn(dimensions, dimensions, dtype=torch.float64) / 2
    covariance = root @ root.T + 0.1 * torch.eye(dimensions, dtype=torch.float64)
    prior = GaussianPrior.full(torch.randn(dimensions, dtype=torch.float64), covariance)
    matrix = torch.randn(3, dimensions, dtype=torch.float64)
    likelihood = vp.Gaussian(Matrix(matrix), sigma=0.3)
    return (
        prior,
        likelihood,
        matrix,
        torch.randn(2, 3, dtype=torch.float64),
        torch.randn(4, 2, dimensions, dtype=torch.float64),
    )


@pytest.mark.parametrize("masked", [True, False])
def test_wiener_is_the_exact_posterior_mean_of_images_of_its_covariance(masked: bool) -> None:
    """By the precision of z_t, y and a dense covariance; a mask is solved by Woodbury, an operator by iterations."""
    vectors = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64)).Q.T
    covariance = DataCovariance(vectors, torch.tensor([4.0, 1.0]).double(), 0.3)
    dense = covariance.root(covariance.root(torch.eye(6, dtype=torch.float64)))
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1]).double()
    matrix = torch.diag(mask) if masked else torch.randn(3, 6).double()
    prior = GaussianPrior.full(torch.randn(6, dtype=torch.float64), dense)
    likelihood = vp.Gaussian(vp.Inpainting(mask) if masked else Matrix(matrix), sigma=0.3)
    y, z = torch.randn(2, 6).double() @ matrix.T, torch.randn(4, 2, 6).double()
    alpha, sigma = map(float, prior.schedule(as_time(0.6)))
    total = dense.inverse() + (alpha / sigma) ** 2 * torch.eye(6) + matrix.T @ matrix / 0.3**2
    linear = dense.inverse() @ prior.mean + alpha / sigma**2 * z + y @ matrix / 0.3**2
    at = _prediction(prior, likelihood, y, z, 0.6, 0.5)
    assert torch.allclose(at.x_hat + Wiener(covariance)(at), linear @ total.inverse(), atol=1e-6)


def test_by_level_is_one_correction_above_the_level_and_the_other_below() -> None:
    """In a chain, too, which takes gradients only where the correction of the level does."""
    prior, both = four_pixels(), ByLevel(DDNM(), PiGDM(), level=1.0)
    for level, chosen in ((1.5, DDNM()), (0.99, PiGDM())):
        t = time_of(prior.schedule, level * prior.sigma_data)
        at = _prediction(prior, LIKELIHOOD, BOTH, torch.randn(3, 2, 1, 2, 2), t, 0.9 * t)
        c = chosen(at)
        assert torch.equal(both(at), c) and both.std(at) == chosen.std(at) and both.at_level(1.0) == PiGDM()
        assert all(
            torch.equal(torch.as_tensor(a), torch.as_tensor(b))
            for a, b in zip(both.move(at, c)[:3], chosen.move(at, c)[:3], strict=True)
        )
    times = [time_of(prior.schedule, level * prior.sigma_data) for level in (4.0, 2.0, 0.9, 0.4)]
    with vp.count_calls() as count:
        *_, x = corrected_chain(prior, LIKELIHOOD, torch.randn(3, 2, 1, 2, 2), BOTH, [*times, 0.0], both, {})
    assert (count.calls, count.gradients) == (4, 2 * x.shape[0] * x.shape[1])


def test_moment_matching_is_the_exact_posterior_mean_of_a_correlated_gaussian() -> None:
    """E[x | z_t, y] by the precision of both, from the prior's moments alone; three iterations for three rows."""
    prior, likelihood, matrix, y, z = _correlated()
    alpha, sigma = map(float, prior.schedule(as_time(0.6)))
    precision = prior.covariance.inverse()
    total = precision + (alpha / sigma) ** 2 * torch.eye(6) + matrix.T @ matrix / 0.3**2
    linear = precision @ prior.mean + alpha / sigma**2 * z + y @ matrix / 0.3**2
    at = _prediction(prior, likelihood, y, z, 0.6, 0.5)
    assert torch.allclose(at.x_hat + MMPS(3)(at), linear @ total.inverse(), atol=1e-8)
    assert not torch.allclose(at.x_hat + MMPS(1)(at), linear @ total.inverse(), atol=1e-3)


def test_row_sums_are_the_covariance_of_y_where_it_is_diagonal() -> None:
    prior = GaussianPrior.diagonal(torch.zeros(1, 2, 2), torch.tensor([[[0.2, 0.9], [0.5, 0.3]]]))
    at = _prediction(prior, LIKELIHOOD, BOTH, torch.randn(3, 2, 1, 2, 2), 0.6, 0.5)
    assert torch.allclose(TMPD()(at), MMPS(4)(at), atol=1e-4)
    assert not torch.allclose(PiGDM()(at), MMPS(4)(at), atol=1e-2)  # which takes all pixels for alike


def test_what_was_observed_replaces_what_a_sees() -> None:
    exact = vp.Gaussian(LIKELIHOOD.operator, sigma=1e-9)
    at = _prediction(four_pixels(), exact, Y, torch.randn(3, 1, 1, 2, 2), 0.6, 0.5)
    assert torch.allclose(exact.residual(at.x_hat + DDNM()(at), Y), torch.zeros(()), atol=1e-6)
    assert torch.equal(DDNM()(at) == 0, (MASK == 0).expand(3, 1, 1, 2, 2))  # the hole stays


def test_the_proximal_step_solves_its_normal_equations() -> None:
    prior, likelihood, matrix, y, z = _correlated()
    at = _prediction(prior, likelihood, y, z, 0.6, 0.5)
    rho = (0.3 * at.alpha_t / at.sigma_t) ** 2
    expected = at.residual() @ matrix @ (matrix.T @ matrix + rho * torch.eye(6)).inverse()
    assert torch.allclose(DiffPIR(steps=6)(at), expected, atol=1e-6)


def test_gmres_solves_each_system_by_itself() -> None:
    matrix, r = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    basis: list[Tensor] = []

    def apply_to(v: Tensor) -> Tensor:
        basis.append(v)
        return (matrix @ v.unsqueeze(-1)).squeeze(-1)

    weights = gmres(apply_to, r, 4, leading=2)
    solution = torch.stack([w.unsqueeze(-1) * v for w, v in zip(weights, basis, strict=True)]).sum(0)
    assert torch.allclose(solution, torch.linalg.solve(matrix, r), atol=1e-6)


@pytest.mark.parametrize("r", [[1.0, 0.0, 0.0], [0.3, -0.2, 0.7], [0.0, 0.0, 0.0]])
def test_an_exhausted_krylov_space_leaves_the_gradient_of_the_solution(r: list[float]) -> None:
    """M = c I has one direction; u = r / c, whose sum has the derivative -sum(r) / c^2."""
    c, residual = torch.tensor(0.5, dtype=torch.float64, requires_grad=True), torch.tensor(r).double()
    basis: list[Tensor] = []

    def apply_to(v: Tensor) -> Tensor:
        basis.append(v)
        return c * v

    weights = gmres(apply_to, residual, 3, leading=0)
    u = torch.stack([w * v for w, v in zip(weights, basis, strict=True)]).sum(0)
    (slope,) = torch.autograd.grad(u.sum(), c)
    assert torch.allclose(u, residual / 0.5) and slope.item() == pytest.approx(-sum(r) / 0.25)


@pytest.mark.parametrize("correction", [DPS(0.02), PiGDM(), MMPS(2), TMPD(), DDNM(), DiffPIR()])
def test_the_gradient_of_the_bound_is_its_difference_quotient(correction: Any) -> None:
    """Of all w and tau at once, along a random direction, corrections differentiated as well."""
    mean, std = torch.tensor([[[[0.2, 0.1], [0.3, 0.2]]], [[[0.3, 0.4], [0.2, 0.5]]]]).double()
    prior = GaussianPrior.diagonal(mean, std)
    model = DiffusionModel(prior, LIKELIHOOD, TIMES[2:])
    guide = TwistedGuide(model, Y.double(), correction=correction)
    parameters, elbo = list(guide.parameters()), vp.BetaELBO(num_particles=2)
    directions = [torch.randn_like(parameter) for parameter in parameters]

    def loss(step: float) -> Tensor:
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += step * direction
        torch.manual_seed(0)
        return elbo.differentiable_loss(model, guide, Y.double())

    loss(0.0).backward()
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True) if p.grad is not None)
    quotient = float((loss(1e-5) - loss(-2e-5)).detach()) / 2e-5
    assert slope == pytest.approx(quotient, rel=1e-4)


def test_a_fit_needs_no_further_calls_and_raises_the_bound_of_other_observations() -> None:
    prior = four_pixels()
    model = DiffusionModel(prior, LIKELIHOOD, TIMES)
    guide = TwistedGuide(model, correction=DPS(0.05))
    other = Y * -0.5
    before = float(log_weights(model, guide, other, 500, seed=1).mean())
    fit = vp.fit(model, guide, BOTH, vp.BetaELBO(num_particles=4), steps=20, lr=0.1, seed=0)
    after = float(log_weights(model, guide, other, 500, seed=1).mean())
    assert fit.calls == 20 * len(TIMES)
    assert before + 1 < after < float(prior.log_evidence(LIKELIHOOD, other, TIMES))


def test_sticking_the_landing_refuses_a_correction_before_any_call() -> None:
    model = DiffusionModel(four_pixels(), LIKELIHOOD, TIMES)
    guide = TwistedGuide(model, correction=PiGDM())
    with vp.count_calls() as count, pytest.raises(vp.InputError, match="SampledELBO"):
        vp.fit(model, guide, BOTH, vp.StickingTheLandingELBO(), steps=1)
    assert count.calls == 0


def test_the_chain_of_eq_12_with_gamma_one_is_the_sampler() -> None:
    """The same draws, densities and costs from the same noise; the other families differ at T_e alone."""
    model, zero = DiffusionModel(four_pixels(), LIKELIHOOD, TIMES), torch.zeros_like(BOTH)
    options: Any = {"gamma_logit": 40.0, "tau_scale": 1.0, "correction": MMPS(2)}
    found = []
    for guide in (TwistedGuide(model, correction=MMPS(2)), HierarchicalGuide(model, zero, **options)):
        with vp.count_calls() as count:
            z = vp.sample(guide, BOTH, 3, seed=1)
        found.append((z, log_weights(model, guide, BOTH, 3, seed=1), (count.calls, count.gradients)))
    (z, weights, cost), (same_z, same_weights, same_cost) = found
    assert torch.allclose(z, same_z, atol=1e-5) and not same_z.requires_grad
    assert torch.allclose(weights, same_weights, atol=1e-3)
    assert cost == same_cost == (STEPS - 1, 2 * (STEPS - 1) * BOTH.shape[0] * 3)
    for guide in (FlowGuide(model, zero, **options), LowRankGuide(model, zero, rank=2, **options)):
        assert vp.sample(guide, BOTH, 3).shape == z.shape


def test_the_chain_of_eq_12_with_a_correction_ends_above_the_fitted_sampler() -> None:
    """Its mu, gamma and tau by element serve these observations alone; without a correction it takes no gradient."""
    prior = four_pixels()
    model = DiffusionModel(prior, LIKELIHOOD, TIMES[::2])
    chain = HierarchicalGuide(model, BOTH, correction=DPS(0.05))
    bounds, elbo = [], vp.BetaELBO(num_particles=4)
    for guide in (TwistedGuide(model, correction=DPS(0.05)), chain):
        fitted = vp.fit(model, guide, BOTH, elbo, steps=20, lr=0.2, seed=0)
        assert fitted.calls == 20 * len(model.levels)
        bounds.append(log_weights(model, guide, BOTH, 300, seed=1).mean(0))
    assert (bounds[0] + 0.1 < bounds[1]).all()
    assert (bounds[1] < prior.log_evidence(LIKELIHOOD, BOTH, TIMES[::2])).all()
    assert all(float((getattr(chain, f"w_{level}") - 1).detach().abs()) > 0.01 for level in (1, 2))
    with vp.count_calls() as count:
        vp.sample(HierarchicalGuide(model, BOTH), BOTH, 3)
    assert count.gradients == 0


def test_draws_without_a_fit_hold_no_graph() -> None:
    guide = TwistedGuide(DiffusionModel(four_pixels(), LIKELIHOOD, TIMES), correction=PiGDM())
    with vp.count_calls() as count:
        z = vp.sample(guide, BOTH, 3)
    assert count.calls == len(TIMES) - 1 and not z.requires_grad
    for name in ("z_4", "z_1"):
        site: Any = guide.trace.nodes[name]
        assert not any(fn.base_dist.loc.requires_grad for fn in (site["fn"], site["infer"]["prior"]))
    known = MatchedPrior(four_pixels(), DataCovariance(torch.eye(4)[:2].reshape(2, 1, 2, 2), torch.ones(2), 0.1))
    guide = TwistedGuide(DiffusionModel(known, LIKELIHOOD, TIMES), correction=PiGDM())
    vp.sample(guide, BOTH, 3)
    site = guide.trace.nodes["z_1"]
    assert not any(fn.base_dist.loc.requires_grad for fn in (site["fn"], site["infer"]["prior"]))
    with torch.no_grad():
        assert torch.allclose(site["fn"].detached().log_prob(site["value"]), site["fn"].log_prob(site["value"]))


def test_what_a_twisted_guide_cannot_follow_is_refused() -> None:
    model = DiffusionModel(four_pixels(), LIKELIHOOD, TIMES)
    function = DiffusionModel(four_pixels(), lambda x: Normal(x, 0.1), TIMES)
    guide = TwistedGuide(model, correction=PiGDM())
    with pytest.raises(vp.InputError, match="likelihood of the model must be one with operator, residual"):
        TwistedGuide(function, correction=PiGDM())
    with pytest.raises(vp.InputError, match=r"correction must be a Correction .*, not the class PiGDM"):
        TwistedGuide(model, correction=PiGDM)  # type: ignore[arg-type]
    with pytest.raises(vp.InputError, match="needs the observations"):
        guide()
    assert guide(y=BOTH)["z_1"].shape == BOTH.shape


def test_what_a_covariance_cannot_do_is_refused() -> None:
    prior = four_pixels()
    known = DataCovariance(torch.eye(4)[:2].reshape(2, 1, 2, 2), torch.ones(2), 0.1)
    blurred = vp.Gaussian(vp.GaussianBlur(0.5, 3), 0.1)
    with pytest.raises(vp.InputError, match="Wiener needs a covariance"):
        TwistedGuide(DiffusionModel(prior, LIKELIHOOD, TIMES), correction=Wiener())
    with pytest.raises(vp.InputError, match=r"the operator must be a mask, .* to remain with covariances"):
        vp.sample(TwistedGuide(DiffusionModel(MatchedPrior(prior, known), blurred, TIMES), correction=Wiener()), Y, 2)
    with pytest.raises(vp.InputError, match=r"one by element: use Wiener\(\)"):
        guide = TwistedGuide(
            DiffusionModel(MatchedPrior(prior, known), LIKELIHOOD, TIMES), correction=OptimalCovariance()
        )
        vp.sample(guide, Y, 2)
    with pytest.raises(vp.InputError, match=r"a DataCovariance of events \(1, 2, 2\)"):
        replace(prior.diffusion(), data_covariance=DataCovariance(torch.eye(3)[:1], torch.ones(1), 0.1))


def test_what_is_learnt_on_some_observations_serves_others(tmp_path: Path) -> None:
    """Fitted, saved and loaded on another mask and another number of images, w and tau save over a nat of each gap."""
    std = torch.linspace(0.4, 1.0, 8)
    prior = GaussianPrior.diagonal(torch.zeros(8), std)
    keypoints = vp.keypoints(prior, noise_levels=[20.0, 3.0, 1.0, 0.3])

    def problem(mask: Tensor, images: int, seed: int) -> tuple[DiffusionModel, Tensor]:
        likelihood = vp.Gaussian(vp.Inpainting(mask), sigma=0.2)
        x, noise = torch.randn(2, images, 8, generator=torch.Generator().manual_seed(seed))
        return DiffusionModel(prior, likelihood, keypoints), mask * (std * x + 0.2 * noise)

    mask = torch.tensor([1.0, 0.0] * 4)
    model, y = problem(mask, 16, 0)
    guide = TwistedGuide(model, correction=PiGDM())
    vp.fit(model, guide, y, vp.BetaELBO(num_particles=2), steps=60, lr=0.05, seed=0)
    guide.save_pretrained(tmp_path)
    other, y = problem(1 - mask, 3, 5)
    loaded = TwistedGuide.load(tmp_path, other, PiGDM())
    likelihood: Any = other.likelihood
    evidence = prior.log_evidence(likelihood, y, keypoints)
    plain, learnt = (
        evidence - log_weights(other, each, y, 500, seed=1).mean(0)
        for each in (TwistedGuide(other, correction=PiGDM()), loaded)
    )
    assert (learnt > 0).all()
    assert (learnt < plain - 1).all()
