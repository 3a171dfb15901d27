"""The tables of docs/results.md are those of the rows that ship beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLES = sorted((ROOT / "benchmarks" / "results").glob("bench-*.parquet"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_mean_and_error_is_in_the_page(path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    from pyro_vipaint.bench import TASKS
    from pyro_vipaint.bench.report import lpips_table

    frame = pd.read_parquet(path)
    frame["mask"] = [TASKS[task].is_inpainting for task in frame["task"]]
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    lines = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in page.splitlines()}
    for _, rows in frame[frame["error"].isna()].groupby(["prior", "budget", "mask"], dropna=False):
        for row in lpips_table(rows).itertuples(index=False):
            assert tuple(row) in lines, row


def test_there_are_tables() -> None:
    assert TABLES
