"""The cells of a benchmark: every method on every task of every prior, at every budget, with every seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product


@dataclass(frozen=True)
class Cell:
    """One method on some images: the unit of work, done as a whole or not at all.

    Attributes:
        prior: a shipped name, a folder or a hub id.
        task, method: names in the suite; those of :data:`SUITE` are in ``TASKS`` and ``METHODS``.
        budget: NFE per sample; ``None`` for the authors' own settings.
        start, stop: the images, numbered from 0.
        num_samples: samples of each image.
        seed: of masks, noise and method.
        images: a folder of pictures; ``None`` for those that come with the prior.
    """

    prior: str
    task: str
    method: str
    budget: int | None
    start: int
    stop: int
    num_samples: int
    seed: int
    images: str | None = None

    @property
    def key(self) -> str:
        """A file name for the cell, the same in every run."""
        text = json.dumps(asdict(self), sort_keys=True)
        name = f"{self.method}-{self.task}".replace(" ", "-").replace(",", "").replace("/", "-")
        return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}".lower()


@dataclass(frozen=True)
class Plan:
    """What a benchmark consists of; see :class:`Cell`. ``chunk`` is the largest number of images in one cell."""

    priors: tuple[str, ...]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    budgets: tuple[int | None, ...]
    num_images: int = 16
    num_samples: int = 4
    seeds: tuple[int, ...] = (0,)
    chunk: int = 16
    images: str | None = None

    def cells(self, applies: Callable[[Cell], bool]) -> Iterator[Cell]:
        """All cells to which the method ``applies``, those of one trial beside each other."""
        for prior, seed, task, start, budget, method in product(
            self.priors, self.seeds, self.tasks, range(0, self.num_images, self.chunk), self.budgets, self.methods
        ):
            stop = min(start + self.chunk, self.num_images)
            cell = Cell(prior, task, method, budget, start, stop, self.num_samples, seed, self.images)
            if applies(cell):
                yield cell
