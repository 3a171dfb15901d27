"""The progress of long calls: one callback signature for all of them, and one bar that shows it.

Fits, refinements, baselines, comparisons, benchmarks and the facade take ``callback=``, a function of one
:class:`Progress`. :func:`progress_bar` makes a callback that draws a bar.
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
        phase: ``fit``, ``refine``, ``compare``, ``bench``, or the name of a baseline.
        step: number of finished steps, from 1.
        total: number of all steps; ``None`` where it is not known.
        loss: the objective of a fit at this step, summed over images, in nats.
        bound: the unweighted bound on -log p(y) at this step of a fit whose objective reports its terms, summed over
            images, in nats.
        note: the current item, such as a run of a comparison.
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
    """Yields a ``callback`` that draws a bar for each phase, on the terminal or in a notebook, while the block runs.

    >>> with progress_bar() as callback:  # doctest: +SKIP
    ...     result = dps(prior, likelihood, y, callback=callback)

    Args:
        description: the text before the bar; by default the phase.
        total: number of steps, where the call does not know it (CoPaint-TT).
        console: rich's console to draw on; by default the standard output.
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
            bound = "" if progress.bound is None else f"bound on log p(y), all images: {-progress.bound:.1f} nats"
            bars.update(
                tasks[phase], completed=progress.step, total=progress.total or total, note=progress.note or bound
            )

        yield callback
