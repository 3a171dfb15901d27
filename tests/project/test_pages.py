"""README and docs: links resolve, the code of the front page runs, and every table is that of the rows that ship.

A table of docs/ follows a comment that names it; below it stand the commits of its rows. The comparisons are cell by
cell and in order, so that two figures in each other's place are found.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "recipes" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORDS = 900
COLUMNS = {  # of the front page's table
    "fashion32, 25 NFE": ("fashion32", 25),
    "fashion32, 100 NFE": ("fashion32", 100),
    "fashion32, 250 NFE": ("fashion32", 250),
    "cats64, 100 NFE": ("cats64", 100),
}
MASKS = ("box", "random-large", "random-small", "rotated-window")
PLAIN = {"PiGDM": "ΠGDM"}  # names in the rows and on the front page


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def cells(line: str) -> list[str]:
    """The cells of a line of a table, in lower case."""
    return [cell.strip().lower() for cell in line.strip().strip("|").split("|")]


def table_lines(text: str) -> list[list[str]]:
    """The lines of all tables in ``text``, without the rules below the headers."""
    lines = [cells(line) for line in text.splitlines() if line.startswith("|")]
    return [line for line in lines if not all(re.fullmatch(r":?-+:?", cell) for cell in line)]


def named(page: str) -> dict[str, str]:
    """Name of a table -> the text from its comment to the line of commits."""
    found = re.findall(
        r"^<!-- (.+?) -->\n(.*?)^(Rows: .+?)\.$", text_of(ROOT / "docs" / page), re.DOTALL | re.MULTILINE
    )
    return {name: text + commits for name, text, commits in found}


def commits(text: str) -> set[str]:
    return set(text.rpartition("Rows: ")[2].split(", "))


def rows(name: str) -> Any:
    """The rows of a file of results."""
    pytest.importorskip("pyarrow")
    import pandas as pd

    return pd.read_parquet(RESULTS / f"{name}.parquet")


def difference(frame: Any, keys: list[str], method: str, other: str) -> tuple[float, float]:
    """Mean paired difference in LPIPS and its standard error over images."""
    wide = frame.pivot_table(index=keys, columns="method", values="lpips")
    values = (wide[method] - wide[other]).dropna().groupby("image").mean()
    return values.mean(), values.std() / math.sqrt(len(values))


# The front page


def test_the_front_page_is_short() -> None:
    assert len(text_of(README).split()) <= WORDS


def test_the_code_of_the_front_page_runs() -> None:
    """All blocks run in order, in one namespace, with one image and few steps."""
    code = re.findall(r"```python\n(.*?)```", text_of(README), flags=re.DOTALL)
    assert len(code) == 4 and all("steps=30" in block for block in code)
    few = {
        "steps=30": "steps=2",
        "num_samples=10": "num_samples=2",
        "num_draws=100": "num_draws=4",
        "demo_problem()": "(v[:1] for v in demo_problem())",
    }
    names: dict[str, Any] = {}
    fits, guides = [], []
    for block in code:
        for printed, tested in few.items():
            block = block.replace(printed, tested)
        exec(block, names)
        fits.append(names["fit"])
        guides.append(type(names["guide"]).__name__)
    assert names["x"].shape == (2, 1, 1, 32, 32) and names["x"].isfinite().all()
    assert guides == ["HierarchicalGuide", *["MeanFieldGuide"] * 3]
    assert all(torch.tensor(fit.losses).isfinite().all() and len(fit.losses) == 2 for fit in fits)


def test_the_table_of_the_front_page_is_that_of_the_rows() -> None:
    """LPIPS, means over images and then over the four masks; the best of a column in bold."""
    (header, *lines) = table_lines(text_of(README).partition("## Results")[2])
    assert header[1:] == list(map(str.lower, COLUMNS)) and len(lines) <= 6
    for column, (prior, budget) in enumerate(COLUMNS.values(), 1):
        frame = rows(f"bench-{prior}")
        frame = frame[(frame["budget"] == budget) & frame["task"].isin(MASKS) & frame["error"].isna()]
        means = frame.groupby(["method", "task"])["lpips"].mean().groupby("method").mean().rename(PLAIN)
        means.index = means.index.str.lower()
        for line in lines:
            expected = "–"
            if line[0] in means.index:
                expected = f"{means[line[0]]:.4f}".removeprefix("0")
                expected = f"**{expected}**" if means[line[0]] == means.min() else expected
            assert line[column] == expected, (line[0], prior, budget)


# The links


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_every_page_is_in_the_index() -> None:
    index = text_of(ROOT / "docs" / "index.md")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"]({page.name})" not in index] == ["index.md"]


def test_every_notebook_is_on_the_front_page() -> None:
    listed = re.findall(r"\]\(notebooks/(.+?)\.ipynb\)", text_of(README))
    assert listed == sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))


# The tables of docs/


def of_bench() -> Iterator[tuple[str, Any]]:
    from benchmarks.tables import parts

    for path in sorted(RESULTS.glob("bench-*.parquet")):
        yield from parts(path)


def test_the_tables_of_the_comparison() -> None:
    """Every table of ``python -m benchmarks.tables``, and the paired differences of both VIPaints."""
    pytest.importorskip("pyarrow")
    from benchmarks.tables import tables

    page, seen = named("results.md"), {"quality"}
    for name, part in of_bench():
        text = page[name]
        assert table_lines(text) == table_lines("\n".join(t.to_markdown(index=False) for t in tables(part))), name
        differences = []
        for ours in {"VIPaint-2", "VIPaint-4"} & set(part["method"]):
            for other in dict.fromkeys(part["method"]):
                if other != ours:
                    mean, error = difference(part, ["image", "task", "seed"], ours, other)
                    differences.append((ours, f"{other} {mean:+.4f} ± {error:.4f}"))
        found = re.findall(r"^(VIPaint-\d) minus, paired over images: (.+)\.$", text, re.MULTILINE)
        assert {(ours, entry) for ours, line in found for entry in line.split("; ")} == set(differences), name
        assert commits(text) == set(part["commit"]), name
        seen.add(name)
    assert seen == page.keys()


def test_the_tables_of_quality() -> None:
    frame, text = rows("quality"), named("results.md")["quality"]
    (_, *lines) = table_lines(text)
    split = next(i for i, line in enumerate(lines) if "difference" in line[0])
    scores, differences = lines[:split], lines[split + 1 :]
    means = frame.groupby("method")[["lpips", "observation_error", "diversity", "nfe"]].mean()
    formats: list[Callable[[float], str]] = [*["{:.4f}".format] * 3, "{:.1f}".format]
    expected = {
        name.lower(): [write(value) for write, value in zip(formats, row, strict=True)]
        for name, row in zip(means.index, means.to_numpy(), strict=True)
    }
    assert {line[0]: line[1:] for line in scores} == expected
    names = {name.lower(): name for name in means.index}
    assert differences
    for line in differences:
        method, other = (names[name] for name in line[0].split(" minus "))
        assert line[1] == "{:+.4f} ± {:.4f}".format(*difference(frame, ["image"], method, other)), line[0]
    assert commits(text) == set(frame["commit"])


def test_the_tables_of_cats() -> None:
    """Those of ``python -m benchmarks.cats --report``; excess and coverage over all masks also by hand."""
    from benchmarks.cats import report

    frame, text = rows("cats"), named("truth.md")["cats"]
    assert table_lines(text) == table_lines(report(frame))
    header, *lines = table_lines(text)
    for line in lines[: frame["method"].nunique()]:
        entries = dict(zip(header, line, strict=True))
        here = frame[frame["method"].str.lower() == entries["method"]]
        excess = (here["total_variation"] - here["total_variation_exact"]).mean()
        open_slots = here[~here["shown"]]
        coverage = open_slots["coverage"].sum() / open_slots["coverage_exact"].sum()
        assert abs(float(entries["excess"]) - excess) < 6e-5 and abs(float(entries["coverage"]) - coverage) < 6e-5
    assert commits(text) == set(frame["commit"])


def test_the_tables_of_gaussian_mixtures() -> None:
    """Those of ``python -m benchmarks.gmm --report``; the distances also by hand."""
    from benchmarks.gmm import report

    frame, text = rows("gmm"), named("truth.md")["gmm"]
    assert table_lines(text) == table_lines(report(frame))
    groups = frame.groupby(["method", "dim", "dim_y"])["distance"]
    header, *lines = table_lines(text)
    for line in lines[: frame["method"].nunique()]:
        for cell, value in zip(header[1:], line[1:], strict=True):
            dim, dim_y = map(int, cell.split(", "))
            (group,) = [g for (name, *key), g in groups if name.lower() == line[0] and key == [dim, dim_y]]
            assert value.startswith(f"{group.mean():.2f} ± {1.96 * group.std() / math.sqrt(len(group)):.2f}")
    assert commits(text) == set(frame["commit"])


def test_the_table_of_seconds() -> None:
    """That of ``python -m benchmarks.seconds --report``; the ratios to DPS with 50 steps by hand."""
    from benchmarks.seconds import report

    frame, text = rows("seconds"), named("truth.md")["seconds"]
    assert table_lines(text) == table_lines(report(frame))
    reference = frame.set_index("method").loc["DPS, 50", "seconds"]
    assert ((frame["relative"] - frame["seconds"] / reference).abs() < 1e-12).all()
    assert commits(text) == set(frame["commit"])


def test_the_table_of_conformal_intervals() -> None:
    """That of ``python -m benchmarks.conformal --report``; and a coverage by hand."""
    from benchmarks.conformal import CALIBRATION, report

    frame, text = rows("conformal"), named("truth.md")["conformal"]
    assert table_lines(text) == table_lines(report(frame)) and commits(text) == set(frame["commit"])
    last = frame[(frame["method"] == "VIPaint-4, pictures") & (frame["kind"] == "half")]
    calibrating, asked = last[last["image"] < CALIBRATION], last[last["image"] >= CALIBRATION]
    assert calibrating["image"].nunique() == asked["image"].nunique() == CALIBRATION
    scores = ((calibrating["truth"] - calibrating["mean"]).abs() / calibrating["std"]).sort_values().to_numpy()
    scale = scores[math.ceil(0.9 * 4 * (CALIBRATION + 1)) - 1]  # four halves, each a fourth of a problem
    covered = ((asked["truth"] - asked["mean"]).abs() <= scale * asked["std"]).mean()
    (line,) = (line for line in table_lines(text) if line[:2] == ["vipaint-4, pictures", "half"])
    assert line[4].startswith(f"{covered:.3f}")


def test_the_tables_of_truth() -> None:
    """Those of ``python -m benchmarks.truth --report``; the means of the held-out images also by hand."""
    from benchmarks.truth import report

    frame, text = rows("truth"), named("truth.md")["truth"]
    assert table_lines(text) == table_lines(report(frame))
    means = frame[frame["task"] == "rotated-window"].groupby("method")[["lpips", "energy"]].mean()
    found = {line[0]: line[1:3] for line in table_lines(text) if line[0] in {name.lower() for name in means.index}}
    for name, row in means.iterrows():
        assert found[str(name).lower()][0].startswith(f"{row['lpips']:.4f} ±")
        assert found[str(name).lower()][1].startswith(f"{row['energy']:.2f} ±")
    assert commits(text) == set(frame["commit"])


def test_the_tables_of_faces() -> None:
    """Those of ``python -m benchmarks.faces --report``."""
    from benchmarks.faces import report

    frame, text = rows("faces"), named("truth.md")["faces"]
    assert table_lines(text) == table_lines(report(frame))
    assert commits(text) == set(frame["commit"])


def test_the_tables_of_many_images() -> None:
    """Those of ``python -m benchmarks.many_images --report``; the gain of a second worker also by hand."""
    from benchmarks.many_images import report

    frame, text = rows("many_images"), named("many_images.md")["many images"]
    assert table_lines(text) == table_lines(report(frame))
    assert commits(text) == set(frame["commit"])
    runs = frame[frame["keep"] == "all"].set_index(["round", "workers"])["rate"].unstack()
    assert f"paired by round: {(runs[2] / runs[1]).median():.2f} (" in text
