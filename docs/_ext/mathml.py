"""Formulas as MathML, which browsers draw without a script: nothing is loaded from anywhere."""

from __future__ import annotations

import html
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)


def _mathml(latex: str, node: nodes.Node, **options: Any) -> str:
    try:
        result = convert(latex, **options)
        if "<mi>&</mi>" in result:
            raise ValueError("an & outside of a table")
        return result
    except Exception as error:
        log.warning("no MathML for the formula %r: %r", latex, error, location=node)
        return html.escape(latex)


def _lines(latex: str) -> str:
    """Several lines of a displayed formula, aligned at their ``&``."""
    return rf"\begin{{split}}{latex}\end{{split}}" if r"\\" in latex or "&" in latex else latex


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(_mathml(node.astext(), node))
    raise nodes.SkipNode


def _block(self: Any, node: nodes.math_block) -> None:
    for part in filter(str.strip, node.astext().split("\n\n")):
        self.body.append(f'<div class="math">{_mathml(_lines(part.strip()), node, display="block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
