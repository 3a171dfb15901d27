"""Where cells are computed: in this process, in processes of this machine, or on a Ray cluster.

An engine takes cells and yields ``(cell, record)`` as they finish; its caller writes the records. With more than one
worker, a cell whose process dies has the error as its record, and the engine goes on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, Protocol

from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.registry import SUITE, Suite
from pyro_vipaint.bench.work import Record, failed, worker
from pyro_vipaint.errors import InputError

Finished = Generator[tuple[Cell, Record], None, None]
ENGINES = ("local", "ray")
ABRUPT = "the worker ended abruptly, perhaps for lack of memory: try --retry with a smaller --chunk"


class Engine(Protocol):
    """Where cells are computed."""

    def __call__(self, cells: list[Cell], suite: Suite = SUITE) -> Finished:
        """Yields each cell with its record as it finishes, in any order."""
        ...


def engine(name: str, workers: int, device: str, threads: int | None, address: str | None = None) -> Engine:
    """The engine of that name.

    Args:
        name: ``local`` or ``ray``.
        workers: processes; a local engine with one works in the calling process.
        device: of every worker.
        threads: CPU threads of every worker; ``None`` leaves them as they are.
        address: of a Ray cluster; ``None`` starts one on this machine.

    Raises:
        InputError: no such engine, an address without the engine ``ray``, or Ray is not installed.
    """
    if address is not None and name != "ray":
        raise InputError("The address is that of a Ray cluster: it goes with the engine ray.")
    if name == "ray":
        return _ray(workers, device, threads, address)
    if name != "local":
        raise InputError(f"There is no engine {name!r}: choose one of {', '.join(ENGINES)}.")
    return _processes(workers, device, threads) if workers > 1 else _here(device, threads)


def _here(device: str, threads: int | None) -> Engine:
    def run(cells: list[Cell], suite: Suite = SUITE) -> Finished:
        compute = worker(suite, device, threads)
        for cell in cells:
            yield cell, compute(cell)

    return run


def _processes(workers: int, device: str, threads: int | None) -> Engine:
    def run(cells: list[Cell], suite: Suite = SUITE) -> Finished:
        compute, left = worker(suite, device, threads), iter(cells)
        while suspects := (yield from _in_processes(compute, left, workers)):
            for cell in suspects:  # one of them ended its process: each is computed alone, in its own process
                if (yield from _in_processes(compute, iter([cell]), 1)):
                    yield cell, failed(cell, ABRUPT)

    return run


def _in_processes(
    compute: Callable[[Cell], Record], cells: Iterator[Cell], workers: int
) -> Generator[tuple[Cell, Record], None, list[Cell]]:
    """Yields the finished ``cells``; when a process dies, returns those that were being computed or next.

    When the caller is interrupted, the processes end at once.
    """
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_the_parent)
    taken, running = list(islice(cells, workers + 1)), {}
    try:
        while taken or running:
            while taken:
                running[pool.submit(compute, taken[0])] = taken[0]
                del taken[0]  # only now: a broken pool takes none
            future = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
            record = future.result()
            yield running.pop(future), record  # not kept: its tensors hold open files
            taken += islice(cells, 1)
    except BrokenProcessPool:
        return [*running.values(), *taken]
    except BaseException:
        for process in list((pool._processes or {}).values()):  # from Python 3.14 on: pool.terminate_workers()
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return []


def _end_with_the_parent() -> None:
    """Ends a worker when its parent is killed; it would wait forever for its next cell."""
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
        from ray.exceptions import WorkerCrashedError
    except ImportError as error:
        raise InputError("The engine ray needs Ray: pip install 'pyro-vipaint[ray]'.") from error
    cpus, gpus = threads or 1, 1 if device.startswith("cuda") else 0

    def run(cells: list[Cell], suite: Suite = SUITE) -> Finished:
        own = max(os.cpu_count() or 1, workers * cpus) if address is None else None  # CPUs of a cluster started here
        ray.init(address, num_cpus=own, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
        compute, left = worker(suite, device, threads), iter(cells)

        def on_ray(cell: Cell) -> Record:
            return compute(cell)

        try:
            _check_resources(ray.cluster_resources(), workers, cpus, gpus)
            task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(on_ray)
            running = {task.remote(cell): cell for cell in islice(left, workers)}
            while running:
                (reference, *_), _ = ray.wait(list(running))
                cell = running.pop(reference)
                try:
                    record = ray.get(reference)
                except WorkerCrashedError:
                    record = failed(cell, ABRUPT)
                running |= {task.remote(cell): cell for cell in islice(left, 1)}
                yield cell, record
        finally:
            ray.shutdown()

    return run


def _check_resources(resources: Mapping[str, float], workers: int, cpus: int, gpus: int) -> None:
    """Refuses more than the cluster has: Ray would wait forever."""
    for name, each in (("CPU", cpus), ("GPU", gpus)):
        has = resources.get(name, 0.0)
        if workers * each > has:
            wanted = f"{workers} workers need {workers * each} {name}s"
            raise InputError(f"{wanted}, the cluster has {has:g}: fewer --workers.")
