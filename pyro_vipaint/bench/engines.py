"""Where cells are computed: in this process, in processes of this machine, or on a Ray cluster.

An engine takes cells and yields ``(cell, record)`` as they finish; what it yields is written by its caller, here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.work import Record, worker
from pyro_vipaint.errors import InputError

Engine = Callable[[list[Cell]], Iterable[tuple[Cell, Record]]]
ENGINES = ("local", "ray")
ABRUPT = "A worker ended abruptly, perhaps for lack of memory: run again, with fewer --workers or a smaller --chunk."


def engine(name: str, workers: int, device: str, threads: int | None, address: str | None = None) -> Engine:
    """The engine of that name.

    Args:
        name: ``local`` or ``ray``.
        workers: processes; a local engine with one works in the calling process.
        device: of every worker.
        threads: CPU threads of every worker; ``None`` leaves them as they are.
        address: of a Ray cluster; ``None`` starts one on this machine.

    Raises:
        InputError: no such engine, or Ray is not installed.
        ChildProcessError: from what is returned, when a process of the local engine dies; finished cells are kept.
    """
    if name == "ray":
        return _ray(workers, device, threads, address)
    if name != "local":
        raise InputError(f"There is no engine {name!r}: choose one of {', '.join(ENGINES)}.")
    return _processes(workers, device, threads) if workers > 1 else _here(device, threads)


def _here(device: str, threads: int | None) -> Engine:
    def run(cells: list[Cell]) -> Iterator[tuple[Cell, Record]]:
        compute = worker(device, threads)
        for cell in cells:
            yield cell, compute(cell)

    return run


def _processes(workers: int, device: str, threads: int | None) -> Engine:
    def run(cells: list[Cell]) -> Iterator[tuple[Cell, Record]]:
        from concurrent.futures import ProcessPoolExecutor, as_completed
        from concurrent.futures.process import BrokenProcessPool
        from multiprocessing import get_context

        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_the_parent) as pool:
            compute = worker(device, threads)
            futures = {pool.submit(compute, cell): cell for cell in cells}
            try:
                for future in as_completed(futures):
                    yield futures.pop(future), future.result()  # kept no longer: its tensors hold open files
            except BrokenProcessPool as error:
                raise ChildProcessError(ABRUPT) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    return run


def _end_with_the_parent() -> None:
    """A worker whose parent was killed would wait for ever for its next cell."""
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _ray(workers: int, device: str, threads: int | None, address: str | None) -> Engine:
    try:
        import ray
        from ray.util.actor_pool import ActorPool
    except ImportError as error:
        raise InputError("The engine ray needs Ray: pip install 'pyro-vipaint[ray]'.") from error

    def run(cells: list[Cell]) -> Iterator[tuple[Cell, Record]]:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
        actor = ray.remote(num_cpus=threads or 1, num_gpus=1 if device.startswith("cuda") else 0)(_Worker)
        try:
            pool = ActorPool([actor.remote(device, threads) for _ in range(workers)])
            results: Any = pool.map_unordered(lambda each, cell: each.run.remote(cell), cells)
            yield from results
        finally:
            ray.shutdown()

    return run


class _Worker:
    """A Ray actor; its process keeps the prior."""

    def __init__(self, device: str, threads: int | None) -> None:
        self.compute = worker(device, threads)

    def run(self, cell: Cell) -> tuple[Cell, Record]:
        return cell, self.compute(cell)
