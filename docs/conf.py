"""The site: Sphinx with furo over Markdown pages, committed notebooks and docstrings, built without a network.

``make docs`` writes it to ``docs/_build/html``. Formulas become MathML, so that no page loads anything from elsewhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "_ext")]

import pyro_vipaint  # noqa: E402

project = "pyro_vipaint"
author = "The pyro_vipaint authors"
copyright = "the pyro_vipaint authors, Apache-2.0"
release = version = pyro_vipaint.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    # those of docs/_ext
    "mathml",
    "repository_links",
    "api_pages",
    "llms",
    "site_check",
]
root_doc = "index"
exclude_patterns = ["_build", "**/.ipynb_checkpoints", "example_plugin/src"]
templates_path: list[str] = []
language = "en"
smartquotes_action = "D"  # -- is a dash; quotes stay as they are written
highlight_language = "none"  # blocks without a language are formulas and trees
suppress_warnings = ["config.cache", "autosummary.import_cycle"]

html_theme = "furo"
html_title = "pyro_vipaint"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_theme_options = {"source_directory": "docs/"}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the outputs are those that are committed
nb_merge_streams = True

autosummary_generate = False  # _ext/api_pages.py writes the pages
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_display_short_literal_types = True
maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

linkcheck_ignore = [r"https?://.*"]  # the build has no network; site_check looks at every link inside the site
