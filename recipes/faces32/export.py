"""Writes the trained prior ``faces32`` in the layout of diffusers' ``save_pretrained``, in half precision.

What ships is the moving average of the weights in ``checkpoint.pt``::

    python -m recipes.faces32.export --work WORKDIR

writes ``unet/`` (weights and configuration), ``scheduler/`` and ``prior.json``: what a loader needs besides; see
:mod:`recipes.edm`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console

from recipes.edm import PixelPrior
from recipes.faces32.parts import HAIR_STYLES, SIZE, TARGET
from recipes.faces32.train import SIGMA_DATA, build_network

FOLDER = TARGET.parent
PRIOR = PixelPrior(build_network, SIGMA_DATA, (3, SIZE, SIZE), tuple(HAIR_STYLES))


def export(work: Path, out: Path) -> float:
    """Writes the checkpoint in ``work`` to ``out``; the relative change of the output through half precision."""
    seconds = torch.load(work / "checkpoint.pt", weights_only=True, map_location="cpu")["seconds"]
    return PRIOR.export(work, out, {"seconds": f"{seconds:.0f}"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    change = export(arguments.work, arguments.out)
    Console().print(f"{arguments.out} written; half precision changes the output by {change:.1e} (relative rms)")
