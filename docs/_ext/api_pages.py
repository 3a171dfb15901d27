"""The reference: one page for every public name, one for every module that defines some, one list per package.

The public names of a module are those of its ``__all__`` and those that it, or a module below it, defines. A name that
a package before it in ``PACKAGES`` also has is the same object: its page points to the first one, so that each object
is described once. The pages are written before Sphinx reads, and not committed.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections import defaultdict
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext import autosummary

DOCS = Path(__file__).parents[1]
API = DOCS / "api"
PACKAGES = [
    "pyro_vipaint",
    "pyro_vipaint.models",
    "pyro_vipaint.guides",
    "pyro_vipaint.elbos",
    "pyro_vipaint.corrections",
    "pyro_vipaint.baselines",
    "pyro_vipaint.diagnostics",
    "pyro_vipaint.metrics",
    "pyro_vipaint.bench",
    "pyro_vipaint.settings",
    "pyro_vipaint.plotting",
    "pyro_vipaint.plugins",
    "pyro_vipaint.progress",
    "pyro_vipaint.demo",
]


def _is_own(value: Any, module: str) -> bool:
    defined = getattr(value, "__module__", None)
    return callable(value) and isinstance(defined, str) and (defined + ".").startswith(module + ".")


def public_names(module: ModuleType) -> list[str]:
    """``__all__``, then what the module or one below it defines; in alphabetical order."""
    own = [name for name, value in vars(module).items() if not name.startswith("_") and _is_own(value, module.__name__)]
    return sorted({*getattr(module, "__all__", []), *own}, key=lambda name: (name.lower(), name))


@cache
def packages() -> dict[str, list[str]]:
    """The packages of the reference that exist -> their public names."""
    return {name: public_names(importlib.import_module(name)) for name in PACKAGES if find_spec(name)}


def _defining_module(value: Any, package: str) -> str:
    module = getattr(value, "__module__", None)
    is_code = inspect.isclass(value) or inspect.isroutine(value)
    return module if is_code and isinstance(module, str) and module.startswith("pyro_vipaint") else package


@cache
def entries() -> dict[str, tuple[Any, str]]:
    """Full public name -> (the object, the name under which it is described)."""
    found: dict[str, tuple[Any, str]] = {}
    described: dict[int, str] = {}
    for package, names in packages().items():
        for name in names:
            value = getattr(importlib.import_module(package), name)
            full = f"{package}.{name}"
            found[full] = (value, described.setdefault(id(value), full))
    return found


@cache
def modules() -> dict[str, list[str]]:
    """Defining module -> the names described that it defines; packages have a list of their own."""
    found = defaultdict(list)
    for full, (value, described) in entries().items():
        module = _defining_module(value, full.rpartition(".")[0])
        if full == described and module not in packages():
            found[module].append(full)
    return dict(sorted(found.items()))


@cache
def module_pages() -> dict[str, str]:
    """Module -> its page in the site, relative to docs/."""
    lists = {name: f"api/{name}.rst" for name in packages()}
    return {**{name: f"api/modules/{name}.rst" for name in modules()}, **lists}


def _title(text: str) -> str:
    text = text.replace("_", r"\_")
    return f"{text}\n{'=' * len(text)}\n\n"


def _directive(value: Any, full: str) -> str:
    if inspect.isclass(value):
        special = ", ".join(name for name in ("__call__",) if name in vars(value) and vars(value)[name].__doc__)
        options = "   :members:\n   :show-inheritance:\n" + (f"   :special-members: {special}\n" if special else "")
        return f".. autoclass:: {full}\n{options}"
    return f".. autofunction:: {full}\n" if inspect.isroutine(value) else _data(value, full)


def _data(value: Any, full: str) -> str:
    """A table of the library by its names, or a value by its type."""
    names = ", ".join(f"``{key}``" for key in value) if isinstance(value, dict) else ""
    entries = f"Entries: {names}." if names else ""
    return f".. py:data:: {full.rpartition('.')[2]}\n   :type: {type(value).__name__}\n\n   {entries}\n"


def _back(package: str) -> str:
    return f"A name of :doc:`{package} </api/{package}>`.\n\n"


def name_page(full: str) -> str:
    value, described = entries()[full]
    package, _, name = full.rpartition(".")
    module = _defining_module(value, package)
    if full != described:
        kind = "class" if inspect.isclass(value) else "function" if inspect.isroutine(value) else "data"
        role = {"class": "class", "function": "func", "data": "data"}[kind]
        return f"{_title(name)}{_back(package)}.. py:{kind}:: {full}\n\n   The same object as :{role}:`{described}`.\n"
    page = f":doc:`{module} </{module_pages()[module].removesuffix('.rst')}>`" if module in modules() else ""
    source = f"\nDefined in {page}, whose page has the idea and the formulas.\n" if page else ""
    return f"{_title(name)}{_back(package)}.. currentmodule:: {package}\n\n{_directive(value, full)}{source}"


def _table(names: list[str]) -> str:
    """Names with their first lines; those of data, whose first line would be that of their type, below."""
    described = [name for name in names if callable(entries()[name][0])]
    table = ".. autosummary::\n   :nosignatures:\n\n" + "".join(f"   ~{name}\n" for name in described)
    data = ", ".join(f":data:`~{name}`" for name in names if name not in described)
    return table + (f"\nTables: {data}.\n" if data else "")


def module_page(module: str) -> str:
    index = "   :no-index:\n" if module in entries() else ""  # dps is the function, not its module
    return f"{_title(module)}.. automodule:: {module}\n   :no-members:\n{index}\n{_table(modules()[module])}"


def package_page(package: str) -> str:
    names = [f"{package}.{name}" for name in packages()[package]]
    return f"{_title(package)}.. automodule:: {package}\n   :no-members:\n\n{_table(names)}"


def pages() -> dict[str, str]:
    """Path below docs/api -> text, of all pages of the reference but the index, which is committed.

    The pages of names and modules are in no toctree: the navigation of every page would list all of them.
    """
    found = {f"{package}.rst": package_page(package) for package in packages()}
    found |= {f"generated/{full}.rst": f":orphan:\n\n{name_page(full)}" for full in entries()}
    found |= {f"modules/{module}.rst": f":orphan:\n\n{module_page(module)}" for module in modules()}
    listed = "".join(f"- :doc:`{module} <modules/{module}>`\n" for module in modules())
    found["modules.rst"] = f"{_title('The modules')}The ideas and formulas behind the names.\n\n{listed}"
    return found


def _write(app: Sphinx) -> None:
    """Writes what changed and removes what is no page any more."""
    wanted = pages()
    for path in API.rglob("*.rst"):
        if path.relative_to(API).as_posix() not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = API / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _escape_bars(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """|x| in a docstring is a norm, not a substitution of reStructuredText."""
    block = -1  # indentation of the directive or literal block that the line is in
    for number, line in enumerate(lines):
        indentation = len(line) - len(line.lstrip())
        if block >= 0 and line.strip() and indentation <= block:
            block = -1
        if block < 0:
            lines[number] = re.sub(r"(`[^`]*`)|\|", lambda match: match[1] or r"\|", line)
        if line.lstrip().startswith(".. ") or line.rstrip().endswith("::"):
            block = indentation


def setup(app: Sphinx) -> dict[str, bool]:
    autosummary.WELL_KNOWN_ABBREVIATIONS = (*autosummary.WELL_KNOWN_ABBREVIATIONS, "Eq.")  # ends no first sentence
    app.connect("builder-inited", _write)
    app.connect("autodoc-process-docstring", _escape_bars)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
