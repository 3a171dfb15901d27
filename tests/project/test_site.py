"""The site: the code of its pages runs, every public name has a page, the table of methods has measured figures."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    "from_pyro",
    "from_diffusers",
    pytest.param("from_deepinverse", marks=pytest.mark.slow),
    *(pytest.param(page, marks=pytest.mark.slow) for page in ("inpaint", "howto/results")),
    *sorted(f"howto/{path.stem}" for path in DOCS.glob("howto/*.md") if path.stem != "results"),
]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore:.*:UserWarning:deepinv")
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks in order, in one namespace, as a reader would type them; they assert what they claim."""
    if page == "from_deepinverse":
        pytest.importorskip("deepinv", reason="extra deepinv")
    monkeypatch.chdir(tmp_path)  # some write files
    code = blocks(DOCS / f"{page}.md")
    assert code
    names: dict[str, Any] = {"__name__": "a page of the docs"}
    for number, block in enumerate(code):
        exec(compile(block, f"{page}.md, block {number + 1}", "exec", dont_inherit=True), names)


# The reference


@pytest.fixture(scope="module")
def api_pages() -> Any:
    pytest.importorskip("sphinx", reason="extra docs")
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        import api_pages  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop(0)
    return api_pages


def exported() -> list[str]:
    """Every name in the ``__all__`` of the public packages, which the code under test is not asked for."""
    packages = ["", ".models", ".guides", ".elbos", ".baselines", ".diagnostics", ".bench"]
    modules = {f"pyro_vipaint{end}": importlib.import_module(f"pyro_vipaint{end}") for end in packages}
    return [f"{package}.{name}" for package, module in modules.items() for name in module.__all__]


def test_every_public_name_has_a_page(api_pages: Any) -> None:
    pages = api_pages.pages()
    names = [
        *exported(),
        "pyro_vipaint.metrics.psnr",
        "pyro_vipaint.corrections.MMPS",
        "pyro_vipaint.guides.LatentGuide",
    ]
    assert not [name for name in names if f"generated/{name}.rst" not in pages]
    listed = "".join(text for page, text in pages.items() if page.startswith("pyro_vipaint"))
    assert not [name for name in names if f"~{name}\n" not in listed and f"~{name}`" not in listed]


def test_the_index_of_the_reference_lists_every_package(api_pages: Any) -> None:
    listed = (DOCS / "api" / "index.md").read_text(encoding="utf-8").split()
    assert [package for package in api_pages.packages() if package not in listed] == []


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    """Without a warning, be it of a dead link or an outside file; every public name is in the inventory."""
    pytest.importorskip("sphinx", reason="extra docs")
    from sphinx.util.inventory import InventoryFile

    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", "-d", str(tmp_path / "trees")]
    run = subprocess.run([*command, str(DOCS), str(tmp_path / "html")], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    with (tmp_path / "html" / "objects.inv").open("rb") as file:
        found = InventoryFile.load(cast(Any, file), "", lambda base, path: path)
    known = {name for kind, names in found.items() if kind.startswith("py:") for name in names}
    assert sorted(set(exported()) - known) == []
    assert (tmp_path / "html" / "llms.txt").read_text(encoding="utf-8").startswith("# pyro_vipaint\n")


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="there.html">', "no file at there.html"),
        ('<a href="other.html#nowhere">', "no anchor at other.html#nowhere"),
        ('<script src="https://cdn.example.org/x.js">', "from elsewhere"),
        ('<link rel="stylesheet" href="https://fonts.example.org/x.css">', "from elsewhere"),
        ('<a href="other.html#here"><a href="https://example.org"><img src="data:image/png;base64,">', None),
    ],
)
def test_dead_links_and_outside_files_are_found(api_pages: Any, tmp_path: Path, page: str, fault: str | None) -> None:
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        from site_check import faults  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop(0)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    (tmp_path / "other.html").write_text('<p id="here">', encoding="utf-8")
    found = faults(tmp_path)
    assert len(found) == (fault is not None) and (fault is None or found[0].endswith(fault))


# The table of methods


def lines_of(text: str) -> list[list[str]]:
    """The lines of the tables of ``text``, cell by cell; a bar in a formula is written as a command."""
    return [
        [c.strip().strip("*") for c in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]


def test_the_table_of_methods_has_the_figures_of_truth() -> None:
    """Spread and coverage are those of the row that a line names, held out; bounds those of the table of samplers."""
    truth = (DOCS / "truth.md").read_text(encoding="utf-8")
    held_out = lines_of(truth.partition("**held-out**")[2].partition("Rows:")[0])
    measured = {line[0]: [line[4].partition(" ±")[0], line[5].partition(" ±")[0]] for line in held_out}
    bounds = {line[0]: line[1] for line in lines_of(truth.partition("## What samplers lose")[2].partition("\n## ")[0])}
    table = (
        (DOCS / "methods.md").read_text(encoding="utf-8").partition("<!-- methods -->")[2].partition("<!-- end -->")[0]
    )
    lines = lines_of(table)[2:]
    assert len(lines) == 20
    for line in lines:
        name = re.sub(r"\{\w+\}`(.+) <.+", r"\1", line[0])
        assert line[5:7] == measured.get(line[4], ["–", "–"]), name
        named = {"DPS": "DPS, ζ 2"}.get(name, name)
        assert line[3] == bounds.get(named, "–"), name
