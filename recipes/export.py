"""What the exporting recipes share: how far two outputs differ, and new files that replace older ones whole."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor


def relative_difference(value: Tensor, reference: Tensor) -> float:
    """Root mean square of ``value - reference`` over that of ``reference``."""
    return ((value - reference).square().mean() / reference.square().mean()).sqrt().item()


def move_files(source: Path, target: Path) -> None:
    """Moves the files of ``source`` to the same places below ``target``, one rename each."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            destination = target / path.relative_to(source)
            destination.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(0o644)
            path.replace(destination)
