"""The bar counts what its callback is called for, whatever that is called with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rich.progress import Progress

import pyro_vipaint as vp
from pyro_vipaint.baselines import copaint_tt, dps, repaint, repaint_calls
from pyro_vipaint.guides import HierarchicalGuide
from tests.problems import diagonal_problem

PROBLEM = diagonal_problem()
JUMPS = {"jump_length": 5, "resamples": 3}
PROBLEM_OF = (PROBLEM.prior, PROBLEM.likelihood, PROBLEM.y, 2)


def run_fit(callback: Callable[..., None]) -> None:
    model = PROBLEM.model()
    vp.fit(model, HierarchicalGuide(model, PROBLEM.y), PROBLEM.y, vp.BetaELBO(), 3, callback=callback)


RUNS: dict[str, tuple[int | None, Callable[[Callable[..., None]], object]]] = {
    "fit": (3, run_fit),
    "refine": (4, lambda callback: vp.refine(PROBLEM.model(), torch.zeros(2, 1, 16), PROBLEM.y, 4, callback=callback)),
    "DPS": (5, lambda callback: dps(*PROBLEM_OF, 5, callback=callback)),
    "RePaint": (repaint_calls(20, **JUMPS), lambda callback: repaint(*PROBLEM_OF, 20, **JUMPS, callback=callback)),
    "CoPaint-TT": (None, lambda callback: copaint_tt(*PROBLEM_OF, 4, callback=callback)),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_bar_ends_at_its_total(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    total, run = RUNS[name]
    bars: list[Progress] = []
    leave = Progress.__exit__
    monkeypatch.setattr(Progress, "__exit__", lambda bar, *error: (bars.append(bar), leave(bar, *error))[1])
    with vp.progress_bar(name, total) as callback:
        run(callback)
    (task,) = bars[0].tasks
    assert task.description == name and task.total == total
    assert task.completed == total if total else task.completed >= 4
