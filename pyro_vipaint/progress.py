"""The progress of long calls: one callback signature for all of them, and one bar that shows it.

Fits, refinements, baselines, comparisons, benchmarks and the facade take ``callback=``, a function of one
:class:`Progress`. :func:`progress_bar` makes a callback that draws a bar; calls with ``progress=True`` draw it
themselves, and nothing where the output is neither a terminal nor a notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from pyro_vipaint.errors import instance

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor


class Progress(NamedTuple):
    """One finished step of a long call.

    Attributes:
        phase: ``fit``, ``sample``, ``refine``, ``smc``, ``compare``, ``bench``, ``many``, or the name of a baseline.
        step: number of finished steps, from 1.
        total: number of all steps; ``None`` where it is not known.
        loss: the objective of a fit at this step, summed over images, in nats.
        bound: the unweighted bound on -log p(y) at this step of a fit whose objective reports its terms, summed over
            images, in nats.
        note: the current item, such as a run of a comparison.
        images: of a fit's step, the images that the model predicts from its draws of z_Ts, their mean over particles,
            ``(N, C, H, W)`` where the draws lie. They cost no network call.
    """

    phase: str
    step: int
    total: int | None = None
    loss: float | None = None
    bound: float | None = None
    note: str = ""
    images: Tensor | None = None


Callback = Callable[[Progress], None]
TITLES = {
    "fit": "fitting the posterior",
    "sample": "sampling the guide",
    "refine": "refining the samples",
    "smc": "moving the particles",
    "compare": "comparing",
    "bench": "cells",
    "many": "pictures",
}


@contextmanager
def progress_bar(
    description: str | None = None,
    total: int | None = None,
    console: Console | None = None,
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


@contextmanager
def showing(progress: bool, callback: Callback | None = None) -> Iterator[Callback | None]:
    """Yields ``callback``, joined by a bar for the time of the block if ``progress``.

    The bar is drawn on a terminal or in a notebook alone: a file or a pipe gets not one character.

    Raises:
        InputError: ``progress`` is not True or False, or ``callback`` no function.
    """
    instance("progress", progress, isinstance(progress, bool), "True or False")
    instance("callback", callback, callback is None or callable(callback), "a function of a Progress")
    if not progress or not _seen():
        yield callback
        return
    with progress_bar() as bar:

        def both(step: Progress) -> None:
            bar(step)
            if callback is not None:
                callback(step)

        yield both


def _seen() -> bool:
    """Whether rich draws for somebody's eyes."""
    from rich import get_console

    return get_console().is_terminal or get_console().is_jupyter
