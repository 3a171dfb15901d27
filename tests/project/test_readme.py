"""The README's example runs as it is printed, with fewer steps."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[2] / "README.md"


def test_the_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "steps=30" in code
    names: dict[str, torch.Tensor] = {}
    exec(code.replace("steps=30", "steps=2").replace("num_samples=10", "num_samples=2"), names)
    assert names["x"].shape == (2, 4, 1, 32, 32)
    assert names["x"].isfinite().all()


def test_every_file_it_names_exists() -> None:
    for path in re.findall(r"\]\(([^)]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / path).exists(), path


def test_its_quality_table_is_that_of_the_results() -> None:
    """The figures in the table are the means of ``benchmarks/results/quality.jsonl``."""
    pytest.importorskip("pandas")
    from benchmarks.quality import RESULTS, per_image, read_rows, summary

    text = README.read_text(encoding="utf-8")
    for lpips in summary(per_image(read_rows(RESULTS)))["lpips"]:
        assert f"{lpips:.4f}".removeprefix("0") in text


def test_its_table_of_cats_is_that_of_the_results() -> None:
    """Every line of it, mask by mask: the means of ``benchmarks/results/cats.jsonl``."""
    pytest.importorskip("pandas")
    from benchmarks import cats

    def short(value: float, digits: int) -> str:
        return f"{value:.{digits}f}".removeprefix("0")

    lines = README.read_text(encoding="utf-8").replace("*", "").splitlines()
    table = cats.summary(cats.read_rows(cats.RESULTS))
    assert {"VIPaint-2", "VIPaint-2, L1", "VIPaint-4", "VIPaint-4, mixture", "DPS", cats.EXACT} == set(table["method"])
    for row in table.to_dict("records"):
        first = next(i for i, line in enumerate(lines) if line.startswith(f"| {row['mask']}"))
        block = itertools.takewhile(lambda line: line.startswith("| |"), lines[first + 1 :])
        scores = [
            short(row["lpips"], 4),
            *(short(row[name], 3) for name in ("total_variation", "agreement", "coverage")),
        ]
        calls = f"{row['NFE']:.0f}" if row["nfe"] else ""
        wanted = f"| {row['method']} | {' | '.join(scores)} | {calls}".rstrip()
        assert any(wanted in line for line in (lines[first], *block)), (row["mask"], wanted)
