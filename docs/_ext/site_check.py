"""The finished site, looked at: every link inside it leads somewhere, and no page loads anything from elsewhere."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

LOADED = {"script": "src", "img": "src", "source": "src", "video": "src", "iframe": "src", "link": "href"}
NOT_LOADED = {"canonical", "next", "prev", "index", "search", "genindex", "author"}  # <link rel=...>

log = logging.getLogger(__name__)


@dataclass
class Page(HTMLParser):
    """What a page names, links to and loads."""

    anchors: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    loads: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        if tag in LOADED and LOADED[tag] in given and given.get("rel") not in NOT_LOADED:
            self.loads.add(given[LOADED[tag]])


def faults(folder: Path) -> list[str]:
    """One line for each dead link and each thing that a page loads from elsewhere; none is right."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    pages = {}
    for name in sorted(files):
        if name.endswith(".html"):
            pages[name] = page = Page()
            page.feed((folder / name).read_text(encoding="utf-8"))
    found = []
    for name, page in pages.items():
        for link in sorted(page.links | page.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loads and parts.scheme != "data":
                    found.append(f"{name}: loads {link} from elsewhere")
                continue
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path)))
            target = target if parts.path else name
            if target not in files:
                found.append(f"{name}: no file at {link}")
            elif name.startswith("_modules/"):
                continue  # viewcode's way back is an anchor of the module that first named the object
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name}: no anchor at {link}")
    return found


def _check(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html":
        for fault in faults(Path(app.outdir)):
            log.warning(fault)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", _check, priority=900)  # after everything else is written
    return {"parallel_read_safe": True, "parallel_write_safe": True}
