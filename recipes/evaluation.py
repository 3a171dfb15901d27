"""What the evaluating recipes share: kernel distances, judgements of parts, and results kept with their weights."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from pyro_vipaint.metrics import kernel_distance

CONFIDENT = 0.9  # the probability from which on a classifier of parts is called sure

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


def by_slot(probabilities: dict[str, Tensor]) -> dict[str, Result]:
    """Slot by slot: the share of confident judgements, and how many of the classes were seen with confidence."""
    result = {}
    for slot, values in probabilities.items():
        top, label = values.max(-1)
        seen = label[top >= CONFIDENT].unique()
        share = (top >= CONFIDENT).double().mean().item()
        result[slot] = {"confident": share, "classes_seen": len(seen), "classes": values.shape[-1]}
    return result


def save_grid(path: Path, images: Tensor, columns: int) -> None:
    """Images ``(N, 3, H, W)`` in [-1, 1] in rows of ``columns``; N is a multiple of it."""
    rows = images.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    Image.fromarray(((rows + 1) * 127.5).round().byte().numpy()).save(path)


def write_card(description: str | None, folder: Path, card: Callable[[Result], str]) -> None:
    """The command that writes a model card: by default README.md in ``folder``, from the evaluation.json there."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluation", type=Path, default=folder / "evaluation.json")
    parser.add_argument("--out", type=Path, default=folder / "README.md")
    arguments = parser.parse_args()
    arguments.out.write_text(card(json.loads(arguments.evaluation.read_text())))
    Console().print(f"{arguments.out} written")
