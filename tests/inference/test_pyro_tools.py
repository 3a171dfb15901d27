"""Pyro's own tools on our models and guides: weights, predictive draws, dependencies, handlers, objectives, MCMC."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Importance, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoLowRankMultivariateNormal, AutoNormal
from pyro.infer.importance import psis_diagnostic, vectorized_importance_weights
from pyro.infer.inspect import generate_graph_specification, get_dependencies, get_model_relations
from pyro.infer.predictive import WeighedPredictive
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint import guides
from pyro_vipaint.diagnostics import log_weights, pareto_k
from pyro_vipaint.guides import HierarchicalGuide, init_to_start
from pyro_vipaint.models import DiffusionModel, GaussianPrior
from pyro_vipaint.models.priors.schedules import CosineVP
from pyro_vipaint.svi import DEFAULT_LR
from tests.elbos.test_grid import build
from tests.elbos.test_traps import network_model
from tests.exact_guide import ExactGuide
from tests.problems import MASK, Problem, diagonal_problem, four_pixels, perturbed
from tests.statistics import assert_within

each_number = pytest.mark.parametrize("images", [1, 3])
each_family = pytest.mark.parametrize("family", guides.__all__)
OBSERVED = 6  # of the sixteen coordinates


@pytest.fixture(autouse=True)
def _no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def conditioned(images: int) -> tuple[Problem, DiffusionModel]:
    """A model that knows its number of images by a condition, which the exact prior ignores."""
    problem = diagonal_problem(images=images)
    return problem, DiffusionModel(
        problem.prior, problem.likelihood, problem.keypoints, class_labels=torch.zeros(images)
    )


def two_levels() -> tuple[GaussianPrior, Tensor, vp.Gaussian, tuple[float, ...]]:
    """Four pixels, two of them observed with much noise: prior, mask, likelihood and keypoints."""
    prior = four_pixels()
    return prior, MASK, vp.Gaussian(vp.Inpainting(MASK), sigma=0.3), vp.keypoints(prior, noise_levels=(1.0, 0.5))


# Importance weights


def sequential_weights(model: DiffusionModel, guide: Any, y: Tensor, count: int) -> Tensor:
    """Pyro's log weights from ``count`` runs of the guide."""
    drawn: Any = Importance(model, guide, num_samples=count).run(y)
    return torch.stack(drawn.log_weights)


@each_number
@each_family
def test_pyros_weights_are_those_of_the_diagnostics(family: str, images: int) -> None:
    """Over the joint of all images, from the same draws; a point's weight is its joint density."""
    problem = diagonal_problem(images=images)
    model, y = problem.model(), problem.y
    guide = perturbed(getattr(guides, family)(model, y))
    with torch.no_grad():
        torch.manual_seed(3)
        many: Any
        many, *_ = vectorized_importance_weights(model, guide, y, num_samples=5, max_plate_nesting=1)
        torch.manual_seed(3)
        one = sequential_weights(model, guide, y, 1)
    if family == "DeltaGuide":
        point = {level.name: level.alpha * getattr(guide, f"mu_{level.name[-1]}") for level in model.levels}
        joint: Any = poutine.trace(poutine.condition(model, point)).get_trace(y).log_prob_sum()
        assert torch.allclose(many, joint) and torch.allclose(one, joint)
        return
    assert torch.allclose(many.double(), log_weights(model, guide, y, 5, seed=3).sum(1), rtol=1e-4)
    assert torch.allclose(one.double(), log_weights(model, guide, y, 1, seed=3).sum(1), rtol=1e-4)


@each_number
def test_the_posterior_has_the_evidence_as_every_weight(images: int) -> None:
    problem = diagonal_problem(images=images)
    model, y = problem.model(), problem.y
    guide = ExactGuide(problem, model, y)
    evidence = problem.prior.log_evidence(problem.likelihood, y, problem.keypoints).sum()
    weighed = [WeighedPredictive(model, guide=guide, num_samples=4, parallel=p)(y).log_weights for p in (False, True)]
    for weights in (sequential_weights(model, guide, y, 4), *weighed):
        assert weights.shape == (4,)
        assert torch.allclose(weights, evidence, atol=1e-3)


def test_psis_is_pareto_k_of_the_same_draws() -> None:
    """Pyro gives its samples seven singleton dimensions."""
    problem = diagonal_problem(images=3)
    model, y = problem.model(), problem.y
    guide = ExactGuide(problem, model, y, shift=0.5)
    torch.manual_seed(3)
    theirs = psis_diagnostic(model, guide, y, num_particles=500)
    ours = pareto_k(log_weights(model, guide, y, 500, seed=3).sum(1, keepdim=True)).item()
    assert theirs == pytest.approx(ours, rel=1e-3)


WIDE: dict[str, dict[str, Any]] = {  # spreads beyond the prior's, so that the weights have a variance
    "FlowGuide": {"tau_scale": 1.2},
    "HierarchicalGuide": {"tau_scale": 1.2},
    "LowRankGuide": {"tau_scale": 1.2, "rank": 2},
    "MeanFieldGuide": {"tau_scale": 3.0},
    "MixtureGuide": {"tau_scale": 1.2},
}


@pytest.mark.slow
@each_number
@pytest.mark.parametrize("family", [name for name in guides.__all__ if name != "DeltaGuide"])
def test_pyros_estimates_of_the_evidence(family: str, images: int) -> None:
    """Two levels of four pixels: within Monte-Carlo error, which k-hat says can be trusted."""
    if family == "MeanFieldGuide" and images > 1:
        pytest.skip("independent levels are too far from the joint posterior of three images")
    prior, mask, likelihood, keypoints = two_levels()
    model, y = DiffusionModel(prior, likelihood, keypoints), 0.3 * mask * torch.randn(images, 1, 2, 2)
    start, arguments = vp.initial_latent(prior, likelihood, y), WIDE.get(family, {})
    guide = perturbed(getattr(guides, family)(model, start, **arguments), 0.03)
    evidence = prior.log_evidence(likelihood, y, keypoints).sum()
    with torch.no_grad():
        sequential = sequential_weights(model, guide, y, 500)
        parallel = WeighedPredictive(model, guide=guide, num_samples=20_000, parallel=True)(y).log_weights
    assert pareto_k(parallel[:, None]) < 0.5
    for weights in (sequential, parallel, log_weights(model, guide, y, 20_000, seed=2).sum(1)):
        estimate = weights.double().logsumexp(0) - math.log(len(weights))
        relative = (weights - weights.max()).exp()
        assert_within(estimate, evidence, relative.std() / relative.mean() / len(weights) ** 0.5)


# Predictive draws


@each_number
def test_the_posterior_predictive_has_the_exact_moments(images: int) -> None:
    problem, model = conditioned(images)
    guide = ExactGuide(problem, model, problem.y)
    draws = Predictive(model, guide=guide, num_samples=10_000, parallel=True)()
    exact = problem.prior.posterior(problem.likelihood, problem.y, problem.keypoints)
    y, x = draws["y"][..., :OBSERVED], model.reconstruct(draws["z_1"])
    noise = problem.likelihood.sigma
    for values, spread in ((x, exact.stddev), (y, (exact.stddev[:, :OBSERVED] ** 2 + noise**2).sqrt())):
        mean = exact.mean[:, : values.shape[-1]]
        assert_within(values.mean(0), mean, spread / 10_000**0.5)
        assert_within(values.std(0) / spread, 1.0, 1 / 20_000**0.5)


@each_family
def test_every_guide_predicts_all_sites_in_either_mode(family: str) -> None:
    """The number of images is that of the conditions, or an argument."""
    problem, labelled = conditioned(images=3)
    for model, arguments in ((labelled, {}), (problem.model(), {"num_images": 3})):
        guide = getattr(guides, family)(model, problem.y)
        for parallel in (False, True):
            draws = Predictive(model, guide=guide, num_samples=2, parallel=parallel)(**arguments)
            shapes = {name: tuple(value.shape) for name, value in draws.items()}
            assert shapes == dict.fromkeys(("z_3", "z_2", "z_1", "y"), (2, 3, 16))


@each_number
def test_the_predictive_of_given_latents_is_the_likelihood_at_them(images: int) -> None:
    problem = diagonal_problem(images=images)
    model = problem.model()
    z = torch.randn(1, images, 16)
    for count, parallel in ((4000, True), (40, False)):
        samples = {"z_1": z.expand(count, -1, -1)}
        y = Predictive(model, posterior_samples=samples, parallel=parallel)(num_images=images)["y"]
        assert y.shape == (count, images, 16)
        error = problem.likelihood.sigma / count**0.5
        assert_within(y[..., :OBSERVED].mean(0), model.reconstruct(z[0])[:, :OBSERVED], error)


def test_the_prior_predictive_has_the_exact_moments() -> None:
    problem = diagonal_problem()
    mean, covariance = problem.prior.prediction_moments(problem.keypoints)
    std = (covariance.diagonal() + problem.likelihood.sigma**2).sqrt()[:OBSERVED]
    y = Predictive(problem.model(), num_samples=5000, parallel=True)(num_images=3)["y"][..., :OBSERVED].flatten(0, 1)
    assert_within(y.mean(0), mean[:OBSERVED], std / 15_000**0.5)
    assert_within(y.std(0) / std, 1.0, 1 / 30_000**0.5)


# Dependencies


CHAIN: dict[str, list[str]] = {"z_3": [], "z_2": ["z_3"], "z_1": ["z_2"]}


@each_family
def test_a_guide_depends_on_the_level_above_and_does_not_know_the_observation(family: str) -> None:
    problem = diagonal_problem(images=2)
    apart = {name: [] for name in CHAIN}
    keeps_its_component = CHAIN | {"z_1": ["z_3", "z_2"]}
    others = {"MeanFieldGuide": apart, "DeltaGuide": apart, "MixtureGuide": keeps_its_component}
    guide, relations = getattr(guides, family)(problem.model(), problem.y), others.get(family, CHAIN)
    assert get_model_relations(guide, (problem.y,))["sample_sample"] == relations
    drawn = pyro.render_model(guide, model_args=(problem.y,)).source
    arrows = {f"{above} -> {below}" for below, aboves in relations.items() for above in aboves}
    assert {line.strip() for line in drawn.splitlines() if "->" in line} == arrows


def test_the_model_is_a_chain_whatever_computes_the_denoiser() -> None:
    """What ``pyro.render_model`` draws."""
    (network, y, _), empirical = network_model(3), build("empirical, labels", 3)
    guide = HierarchicalGuide(network, y)  # which does not draw z_3 by the chain from noise
    assert get_model_relations(guide, (y,))["sample_sample"] == CHAIN
    for model, y in (empirical, (diagonal_problem().model(), diagonal_problem().y)):
        relations = get_model_relations(model, (y,))
        assert relations["sample_sample"] == CHAIN | {"y": ["z_1"]}
        graph = generate_graph_specification(relations)
        assert graph["edge_list"] == [("z_3", "z_2"), ("z_2", "z_1"), ("z_1", "y")]
        assert graph["node_data"]["y"]["is_observed"]
        assert graph["plate_groups"]["images"] == ["z_3", "z_2", "z_1", "y"]
        assert "z_1 -> y" in pyro.render_model(model, model_args=(y,)).source


def test_the_posterior_dependencies_are_the_chain_upside_down() -> None:
    problem = diagonal_problem(images=2)
    found: Any = get_dependencies(problem.model(), (problem.y,))["posterior_dependencies"]
    assert {name: set(upstream) for name, upstream in found.items()} == {
        "z_3": {"z_3", "z_2"}, "z_2": {"z_2", "z_1"}, "z_1": {"z_1", "y"},
    }  # fmt: skip


# Handlers


def test_a_guide_without_an_observation_has_no_objective() -> None:
    """It runs the model that it was built on, also where the caller conditions another."""
    problem = diagonal_problem()
    model = problem.model()
    guide = HierarchicalGuide(model, problem.y)
    conditioned = poutine.condition(model, {"y": problem.y})
    with pytest.raises(vp.InputError, match="without an observation"):
        Trace_ELBO().loss(conditioned, guide)


def test_condition_do_block_scale_replay_and_seed() -> None:
    problem = diagonal_problem(images=2)
    model, y = problem.model(), problem.y
    guide = perturbed(HierarchicalGuide(model, y))
    drawn = poutine.trace(guide).get_trace(y)
    assert set(drawn.stochastic_nodes) == {"images", "z_3", "z_2", "z_1"} and not drawn.observation_nodes
    values = {level.name: drawn.nodes[level.name]["value"] for level in model.levels}

    given: Any = poutine.trace(poutine.condition(model, values)).get_trace(y)
    replayed: Any = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(y)
    scaled: Any = poutine.trace(poutine.scale(poutine.condition(model, values), scale=3.0)).get_trace(y)
    assert given.log_prob_sum() == replayed.log_prob_sum()
    assert torch.allclose(scaled.log_prob_sum(), 3 * given.log_prob_sum())

    done: Any = poutine.trace(poutine.do(model, values)).get_trace(y)  # the likelihood alone is left
    assert torch.allclose(done.log_prob_sum(lambda name, _: name == "y"), given.nodes["y"]["log_prob_sum"])
    assert done.observation_nodes == ["y"] and not done.nodes["z_3"]["value"].equal(values["z_3"])

    hidden = poutine.trace(poutine.block(model, hide=["z_3"])).get_trace(y)
    assert "z_3" not in hidden and "z_2" in hidden
    first, second = (poutine.seed(model, rng_seed=4)(num_images=2) for _ in range(2))
    assert torch.equal(first, second)


# Objectives by hand


def test_svi_by_hand_and_a_module_of_the_objective_are_fit() -> None:
    """The same draws, the same optimiser: the same losses."""
    problem = diagonal_problem(images=2)
    model, y = problem.model(), problem.y
    adam = {"lr": 0.1, "betas": (0.9, 0.99)}

    def fresh() -> tuple[HierarchicalGuide, vp.BetaELBO]:
        torch.manual_seed(6)
        return HierarchicalGuide(model, y), vp.BetaELBO(num_particles=4)

    guide, elbo = fresh()
    expected = vp.fit(model, guide, y, elbo, 5, 0.1, seed=6).losses
    guide, elbo = fresh()
    svi = SVI(model, guide, pyro.optim.Adam(adam), elbo)  # pyright: ignore[reportAttributeAccessIssue]
    assert [svi.step(y) for _ in range(5)] == pytest.approx(expected, rel=1e-5)
    guide, elbo = fresh()
    module: Any = elbo(model, guide)  # pyright: ignore[reportArgumentType]
    optimizer, losses = torch.optim.Adam(module.parameters(), **adam), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = module(y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-5)


# Pyro's guides


AUTOS = [AutoNormal, AutoDiagonalNormal, AutoLowRankMultivariateNormal, AutoDelta]


@pytest.mark.parametrize("family", AUTOS)
def test_pyros_guides_start_at_the_start_at_the_cost_of_one_run(family: Any) -> None:
    """z_i at alpha_i times the start: K calls, where the chain from noise takes 250 more."""
    prior = GaussianPrior.diagonal(torch.zeros(16), torch.ones(16), CosineVP()).diffusion()
    likelihood, y = diagonal_problem().likelihood, torch.randn(2, 16)
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=(3.0, 1.0, 0.3)))
    start = vp.initial_latent(prior, likelihood, y)
    guide = family(model, init_loc_fn=init_to_start(model, start))
    with vp.count_calls() as count:
        guide(y)
    assert count.calls <= 12
    median = guide.median(y)
    for level in model.levels:
        assert torch.allclose(median[level.name], level.alpha * start, atol=1e-6)
    with pytest.raises(vp.InputError, match=r"start has shape \(2, 15\)"):
        init_to_start(model, start[:, :15])


@pytest.mark.parametrize("family", AUTOS)
def test_inpaint_takes_pyros_guides(family: Any) -> None:
    """Kinds of parameters that the settings do not name have the default rate of ``fit``."""
    image = torch.full((2, 1, 2, 2), 0.4)
    run = vp.inpaint(
        image, MASK, four_pixels(), levels=2, num_samples=3, steps=5, refine_steps=2, seed=0,
        guide=lambda model, start: family(model),
    )  # fmt: skip
    assert run.samples.shape == (3, 2, 1, 2, 2) and run.samples.isfinite().all()
    assert run.fit.state is not None and set(run.fit.state.rates.values()) == {DEFAULT_LR["other"]}


@pytest.mark.parametrize("wrong", [lambda model: model, lambda model: HierarchicalGuide, lambda model: None])
def test_sample_takes_a_guide(wrong: Any) -> None:
    problem = diagonal_problem()
    with vp.count_calls() as count, pytest.raises(vp.InputError, match="takes a fitted guide"):
        vp.sample(wrong(problem.model(problem.prior.diffusion())), problem.y)
    assert count.calls == 0


# MCMC


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nuts_has_the_posterior_moments() -> None:
    """Two levels of four pixels: E[x given z_1] under NUTS, with an error from the draws' effective number."""
    prior, _, likelihood, keypoints = two_levels()
    model, y = DiffusionModel(prior, likelihood, keypoints), torch.tensor([[[[0.5, -0.1], [0.0, 0.0]]]])
    mcmc = MCMC(NUTS(model), num_samples=200, warmup_steps=100, disable_progbar=True)
    mcmc.run(y)
    x = model.reconstruct(mcmc.get_samples()["z_1"]).flatten(1)
    exact = prior.posterior(likelihood, y, keypoints)
    size = mcmc.diagnostics()["z_1"]["n_eff"].min()
    assert size > 50
    assert_within(x.mean(0), exact.mean[0], exact.stddev[0] / size**0.5)
    assert_within(x.std(0) / exact.stddev[0], 1.0, 1 / (2 * size) ** 0.5)
