"""The benchmark on faces: the exact posterior knows the style, and the twisted guide costs what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import faces
from benchmarks.parts import with_excess
from benchmarks.plans import compute
from pyro_vipaint.bench import Cell
from pyro_vipaint.corrections import MMPS

SHORT = faces.Twisted(MMPS(2), (80.0, 8.0, 1.0), refine_steps=2)


def cell(method: str, task: str, num_samples: int = 1) -> Cell:
    return Cell("faces32", task, method, None, 0, 1, num_samples, 0)


def test_exact_draws_have_no_excess_in_shown_slots_and_know_the_style(tmp_path: Path) -> None:
    """One face and six slots; of hidden hair nine draws cover four colours, all equally probable, not 48 parts."""
    plan = replace(faces.PLAN, tasks=("lower third",), methods=(faces.EXACT,), num_images=1)
    rows = with_excess(compute(plan, faces.suite(9), tmp_path))
    assert rows["error"].isna().all() and len(rows) == 6
    shown: Any = rows[rows["shown"]]
    assert (shown["agreement"] == 1).all() and shown["excess"].abs().max() < 0.01
    assert rows.set_index("slot")["coverage_exact"]["hair"] == pytest.approx(1 - 0.75**9)
    assert faces.report(rows).count(faces.EXACT) == 2  # over the masks, and by mask
    assert {name for pair in faces.COMPARED for name in pair} <= set(faces.PLAN.methods)


def test_the_twisted_guide_takes_a_call_per_level_and_step_and_gradients_for_each_iteration() -> None:
    """Two transitions and two steps, two gradients each; the samples follow what is seen."""
    trial = faces.suite(1).trial(cell(faces.TWISTED, "box"), "cpu")
    outcome = SHORT(trial, 2, None)
    assert (outcome.calls, outcome.nfe, outcome.gradients) == (4, 8, 16)
    assert outcome.samples.shape == (2, 1, 3, 32, 32) and trial.mask is not None
    assert ((outcome.samples - trial.y).abs() * trial.mask).sum() / (6 * trial.mask.sum()) < 2 * trial.noise
    assert torch.equal(outcome.samples, SHORT(trial, 2, None).samples)


@pytest.mark.slow
def test_the_twisted_guide_keeps_what_is_shown(tmp_path: Path) -> None:
    """Of nine samples of four faces under rotated windows, shown slots are right in all but one of twenty."""
    plan = replace(faces.PLAN, tasks=("rotated window",), methods=(faces.TWISTED,), num_images=4)
    assert compute(plan, faces.suite(9), tmp_path)["agreement"].mean() > 0.95
