"""What the evaluating recipes share: kernel distances, and results kept with the weights that they belong to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.metrics import kernel_distance

Result = dict[str, Any]  # a branch of the JSON file


def distance(features: Tensor, reference: Tensor) -> Result:
    """The kernel distance of two sets of features, ``(n, 256)`` and ``(m, 256)``, with its standard error."""
    estimate, standard_error = kernel_distance(features, reference)
    return {"estimate": estimate, "standard_error": standard_error, "images": len(features)}


def earlier_results(out: Path, weights: Result) -> Result:
    """The figures in ``out`` if they belong to the same weights, otherwise none."""
    if not out.exists():
        return {}
    results = json.loads(out.read_text())
    return results if results["prior"] == weights else {}


def timed(measure: Callable[[], Result]) -> Result:
    """What ``measure`` returns, with the seconds it took."""
    begun = time.perf_counter()
    result = measure()
    return result | {"seconds": round(time.perf_counter() - begun, 1), "threads": torch.get_num_threads()}


def write_json(path: Path, results: Result) -> None:
    """Writes a JSON file that is whole or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".part").write_text(json.dumps(results, indent=2) + "\n")
    path.with_suffix(".part").replace(path)
