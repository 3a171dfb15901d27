"""The notebooks: each script runs, and the notebook beside it is that script, executed once from top to bottom."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
LARGEST = 800_000  # bytes of a notebook, figures included
RUN = """
import runpy, sys, warnings
warnings.filterwarnings("error", module="pyro_vipaint|__main__")
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"]).strip()


def notebook(name: str) -> list[dict[str, Any]]:
    """The cells of the executed notebook."""
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def outputs(name: str) -> list[dict[str, Any]]:
    return [output for cell in notebook(name) if cell["cell_type"] == "code" for output in cell["outputs"]]


def test_every_script_has_its_notebook() -> None:
    assert NAMES == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_script_runs_from_any_folder(name: str, tmp_path: Path) -> None:
    """Its asserts hold, which are the claims of its text, and nothing in it or in the library warns."""
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(FOLDER.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(FOLDER / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(tmp_path.iterdir())  # what it writes goes to a temporary folder of its own


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_its_script(name: str) -> None:
    """Cell by cell, so that `make notebooks` was run after the last change."""
    jupytext = pytest.importorskip("jupytext")
    script = jupytext.read(FOLDER / f"{name}.py")
    pairs = [(cell["cell_type"], source(cell)) for cell in script["cells"]]
    assert [(cell["cell_type"], source(cell)) for cell in notebook(name)] == pairs


@pytest.mark.parametrize("name", NAMES)
def test_notebook_opens_with_a_question_and_ends_with_the_answer(name: str) -> None:
    first, last = (source(notebook(name)[place]) for place in (0, -1))
    assert re.match(r"# [^\n]+\?\n", first)
    assert re.search(r"^## The answer$", last, re.M)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_was_executed_once_in_order(name: str) -> None:
    """Without errors and warnings; its outputs have a figure, are small and name no path of a machine."""
    counts = [cell["execution_count"] for cell in notebook(name) if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert not [output for output in outputs(name) if output["output_type"] == "error"]
    assert not [output for output in outputs(name) if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs(name))
    texts = [output.get("text", "") for output in outputs(name)]
    texts += [text for output in outputs(name) for kind, text in output.get("data", {}).items() if kind != "image/png"]
    assert not re.findall(r"(?:/home|/root|/tmp|/work|/usr|site-packages)\S*", "\n".join(map("".join, texts)))
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST
