"""Links that work on a code host and in the site: a path of the repository becomes the page that shows the file.

A page of docs/, a notebook or a page that stands for a file of the root keeps its relative links. When Sphinx reads it,
``../notebooks/x.ipynb`` becomes the notebook's page, ``../guides/x.py`` the page of the module, and the files of the
root the pages in ``STANDS_FOR``. Whatever else lies in the repository has no page, so that its link becomes plain text.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from api_pages import module_pages
from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
STANDS_FOR = {  # page -> the file whose text it has in the site
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "recipes": "recipes/README.md",
    "weights/fashion32": "models/weights/fashion32/README.md",
    "weights/faces32": "models/weights/faces32/README.md",
    "weights/cats64": "models/weights/cats64/README.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def page_of(path: str) -> str | None:
    """The page for ``path``, both relative to the root of the repository and to docs/; None without one."""
    shown = {file: page + ".md" for page, file in STANDS_FOR.items()}
    shown |= {"README.md": "index.md", "notebooks": "notebooks.md"}
    if path in shown:
        return shown[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("notebooks/") and path.endswith(".ipynb"):
        return path
    module = path.removesuffix(".py").replace("/", ".")
    return module_pages().get(module if module.startswith("pyro_vipaint") else f"pyro_vipaint.{module}")


def rewritten(text: str, file: Path, docname: str) -> str:
    """``text`` of ``file`` with its relative links turned to pages, as seen from the page ``docname``."""

    def link(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match.group()
        if picture:
            return f"![{label}]({os.path.relpath(file.parent / path, (DOCS / docname).parent)})"
        page = page_of(os.path.relpath(file.parent.resolve() / path, ROOT.resolve()))
        if page is None:
            return label
        return f"[{label}]({os.path.relpath(page, os.path.dirname(docname) or '.')}{hash_}{anchor})"

    return LINK.sub(link, text)


def _read(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname in STANDS_FOR:
        file = ROOT / STANDS_FOR[docname]
        app.env.note_dependency(str(file))
        source[0] = rewritten(file.read_text(encoding="utf-8"), file, docname)
        return
    folder = ROOT if docname.startswith("notebooks/") else DOCS
    file = folder / Path(app.env.doc2path(docname)).relative_to(DOCS)
    if file.suffix in {".md", ".ipynb"}:
        source[0] = rewritten(source[0], file, docname)


def _copy_notebooks(app: Sphinx) -> None:
    """The committed notebooks below docs/, where Sphinx reads; a link in their place would be followed out of it."""
    copies = DOCS / "notebooks"
    copies.mkdir(exist_ok=True)
    originals = {path.name: path for path in (ROOT / "notebooks").glob("*.ipynb")}
    for copy in copies.glob("*.ipynb"):
        if copy.name not in originals:
            copy.unlink()
    for name, path in originals.items():
        if not (copies / name).exists() or (copies / name).read_bytes() != path.read_bytes():
            shutil.copyfile(path, copies / name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", _copy_notebooks)
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
