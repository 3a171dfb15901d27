"""A run as a sequence of states: what the page shows while the library works.

The library works in a thread and reports by its callback; :func:`run` yields the latest report. A run is cancelled
between two network calls, by the event that it was given or when nobody takes its states any more. One run goes at a
time, whoever asks: Pyro's handlers and the random numbers of torch are global.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint._torch import resolve_device
from pyro_vipaint.app.job import Job, check_source
from pyro_vipaint.checks import check_prior
from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.models.priors.denoisers import Denoiser
from pyro_vipaint.progress import Progress

INTERVAL = 0.3  # seconds between two states; drawing one takes a tenth of it
POLL = 0.1  # seconds between two looks at the event of a run that waits for its turn
SHOWN = 4  # pictures in a state, at most
_TURN = Lock()


class Cancelled(Exception):
    """The run was cancelled."""


class State(NamedTuple):
    """What is known of a run.

    Attributes:
        phase: ``waiting`` for another run, ``loading`` the prior, ``fit``, ``refine``, ``done`` or ``cancelled``.
        step, total: of a fit and a refinement.
        bounds: the bound on log p(y), in nats, at each step of the fit.
        pictures: the network's latest predictions of the image, ``(n, C, H, W)`` in [-1, 1], n at most ``SHOWN``.
        result: of a run that is done.
    """

    phase: str
    step: int = 0
    total: int = 0
    bounds: tuple[float, ...] = ()
    pictures: Tensor | None = None
    result: vp.Result | None = None


@dataclass(eq=False)
class Watched:
    """A denoiser that keeps its least noisy prediction since the last look, and ends its run when it is cancelled."""

    denoiser: Denoiser
    cancelled: Event
    latest: tuple[float, Tensor] | None = field(default=None, init=False)

    def __call__(self, z_t: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """The prediction of the denoiser, unchanged."""
        if self.cancelled.is_set():
            raise Cancelled
        x_hat = self.denoiser(z_t, t, **condition)
        if t.ndim == 0 and (self.latest is None or float(t) <= self.latest[0]):
            self.latest = (float(t), x_hat.detach())
        return x_hat

    def look(self, prior: DiffusionPrior) -> Tensor | None:
        """The first ``SHOWN`` pictures of that prediction, on the CPU; no network call."""
        if self.latest is None:
            return None
        z, self.latest = self.latest[1], None
        with torch.no_grad():
            return prior.decode(z.reshape(-1, *prior.event_shape)[:SHOWN]).clamp(-1, 1).float().cpu()


@lru_cache(maxsize=2)
def load(source: str, device: str = "auto") -> DiffusionPrior:
    """The prior of that name or folder, kept for the next run.

    Raises:
        InputError: it is neither shipped nor a folder, or cannot be loaded.
    """
    check_source(source)
    return check_prior(source, resolve_device(device))


def run(job: Job, cancelled: Event, device: str = "auto") -> Iterator[State]:
    """The states of a run, at most one each ``INTERVAL``, the last with the result unless it was ``cancelled``.

    Raises:
        InputError: the job cannot be run; other errors are those of :func:`pyro_vipaint.inpaint`.
    """
    if _TURN.locked():
        yield State("waiting")
    with turn(cancelled) as got_it:
        if not got_it:
            yield State("cancelled")
            return
        yield State("loading")
        reports: SimpleQueue[State | Exception] = SimpleQueue()
        thread = Thread(target=_work, args=(job, load(job.prior, device), cancelled, device, reports), daemon=True)
        thread.start()
        try:
            yield from _latest(reports)
        finally:
            cancelled.set()
            thread.join()


@contextmanager
def turn(cancelled: Event | None = None) -> Iterator[bool]:
    """The block runs alone among those of all pages; yields False if ``cancelled`` comes first."""
    got_it = False
    while not got_it and not (cancelled is not None and cancelled.is_set()):
        got_it = _TURN.acquire(timeout=POLL)
    try:
        yield got_it
    finally:
        if got_it:
            _TURN.release()


def _latest(reports: SimpleQueue[State | Exception]) -> Iterator[State]:
    """The newest report, again and again, until the run has ended; an error is raised."""
    while True:
        report = reports.get()
        while True:
            try:
                report = reports.get_nowait()
            except Empty:
                break
        if isinstance(report, Exception):
            raise report
        yield report
        if report.phase in ("done", "cancelled"):
            return
        time.sleep(INTERVAL)


def _work(
    job: Job, prior: DiffusionPrior, cancelled: Event, device: str, reports: SimpleQueue[State | Exception]
) -> None:
    """Runs the job and puts its reports, the last with the result or the error."""
    watched = Watched(prior.denoiser, cancelled)
    bounds: list[float] = []
    seen: tuple[float, Tensor | None] = (0.0, None)

    def callback(progress: Progress) -> None:
        nonlocal seen
        if progress.phase == "fit" and progress.bound is not None:
            bounds.append(-progress.bound)
        if time.monotonic() - seen[0] >= INTERVAL:
            pictures = watched.look(prior)
            seen = (time.monotonic(), seen[1] if pictures is None else pictures)
        reports.put(State(progress.phase, progress.step, progress.total or 0, tuple(bounds), seen[1]))

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered (NaN|[+-]inf)")  # Pyro's; the error that follows says where
            result = job.call(replace(prior, denoiser=watched), callback, device)
        watched.cancelled = Event()  # what is drawn from the fit later is not cancelled with the run
        reports.put(State("done", bounds=tuple(bounds), pictures=result.samples[:SHOWN, 0], result=result))
    except Cancelled:
        reports.put(State("cancelled", bounds=tuple(bounds), pictures=seen[1]))
    except Exception as error:
        reports.put(error)
