"""The app without a page: the lines of Python are the run, a cancelled run ends, and its states follow the library."""

from __future__ import annotations

import runpy
import zipfile
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import pyro_vipaint as vp
from pyro_vipaint.app import views
from pyro_vipaint.app.job import CORRECTIONS, FILE, OBJECTIVES, Job
from pyro_vipaint.app.page import MORE, Done, Sessions
from pyro_vipaint.app.run import SHOWN, load, run
from pyro_vipaint.checks import guide_names
from pyro_vipaint.errors import InputError
from pyro_vipaint.models import DiffusionPrior
from tests.app.conftest import SHAPE, job

pytest.importorskip("gradio")
ASKED: dict[str, dict[str, Any]] = {
    "the defaults": {"steps": None, "refine_steps": None},
    "pictures": {"preset": "pictures", "label": "dog"},
    "a soft mask": {"mask": True},
    **{name: {"preset": "pictures", "guide": name} for name in guide_names()},
    **{name: {"preset": "pictures", "objective": name, "beta": 2.0, "num_particles": 2} for name in OBJECTIVES},
    **{name: {"correction": name} for name in CORRECTIONS if name != "Wiener"},  # Wiener needs a covariance
}

SLOW = list(ASKED)[4:]  # further guides, objectives and corrections


def last_state(asked: Job, event: Event | None = None) -> Any:
    return list(run(asked, event or Event()))[-1]


def run_lines(asked: Job, folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str | None = None) -> dict[str, Any]:
    """The names that the lines define, run beside the file that they read."""
    monkeypatch.chdir(folder)
    save_file(asked.problem, FILE)
    Path("repeat.py").write_text(lines or asked.lines(), encoding="utf-8")
    return runpy.run_path("repeat.py")


def request(session: str) -> Any:
    """What a page of a session sends."""
    return SimpleNamespace(session_hash=session)


def close(states: Any) -> None:
    """Takes no further states, as a page that was closed."""
    states.close()


@pytest.mark.parametrize(
    "changes",
    [pytest.param(asked, id=name, marks=[pytest.mark.slow] if name in SLOW else []) for name, asked in ASKED.items()],
)
def test_the_lines_repeat_the_run(
    changes: dict[str, Any], tiny_prior: DiffusionPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shown lines give the same samples, bit for bit, with the same calls; other settings give others."""
    if "mask" in changes:
        asked = job()
        changes = {"mask": asked.mask * 0.6 + 0.2 * (asked.image > 0)}
    asked = Job(**({name: getattr(job(), name) for name in Job.__dataclass_fields__} | changes))
    shown = last_state(asked).result
    repeated = run_lines(asked, tmp_path, monkeypatch)["result"]
    assert torch.equal(shown.samples, repeated.samples)
    assert shown.fit.losses == repeated.fit.losses and shown.calls == repeated.calls


def test_more_samples_come_from_the_same_fit(
    tiny_prior: DiffusionPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old samples stay, the new ones cost no fit, a seed each, and the lines repeat them bit for bit."""
    done = Done(job(), last_state(job()).result)
    with vp.count_calls() as count:
        more = done.more()
    assert count.calls == 2  # the steps of the refinement; one level has no transition
    twice = more.more()
    assert len(twice.result.samples) == 2 + 2 * MORE
    assert torch.equal(twice.result.samples[: 2 + MORE], more.result.samples)
    assert not torch.equal(twice.result.samples[2 : 2 + MORE], twice.result.samples[2 + MORE :])
    repeated = run_lines(done.job, tmp_path, monkeypatch, twice.lines())["samples"]
    assert torch.equal(repeated, twice.result.samples)


def test_states(tiny_prior: DiffusionPrior) -> None:
    """Each step is reported with its bound and pictures; watching takes no network call and changes no number."""
    asked = job(preset="pictures", num_samples=6)
    states = list(run(asked, Event()))
    assert [state.phase for state in states[:1]] == ["loading"] and states[-1].phase == "done"
    result = states[-1].result
    assert result is not None
    assert states[-1].bounds == pytest.approx([-float(sum(t[i] for t in result.fit.terms.values())) for i in range(2)])
    assert all(s.pictures.shape[1:] == SHAPE and len(s.pictures) <= SHOWN for s in states if s.pictures is not None)
    plain = vp.inpaint(asked.image, asked.mask, tiny_prior, 2, 6, preset="pictures", steps=2, refine_steps=2, seed=3)
    assert torch.equal(plain.samples, result.samples) and plain.calls == result.calls


def test_a_cancelled_run_ends_before_the_next_network_call(
    tiny_prior: DiffusionPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call is made after the event, wherever the run is; the next run begins at once and is whole."""
    calls: list[bool] = []
    event = Event()
    original = type(tiny_prior.denoiser).__call__

    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        calls.append(event.is_set())
        if len(calls) == 5:
            event.set()
        return original(self, *arguments, **named)

    monkeypatch.setattr(type(tiny_prior.denoiser), "__call__", counted)
    state = last_state(job(preset="pictures", steps=1000), event)
    assert state.phase == "cancelled" and state.result is None
    assert len(calls) == 5
    assert last_state(job()).phase == "done"


def test_a_run_that_nobody_watches_ends(tiny_prior: DiffusionPrior) -> None:
    """Closing the states, as a closed page does, cancels the run and lets the next one begin."""
    event = Event()
    states = run(job(preset="pictures", steps=100_000), event)
    while next(states).phase == "loading":
        pass
    close(states)
    assert event.is_set()
    assert last_state(job()).phase == "done"


def test_one_run_at_a_time(tiny_prior: DiffusionPrior) -> None:
    """A second run waits for its turn, and can be cancelled while it waits."""
    first = run(job(preset="pictures", steps=100_000), Event())
    assert next(first).phase == "loading"
    second, event = run(job(), Event()), Event()
    assert next(second).phase == "waiting"
    third = run(job(), event)
    assert next(third).phase == "waiting"
    event.set()
    assert next(third).phase == "cancelled"
    close(first)
    assert [state.phase for state in second][-1] == "done"


def test_a_cancel_button_ends_the_run_of_its_own_session(tiny_prior: DiffusionPrior) -> None:
    """Also one that still waits for its turn; a new run of the session is not cancelled, nor that of another one."""
    sessions, mine, other = Sessions(), request("a"), request("b")
    sessions.begin(mine)
    sessions.begin(other)
    sessions.cancel(mine)
    assert last_state(job(), sessions.of(mine)).phase == "cancelled"
    assert last_state(job(), sessions.of(other)).phase == "done"
    sessions.begin(mine)
    assert last_state(job(), sessions.of(mine)).phase == "done"


def test_refusals(tmp_path: Path) -> None:
    """One line each, before anything is computed; no name reaches a hub."""
    refused: dict[str, Callable[[], Any]] = {
        "There is no prior 'owner/name'": lambda: Job(job().image, job().mask, "owner/name"),
        "There is no guide 'Guide'": lambda: job(guide="Guide"),
        "There is no objective 'ELBO'": lambda: job(objective="ELBO"),
        "There is no correction 'A'": lambda: job(correction="A"),
        "needs a guide of its own": lambda: job(objective="StickingTheLandingELBO"),
        "cannot be loaded|cannot be read|does not": lambda: load(str(tmp_path)),
    }
    for message, call in refused.items():
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_an_error_of_the_library_is_raised_and_frees_the_turn(tiny_prior: DiffusionPrior) -> None:
    """Here a prompt for a prior that takes none."""
    with pytest.raises(InputError, match="takes no text"):
        last_state(job(prompt="a boot"))
    assert last_state(job()).phase == "done"


def test_the_download(tiny_prior: DiffusionPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the files of ``vipaint inpaint``, the problem without what is hidden, and lines that run beside them."""
    asked = job(label="dog")
    result = last_state(asked).result
    path = views.download(asked, result, tiny_prior, tmp_path, asked.lines())
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "out")
    written = {"contact_sheet.png", "report.json", "sample_00.png", "sample_01.png", "samples.safetensors"}
    assert names - {".vipaint.json"} == written | {FILE, views.LINES}
    problem = load_file(tmp_path / "out" / FILE)
    assert problem["image"][problem["mask"] == 0].abs().max() == 0
    monkeypatch.chdir(tmp_path / "out")
    assert torch.equal(runpy.run_path(views.LINES)["result"].samples, result.samples)
    assert torch.equal(load_file("samples.safetensors")["samples"], result.samples)
