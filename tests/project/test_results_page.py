"""The tables of docs/results.md are those of the rows that ship beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from benchmarks.tables import RESULTS, parts, tables
from pyro_vipaint.bench.report import against

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
FILES = sorted(RESULTS.glob("bench-*.parquet"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_line_of_every_table_is_in_the_page(path: Path) -> None:
    page = {_cells(line) for line in PAGE.read_text(encoding="utf-8").splitlines()}
    for name, rows in parts(path):
        assert (against(rows),) in page, name
        for table in tables(rows):
            header, _, *lines = table.to_markdown(index=False).splitlines()
            for line in (header, *lines):
                assert _cells(line) in page, (name, line)


def test_there_are_tables() -> None:
    assert FILES


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip("|").split("|"))
