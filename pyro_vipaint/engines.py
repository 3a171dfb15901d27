"""Where many pieces of work are done: in this process, in processes of this machine, or on a Ray cluster.

An engine takes items and a function of one, and yields ``(item, answer)`` as they finish. It draws the next item when a
worker is free, so that the items may be made as they are drawn, and its caller is the only one that writes. With more
than one worker an item whose process dies has the answer of ``lost``, and the engine goes on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any, TypeVar

from pyro_vipaint.errors import InputError, choice, whole

Item = TypeVar("Item")
Answer = TypeVar("Answer")
MOST = 1024  # workers, and threads of each; more is taken for a slip


@dataclass(frozen=True)
class Engine:
    """Workers; the fields are those of :func:`engine`."""

    name: str
    workers: int
    device: str
    threads: int | None
    address: str | None

    @property
    def is_here(self) -> bool:
        """Whether the calling process does the work."""
        return self.name == "local" and self.workers == 1

    def run(
        self, one: Callable[[Item], Answer], items: Iterable[Item], lost: Callable[[Item], Answer]
    ) -> Generator[tuple[Item, Answer], None, None]:
        """The items with their answers, in the order in which they finish.

        Args:
            one: what is done with an item; it can be pickled, and so can items and answers, unless :attr:`is_here`.
            items: drawn one at a time when a worker is free.
            lost: the answer for an item whose process died.
        """
        if self.name == "ray":
            return self._on_ray(one, iter(items), lost)
        if self.workers > 1:
            return _in_processes(one, iter(items), lost, self.workers)
        return ((item, one(item)) for item in items)

    def _on_ray(
        self, one: Callable[[Item], Answer], left: Iterator[Item], lost: Callable[[Item], Answer]
    ) -> Generator[tuple[Item, Answer], None, None]:
        """On a cluster, with ``threads`` CPUs for every worker, and a GPU where the device is one."""
        import ray
        from ray.exceptions import WorkerCrashedError

        def task(item: Item) -> Answer:
            return one(item)

        cpus, gpus = self.threads or 1, int(self.device.startswith("cuda"))
        here = self.address is None
        own = max(os.cpu_count() or 1, self.workers * cpus) if here else None  # CPUs of a cluster started here
        ray.init(self.address, num_cpus=own, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
        try:
            check_resources(ray.cluster_resources(), self.workers, cpus, gpus)
            remote: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(task)
            running = {remote.remote(item): item for item in islice(left, self.workers)}
            while running:
                (reference, *_), _ = ray.wait(list(running))
                item = running.pop(reference)
                try:
                    answer = ray.get(reference)
                except WorkerCrashedError:
                    answer = lost(item)
                del reference  # the store keeps an answer for as long as somebody refers to it
                running |= {remote.remote(item): item for item in islice(left, 1)}
                yield item, answer
        finally:
            ray.shutdown()


def engine(name: str, workers: int, device: str, threads: int | None = None, address: str | None = None) -> Engine:
    """The engine of that name.

    Args:
        name: ``local`` or ``ray``.
        workers: processes, from 1 to :data:`MOST`; a local engine with one works in the calling process.
        device: of every worker; on Ray each worker on CUDA has a GPU of its own.
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
    return Engine(name, workers, device, threads, address)


def default_workers(workers: int | None, device: str, threads: int) -> int:
    """The number asked for; by default one on an accelerator, and on CPUs one per ``threads`` cores."""
    default = max(1, (os.cpu_count() or 1) // whole("threads", threads)) if device == "cpu" else 1
    return default if workers is None else whole("workers", workers)


def _in_processes(
    one: Callable[[Item], Answer], left: Iterator[Item], lost: Callable[[Item], Answer], workers: int
) -> Generator[tuple[Item, Answer], None, None]:
    while suspects := (yield from _until_one_dies(one, left, workers)):
        for item in suspects:  # one of them ended its process: each is done alone, in its own process
            if (yield from _until_one_dies(one, iter([item]), 1)):
                yield item, lost(item)


def _until_one_dies(
    one: Callable[[Item], Answer], items: Iterator[Item], workers: int
) -> Generator[tuple[Item, Answer], None, list[Item]]:
    """Yields the finished ``items``; when a process dies, returns those that were being done or next.

    When the caller is interrupted, the processes end at once.
    """
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_the_parent)
    taken, running = list(islice(items, workers + 1)), {}
    try:
        while taken or running:
            while taken:
                running[pool.submit(one, taken[0])] = taken[0]
                del taken[0]  # only now: a broken pool takes none
            future = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
            answer = future.result()
            yield running.pop(future), answer  # not kept: its tensors hold open files
            taken += islice(items, 1)
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
    """Ends a worker when its parent is killed; it would wait forever for its next item."""
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def check_resources(resources: Mapping[str, float], workers: int, cpus: int, gpus: int) -> None:
    """Refuses more than the cluster has: Ray would wait forever."""
    for name, each in (("CPU", cpus), ("GPU", gpus)):
        has = resources.get(name, 0.0)
        if workers * each > has:
            wanted = f"{workers} workers need {workers * each} {name}s"
            raise InputError(f"{wanted}, the cluster has {has:g}: fewer --workers.")
