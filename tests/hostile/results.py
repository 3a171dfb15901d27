"""Hostile folders of results: nothing of the user's is overwritten or deleted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.hostile.command_line import inpaint, pictures, restore, vipaint
from tests.hostile.harness import Case
from tests.hostile.prior_folders import DEEP, JSONS

Change = Callable[[Path], Any]


@cache
def template() -> Path:
    """The pictures of a run, and its results in ``out``."""
    folder = Path(mkdtemp(prefix="hostile-results-"))
    pictures(folder)
    inpaint(folder, "--samples", 3)
    return folder


def results(folder: Path) -> Path:
    """Pictures and earlier results; returns their folder."""
    shutil.copytree(template(), folder, dirs_exist_ok=True)
    return folder / "out"


def new(folder: Path) -> Path:
    """Pictures, and a folder ``out`` that holds nothing yet."""
    pictures(folder)
    (folder / "out").mkdir()
    return folder / "out"


def marker(out: Path) -> Path:
    """The file that marks the folder as ours: the hidden one."""
    (found,) = (path for path in out.glob(".*") if path.is_file())
    return found


def holding(*names: str, content: str | bytes = "mine") -> Change:
    """A folder with these files of the user's."""

    def arrange(folder: Path) -> None:
        out = new(folder)
        for name in names:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return arrange


def report(**entries: Any) -> Change:
    """A report of another program beside pictures with names that ours have."""

    def arrange(folder: Path) -> None:
        out = new(folder)
        for name in ("sample_00.png", "sample_01.png", "contact_sheet.png"):
            (out / name).write_text("mine")
        (out / "report.json").write_text(json.dumps({"num_samples": 2, "images": [{}], **entries}))

    return arrange


def blocked(arrange: Change, mode: int) -> Change:
    return lambda folder: (arrange(folder), (folder / "out").chmod(mode))


def with_marker(content: str | bytes) -> Change:
    """Earlier results whose marker says something else."""

    def arrange(folder: Path) -> None:
        marker(results(folder)).write_bytes(content.encode() if isinstance(content, str) else content)

    return arrange


def naming(*names: str) -> Change:
    """Earlier results whose marker claims files that are not ours."""

    def arrange(folder: Path) -> None:
        path = marker(results(folder))
        record = json.loads(path.read_text())
        (key,) = (key for key, value in record.items() if isinstance(value, list))
        path.write_text(json.dumps(record | {key: [*record[key], *names]}))
        (folder / "precious.txt").write_text("mine")
        (folder / "out" / "mine.txt").write_text("mine")

    return arrange


def linked(folder: Path) -> None:
    """``out`` is a link to a folder of the user's."""
    pictures(folder)
    (folder / "out").symlink_to(folder / "folder")


def kept(folder: Path, output: str) -> bool:
    """A report is there, the samples are those of this run, and the user's files are as they were."""
    out, names = folder / "out", {"mine.txt", ".mine.txt", "precious.txt"}
    mine = [path for path in (*folder.rglob("*.txt"),) if path.name in names]
    samples = sorted(path.name for path in out.glob("sample_*.png"))
    return samples == ["sample_00.png", "sample_01.png"] and all(path.read_text() == "mine" for path in mine)


def left_over(folder: Path) -> None:
    """Earlier results and a half-written file of a process that is gone."""
    out = results(folder)
    (out / ".report.json.999999999-0123abcd.part").write_text("{")


def save_mine(arrange: Callable[[Path], Any], *names: str) -> Change:
    def run(folder: Path) -> None:
        arrange(folder)
        for name in names:
            (folder / "out" / name).write_text("mine")

    return run


FOREIGN = {
    "a text": ("mine.txt",),
    "a picture": ("holiday.png",),
    "a hidden file": (".mine",),
    "a hidden folder": (".git/config",),
    "a sample of another program": ("sample_00.png",),
    "samples of another program": ("sample_00.png", "sample_01.png", "sample_99.png"),
    "a contact sheet": ("contact_sheet.png",),
    "tensors": ("samples.safetensors",),
    "a report": ("report.json",),
    "a report in Markdown": ("report.md",),
    "a table": ("results.parquet",),
    "cells": ("cells/mine.txt",),
    "a folder with files": ("folder/mine.txt",),
    "a name with a line break": ("a\nb.txt",),
    "a name with brackets": ("[red]mine[/]",),
}
CASES = [
    *[Case(f"out holds {name}", inpaint, "overwrite", holding(*names)) for name, names in FOREIGN.items()],
    *[
        Case(f"out holds a report.json: {name}", inpaint, "overwrite", holding("report.json", "sample_00.png",
             content=content))
        for name, content in list(JSONS.items())[:14]
    ],
    Case("out holds another program's report with samples", inpaint, "overwrite", report()),
    Case("out holds a report with 10^9 samples", inpaint, "overwrite", report(num_samples=10**9)),
    Case("out holds a report with -1 samples", inpaint, "overwrite", report(num_samples=-1)),
    Case("out holds a report with samples as a string", inpaint, "overwrite", report(num_samples="2")),
    Case("out holds a report with NaN samples", inpaint, "overwrite", report(num_samples=float("nan"))),
    Case("out holds a report of our entries", inpaint, "overwrite", report(prior="fashion32", versions={})),
    Case("restore: out holds a text", lambda f: restore(f, "--task", "super-resolution", "--factor", 2), "overwrite",
         holding("mine.txt")),
    Case("demo: out holds a report", lambda f: vipaint("demo", "--out", f / "out"), "overwrite",
         holding("report.json")),
    Case("bench: out holds a report", lambda f: vipaint("bench", "--out", f / "out"), "overwrite",
         holding("report.json")),
    Case("bench: out holds results of vipaint inpaint",
         lambda f: vipaint("bench", "--out", f / "out", "--images", 1), "overwrite|inpaint|results", results),
    Case("out is the folder of the picture", lambda f: inpaint(f, "--out", f), "lies in|overwrite|holds", pictures),
    Case("out is the folder of the picture, by another path", lambda f: inpaint(f, "--out", f / "folder" / ".."),
         "lies in|overwrite|holds", pictures),
    Case("out is a link to the user's folder", inpaint, "overwrite", linked),
    Case("out is a link to itself", inpaint, "writ|loop|link|folder", lambda f: (pictures(f),
         (f / "out").symlink_to("out"))),
    Case("out is a link to nothing", inpaint, "", lambda f: (pictures(f), (f / "out").symlink_to("nowhere"))),
    Case("out is a FIFO", inpaint, "writ|folder", lambda f: (pictures(f), os.mkfifo(f / "out"))),
    Case("out is a file", inpaint, "writ|folder", lambda f: (pictures(f), (f / "out").write_text("mine"))),
    *([] if os.geteuid() == 0 else [  # root writes everywhere
        Case("out cannot be written", inpaint, "writ", blocked(new, 0o500)),
        Case("out cannot be read", inpaint, "writ|read", blocked(holding("mine.txt"), 0o300)),
    ]),
    Case("earlier results with a file of the user's under a name of ours", inpaint, "overwrite|mine",
         save_mine(new, "samples.safetensors")),
    Case("earlier results, but the marker is no JSON", inpaint, "overwrite", with_marker("{")),
    Case("earlier results, but the marker is empty", inpaint, "overwrite", with_marker("")),
    Case("earlier results, but the marker is a list", inpaint, "overwrite", with_marker("[]")),
    Case("earlier results, but the marker is nested deep", inpaint, "overwrite", with_marker(DEEP)),
    Case("earlier results, but the marker is of a later version", inpaint, "overwrite|version",
         with_marker('{"kind": "inpaint", "version": 999, "files": []}')),
    Case("earlier results, but the marker is a FIFO", inpaint, "overwrite",
         lambda f: [(path := marker(results(f))).unlink(), os.mkfifo(path)]),
    Case("earlier results without their marker (version 0.1)", inpaint, "overwrite",
         lambda f: marker(results(f)).unlink()),
    Case("the marker claims a file beside the folder", inpaint, "overwrite", naming("../precious.txt")),
    Case("the marker claims the user's text (works)", inpaint, arrange=naming("mine.txt"), works=lambda f, o: True),
    Case("a new folder (works)", inpaint, arrange=pictures, works=kept),
    Case("an empty folder (works)", inpaint, arrange=new, works=kept),
    Case("a folder that is made with its parents (works)", lambda f: inpaint(f, "--out", f / "a" / "b" / "c"),
         arrange=pictures, works=lambda f, o: (f / "a" / "b" / "c" / "report.json").exists()),
    Case("earlier results of more samples (works)", inpaint, arrange=results, works=kept),
    Case("earlier results beside a text of the user's (works)", inpaint, arrange=save_mine(results, "mine.txt"),
         works=kept),
    Case("a folder of the user's with --overwrite (works)", lambda f: inpaint(f, "--overwrite"),
         arrange=holding("mine.txt", "sub/mine.txt"), works=kept),
    Case("another's report with --overwrite (works)", lambda f: inpaint(f, "--overwrite"),
         arrange=lambda f: save_mine(report(), "mine.txt")(f), works=kept),
    Case("results with the leftovers of a killed run (works)", inpaint, arrange=left_over,
         works=lambda f, o: kept(f, o) and not list((f / "out").glob(".*.part"))),
]  # fmt: skip
