"""Folders of results: what a run may replace in them, and what it leaves if it is killed.

A marker, ``.vipaint.json``, says which files of a folder a run wrote: a later run replaces and removes these alone. New
files are written into a temporary folder, which is renamed to ``.vipaint.new`` when it is complete, and then move to
their places. A run that is killed before the renaming leaves the old results; the files of one that is killed after it
move when the next run begins.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from pyro_vipaint._files import VERSION, own_ending, read_json, sweep, write_whole
from pyro_vipaint.errors import InputError

MARKER, COMPLETE = ".vipaint.json", ".vipaint.new"
REPORT, SHEET, SAMPLES = "report.json", "contact_sheet.png", "samples.safetensors"
CELLS, TABLE = "cells", "results.parquet"
PICTURES_OF, MANIFEST = "images", "manifest.csv"
FOLDERS = (CELLS, PICTURES_OF)  # of results; their other names are those of files
LONGEST = 2**20  # bytes of a marker, which lists file names
SYSTEM = {".DS_Store", ".localized", "Thumbs.db", "desktop.ini", "lost+found"}  # nobody's: systems put them everywhere


@dataclass(frozen=True)
class Results:
    """A kind of results.

    Attributes:
        kind: its name in the marker.
        names: a regular expression for the names of its files.
        report: the file that vouches for the others: it is removed first and moved last.
        lasting: what is written on its own and stays when the other files are replaced.
        elsewhere: what to do where the folder is something else.
    """

    kind: str
    names: str
    report: str
    lasting: frozenset[str] = frozenset()
    elsewhere: str = "name another folder with --out"

    def check(self, out: Path, overwrite: bool = False, *pictures: Path | None) -> None:
        """Refuses, before anything is computed, a path that cannot become a folder of results.

        It must be a new folder, an empty one (but for what systems put there), or one with earlier results of this
        kind, in which files may be written. A file of theirs that no run wrote is in the way unless ``overwrite``. None
        of the ``pictures`` that the run reads may lie in it. What a killed run left is removed, or finished where it
        was complete.

        Raises:
            InputError: it is something else.
        """
        try:
            with suppress(FileNotFoundError):
                out.lstat()  # refuses a name that is too long
            nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
            with _temporary(nearest):
                _settle(out)
            if out.is_symlink():
                out.stat()  # refuses a link that leads nowhere
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{out!s:.200} cannot be written ({reason}): {self.elsewhere}.") from error
        for path in (picture.resolve() for picture in pictures if picture is not None):
            if path.parent == out.resolve():
                raise InputError(f"{path} lies in the folder of the results: {self.elsewhere}.")
        in_the_way = self._in_the_way(out, overwrite)
        if in_the_way:
            replaced = ", or replace files of the same names with --overwrite" if "--out" in self.elsewhere else ""
            todo = self.elsewhere + replaced
            name = min(in_the_way - {MARKER} or in_the_way)
            listed = f"no {MARKER} of such results lists (those of version 0.1 have none)"
            raise InputError(f"{out} holds {name!r}, which {listed}: {todo}.")

    def _in_the_way(self, out: Path, overwrite: bool) -> set[str]:
        found = {path.name for path in out.glob("*")} - SYSTEM
        same = {name for name in found if re.fullmatch(self.names, name)}
        blocked = {name for name in same if (out / name).is_dir() != (name in FOLDERS)}
        if overwrite:
            return blocked
        listed = self.listed(out)
        return found if listed is None else blocked | (same - listed)

    def claim(self, out: Path) -> None:
        """Makes ``out`` a folder of results, for what is written into it on its own."""
        out.mkdir(parents=True, exist_ok=True)
        if self.listed(out) is None:
            self._mark(out, self.lasting)

    @contextmanager
    def whole(self, out: Path) -> Iterator[Path]:
        """A temporary folder inside ``out``, whose files replace those of earlier results when the block ends well.

        Otherwise they vanish, and so does ``out`` if it is new. Other files in ``out`` stay.
        """
        new = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        try:
            _settle(out)
            with _temporary(out) as folder:
                yield folder
                self._mark(folder, self.lasting | {path.name for path in folder.iterdir()})
                os.replace(folder, out / COMPLETE)
            _settle(out)
        finally:
            if new:
                with suppress(OSError):
                    out.rmdir()  # stays unless it is empty

    def listed(self, folder: Path) -> set[str] | None:
        """The files that a run wrote into ``folder``, as its marker says; ``None`` without a marker of this kind."""
        with suppress(InputError, TypeError, KeyError):
            marker = read_json(folder / MARKER, most=LONGEST)
            here = all(Path(name).name == name for name in marker["files"])
            if here and (marker["kind"], marker["version"]) == (self.kind, VERSION):
                return {name for name in marker["files"] if re.fullmatch(self.names, name)}
        return None

    def _mark(self, folder: Path, files: frozenset[str]) -> None:
        marker = {"kind": self.kind, "version": VERSION, "files": sorted(files)}
        write_whole(folder / MARKER, (json.dumps(marker, indent=2) + "\n").encode())


IMAGES = Results("images", r"report\.json|contact_sheet\.png|samples\.safetensors|(image_\d+_)?sample_\d+\.png", REPORT)
BENCHMARK = Results(
    "benchmark", r"report\.(md|html)|figure-[^/\\]*\.png|results\.parquet|cells", "report.md", frozenset({CELLS, TABLE})
)
MANY = Results(
    "many images", r"manifest\.csv|run\.json|images", MANIFEST, frozenset({MANIFEST, "run.json", PICTURES_OF})
)
RESULT = Results(
    "result", r"(result|fit)\.(json|safetensors)|guide\.json|model\.safetensors", "result.json",
    elsewhere="give save another folder",
)  # fmt: skip


def sample_names(num_samples: int, num_images: int) -> list[str]:
    """The names of the sample pictures, sample by sample."""
    if num_images == 1:
        return [f"sample_{s:02d}.png" for s in range(num_samples)]
    return [f"image_{n:02d}_sample_{s:02d}.png" for s in range(num_samples) for n in range(num_images)]


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A folder inside ``folder`` that vanishes with the block."""
    sweep(folder)
    path = Path(mkdtemp(prefix=".vipaint.", suffix=f".{own_ending()}", dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _settle(out: Path) -> None:
    """Moves the files of a run that was complete to their places, in place of those of the run before."""
    complete = out / COMPLETE
    for results in (IMAGES, BENCHMARK, RESULT):
        new = results.listed(complete)
        if new is None:
            continue
        for name in (results.listed(out) or set()) - new:
            (out / name).unlink(missing_ok=True)
        waiting = sorted((name for name in new if (complete / name).exists()), key=lambda name: name == results.report)
        if results.report in waiting:
            (out / results.report).unlink(missing_ok=True)  # an old report must not vouch for new files
        for name in (*waiting, MARKER):
            with suppress(FileNotFoundError):  # another run has moved it
                os.replace(complete / name, out / name)
    with suppress(OSError):
        complete.rmdir()
