"""The site: the code of its pages runs, every public name has a page, and the table of methods has the measured figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    "from_pyro",
    "from_diffusers",
    pytest.param("from_deepinverse", marks=pytest.mark.slow),
    *sorted(f"howto/{path.stem}" for path in DOCS.glob("howto/*.md")),
]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore:.*:UserWarning:deepinv")
def test_the_code_of_a_page_runs(page: str) -> None:
    """All blocks in order, in one namespace, as a reader would type them; they assert what they claim."""
    if page == "from_deepinverse":
        pytest.importorskip("deepinv", reason="extra deepinv")
    code = blocks(DOCS / f"{page}.md")
    assert len(code) >= 2
    names: dict[str, Any] = {"__name__": "a page of the docs"}
    for number, block in enumerate(code):
        exec(compile(block, f"{page}.md, block {number + 1}", "exec", dont_inherit=True), names)
