"""Writes the trained prior ``fashion32`` in the layout of diffusers' ``save_pretrained``, in half precision.

What ships is the moving average of the weights in ``checkpoint.pt``::

    python -m recipes.fashion32.export --work WORKDIR --out models/weights/fashion32

writes ``unet/`` (weights and configuration), ``scheduler/`` and ``prior.json``: what a loader needs besides; see
:mod:`recipes.edm`. There is no ``model_index.json``: no pipeline of diffusers joins these two parts, and naming one
that ignores the preconditioning would draw noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from recipes.edm import WEIGHTS, PixelPrior
from recipes.fashion32.data import CLASS_NAMES
from recipes.fashion32.train import SIGMA_DATA, build_network

EVENT_SHAPE = (1, 32, 32)
PRIOR = PixelPrior(build_network, SIGMA_DATA, EVENT_SHAPE, tuple(CLASS_NAMES))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("models/weights/fashion32"))
    arguments = parser.parse_args()
    change = PRIOR.export(arguments.work, arguments.out)
    written = (arguments.out / WEIGHTS).stat().st_size
    Console().print(
        f"{arguments.out}: {written / 1e6:.2f} MB of weights, fp16 changes the output by {change:.1e} (relative rms)"
    )
