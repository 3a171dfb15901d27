"""A progress bar for everything that takes a ``callback``: fits, refinements, baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(description: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A bar on the terminal or in a notebook, while the block runs; what it yields is a ``callback``.

    >>> with progress_bar("DPS", 1000) as callback:  # doctest: +SKIP
    ...     result = dps(prior, likelihood, y, callback=callback)

    Args:
        description: what stands before the bar.
        total: how often the callback will be called, mostly the number of steps, of RePaint
            :func:`~pyro_vipaint.baselines.repaint_calls`; if not given, the bar has no end (for CoPaint-TT).
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task(description, total=total)

        def callback(*arguments: Any) -> None:
            bar.advance(task)

        yield callback
