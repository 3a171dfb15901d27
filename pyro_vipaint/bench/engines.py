"""Where the cells of a benchmark are computed: an engine of :mod:`pyro_vipaint.engines` for cells and records.

It takes cells and yields ``(cell, record)`` as they finish; its caller writes the records. With more than one worker, a
cell whose process dies has the error as its record, and the engine goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial

from pyro_vipaint import engines
from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.registry import Suite
from pyro_vipaint.bench.work import Record, compute, failed

Finished = Generator[tuple[Cell, Record], None, None]
Engine = Callable[[list[Cell], Suite], Finished]
ABRUPT = "the worker ended abruptly, perhaps for lack of memory: try --retry with a smaller --chunk"


def engine(name: str, workers: int, device: str, threads: int | None, address: str | None = None) -> Engine:
    """The engine of that name: a function of the cells and the suite that their names belong to.

    Arguments and errors are those of :func:`pyro_vipaint.engines.engine`.
    """
    chosen = engines.engine(name, workers, device, threads, address)

    def run(cells: list[Cell], suite: Suite) -> Finished:
        one = partial(compute, suite=suite, device=device, threads=threads)
        return chosen.run(one, cells, partial(failed, error=ABRUPT))

    return run
