"""Comparing guides and objectives: the table says what single runs say, and each run is alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyro_vipaint as vp
from pyro_vipaint.comparison import COLUMNS
from pyro_vipaint.diagnostics import elbo_estimate, log_weights
from pyro_vipaint.guides import DeltaGuide, HierarchicalGuide, PriorGuide
from tests.problems import diagonal_problem

STEPS, DRAWS = 40, 400
GUIDES: dict[str, Any] = {"hierarchical": HierarchicalGuide, "prior": PriorGuide}
ELBOS: dict[str, Any] = {
    "beta": vp.BetaELBO(num_particles=4),
    "annealed": vp.AnnealedELBO(20.0, steps=20, num_particles=4),
}


def run(**settings: Any) -> vp.Comparison:
    problem = diagonal_problem(images=2)
    options: dict[str, Any] = {"steps": STEPS, "num_draws": DRAWS, "lr": 0.1} | settings
    guides, elbos = options.pop("guides", GUIDES), options.pop("elbos", ELBOS)
    return vp.compare(problem.model(), guides, elbos, problem.y, **options)


def test_a_row_is_the_run_made_alone() -> None:
    """Guides and objectives leave nothing behind: the last run of the table equals the same run in a fresh process."""
    problem = diagonal_problem(images=2)
    model = problem.model()
    table = run(seeds=(3, 4)).table
    guide = PriorGuide(model)
    elbo = vp.AnnealedELBO(20.0, steps=20, num_particles=4)
    fitted = vp.fit(model, guide, problem.y, elbo, STEPS, 0.1, seed=4)
    bound = elbo_estimate(log_weights(model, guide, problem.y, DRAWS, seed=4))
    rows = table.query("guide == 'prior' and objective == 'annealed' and seed == 4")
    assert list(rows["bound"]) == bound.estimate.tolist()
    assert list(rows["bound_se"]) == bound.standard_error.tolist()
    assert set(rows["calls"]) == {fitted.calls} == {STEPS * 3}, "K calls: the marginal is exact"
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 2 * 2 * 2 * 2


def test_the_same_seeds_give_the_same_table() -> None:
    tables = [run(elbos={"beta": ELBOS["beta"]}).table.drop(columns="seconds") for _ in range(2)]
    assert tables[0].equals(tables[1])


def test_gap_and_distance_tell_a_good_guide_from_a_bad_one() -> None:
    """On the Gaussian truth: gap = evidence - bound, never below zero beyond its error; the better fit is closer."""
    problem = diagonal_problem(images=2)
    evidence = problem.prior.log_evidence(problem.likelihood, problem.y, problem.keypoints)
    posterior = problem.prior.posterior(problem.likelihood, problem.y, problem.keypoints).sample(torch.Size([500]))
    guides = {"far off": lambda model: HierarchicalGuide(model, problem.y + 3.0, gamma_logit=0.0)}
    truth = {"guides": guides, "elbos": {"beta": ELBOS["beta"]}, "evidence": evidence, "posterior": posterior}
    bad, good = (run(steps=steps, final_lr=0.02, **truth).table for steps in (1, 300))
    for table in (bad, good):
        assert torch.allclose(torch.tensor(table["gap"] + table["bound"]), evidence.double())
        assert (table["gap"] > -4 * table["bound_se"]).all()
        assert (table["iwae"] > table["bound"]).all()
    assert (good["gap"] < bad["gap"]).all()
    assert (good["distance"] < 0.2 * bad["distance"]).all()
    assert (good["k_hat"] < bad["k_hat"]).all()


def test_interrupting_keeps_the_finished_rows() -> None:
    def interrupt(guide: str, objective: str, seed: int) -> None:
        if (guide, objective) == ("prior", "beta"):
            raise KeyboardInterrupt

    result = run(callback=interrupt)
    assert not result.complete
    assert len(result.table) == 2 * 2
    assert set(result.table["guide"]) == {"hierarchical"}
    assert run(elbos={"beta": ELBOS["beta"]}).complete


def test_a_point_mass_has_a_note_in_place_of_a_bound() -> None:
    table = run(guides={"map": DeltaGuide}, elbos={"beta": ELBOS["beta"]}).table
    assert table["bound"].isna().all() and table["note"].str.contains("point mass").all()
    assert (table["calls"] == STEPS * 3).all()


def test_pyros_objectives_compare_as_well() -> None:
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    table = run(elbos={"pyro": elbo}, guides={"hierarchical": HierarchicalGuide}).table
    assert table["bound"].map(math.isfinite).all()


def test_the_summary_takes_means_and_the_largest_k_hat() -> None:
    result = run(elbos={"beta": ELBOS["beta"]}, seeds=(0, 1))
    summary, rows = result.summary(), result.table.query("guide == 'prior'")
    assert summary.loc[("prior", "beta"), "bound"] == pytest.approx(rows["bound"].mean())
    assert summary.loc[("prior", "beta"), "k_hat"] == rows["k_hat"].max()
    assert list(summary["bound"]) == sorted(summary["bound"], reverse=True)


def test_the_figure_shows_each_run_once() -> None:
    result = run(seeds=(0, 1))
    (axes,) = result.plot().axes
    drawn = sorted(np.concatenate([np.asarray(line.get_xdata()) for line in axes.lines]).tolist())
    sums = result.table.groupby(["guide", "objective", "seed"]).agg({"bound": "sum"})["bound"]
    assert drawn == pytest.approx(sorted(sums.tolist()))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hierarchical", "prior"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guides": {}}, "guides is empty"),
        ({"seeds": ()}, "seeds is empty"),
        ({"evidence": torch.zeros(3)}, "evidence"),
        ({"posterior": torch.zeros(5, 3, 16)}, "posterior"),
    ],
)
def test_what_cannot_be_compared_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(vp.InputError, match=message):
        run(**settings)
