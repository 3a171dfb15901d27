"""The bar follows its callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.progress import Progress as Bars

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.progress import Callback, Progress
from tests.problems import diagonal_problem

PROBLEM = diagonal_problem()


def run_fit(callback: Callback) -> None:
    model = PROBLEM.model()
    vp.fit(model, HierarchicalGuide(model, PROBLEM.y), PROBLEM.y, vp.BetaELBO(), 3, callback=callback)


def run_refine(callback: Callback) -> None:
    vp.refine(PROBLEM.model(), torch.zeros(2, 1, 16), PROBLEM.y, 4, callback=callback)


def bars_of(run: Callable[[Callback], Any], monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> list[Any]:
    """Description, finished steps and total of each bar that ``run`` has drawn."""
    drawn: list[Bars] = []
    leave = Bars.__exit__
    monkeypatch.setattr(Bars, "__exit__", lambda bars, *error: (drawn.append(bars), leave(bars, *error))[1])
    with vp.progress_bar(*arguments) as callback:
        run(callback)
    return [(task.description, task.completed, task.total, task.fields["note"]) for task in drawn[0].tasks]


def test_fit_and_refinement_end_at_their_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, refine = bars_of(lambda callback: (run_fit(callback), run_refine(callback)), monkeypatch)
    assert fit[:3] == ("fitting the posterior", 3, 3) and fit[3].startswith("bound on log p(y), all images: ")
    assert refine == ("refining the samples", 4, 4, "")


@pytest.mark.parametrize("total", [None, 7])
def test_a_method_that_does_not_know_its_total(total: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller may state it, and a description."""

    def run(callback: Callback) -> None:
        for step in (1, 2):
            callback(Progress("CoPaint-TT", step, note="a cat"))

    assert bars_of(run, monkeypatch, None, total) == [("CoPaint-TT", 2, total, "a cat")]
    assert bars_of(run, monkeypatch, "mine", total) == [("mine", 2, total, "a cat")]
