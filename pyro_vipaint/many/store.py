"""The folder of a run over many pictures: their results, what was asked, and a manifest with a row for each.

The manifest is a CSV file that grows by a row when a picture is finished, after its files have been written: a killed
run loses the pictures that were being computed, and the next one goes on. At its end it is sorted, one row per picture.
"""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vipaint._files import VERSION, check_file, locked, read_json, write_whole
from pyro_vipaint._folders import IMAGES, MANIFEST, PICTURES_OF, REPORT
from pyro_vipaint.errors import InputError
from pyro_vipaint.many.work import DONE, FAILED, Outcome

if TYPE_CHECKING:
    import pandas as pd

ASKED = "run.json"
COLUMNS = (
    "name", "file", "status", "error", "seed", "label", "settings", "calls", "nfe", "batch", "seconds", "bound",
    "observed_error", "outputs", "version",
)  # fmt: skip
TEXTS = ("name", "file", "status", "error", "settings", "outputs", "version")
WHOLE, REAL = ("seed", "label", "calls", "nfe", "batch"), ("seconds", "bound", "observed_error")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Store:
    """The folder ``out``, and the fingerprint of what was asked."""

    out: Path
    settings: str

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other runs out of the folder, and removes what a killed one left half-written."""
        with locked(self.out / ".lock", self.out):
            yield

    def check_asked(self, asked: dict[str, Any]) -> None:
        """Records what is asked, or refuses what differs from what was asked first.

        Raises:
            InputError: the folder has results of something else, or its record of it is damaged.
        """
        path = self.out / ASKED
        if not path.exists():
            if self.rows():
                raise InputError(f"{self.out} has a manifest without {ASKED}: choose another folder.")
            write_whole(path, (json.dumps({"version": VERSION, **asked}, indent=2) + "\n").encode())
            return
        try:
            before = read_json(path)
        except InputError as error:
            raise InputError(f"{error!s:.200} Its run cannot go on: choose another folder.") from error
        same: Any = json.loads(json.dumps({"version": VERSION, **asked}))
        other = [name for name in {**before, **same} if before.get(name) != same.get(name)]
        if other:
            raise InputError(f"{self.out} has results of other {', '.join(other):.200}: choose another folder.")

    def rows(self) -> dict[str, Row]:
        """Name -> the last row of a picture; lines that a killed run left half-written, or damaged ones, have none."""
        path = self.out / MANIFEST
        if not path.exists():
            return {}
        check_file(path)
        content = path.read_bytes()
        lines = content[: content.rfind(b"\n") + 1].decode(errors="replace").splitlines()
        read = [_row(line) for line in lines[1:]]
        if lines and (None in read or _values(lines[0]) != list(COLUMNS)):
            text = f"Not read, as damaged: {read.count(None)} lines of {path}. Their pictures are computed again."
            warnings.warn(text, stacklevel=2)
        return {row["name"]: row for row in read if row is not None}

    def is_done(self, row: Row) -> bool:
        """Whether the files of a row are there: the report is written last."""
        return row["status"] == DONE and (self._place(row["name"]) / REPORT).is_file()

    def write(self, outcome: Outcome) -> Row:
        """Writes the files of a picture, and then its row.

        Raises:
            InputError: a disk is full, or something of the user's is in the way.
        """
        row = {**outcome.row, "settings": self.settings, "outputs": ""}
        if outcome.files:
            place = self._place(outcome.name)
            with _writing(place), IMAGES.whole(place) as folder:
                for name, content in outcome.files.items():
                    (folder / name).write_bytes(content)
            row["outputs"] = place.relative_to(self.out).as_posix()
        path = self.out / MANIFEST
        with _writing(path), path.open("ab", buffering=0) as file:
            file.write(_line(row))
        return row

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Writes the manifest anew."""
        header = _line(dict(zip(COLUMNS, COLUMNS, strict=True)))
        with _writing(self.out / MANIFEST):
            write_whole(self.out / MANIFEST, b"".join([header, *map(_line, rows)]))

    def table(self) -> pd.DataFrame:
        """The manifest."""
        import pandas as pd

        empty = {name: [""] for name in COLUMNS if name not in TEXTS}
        frame = pd.read_csv(
            self.out / MANIFEST, dtype=dict.fromkeys(TEXTS, str) | {"seed": "Int64"}, keep_default_na=False,
            na_values=empty,
        )  # fmt: skip
        return frame.astype(dict.fromkeys(("label", "calls", "nfe", "batch"), "Int64"))

    def _place(self, name: str) -> Path:
        return self.out / PICTURES_OF / name


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Says in one line which file or folder of the results cannot be written, and that the run goes on later."""
    try:
        yield
    except OSError as error:
        todo = "mend this and start the run again, which goes on"
        raise InputError(f"{path!s:.150} cannot be written ({error.strerror or error!s:.50}): {todo}.") from error


def _row(line: str) -> dict[str, str] | None:
    """A row of the manifest; ``None`` where the line is none."""
    values = _values(line)
    row: dict[str, str] = dict(zip(COLUMNS, values, strict=False))
    if len(values) != len(COLUMNS) or row["status"] not in (DONE, FAILED) or not row["name"]:
        return None
    return row if _holds_numbers(row) else None


def _holds_numbers(row: dict[str, str]) -> bool:
    """Whether its numbers are some, or missing; whole ones in 64 bits."""
    with suppress(ValueError):
        found = {name: row[name] for name in (*WHOLE, *REAL) if row[name]}
        values = [int(text) if name in WHOLE else float(text) for name, text in found.items()]
        plain = all(re.fullmatch(r"[-+.0-9a-z]+", text) for text in found.values())
        return plain and all(isinstance(n, float) or -(2**63) <= n < 2**63 for n in values)
    return False


def _values(line: str) -> list[str]:
    with suppress(csv.Error):
        return next(csv.reader([line], strict=True), [])
    return []


def _line(row: Row) -> bytes:
    text = io.StringIO()
    values = ["" if row.get(name) is None else row[name] for name in COLUMNS]
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()
