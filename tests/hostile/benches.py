"""Hostile folders of benchmarks: damaged and foreign cells, and plans that cannot be."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from safetensors.torch import save_file

from pyro_vipaint.bench import Plan, Store, engine, run
from tests.hostile.command_line import bench as command
from tests.hostile.command_line import vipaint
from tests.hostile.harness import Case, isolated, refused
from tests.hostile.prior_folders import BYTES, JSONS

PLAN = Plan(("fashion32",), ("box",), ("DPS",), (2,), num_images=2, num_samples=2, chunk=1)
Change = Callable[[Path], Any]


def local() -> Any:
    return engine("local", 1, "cpu", 1)


def bench(folder: Path, plan: Plan = PLAN, **named: Any) -> Any:
    """The table of a small benchmark in ``out``."""
    return run(plan, folder / "out", local(), "cpu", **named)


@cache
def template() -> Path:
    """A finished benchmark."""
    folder = Path(mkdtemp(prefix="hostile-bench-"))
    table, _ = isolated(lambda: bench(folder))  # Parquet is written by threads
    table.to_pickle(folder / "expected")
    return folder


def finished(folder: Path) -> Path:
    shutil.copytree(template(), folder, dirs_exist_ok=True)
    return folder / "out"


def cells(folder: Path) -> list[Path]:
    return sorted((folder / "out" / "cells").glob("*.json"))


def damaged(content: str | bytes) -> Change:
    """A finished benchmark with one damaged cell."""

    def arrange(folder: Path) -> None:
        finished(folder)
        cells(folder)[0].write_bytes(content.encode() if isinstance(content, str) else content)

    return arrange


def changed(**entries: Any) -> Change:
    """A finished benchmark in which a cell has other entries."""

    def arrange(folder: Path) -> None:
        finished(folder)
        record = json.loads(cells(folder)[0].read_text()) | entries
        cells(folder)[0].write_text(json.dumps({n: v for n, v in record.items() if v is not ...}))

    return arrange


def of_cell(**entries: Any) -> Change:
    def arrange(folder: Path) -> None:
        finished(folder)
        record = json.loads(cells(folder)[0].read_text())
        record["cell"] |= entries
        cells(folder)[0].write_text(json.dumps(record))

    return arrange


def foreign(name: str, content: str | bytes = "mine") -> Change:
    """A finished benchmark with a file of the user's among the cells."""

    def arrange(folder: Path) -> None:
        (finished(folder) / "cells" / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return arrange


def complete(folder: Path, table: Any) -> bool:
    """The table is that of an undamaged run, and files of the user's are as they were."""
    columns = ["image", "lpips", "psnr", "ssim", "diversity", "error"]
    mine = [path for path in folder.rglob("*mine*") if path.is_file()]
    whole = table[columns].reset_index(drop=True).equals(pd.read_pickle(template() / "expected")[columns])
    return whole and all(path.read_bytes() in (b"mine", b"{}", b"[]") for path in mine)


def with_tensors(change: Callable[[Path], Any]) -> Change:
    """A finished benchmark in which the tensors of one cell are spoilt."""
    return lambda folder: change(finished(folder) and cells(folder)[0].with_suffix(".safetensors"))


def patched(name: str, value: Any) -> Callable[[Path], Any]:
    """The benchmark after something else than the folder has changed."""

    def act(folder: Path) -> Any:
        with patch(f"pyro_vipaint.bench.runner.{name}", value):
            return bench(folder)

    return act


def without_a_report(folder: Path) -> str:
    """The command that finishes a benchmark; its figures are left out, which take matplotlib most of the limit."""
    with patch("pyro_vipaint.bench.write_report"):
        return command(folder, "--images", 2, "--samples", 2, "--chunk", 1)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def seed_too_large(folder: Path) -> Any:
    """A seed out of range is refused, and the folder still takes a good one."""
    bench(folder, replace(PLAN, seeds=(2**62,)))


def plan(**changes: Any) -> Callable[[Path], Any]:
    return lambda folder: bench(folder, replace(PLAN, **changes))


PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "no priors": ({"priors": ()}, "prior"),
    "an unknown prior": ({"priors": ("mnist",)}, "fashion32"),
    "a prior for the priors": ({"priors": "fashion32"}, "prior"),
    "a number for the priors": ({"priors": 3}, "prior"),
    "no tasks": ({"tasks": ()}, "task"),
    "an unknown task": ({"tasks": ("bix",)}, "box"),
    "no methods": ({"methods": ()}, "method"),
    "an unknown method": ({"methods": ("dps",)}, "DPS"),
    "methods for latent priors only": ({"methods": ("ReSample",)}, "method"),
    "no budgets": ({"budgets": ()}, "budget|method"),
    "budget 0": ({"budgets": (0,)}, "budget"),
    "budget -1": ({"budgets": (-1,)}, "budget"),
    "budget 2.5": ({"budgets": (2.5,)}, "budget"),
    "budget NaN": ({"budgets": (float("nan"),)}, "budget"),
    "budget a string": ({"budgets": ("100",)}, "budget"),
    "budget True": ({"budgets": (True,)}, "budget"),
    "images 0": ({"num_images": 0}, "images"),
    "images 10^9": ({"num_images": 10**9}, "images"),
    "images a string": ({"num_images": "2"}, "images"),
    "samples 0": ({"num_samples": 0}, "samples"),
    "samples 10^9": ({"num_samples": 10**9}, "samples"),
    "no seeds": ({"seeds": ()}, "seed|method"),
    "seed -1": ({"seeds": (-1,)}, "seed"),
    "seed 2^62": ({"seeds": (2**62,)}, "seed"),
    "seed 2^64": ({"seeds": (2**64,)}, "seed"),
    "seed 10^30": ({"seeds": (10**30,)}, "seed"),
    "seed 0.5": ({"seeds": (0.5,)}, "seed"),
    "seed NaN": ({"seeds": (float("nan"),)}, "seed"),
    "chunk 0": ({"chunk": 0}, "chunk"),
    "chunk -1": ({"chunk": -1}, "chunk"),
    "chunk 1.5": ({"chunk": 1.5}, "chunk"),
    "pictures that are not there": ({"images": "/nowhere"}, "folder"),
    "pictures without a picture": ({"images": "/proc/self"}, "picture|image"),
}
CASES = [
    *[Case(f"plan: {name}", plan(**changes), says) for name, (changes, says) in PLANS.items()],
    *refused({
        "engine: unknown": (lambda: engine("slurm", 1, "cpu", 1), "local"),
        "engine: workers 0": (lambda: engine("local", 0, "cpu", 1), "workers"),
        "engine: workers 2.5": (lambda: engine("local", 2.5, "cpu", 1), "workers"),  # type: ignore[arg-type]
        "engine: threads 0": (lambda: engine("local", 1, "cpu", 0), "threads"),
        "engine: threads 10^9": (lambda: engine("local", 1, "cpu", 10**9), "threads"),
        "engine: an address without ray": (lambda: engine("local", 1, "cpu", 1, "here"), "ray"),
    }),
    *[
        Case(f"cell: {name} (works)", bench, arrange=damaged(content), works=complete)
        for name, content in JSONS.items() if name not in ("64 MiB of blanks",)
    ],
    Case("cell: a FIFO (works)", bench, arrange=lambda f: fifo(finished(f) and cells(f)[0]), works=complete),
    Case("cell: no cell in it (works)", bench, arrange=changed(cell=...), works=complete),
    Case("cell: a cell that is a list (works)", bench, arrange=changed(cell=[1]), works=complete),
    Case("cell: no error entry (works)", bench, arrange=changed(error=...), works=complete),
    Case("cell: rows a string (works)", bench, arrange=changed(rows="mine"), works=complete),
    Case("cell: rows of nothing (works)", bench, arrange=changed(rows=[]), works=complete),
    Case("cell: rows NaN (works)", bench, arrange=changed(rows=[{"image": float("nan")}]), works=complete),
    Case("cell: a surplus entry of the cell (works)", bench, arrange=of_cell(zetta=1), works=complete),
    Case("cell: a seed that is a list (works)", bench, arrange=of_cell(seed=[0]), works=complete),
    Case("cell: of another prior under this name (works)", bench, arrange=of_cell(prior="cats64"), works=complete),
    Case("cell: of a prior that is not there (works)", bench, arrange=of_cell(prior="mnist"), works=complete),
    Case("tensors: missing (works)", bench, arrange=with_tensors(Path.unlink), works=complete),
    Case("tensors: empty (works)", bench, arrange=with_tensors(lambda p: p.write_bytes(b"")), works=complete),
    Case("tensors: cut (works)", bench, arrange=with_tensors(lambda p: p.write_bytes(p.read_bytes()[:-9])),
         works=complete),
    Case("tensors: of other names (works)", bench, arrange=with_tensors(lambda p: save_file({"a": torch.zeros(1)}, p)),
         works=complete),
    Case("tensors: a header of 2^60 bytes (works)", bench,
         arrange=with_tensors(lambda p: p.write_bytes(BYTES["a header of 2^60 bytes"])), works=complete),
    *[
        Case(f"among the cells: {name} (works)", bench, arrange=foreign(file, content), works=complete)
        for name, file, content in (
            ("a text", "mine.txt", "mine"),
            ("a JSON file of another program", "mine.json", "{}"),
            ("a JSON list of another program", "mine.json", "[]"),
            ("a JSON file that is none", "mine.json", "mine"),
            ("tensors of another program", "mine.safetensors", "mine"),
            ("a hidden file", ".mine", "mine"),
            ("a name with a line break", "mine\n.json", "mine"),
        )
    ],
    Case("among the cells: a folder (works)", bench, arrange=lambda f: (finished(f) / "cells" / "x.json").mkdir(),
         works=complete),
    Case("the table is damaged (works)", bench, arrange=lambda f: (finished(f) / "results.parquet").write_bytes(b"x"),
         works=complete),
    Case("the table is missing (works)", bench, arrange=lambda f: (finished(f) / "results.parquet").unlink(),
         works=complete),
    Case("a temporary file of a process that is gone (works)", bench,
         arrange=lambda f: (finished(f) / "cells" / ".a.json.999999999-0123abcd.part").write_text("{"),
         works=lambda f, t: complete(f, t) and not list((f / "out" / "cells").glob(".*.part"))),
    Case("the cells are a file", bench, "cells|folder|writ", lambda f: ((f / "out").mkdir(),
         (f / "out" / "cells").write_text("mine"))),
    Case("cells of other weights", patched("weights_of", lambda *_: "0" * 16), "weights", finished),
    Case("cells of other scores", patched("SCORES_VERSION", -1), "scores", finished),
    Case("cells of other pictures", patched("_pictures_of", lambda *_: "0" * 16), "pictures", finished),
    Case("command: a folder of the user's", lambda f: command(f), "overwrite|holds",
         lambda f: ((f / "out").mkdir(), (f / "out" / "mine.txt").write_text("mine"))),
    Case("command: a damaged cell (works)", without_a_report, arrange=damaged("{"), works=lambda f, o: "rows" in o),
    Case("command: a seed out of range leaves the folder good (works)", lambda f: _after_bad_seed(f),
         arrange=finished, works=complete),
    Case("store: a folder that is not there (works)", lambda f: Store(f / "none").table(), works=lambda f, t: t.empty),
]  # fmt: skip


def _after_bad_seed(folder: Path) -> Any:
    try:
        vipaint("bench", "--out", folder / "out", "--seed", 2**62, "--task", "box", "--method", "DPS", "--budget", 2)
    except Exception:
        return bench(folder)
    raise AssertionError("the seed was accepted")
