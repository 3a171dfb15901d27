"""The bar follows its callback."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
import rich
import torch
from rich.console import Console
from rich.progress import Progress as Bars

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel
from pyro_vipaint.progress import Callback, Progress, showing
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


def _guide() -> HierarchicalGuide:
    return HierarchicalGuide(PROBLEM.model(), PROBLEM.y)


def _smc(**options: Any) -> Any:
    guide = _guide()
    return vp.smc(guide.model, guide, PROBLEM.y, 3, seed=0, **options).z  # pyright: ignore[reportArgumentType]


def _fit(**options: Any) -> Any:
    guide = _guide()
    return vp.fit(guide.model, guide, PROBLEM.y, vp.BetaELBO(), 3, seed=0, **options).losses


def _compare(**options: Any) -> Any:
    model, guides = PROBLEM.model(), {"a": HierarchicalGuide, "b": HierarchicalGuide}
    found = vp.compare(model, guides, {"beta": vp.BetaELBO()}, PROBLEM.y, steps=2, num_draws=20, **options)
    return list(found.table["bound"])


LONG: dict[str, tuple[Callable[..., Any], int]] = {  # the calls that take progress=True, and their numbers of steps
    "fit": (_fit, 3),
    "sample": (lambda **options: vp.sample(_guide(), PROBLEM.y, 2, seed=0, **options), 3),
    "refine": (lambda **options: vp.refine(PROBLEM.model(), torch.zeros(2, 1, 16), PROBLEM.y, 4, seed=0, **options), 4),
    "smc": (_smc, 3),
    "compare": (_compare, 2),
}


@pytest.fixture(params=LONG)
def call(request: pytest.FixtureRequest) -> tuple[str, Callable[..., Any], int]:
    return (request.param, *LONG[request.param])


def _on(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> StringIO:
    """Where rich writes from here on."""
    out = StringIO()
    console = Console(file=out, force_terminal=terminal, force_jupyter=False, width=100)
    monkeypatch.setattr(rich, "_console", console)
    return out


def test_a_bar_in_one_word(call: tuple[str, Callable[..., Any], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the bar ends at the number of steps; results are those without it, and a callback is told too."""
    phase, run, total = call
    out, told = _on(monkeypatch, terminal=True), []
    shown = run(progress=True, callback=told.append)
    assert f"{total}/{total}" in out.getvalue()
    assert [(step.phase, step.step, step.total) for step in told] == [(phase, i + 1, total) for i in range(total)]
    plain = run()
    assert torch.equal(shown, plain) if isinstance(plain, torch.Tensor) else shown == plain


def test_no_bar_unless_asked_nor_in_a_file(
    call: tuple[str, Callable[..., Any], int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _, run, _ = call
    terminal = _on(monkeypatch, terminal=True)
    run()
    file = _on(monkeypatch, terminal=False)
    run(progress=True)
    assert (terminal.getvalue(), file.getvalue(), *capfd.readouterr()) == ("", "", "", "")


def test_what_is_no_switch_is_refused(call: tuple[str, Callable[..., Any], int]) -> None:
    _, run, _ = call
    with pytest.raises(vp.InputError, match="progress must be True or False"):
        run(progress=3)


def test_a_step_of_a_fit_tells_the_image_that_its_model_predicted() -> None:
    """The mean over particles of E[x given z_Ts] at the draws of that very step: counted, no further call."""
    model, predicted, told = PROBLEM.model(), [], []

    class Watched(DiffusionModel):
        def reconstruct(self, z: torch.Tensor) -> torch.Tensor:
            predicted.append(super().reconstruct(z))
            return predicted[-1]

    model = Watched(PROBLEM.prior, PROBLEM.likelihood, PROBLEM.keypoints)
    guide = HierarchicalGuide(model, PROBLEM.y)
    fit = vp.fit(model, guide, PROBLEM.y, vp.BetaELBO(num_particles=4), 3, seed=0, callback=told.append)
    assert fit.calls == 3 * len(PROBLEM.keypoints)
    for step, x in zip(told, predicted, strict=True):
        assert torch.allclose(step.images, x.reshape(4, 1, 16).mean(0))


def test_the_bar_closes_when_a_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    _on(monkeypatch, terminal=True)
    with pytest.raises(ZeroDivisionError), showing(True) as callback:
        assert callback is not None
        callback(Progress("fit", 1, 2))
        raise ZeroDivisionError
    with showing(True) as callback:  # rich refuses a second bar while one is open
        assert callback is not None
