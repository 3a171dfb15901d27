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
from functools import partial
from importlib.util import find_spec
from itertools import islice
from typing import Any

from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.registry import Suite
from pyro_vipaint.bench.work import Record, compute, failed
from pyro_vipaint.errors import InputError, choice, whole

Compute = Callable[[Cell], Record]
Finished = Generator[tuple[Cell, Record], None, None]
Engine = Callable[[list[Cell], Suite], Finished]
MOST = 1024  # workers, and threads of each; more is taken for a slip
ABRUPT = "the worker ended abruptly, perhaps for lack of memory: try --retry with a smaller --chunk"


def engine(name: str, workers: int, device: str, threads: int | None, address: str | None = None) -> Engine:
    """The engine of that name: a function of the cells and the suite that their names belong to.

    Args:
        name: ``local`` or ``ray``.
        workers: processes, from 1 to :data:`MOST`; a local engine with one works in the calling process.
        device: of every worker.
        threads: CPU threads of every worker, from 1 to :data:`MOST`; ``None`` leaves them as they are.
        address: of a Ray cluster; ``None`` starts one on this machine.

    Raises:
        InputError: no such engine, a number out of range, an address without the engine ``ray``, or Ray is missing.
    """
    whole("workers", workers, most=MOST)
    if threads is not None:
        whole("threads", threads, most=MOST)
    if address is not None and name != "ray":
        raise InputError("The address is that of a Ray cluster: it goes with the engine ray.")
    choice("engine", name, ("local", "ray"))
    if name == "ray" and find_spec("ray") is None:
        raise InputError("The engine ray needs Ray: pip install 'pyro-vipaint[ray]'.")

    def run(cells: list[Cell], suite: Suite) -> Finished:
        one = partial(compute, suite=suite, device=device, threads=threads)
        if name == "ray":
            return _on_ray(one, cells, workers, threads or 1, int(device.startswith("cuda")), address)
        return _in_processes(one, cells, workers) if workers > 1 else ((cell, one(cell)) for cell in cells)

    return run


def _in_processes(one: Compute, cells: list[Cell], workers: int) -> Finished:
    left = iter(cells)
    while suspects := (yield from _until_one_dies(one, left, workers)):
        for cell in suspects:  # one of them ended its process: each is computed alone, in its own process
            if (yield from _until_one_dies(one, iter([cell]), 1)):
                yield cell, failed(cell, ABRUPT)


def _until_one_dies(
    one: Compute, cells: Iterator[Cell], workers: int
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
                running[pool.submit(one, taken[0])] = taken[0]
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


def _on_ray(one: Compute, cells: list[Cell], workers: int, cpus: int, gpus: int, address: str | None) -> Finished:
    """On a cluster, with ``cpus`` and ``gpus`` for every worker."""
    import ray
    from ray.exceptions import WorkerCrashedError

    def task(cell: Cell) -> Record:
        return one(cell)

    own = max(os.cpu_count() or 1, workers * cpus) if address is None else None  # CPUs of a cluster started here
    ray.init(address, num_cpus=own, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    try:
        _check_resources(ray.cluster_resources(), workers, cpus, gpus)
        remote: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(task)
        left = iter(cells)
        running = {remote.remote(cell): cell for cell in islice(left, workers)}
        while running:
            (reference, *_), _ = ray.wait(list(running))
            cell = running.pop(reference)
            try:
                record = ray.get(reference)
            except WorkerCrashedError:
                record = failed(cell, ABRUPT)
            running |= {remote.remote(cell): cell for cell in islice(left, 1)}
            yield cell, record
    finally:
        ray.shutdown()


def _check_resources(resources: Mapping[str, float], workers: int, cpus: int, gpus: int) -> None:
    """Refuses more than the cluster has: Ray would wait forever."""
    for name, each in (("CPU", cpus), ("GPU", gpus)):
        has = resources.get(name, 0.0)
        if workers * each > has:
            wanted = f"{workers} workers need {workers * each} {name}s"
            raise InputError(f"{wanted}, the cluster has {has:g}: fewer --workers.")
