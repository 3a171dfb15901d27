"""Imports point one way (CONTRIBUTING.md, "The layout"), cost little, and use the packaged names alone.

`ALLOWED` is the reading order of the library: each module with the modules of ours that it may import. Imports
inside functions count like any other, because a lazy import is a dependency all the same. Imports below
`if TYPE_CHECKING:` count too, but against `ALLOWED_FOR_TYPES` as well: a module may name the type of an argument
whose module it must not run.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "pyro_vipaint"
FOLDERS = {
    "": ROOT / PACKAGE,
    "elbos": ROOT / PACKAGE / "elbos",
    "operators": ROOT / PACKAGE / "operators",
    "baselines": ROOT / PACKAGE / "baselines",
    "bench": ROOT / PACKAGE / "bench",
    "diagnostics": ROOT / PACKAGE / "diagnostics",
    "guides": ROOT / "guides",
    "models": ROOT / "models",
}
HEAVY = ("diffusers", "lpips", "torchvision", "matplotlib", "pandas", "typer", "rich")

# Names are relative to pyro_vipaint; "guides" is guides/__init__.py, and "" is pyro_vipaint/__init__.py.
_PRIORS = {"schedules", "kernels", "denoisers", "codecs", "guidance", "models.marginal", "models.priors"}
_MEASUREMENTS = {"operators", "likelihoods"}
_TOOLS = {"errors", "calls", "gradients", "seeding"}
_FAMILIES = {f"guides.{name}" for name in ("hierarchical", "mean_field", "feature", "prior", "low_rank", "delta")}
_FAMILIES |= {f"guides.{name}" for name in ("mixture", "flow")}
_DIAGNOSTICS = {"draws", "evidence", "pareto", "importance", "projections", "uniformity", "calibration", "coverage"}
_DIAGNOSTICS = {f"diagnostics.{name}" for name in (*_DIAGNOSTICS, "two_sample", "arviz", "parts", "part_scores")}
_BASELINES = {f"baselines.{name}" for name in ("dps", "psld", "blended", "repaint", "resample", "pi_gdm")}
_BASELINES |= {f"baselines.{name}" for name in ("copaint", "copaint_tt", "red_diff")}
_OPERATORS = {"inpainting", "matrix", "super_resolution", "blur", "compose", "conjugate_gradients", "norm"}
_OPERATORS = {f"operators.{name}" for name in _OPERATORS}
_METHODS = _TOOLS | _PRIORS | _MEASUREMENTS | {"baselines.base", "baselines.replacement", "refinement", "sampling"}
_BENCH = {f"bench.{name}" for name in ("grid", "tasks", "memory", "problems", "methods", "registry", "scores", "work")}
_BENCH |= {f"bench.{name}" for name in ("store", "engines", "summary", "runner", "figures", "report", "weights")}
_LIBRARY = (
    _PRIORS
    | _MEASUREMENTS
    | _TOOLS
    | {"devices", "keypoints", "settings", "masks", "svi", "sampling", "refinement", "metrics", "plotting"}
    | {"models", "models.exact", "models.diffusion", "models.pretrained"}
    | {"models.mixture", "models.empirical"}
    | {"saving", "resuming", "guides", "guides.base", "guides.chain", *_FAMILIES}
    | {"elbos", "elbos.base", "elbos.beta", "elbos.sampled", "elbos.sticking", "elbos.renyi", "elbos.annealed"}
    | {"baselines", *_BASELINES}
    | {"diagnostics", *_DIAGNOSTICS}
)
ALLOWED: dict[str, set[str]] = {
    # at the bottom
    "errors": set(),
    "calls": set(),
    "seeding": set(),
    "gradients": {"errors"},
    "devices": {"errors"},
    "saving": {"errors"},
    "resuming": {"errors", "seeding"},
    # the diffusion and its priors
    "schedules": {"errors"},
    "kernels": {"errors", "schedules"},
    "keypoints": {"errors", "schedules"},
    "denoisers": _TOOLS | {"schedules", "kernels"},
    "codecs": {"errors"},
    "guidance": {"errors"},
    "models.marginal": _TOOLS | {"devices", "schedules", "kernels"},
    "models.priors": _TOOLS | {"schedules", "kernels", "denoisers", "codecs", "guidance", "models.marginal"},
    "models.exact": _TOOLS | _PRIORS | _MEASUREMENTS,
    "models.observations": {"errors"},
    "models.components": {"errors"},
    "models.networks": set(),
    "models.text": {"errors", "models.components"},
    "models.pipelines": _TOOLS | _PRIORS | {"models.networks", "models.text"},
    "models.pretrained": {"errors", "models.priors", "models.components", "models.pipelines", "models.text"},
    # the measurement and the model
    "masks": {"errors"},
    "layers": {"errors"},
    "operators.base": {"errors"},
    "operators.separable": {"operators.base"},
    "operators.inpainting": {"operators.base"},
    "operators.matrix": {"operators.base"},
    "operators.super_resolution": {"errors", "operators.base", "operators.separable"},
    "operators.blur": {"errors", "operators.base", "operators.separable"},
    "operators.compose": {"operators.base"},
    "operators.conjugate_gradients": {"operators.base"},
    "operators.norm": {"operators.base"},
    "operators": {"operators.base", "operators.separable", *_OPERATORS},
    "likelihoods": {"errors", "operators", "metrics"},
    "models.diffusion": _TOOLS | _PRIORS | _MEASUREMENTS | {"keypoints", "models.observations"},
    "models.mixture": _TOOLS | _PRIORS | _MEASUREMENTS | {"models.exact"},
    "models.empirical": _TOOLS | _PRIORS | {"models.observations"},
    "models": {"models.marginal", "models.priors", "models.exact", "models.diffusion", "models.pretrained"}
    | {"models.mixture", "models.empirical"},
    # inference: guides and objectives know Pyro, and nothing of ours but each other
    "guides.base": {"errors", "saving"},
    "guides.chain": {"errors", "guides.base"},
    **{name: {"errors", "guides.base", "guides.chain"} for name in sorted(_FAMILIES)},
    "guides": _FAMILIES,
    "elbos.base": {"errors"},
    "elbos.beta": {"errors", "elbos.base"},
    "elbos.sampled": {"errors", "elbos.base"},
    "elbos.sticking": {"errors", "elbos.base"},
    "elbos.renyi": {"errors", "elbos.base"},
    "elbos.annealed": {"errors", "elbos.base", "elbos.beta"},
    "elbos": {"elbos.beta", "elbos.sampled", "elbos.sticking", "elbos.renyi", "elbos.annealed"},
    "averaging": set(),
    "svi": _TOOLS
    | {"averaging", "saving", "resuming", "models.priors", "models.diffusion", "elbos.beta", "diagnostics.arviz"},
    "sampling": _TOOLS | _PRIORS | _MEASUREMENTS | {"models.diffusion"},
    "refinement": _TOOLS | _PRIORS | _MEASUREMENTS | {"keypoints", "models.diffusion"},
    "baselines.base": _TOOLS | _PRIORS,
    "baselines.replacement": _TOOLS | _PRIORS | _MEASUREMENTS,
    **dict.fromkeys(sorted(_BASELINES), _METHODS),
    "baselines.copaint_tt": _METHODS | {"baselines.copaint"},
    "baselines": {"baselines.base", *_BASELINES},
    # diagnostics know no particular guide, objective or prior
    "diagnostics.draws": _TOOLS,
    "diagnostics.evidence": {"diagnostics.draws"},
    "diagnostics.pareto": set(),
    "diagnostics.importance": _TOOLS | {"diagnostics.draws", "diagnostics.pareto"},
    "diagnostics.projections": _TOOLS,
    "diagnostics.uniformity": {"errors"},
    "diagnostics.calibration": _TOOLS | {"sampling", "diagnostics.uniformity"},
    "diagnostics.coverage": {"errors"},
    "diagnostics.two_sample": _TOOLS,
    "diagnostics.arviz": _TOOLS | {"diagnostics.draws"},
    "diagnostics.parts": {"errors", "layers"},
    "diagnostics.part_scores": set(),
    "diagnostics": _DIAGNOSTICS,
    # what a person sees
    "settings": {"errors", "refinement", "svi"},
    "metrics": {"errors"},
    "parts_classifier": {"errors"},
    "plotting": {"errors"},
    "inputs": _LIBRARY | {"devices"},
    "comparison_inputs": _TOOLS
    | {"inputs", "guides.base", "models.diffusion", "models.observations", "sampling", "svi"},
    "comparison": _TOOLS | {"comparison_inputs", "diagnostics", "svi", "plotting", "models.diffusion"},
    "restoring": _LIBRARY | {"inputs", "running"},
    "running": _LIBRARY | {"inputs"},
    "inpainting": _LIBRARY | {"inputs", "running"},
    "progress": set(),
    "": _LIBRARY | {"comparison", "inputs", "inpainting", "progress", "restoring"},
    "held_out": {"layers", "models.pretrained"},
    "demo": _LIBRARY | {"", "inpainting", "held_out"},
    "files": _LIBRARY | {"inpainting", "restoring"},
    # the benchmark, above everything but the command line
    "bench.grid": set(),
    "bench.tasks": {"masks", "operators", "restoring"},
    "bench.memory": set(),
    "bench.weights": {"devices"},
    "bench.problems": _LIBRARY | {"held_out", "files", "inputs", "bench.grid", "bench.tasks", "bench.weights"},
    "bench.methods": _LIBRARY | {"inpainting", "restoring", "bench.problems"},
    "bench.registry": {"baselines", "bench.methods"},
    "bench.scores": {"metrics", "operators", "bench.problems"},
    "bench.work": {"errors", "metrics", "bench.weights"}
    | {f"bench.{name}" for name in ("grid", "memory", "methods", "problems", "registry", "scores")},
    "bench.store": {"errors", "bench.grid", "bench.work"},
    "bench.engines": {"errors", "bench.grid", "bench.work"},
    "bench.summary": {"metrics", "bench.grid", "bench.store"},
    "bench.runner": _BENCH - {"bench.report", "bench.figures", "bench.runner"} | {"errors", "metrics"},
    "bench.figures": {"plotting", "bench.grid", "bench.store", "bench.summary"},
    "bench.report": {"files", "bench.figures", "bench.store", "bench.summary"},
    "bench": _BENCH,
    "allocator": set(),
    "cli_results": {"allocator", "cli_shared", "devices", "files"},
    "cli_tasks": {"errors", "operators", "models", "inputs", "files"},
    "cli_restore": _LIBRARY | {"inputs", "restoring", "files", "cli_shared", "cli_tasks", "cli_results"},
    "cli_shared": {"errors"},
    "cli_bench": {"errors", "cli_shared", "bench", "devices", "files", "masks", "models"},
    "cli": {"cli_shared", "cli_bench", "cli_results", "cli_restore"}
    | _LIBRARY
    | {"", "inputs", "inpainting", "demo", "files"},
}
ALLOWED_FOR_TYPES: dict[str, set[str]] = {
    "plotting": {"inpainting", "restoring"},  # a contact sheet is of a result, which draws it
}


def source_files() -> dict[str, Path]:
    """Every module of the package by its name relative to `pyro_vipaint`."""
    modules = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.glob("*.py")):
            stem = "" if path.stem == "__init__" else path.stem
            modules[".".join(filter(None, (package, stem)))] = path
    return modules


MODULES = source_files()


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def import_statements(tree: ast.AST, for_types: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement below `tree`, and whether only type checkers see it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, for_types
        elif isinstance(node, ast.If) and is_type_checking(node):
            for child in node.body:
                yield from import_statements(ast.Module([child], []), True)
            for child in node.orelse:
                yield from import_statements(ast.Module([child], []), for_types)
        else:
            yield from import_statements(node, for_types)


def imported_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The absolute dotted names that a statement imports; for `from a import b` that is `a.b`, a module or not."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names]


def our_module(name: str) -> str | None:
    """The module of ours that importing the dotted `name` reads from; None if it is somebody else's."""
    first, _, rest = name.partition(".")
    if first != PACKAGE:
        return None
    while rest and rest not in MODULES:
        rest = rest.rpartition(".")[0]
    return rest


def our_imports(module: str) -> Iterator[tuple[str, int, bool]]:
    """(imported module of ours, line, for type checkers only) for each import in `module`."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node, for_types in import_statements(tree):
        for name in imported_names(node):
            target = our_module(name)
            if target is not None and target != module:
                yield target, node.lineno, for_types


def full(module: str) -> str:
    return f"{PACKAGE}.{module}".rstrip(".")


def in_subprocess(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh interpreter in the root of the checkout, on one thread."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_every_module_is_in_the_table() -> None:
    new = sorted(set(MODULES) - set(ALLOWED))
    assert not new, f"say in ALLOWED (tests/test_imports.py) what these modules may import: {list(map(full, new))}"
    gone = sorted(set(ALLOWED) - set(MODULES))
    assert not gone, f"these modules of ALLOWED (tests/test_imports.py) do not exist: {list(map(full, gone))}"


def test_every_package_is_known() -> None:
    """No folder of sources escapes the table, and the wheel holds every package."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package in FOLDERS:
        assert f'"{full(package)}"' in text, f"{full(package)} is not among the packages of pyproject.toml"
    folders = {path.parent.resolve() for folder in FOLDERS.values() for path in folder.glob("*/*.py")}
    strangers = folders - set(FOLDERS.values())
    assert not strangers, f"folders with sources that are not in FOLDERS (tests/test_imports.py): {strangers}"


@pytest.mark.parametrize("name", ["guides", "models"])
def test_symlinks_are_relative(name: str) -> None:
    link = ROOT / PACKAGE / name
    assert link.is_symlink() and os.readlink(link) == f"../{name}"


@pytest.mark.parametrize("module", [pytest.param(name, id=full(name)) for name in MODULES])
def test_imports_point_one_way(module: str) -> None:
    allowed = ALLOWED.get(module, set())
    allowed_for_types = allowed | ALLOWED_FOR_TYPES.get(module, set())
    wrong = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {full(target)}"
        for target, line, for_types in our_imports(module)
        if target not in (allowed_for_types if for_types else allowed)
    ]
    may = sorted(map(full, allowed)) or "nothing of ours"
    assert not wrong, "\n".join([*wrong, f"{full(module)} may import {may}"])


@pytest.mark.parametrize("package", ["guides", "elbos"])
def test_guides_and_objectives_import_pyro_and_torch_alone(package: str) -> None:
    for module in (name for name in MODULES if name.partition(".")[0] == package):
        for node, _ in import_statements(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
            others = {name.partition(".")[0] for name in imported_names(node)} - sys.stdlib_module_names
            others -= {PACKAGE, "pyro", "torch"}
            assert not others, f"{MODULES[module].relative_to(ROOT)}:{node.lineno} imports {', '.join(others)}"


@pytest.mark.parametrize("module", [pytest.param(name, id=full(name)) for name in MODULES])
def test_imports_are_absolute(module: str) -> None:
    """Relative imports would follow the folders of the checkout, not the packages."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node, _ in import_statements(tree):
        where = f"{MODULES[module].relative_to(ROOT)}:{node.lineno}"
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{where}: a relative import"
        top_level = {name.partition(".")[0] for name in imported_names(node)}
        assert not top_level & {"guides", "models"}, f"{where}: import pyro_vipaint.guides and pyro_vipaint.models"


def test_no_cycles() -> None:
    """Neither in the table nor in what the modules really import when they run."""
    real = {name: {target for target, _, for_types in our_imports(name) if not for_types} for name in MODULES}
    for what, graph in (("ALLOWED", ALLOWED), ("the imports", real)):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            pytest.fail(f"a cycle in {what}: {' → '.join(map(full, error.args[1]))}")


@pytest.mark.parametrize("name", ["guides", "models"])
def test_root_folders_refuse_to_be_imported(name: str) -> None:
    result = in_subprocess(f"import {name}")
    assert result.returncode != 0, f"import {name} went through"
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and f"pyro_vipaint.{name}" in last, result.stderr


def test_import_leaves_heavy_packages_alone() -> None:
    result = in_subprocess(f"import sys, pyro_vipaint; print(*(name for name in {HEAVY} if name in sys.modules))")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [], "import pyro_vipaint imports what should be imported where it is used"


def import_seconds(name: str) -> float:
    """Wall time of importing `name` in a fresh interpreter, without the interpreter's own start."""
    result = in_subprocess(
        f"from time import perf_counter; start = perf_counter(); import {name}; print(perf_counter() - start)"
    )
    assert result.returncode == 0, result.stderr
    return float(result.stdout.split()[-1])


def test_import_takes_little_longer_than_pyro() -> None:
    """At most 1.3 × `import pyro`: the best of several interleaved runs each, as many as a busy machine needs."""
    ours, pyros = float("inf"), float("inf")
    for repeat in range(8):
        pyros = min(pyros, import_seconds("pyro"))
        ours = min(ours, import_seconds(PACKAGE))
        if repeat >= 2 and ours <= 1.3 * pyros:
            break
    assert ours <= 1.3 * pyros, f"import {PACKAGE}: {ours:.2f} s, import pyro: {pyros:.2f} s"
