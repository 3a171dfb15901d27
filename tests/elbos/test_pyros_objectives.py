"""Pyro's objectives on our guides: the table of docs/elbos.md, equal values, and refusals that say why."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import infer

import pyro_vipaint as vp
from pyro_vipaint import guides
from pyro_vipaint.guides import HierarchicalGuide
from tests.problems import diagonal_problem, perturbed

PYROS = {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1}
REFUSED = {
    "TraceTailAdaptive_ELBO": "no value",
    "ReweightedWakeSleep": "two losses",
    "EnergyDistance": "a function",
    **{name: "module_local_params=False" for name in infer.__all__ if name.startswith("Jit")},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_table_of_the_documentation() -> None:
    from benchmarks.objectives import page, shipped

    assert page() == shipped()


@pytest.mark.parametrize("family", guides.__all__)
@pytest.mark.parametrize("name", ["TraceGraph_ELBO", "TraceTMC_ELBO"])
@pytest.mark.filterwarnings("ignore:Found no sample sites configured for enumeration")
def test_the_value_and_gradient_are_those_of_the_sampled_bound(name: str, family: str) -> None:
    """At the same draws, but for the gradient of a mixture's weights, whose factor TraceTMC_ELBO ignores.

    ``test_grid`` has the sums by hand for Pyro's other bounds.
    """
    problem = diagonal_problem(images=2)
    model, y = problem.model(), problem.y
    guide = perturbed(getattr(guides, family)(model, y))
    found = []
    for elbo in (vp.SampledELBO(num_particles=3), getattr(infer, name)(**PYROS)):
        guide.zero_grad()
        torch.manual_seed(5)
        loss = torch.tensor(elbo.loss_and_grads(model, guide, y))
        kept = [p for n, p in guide.named_parameters() if name != "TraceTMC_ELBO" or not n.startswith("weight")]
        found.append(torch.cat([loss[None], *(parameter.grad.flatten() for parameter in kept)]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", REFUSED)
def test_fit_says_which_objectives_it_does_not_take_and_why(name: str) -> None:
    problem = diagonal_problem()
    model, y = problem.model(), problem.y
    arguments = PYROS if name != "EnergyDistance" else {}
    with vp.count_calls() as count, pytest.raises(vp.InputError, match=f"^{name} .*{REFUSED[name]}[^\\n]*$"):
        vp.fit(model, HierarchicalGuide(model, y), y, getattr(infer, name)(**arguments), 1)
    assert count.calls == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_fit_takes_a_compiled_objective_where_parameters_are_in_pyros_store() -> None:
    problem = diagonal_problem()
    model, y = problem.model(), problem.y
    with pyro.settings.context(module_local_params=False):
        fit = vp.fit(model, HierarchicalGuide(model, y), y, infer.JitTrace_ELBO(**PYROS), 2)
    assert torch.tensor(fit.losses).isfinite().all()
