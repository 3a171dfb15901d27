"""The size of the house, as CONTRIBUTING.md tables it.

    python .ci/house.py [--root DIR]    # another checkout of this project, which the same environment can import
    python .ci/house.py --suite         # and the default suite, timed alone on the machine

Calls are counted by ``sys.setprofile`` in the second run of a call, as (file, function) pairs of this project;
comprehensions and lambdas do not count. ``inpaint`` loads its prior by name.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = ("pyro_vipaint", "models", "guides")


def python_files(root: Path, folders: Iterable[str]) -> list[Path]:
    """The sources below ``folders``, without what symbolic links lead to."""
    return [path for folder in folders for path in sorted((root / folder).rglob("*.py")) if not _is_linked(path, root)]


def _is_linked(path: Path, root: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents if root in parent.parents)


def lines(paths: Iterable[Path]) -> int:
    """Lines of all files together."""
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def sizes(root: Path) -> dict[str, Any]:
    """What can be read off the files."""
    source, tests = python_files(root, PACKAGE), python_files(root, ["tests"])
    raises = sum(len(re.findall(r"^\s*raise\b", path.read_text(encoding="utf-8"), re.M)) for path in source)
    return {
        "modules in the root of the package": len(list((root / "pyro_vipaint").glob("*.py"))) - 1,
        "`raise` per 1000 lines": round(1000 * raises / lines(source), 1),
        "README, words": len((root / "README.md").read_text(encoding="utf-8").split()),
        "source, lines": lines(source),
        "tests, lines": lines(tests),
    }


def executed(call: Callable[[], object], root: Path) -> tuple[int, int]:
    """Files and functions of this project that run in the second ``call``."""
    call()
    seen: set[tuple[str, str, int]] = set()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        ours = code.co_filename.startswith(str(root)) and "site-packages" not in code.co_filename
        if event == "call" and ours and not code.co_name.startswith("<"):
            seen.add((code.co_filename, code.co_name, code.co_firstlineno))

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return len({file for file, _, _ in seen}), len(seen)


def calls(root: Path) -> dict[str, Any]:
    """What runs in ``vp.inpaint`` and in ``baselines.dps``."""
    import pyro_vipaint as vp
    from pyro_vipaint.baselines import dps
    from pyro_vipaint.demo import demo_problem
    from pyro_vipaint.models import load_prior

    images, masks, labels = (values[:1] for values in demo_problem())
    prior, likelihood = load_prior("fashion32"), vp.Gaussian(vp.Inpainting(masks), 0.05)
    small: dict[str, Any] = {"label": labels, "num_samples": 2, "steps": 2, "refine_steps": 2, "seed": 0}
    inpaint = executed(lambda: vp.inpaint(images, masks, "fashion32", **small), root)
    guided = executed(lambda: dps(prior, likelihood, images * masks, 2, 3, seed=0, class_labels=labels), root)
    names = ("files that run in `inpaint`", "functions that run in `inpaint`")
    others = ("files that run in `dps`", "functions that run in `dps`")
    return {**dict(zip(names, inpaint, strict=True)), **dict(zip(others, guided, strict=True))}


def suite(root: Path, run: bool) -> dict[str, Any]:
    """The cases of the default suite, and its seconds where it is ``run``."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    collected = subprocess.run([*command, "--collect-only"], cwd=root, capture_output=True, text=True).stdout
    found: dict[str, Any] = {"cases in the default suite": sum("::" in line for line in collected.splitlines())}
    if run:
        begun = time.perf_counter()
        result = subprocess.run(command, cwd=root, capture_output=True, text=True)
        found["seconds of the default suite"] = round(time.perf_counter() - begun)
        found["its last line"] = result.stdout.strip().splitlines()[-1]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--suite", action="store_true", help="run the default suite as well")
    arguments = parser.parse_args()
    checkout = arguments.root.resolve()
    sys.path.insert(0, str(checkout))
    os.environ["PYTHONPATH"] = str(checkout)
    for name, value in {**sizes(checkout), **calls(checkout), **suite(checkout, arguments.suite)}.items():
        print(f"{name:40s} {value}")
