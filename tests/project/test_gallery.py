"""The gallery: each script draws the picture beside it, and each picture has a page and a card."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "gallery"
NAMES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))
LINES = 40
LARGEST = {".png": 150_000, ".gif": 500_000}  # bytes
SAME = 0.1  # of the range of bytes, on average: other versions of the libraries round otherwise


def picture(folder: Path, name: str) -> Path:
    """The one picture of a script."""
    found = [path for path in (folder / f"{name}{kind}" for kind in LARGEST) if path.exists()]
    assert len(found) == 1, f"{name} has {len(found)} pictures"
    return found[0]


def pixels(path: Path) -> np.ndarray:
    """The last frame ``(H, W, 3)``."""
    from PIL import Image

    with Image.open(path) as image:
        image.seek(getattr(image, "n_frames", 1) - 1)
        return np.asarray(image.convert("RGB"), float)


def question(name: str) -> str:
    """The docstring of a script: a question, and one sentence."""
    return ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))) or ""


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_short_and_has_its_picture_and_page(name: str) -> None:
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= LINES
    assert re.fullmatch(r"[^.?]+\? [^?]+\.", question(name))
    drawn, page = picture(FOLDER, name), (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert drawn.stat().st_size <= LARGEST[drawn.suffix]
    assert question(name) in page
    assert f"]({drawn.name})" in page and f"{{literalinclude}} {name}.py" in page


def test_the_index_shows_every_script_once() -> None:
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    cards, shown = re.findall(r"^:link: (.+)$", index, re.M), re.findall(r"^:img-bottom: (.+)$", index, re.M)
    assert sorted(cards) == NAMES == sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")
    assert shown == [picture(FOLDER, name).name for name in cards]
    assert index.rpartition("```{toctree}")[2].split()[1:-1] == cards
    for name in cards:
        assert f"{question(name).partition('?')[0]}?" in index


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_script_draws_the_committed_picture(name: str, tmp_path: Path) -> None:
    """A copy elsewhere draws it, without a warning of its own code, and nothing else."""
    for script in (f"{name}.py", "_prompts.py"):
        shutil.copy(FOLDER / script, tmp_path)
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error:::__main__", str(tmp_path / f"{name}.py")]
    done = subprocess.run(
        command, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    drawn, committed = picture(tmp_path, name), picture(FOLDER, name)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.py", "_prompts.py", drawn.name}
    new, old = pixels(drawn), pixels(committed)
    assert new.shape == old.shape
    assert np.abs(new - old).mean() <= SAME * 255
