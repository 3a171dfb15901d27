"""Every hostile input is refused in one line or gives a correct result; docs/reliability.md counts them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.hostile import harness
from tests.hostile.command_line import PROCESSES
from tests.hostile.harness import Case, counted, every_case, isolated, table, tried
from tests.hostile.warm import warm

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
CASES = {f"{area}: {case.name}": case for area, cases in every_case().items() for case in cases}


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_right_or_refused(case: Case) -> None:
    outcome = tried(case)
    assert not outcome.fault, outcome.fault


@pytest.mark.parametrize("case", PROCESSES, ids=[case.name for case in PROCESSES])
def test_a_process_of_its_own_is_right_or_refuses(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of time is wider by the start of Python, PyTorch and Pyro, which other tests measure."""
    monkeypatch.setattr(harness, "SECONDS", 20.0)
    monkeypatch.setattr(harness, "DEADLINE", 60)
    assert not tried(case).fault


def test_the_page_has_the_counts() -> None:
    """The cases by area, and none of them wrong; at least 400."""
    text = PAGE.read_text(encoding="utf-8")
    assert table(counted({})) in text
    assert len(CASES) >= 400 and str(len(PROCESSES)) in text


@pytest.mark.parametrize(("fault", "act"), {
    "was accepted": lambda folder: 3,
    "raised ValueError": lambda folder: int("x"),
    "a message of 2 lines": lambda folder: harness_error("two\nlines"),
    "a message of 0 lines": lambda folder: harness_error(""),
    "does not say": lambda folder: harness_error("something"),
    "left, changed or removed": lambda folder: [(folder / "new").touch(), harness_error("wanted")],
    "the process crashed": lambda folder: _crash(),
    "took .* MiB": lambda folder: [b"x" * (1200 * 2**20), harness_error("wanted")],
}.items())  # fmt: skip
def test_the_harness_finds(fault: str, act: object) -> None:
    assert re.match(f".*{fault}", tried(Case("", act, "wanted")).fault)  # type: ignore[arg-type]


def harness_error(message: str) -> None:
    error = harness.vp.InputError("")
    error.args = (message,)  # an InputError joins the lines that it is made of
    raise error


def _crash() -> None:
    import os

    os.abort()


def test_what_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "DEADLINE", 1)
    assert isolated(lambda: __import__("time").sleep(30)) == (None, True)
