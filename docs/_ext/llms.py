"""llms.txt, the site for language models: its pages with one line each; llms-full.txt, the short pages in full."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

SUMMARY = (
    "Fill the hole in an image with a posterior, not a guess: variational inference with pretrained diffusion priors, "
    "as plain Pyro programs."
)
RECORDS = {"results", "tuning", "truth", "changelog"}  # pages of figures, too long for llms-full.txt


def _is_prose(app: Sphinx, page: str) -> bool:
    return Path(app.env.doc2path(page)).suffix == ".md" and not page.startswith("weights/")


def _first_sentence(text: str) -> str:
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph[:1].isalpha() or paragraph[:2] == "**":
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split()))
            return re.split(r"(?<=[.?]) ", plain)[0].replace("**", "")
    return ""


def _write(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    groups: dict[str, list[str]] = {"Pages": [], "Notebooks": [], "Reference": []}
    full = [f"# {app.config.project}\n\n> {SUMMARY}\n"]
    for page in sorted(app.env.found_docs):
        title = app.env.titles[page].astext()
        source = out / "_sources" / (page + Path(app.env.doc2path(page)).suffix + ".txt")
        if _is_prose(app, page):
            text = source.read_text(encoding="utf-8")
            sentence = _first_sentence(text)
            groups["Pages"].append(
                f"- [{title}]({source.relative_to(out).as_posix()})" + f": {sentence}" * bool(sentence)
            )
            full += [] if page in RECORDS else [text]
        elif page.startswith("notebooks/"):
            groups["Notebooks"].append(f"- [{title}]({page}.html)")
        elif re.fullmatch(r"api/pyro_vipaint[.\w]*", page):
            groups["Reference"].append(f"- [{title}]({page}.html)")
    lists = [f"## {name}\n\n" + "\n".join(lines) + "\n" for name, lines in groups.items() if lines]
    (out / "llms.txt").write_text("\n".join([full[0], *lists]), encoding="utf-8")
    (out / "llms-full.txt").write_text("\n\n".join(full), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
