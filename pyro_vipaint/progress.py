"""How far a long call has come: one callback signature for all of them, and one bar that shows it.

Fits, refinements, baselines, comparisons, benchmarks and the facade take ``callback=``, a function of one
:class:`Progress`. :func:`progress_bar` makes one that draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console


class Progress(NamedTuple):
    """One finished step of a long call.

    Attributes:
        phase: what is being done: ``fit``, ``refine``, the name of a baseline, ``compare``, ``bench``.
        step: how many steps of it are finished, the first one being 1.
        total: how many there are; ``None`` where that is not known.
        loss: of a fit, the objective at this step, summed over images, in nats.
        bound: of a fit whose objective reports its terms, the unweighted bound on -log p(y) at this step, likewise.
        note: what is being worked on.
    """

    phase: str
    step: int
    total: int | None = None
    loss: float | None = None
    bound: float | None = None
    note: str = ""


Callback = Callable[[Progress], None]
TITLES = {"fit": "fitting the posterior", "refine": "refining the samples", "bench": "cells"}


@contextmanager
def progress_bar(
    description: str | None = None, total: int | None = None, console: Console | None = None
) -> Iterator[Callback]:
    """A bar for each phase, on the terminal or in a notebook, while the block runs; it yields a ``callback``.

    >>> with progress_bar() as callback:  # doctest: +SKIP
    ...     result = dps(prior, likelihood, y, callback=callback)

    Args:
        description: what stands before the bar; the phase if not given.
        total: how often the callback will be called, where the call itself does not know (CoPaint-TT).
        console: rich's console to draw on; the standard output if not given.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as bars:
        tasks = {}

        def callback(progress: Progress) -> None:
            phase = progress.phase
            if phase not in tasks:
                tasks[phase] = bars.add_task(
                    description or TITLES.get(phase, phase), total=progress.total or total, note=""
                )
            bound = "" if progress.bound is None else f"-log p(y) ≤ {progress.bound:.1f} nats"
            bars.update(
                tasks[phase], completed=progress.step, total=progress.total or total, note=progress.note or bound
            )

        yield callback
