"""Finished cells on disk, and the table that is made of them. Every file is there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_vipaint._files import PART, write_whole
from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.work import Record
from pyro_vipaint.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

ORDER = ["prior", "task", "budget", "method", "seed", "image"]


@dataclass(frozen=True, eq=False)
class Store:
    """The folder of a benchmark: ``cells/KEY.json`` and ``cells/KEY.safetensors``, the latter written first."""

    out: Path

    @cached_property
    def folder(self) -> Path:
        """Where the cells are."""
        folder = self.out / "cells"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def has(self, cell: Cell) -> bool:
        """Whether the cell was finished, successfully or with an error."""
        return self._path(cell).exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other runs out of the folder, and removes what a killed one left half-written.

        The lock ends with the process.

        Raises:
            InputError: another run has it.
        """
        from filelock import FileLock, Timeout

        file = self.folder / ".lock"
        try:
            lock = FileLock(file).acquire(blocking=False)
        except Timeout:
            wanted = "wait for it, or choose another folder"
            raise InputError(
                f"Another run writes into {self.out}: {wanted}. (If there is none, remove {file}.)"
            ) from None
        with lock:
            for path in (*self.folder.glob(f".*{PART}"), *self.out.glob(f".*{PART}")):
                path.unlink(missing_ok=True)
            yield

    def write(self, cell: Cell, record: Record) -> None:
        """Writes a record; one whose JSON is there is complete."""
        from safetensors.torch import save

        if record.tensors:
            content = save({name: value.contiguous() for name, value in record.tensors.items()})
            write_whole(self._path(cell).with_suffix(".safetensors"), content)
        write_whole(self._path(cell), json.dumps(record.plain).encode())

    def forget_failures(self, cells: Sequence[Cell]) -> None:
        """Removes the records of the given cells that failed, so that they are tried again."""
        for record in self.records():
            cell = Cell(**record["cell"])
            if record["error"] is not None and cell in cells:
                self._path(cell).unlink()

    def records(self) -> list[dict[str, Any]]:
        """The plain part of all records, in the order of their file names."""
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob("*.json"))]

    def tensors(self, cell: Cell) -> dict[str, Tensor]:
        """The tensors of a finished cell."""
        from safetensors.torch import load_file

        return load_file(self._path(cell).with_suffix(".safetensors"))

    def table(self) -> pd.DataFrame:
        """The rows of every cell, sorted: the cell, its scores and its cost; one row for a failed cell."""
        import pandas as pd

        rows = []
        for plain in self.records():
            cell = {name: value for name, value in plain["cell"].items() if name not in ("start", "stop")}
            empty = [{"image": plain["cell"]["start"]}]
            made_with = {name: plain.get(name) for name in ("weights", "version", "error")}
            rows += [{**cell, **row, **made_with} for row in plain.get("rows", empty)]
        frame = pd.DataFrame(rows)
        if frame.empty:
            return frame
        frame["budget"] = frame["budget"].astype("Int64")
        return frame.sort_values(ORDER, kind="stable", ignore_index=True)

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.key}.json"
