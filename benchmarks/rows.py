"""Result files of the benchmarks that resume: a line of JSON for each finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines written so far, without one that a killed run left unfinished."""
    return [json.loads(line) for line in _whole_lines(path)]


def append_rows(path: Path, *rows: dict[str, Any]) -> None:
    """Adds ``rows`` at once; an unfinished line before them is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        file.truncate(sum(len(line.encode()) for line in _whole_lines(path)))
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def check_sizes(path: Path, lengths: dict[int, int], num_samples: int) -> None:
    """Refuses to go on with rows of another number of samples, or of chunks of other lengths, by their start."""
    for row in read_rows(path):
        samples = row.get("samples", num_samples)
        if samples != num_samples or lengths.get(row["start"], len(row["lpips"])) != len(row["lpips"]):
            raise SystemExit(f"{path} has {samples} samples of {len(row['lpips'])} images: choose another --out.")


def _whole_lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]
