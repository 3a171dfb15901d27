"""Folders of results: nothing of the user's is lost, and a kill at any moment leaves the old or the new results."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import pyro_vipaint as vp
from pyro_vipaint import _files
from pyro_vipaint._files import write_whole
from pyro_vipaint._folders import BENCHMARK, IMAGES, MARKER, sample_names

ABSENT = 2**31 - 1  # larger than the number of any process


def write_results(out: Path, num_samples: int) -> None:
    """A report of that many samples, and their pictures."""
    with IMAGES.whole(out) as folder:
        for name in ("report.json", *sample_names(num_samples, 1)):
            (folder / name).write_text(f"one of {num_samples}")


def files(out: Path) -> dict[str, str]:
    """What the files in a folder hold, without the marker."""
    return {path.name: path.read_text() for path in out.iterdir() if path.name != MARKER}


def results(num_samples: int) -> dict[str, str]:
    return dict.fromkeys(("report.json", *sample_names(num_samples, 1)), f"one of {num_samples}")


# what a run takes


def test_results_go_to_a_new_folder_an_empty_one_or_one_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path, tmp_path / "new", tmp_path / "new" / "er", Path("relative"), Path(".")):
        IMAGES.check(out)
    assert os.listdir(tmp_path) == []
    write_results(tmp_path / "out", 3)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    IMAGES.check(tmp_path / "out")
    BENCHMARK.claim(tmp_path / "bench")
    (tmp_path / "bench" / "cells").mkdir()
    BENCHMARK.check(tmp_path / "bench")


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_what_a_system_puts_into_a_folder_leaves_it_empty(name: str, tmp_path: Path) -> None:
    """It is not the user's; it stays all the same."""
    (tmp_path / name).write_text("system")
    IMAGES.check(tmp_path)
    write_results(tmp_path, 1)
    assert files(tmp_path) == results(1) | {name: "system"}


def test_later_results_replace_those_of_the_marker_alone(tmp_path: Path) -> None:
    """Surplus samples go, other files stay, also where the user's report names pictures."""
    write_results(tmp_path, 4)
    mine = {"notes.txt": "mine", "sample_9.jpg": "mine"}
    for name, text in mine.items():
        (tmp_path / name).write_text(text)
    write_results(tmp_path, 2)
    assert files(tmp_path) == results(2) | mine
    assert json.loads((tmp_path / MARKER).read_text())["files"] == sorted(results(2))


def of_the_user(out: Path) -> None:
    """A folder of another program with a report and pictures."""
    out.mkdir()
    (out / "report.json").write_text(json.dumps({"num_samples": 2, "images": [{}]}))
    for name in sample_names(2, 1):
        (out / name).write_text("mine")


def a_picture_of_the_user(out: Path) -> None:
    write_results(out, 2)
    (out / "sample_02.png").write_text("mine")


def of_a_benchmark(out: Path) -> None:
    BENCHMARK.claim(out)
    (out / "results.parquet").write_text("rows")


OTHER_FOLDERS = '{"kind": "images", "version": 1, "files": ["../mine"]}'


def write_whole_in(out: Path, name: str) -> None:
    out.mkdir()
    write_whole(out / name, b"mine")


def with_marker(text: str) -> Callable[[Path], None]:
    def make(out: Path) -> None:
        out.mkdir()
        (out / MARKER).write_text(text)
        (out / "notes.txt").write_text("mine")

    return make


def a_folder_named_as_a_picture(out: Path) -> None:
    write_results(out, 2)
    (out / "sample_01.png").unlink()
    (out / "sample_01.png").mkdir()


BAD_OUTS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a file": (Path.touch, "", "cannot be written"),
    "a link to nothing": (lambda out: out.symlink_to("nowhere"), "", "cannot be written"),
    "a hidden file of the user's": (lambda out: write_whole_in(out, ".mine"), "", "'.mine', "),
    "a marker that names other folders": (with_marker(OTHER_FOLDERS), "", "'notes.txt', "),
    "below a file": (Path.touch, "below", "cannot be written"),
    "a foreign report": (of_the_user, "", "'report.json', "),
    "a picture that no marker names": (a_picture_of_the_user, "", "'sample_02.png', "),
    "a folder in the place of a picture": (a_folder_named_as_a_picture, "", "sample_01.png"),
    "results of another kind": (of_a_benchmark, "", "'results.parquet', "),
    **{
        f"a marker that says {text[:20]}": (with_marker(text), "", "'notes.txt', ")
        for text in ("", "{", "[]", '"x"', "[" * 100_000, '{"kind": "images", "version": 1, "files": 7}', "x" * 2**21)
    },
}


@pytest.mark.parametrize(("make", "below", "message"), BAD_OUTS.values(), ids=BAD_OUTS)
def test_other_paths_are_refused(tmp_path: Path, make: Callable[[Path], Any], below: str, message: str) -> None:
    """Nothing of the user is overwritten or deleted."""
    make(tmp_path / "out")
    with pytest.raises(vp.InputError, match=f"{message}.*name another folder") as refusal:
        IMAGES.check(tmp_path / "out" / below)
    assert "\n" not in str(refusal.value)


def test_overwriting_replaces_files_of_our_names_alone(tmp_path: Path) -> None:
    of_the_user(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    IMAGES.check(tmp_path / "out", overwrite=True)
    write_results(tmp_path / "out", 1)
    assert files(tmp_path / "out") == results(1) | {"sample_01.png": "mine", "notes.txt": "mine"}


def test_a_marker_names_results_alone(tmp_path: Path) -> None:
    """A marker of another origin makes nobody delete files of other names."""
    out, names = tmp_path / "out", ["notes.txt", "sample_07.png"]
    out.mkdir()
    for name in names:
        (out / name).write_text("mine")
    (out / MARKER).write_text(json.dumps({"kind": "images", "version": 1, "files": names}))
    write_results(out, 1)
    assert files(out) == results(1) | {"notes.txt": "mine"}


def test_a_picture_that_the_run_reads_is_not_replaced(tmp_path: Path) -> None:
    """Nor the picture behind a link."""
    write_results(tmp_path / "out", 2)
    (tmp_path / "link.png").symlink_to(tmp_path / "out" / "sample_01.png")
    for picture in (tmp_path / "out" / "sample_01.png", tmp_path / "link.png"):
        for overwrite in (False, True):
            with pytest.raises(vp.InputError, match="lies in the folder of the results"):
                IMAGES.check(tmp_path / "out", overwrite, None, picture)
    IMAGES.check(tmp_path / "other", False, tmp_path / "link.png")


# what a run leaves


def test_a_folder_appears_when_the_block_has_ended_well(tmp_path: Path) -> None:
    with IMAGES.whole(tmp_path / "a" / "out") as temporary:
        (temporary / "report.json").write_text("1")
        assert not (tmp_path / "a" / "out" / "report.json").exists()
    assert files(tmp_path / "a" / "out") == {"report.json": "1"}
    with pytest.raises(ZeroDivisionError), IMAGES.whole(tmp_path / "b") as temporary:
        (temporary / "report.json").write_text("1")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["a"]


class Killed(BaseException):
    """The process has ended."""


def kill_before(patch: pytest.MonkeyPatch, number: int) -> None:
    """Lets no operation on files happen from that ``number`` on: as after SIGKILL, not even the clean-up."""
    tried = count()

    def counted(operate: Callable[..., Any]) -> Callable[..., Any]:
        def go(*arguments: Any, **options: Any) -> Any:
            if next(tried) >= number:
                raise Killed
            return operate(*arguments, **options)

        return go

    for name in ("mkdir", "replace", "unlink", "rmdir"):
        patch.setattr(os, name, counted(getattr(os, name)))


def write_and_be_killed(patch: pytest.MonkeyPatch, out: Path, number: int) -> bool:
    """Whether a process that writes two samples was killed before its operation of that ``number``."""
    patch.setattr(_files, "RUN", "01234567")
    kill_before(patch, number)
    try:
        write_results(out, 2)
    except Killed:
        return True
    return False


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are complete when the next run has begun; before it, no report lies beside pictures of another one."""
    left: list[dict[str, str]] = []
    for number in count():
        out = tmp_path / str(number)
        write_results(out, 4)
        (out / "notes.txt").write_text("mine")
        with monkeypatch.context() as patch:
            if not write_and_be_killed(patch, out, number):
                break
        if (out / "report.json").exists():
            pictures = {path.read_text() for path in out.glob("sample_*.png")}
            assert pictures == {(out / "report.json").read_text()}
        IMAGES.check(out)
        left.append(files(out))
        assert left[-1].pop("notes.txt") == "mine"
    assert len(left) > 12 and left[0] == results(4) and left[-1] == results(2)
    assert all(each in (results(4), results(2)) for each in left)


def test_what_ended_processes_left_is_removed(tmp_path: Path) -> None:
    """An ended one may have had the number of this one. What living ones write stays, and files of similar names."""
    ended = {f".a.json.{ABSENT}-01234567.part", f".a.json.{os.getpid()}-01234567.part", f".{ABSENT}.{ABSENT}.part"}
    living = {f".a.json.{os.getppid()}-01234567.part", f".b.json.{_files.own_ending()}"}
    foreign = {".mine.part", ".a.json.12-mine.part", f"a.json.{ABSENT}-01234567.part"}
    for name in ended | living | foreign:
        (tmp_path / name).touch()
    (tmp_path / f".vipaint.x.{ABSENT}-01234567.part" / "sub").mkdir(parents=True)
    write_whole(tmp_path / "a.json", b"new")
    assert set(os.listdir(tmp_path)) == {"a.json"} | living | foreign
