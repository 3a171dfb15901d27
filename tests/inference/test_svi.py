"""The fit: learning rates by kind, decay, errors that name the term, the record it keeps."""

from __future__ import annotations

import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide
from tests.problems import bound_draws, diagonal_problem


def test_a_rate_of_zero_leaves_that_kind_where_it_was() -> None:
    problem = diagonal_problem()
    model = problem.model()
    guide = HierarchicalGuide(model, problem.y)
    before = {name: value.detach().clone() for name, value in guide.named_parameters()}
    vp.fit(model, guide, problem.y, vp.BetaELBO(), steps=3, lr={"mu": 0.1, "tau": 0.0, "gamma": 0.1})
    for name, value in guide.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith("tau"), name


def test_the_rate_decays_to_its_final_share() -> None:
    """Adam's first and last steps move by about the rate of that step; their ratio is ``lr_decay``."""
    problem = diagonal_problem()
    model = problem.model()
    guide = HierarchicalGuide(model, problem.y)
    values = [guide.mu_1.detach().clone()]
    vp.fit(
        model, guide, problem.y, vp.BetaELBO(), steps=200, lr=1e-3, lr_decay=1e-3,
        callback=lambda progress: values.append(guide.mu_1.detach().clone()),
    )  # fmt: skip
    first, last = (values[1] - values[0]).abs().mean(), (values[-1] - values[-2]).abs().mean()
    assert 1e-4 < last / first < 3e-3


def test_a_missing_kind_is_named() -> None:
    problem = diagonal_problem()
    model = problem.model()
    with pytest.raises(ValueError, match="gamma, tau"):
        vp.fit(model, HierarchicalGuide(model, problem.y), problem.y, vp.BetaELBO(), steps=1, lr={"mu": 0.1})


def test_the_record_is_of_every_step_site_and_image() -> None:
    problem = diagonal_problem(images=2)
    model = problem.model()
    elbo = vp.BetaELBO(beta=4.0)
    fit = vp.fit(model, HierarchicalGuide(model, problem.y), problem.y, elbo, steps=6)
    assert len(fit.losses) == 6
    assert set(fit.terms) == {"z_3", "z_2", "z_1", "y"}
    assert fit.bounds.shape == (6, 2)
    weighted = 4 * sum(fit.terms[f"z_{i}"] for i in (1, 2, 3)) + fit.terms["y"]
    assert torch.allclose(torch.as_tensor(weighted).sum(1), torch.tensor(fit.losses), rtol=1e-5)
    assert fit.calls == 6 * 4 - 6  # the exact marginal needs no call
    assert torch.allclose(fit.final_terms(2)["y"], fit.terms["y"][-2:].mean(0))


def test_the_mean_of_the_last_steps_is_what_is_left() -> None:
    """Of the unconstrained parameters, over the last ``average`` of them; a resumed fit goes on from the last step."""
    problem = diagonal_problem()
    model = problem.model()
    guide, plain = HierarchicalGuide(model, problem.y), HierarchicalGuide(model, problem.y)
    iterates: list[dict[str, torch.Tensor]] = []
    first = vp.fit(
        model, guide, problem.y, vp.BetaELBO(), steps=6, average=4, seed=0,
        callback=lambda progress: iterates.append({n: p.detach().clone() for n, p in guide.named_parameters()}),
    )  # fmt: skip
    for name, value in guide.named_parameters():
        expected = torch.stack([iterate[name] for iterate in iterates[2:]]).mean(0)
        torch.testing.assert_close(value.detach(), expected)
        assert not torch.equal(value, iterates[-1][name])
    vp.fit(model, guide, problem.y, vp.BetaELBO(), steps=3, resume=first)
    vp.fit(model, plain, problem.y, vp.BetaELBO(), steps=9, seed=0)
    for (name, value), (_, expected) in zip(guide.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(value, expected), name


def test_averaging_brings_the_fit_nearer_to_the_evidence() -> None:
    """One particle and a high rate leave 1 to 2 nats; the mean of the last half leaves less than half of that, always.

    The draws of the bound have a standard error of about .1 nats.
    """
    problem = diagonal_problem()
    model, start = problem.model(), vp.initial_latent(problem.prior, problem.likelihood, problem.y)
    evidence = problem.prior.log_evidence(problem.likelihood, problem.y, problem.keypoints)
    for seed in range(2):
        last, mean = (HierarchicalGuide(model, start, gamma_logit=0.0) for _ in range(2))
        for guide, average in ((last, 0), (mean, 50)):
            vp.fit(model, guide, problem.y, vp.BetaELBO(), steps=100, lr=0.3, average=average, seed=seed)
        gap, smaller = (evidence - bound_draws(model, guide, problem.y, repeats=2).mean() for guide in (last, mean))
        assert gap > 0.6
        assert smaller < 0.5 * gap


def test_gradients_are_on_whatever_the_caller_has_switched_off() -> None:
    """Below no_grad, where pipelines run, the fit is the same; inference mode cannot be left, and is refused."""
    problem = diagonal_problem(images=2)
    model = problem.model()

    def losses() -> list[float]:
        guide = HierarchicalGuide(model, problem.y)
        return vp.fit(model, guide, problem.y, vp.BetaELBO(), steps=5, seed=0).losses

    expected = losses()
    with torch.no_grad():
        assert losses() == expected
    with torch.inference_mode(), pytest.raises(vp.InputError, match="rules out: use"):
        losses()


def test_what_a_guide_costs_that_makes_its_parameters_late_is_counted() -> None:
    """Pyro's own runs the whole program once, with the chain from noise down to T_e."""
    problem = diagonal_problem()
    model = problem.model(problem.prior.diffusion())
    with vp.count_calls() as count:
        fit = vp.fit(model, AutoNormal(model), problem.y, Trace_ELBO(), steps=1, seed=0)
    assert fit.calls == count.calls > 2 * 3 + 1 and fit.nfe == count.nfe


def test_resuming_with_such_a_guide_leaves_the_global_generator_alone() -> None:
    problem = diagonal_problem()
    model = problem.model()
    first = vp.fit(model, AutoNormal(model), problem.y, Trace_ELBO(), steps=2, seed=0)
    state = torch.get_rng_state()
    resumed = vp.fit(model, AutoNormal(model), problem.y, Trace_ELBO(), steps=2, resume=first)
    assert torch.equal(torch.get_rng_state(), state)
    whole = vp.fit(model, AutoNormal(model), problem.y, Trace_ELBO(), steps=4, seed=0)
    assert resumed.losses == whole.losses
