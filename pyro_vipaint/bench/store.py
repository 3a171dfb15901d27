"""Finished cells on disk, and the table that is made of them. Every file is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_vipaint._files import locked, read_json, sweep, write_whole
from pyro_vipaint._folders import CELLS
from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.work import Record

if TYPE_CHECKING:
    import pandas as pd

ORDER = ["prior", "task", "budget", "method", "seed", "image", "start", "stop"]
NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # as Python writes them


@dataclass(frozen=True, eq=False)
class Store:
    """The folder of a benchmark: ``cells/KEY.json`` and ``cells/KEY.safetensors``, the latter written first."""

    out: Path

    @cached_property
    def folder(self) -> Path:
        """Where the cells are."""
        folder = self.out / CELLS
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finished(self) -> set[Cell]:
        """The cells that were finished, successfully or with an error."""
        return {Cell(**record["cell"]) for record in self.records()}

    def strangers(self) -> list[str]:
        """The names of the JSON files among the cells that are damaged, or that are no cells."""
        return [path.name for path in self._paths() if self._record(path) is None]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other runs out of the folder, and removes what a killed one left half-written.

        The lock ends with the process.

        Raises:
            InputError: another run has it.
        """
        with locked(self.folder / ".lock", self.out):
            sweep(self.out)
            yield

    def write(self, cell: Cell, record: Record) -> None:
        """Writes a record; one whose JSON is there is complete."""
        from safetensors.torch import save

        content = b""
        if record.tensors:
            content = save({name: value.contiguous() for name, value in record.tensors.items()})
            write_whole(self._path(cell).with_suffix(".safetensors"), content)
        digest = _digest(record.plain, _hash(content))
        write_whole(self._path(cell), json.dumps({"digest": digest, **record.plain}).encode())

    def forget_failures(self, cells: Sequence[Cell]) -> None:
        """Removes the records of the given cells that failed, so that they are tried again."""
        for record in self.records():
            cell = Cell(**record["cell"])
            if record["error"] is not None and cell in cells:
                self._path(cell).unlink()

    def records(self) -> list[dict[str, Any]]:
        """The plain part of all records, in the order of their file names, without :meth:`strangers`."""
        return [record for path in self._paths() if (record := self._record(path)) is not None]

    def gradient_ratios(self) -> dict[str, float]:
        """What a call with its gradient costs in calls, by prior, where a finished cell says it."""
        told = [record for record in self.records() if record.get("gradient_ratio")]
        return {record["cell"]["prior"]: record["gradient_ratio"] for record in told}

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.json"))

    def _record(self, path: Path) -> dict[str, Any] | None:
        """The plain part of a record, ``None`` unless it and its tensors are as they were written."""
        tensors = path.with_suffix(".safetensors")
        with suppress(Exception):  # what reads broken files raises anything
            plain = read_json(path, NUMBERS)
            content = _hash(b"") if plain["error"] else _hash_of(tensors, tensors.stat().st_mtime_ns)
            if plain.pop("digest") == _digest(plain, content) and Cell(**plain["cell"]).key == path.stem:
                return plain
        return None

    def tensors(self, cell: Cell) -> dict[str, Tensor]:
        """The tensors of a finished cell."""
        from safetensors.torch import load_file

        return load_file(self._path(cell).with_suffix(".safetensors"))

    def table(self) -> pd.DataFrame:
        """The rows of every cell, sorted: the cell, its scores and its cost; one row for a failed cell.

        ``forward_equivalents`` are those of :mod:`pyro_vipaint.bench.cost`, per sample.

        ``start`` and ``stop`` are the images of the cell, its batch, on which the draws depend.
        """
        import pandas as pd

        rows = []
        for plain in self.records():
            cell = plain["cell"]
            empty = [{"image": cell["start"]}]
            made_with = {name: plain.get(name) for name in ("weights", "version", "gradient_ratio", "error")}
            rows += [{**cell, **row, **made_with} for row in plain.get("rows", empty)]
        frame = pd.DataFrame(rows)
        if frame.empty:
            return frame
        frame["budget"] = frame["budget"].astype("Int64")
        if "gradients" in frame:
            frame["forward_equivalents"] = frame["nfe"] + (frame["gradient_ratio"] - 1) * frame["gradients"]
        return frame.sort_values(ORDER, kind="stable", ignore_index=True)

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.key}.json"


def _digest(plain: dict[str, Any], content: str) -> str:
    """What tells a damaged record from a whole one: of its plain part and the hash of its tensors."""
    return _hash(json.dumps([plain, content], sort_keys=True).encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


@lru_cache(maxsize=100_000)
def _hash_of(path: Path, changed: int) -> str:
    """The hash of a file that was last ``changed`` then; a file is read once."""
    return _hash(path.read_bytes() if path.is_file() else b"")
