"""The entry ``familiar_error`` of a shipped prior's ``prior.json``, with its false and true alarms.

    python -m recipes.familiar fashion32 --data FOLDER    # of the IDX files, as recipes/fashion32/data.py says
    python -m recipes.familiar faces32

The denoiser's error at the noise level ``sigma_data`` is measured on the visible pixels of held-out pictures under each
mask of the paper. The limit is the 99.5 % quantile over pictures under the mask that makes it largest. False alarms are
those on as many other held-out pictures; true ones those on inverted pictures, on uniform noise and on smooth noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from pyro_vipaint.cats.parts import draw_held_out
from pyro_vipaint.models import MASKS, DiffusionPrior, load_prior
from pyro_vipaint.prior_check import familiar_error
from recipes.fashion32.data import DEFAULT_FOLDER, load_split

QUANTILE = 0.995
FIRST = 1000  # of the test set of Fashion-MNIST; the first are those of tables
CHUNK = 32
OTHERS = 64  # pictures of each other kind


def main() -> None:
    """Prints the limit and the alarms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", choices=["fashion32", "faces32", "cats64"])
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--images", type=int, default=512)
    arguments = parser.parse_args()
    prior, n, print_ = load_prior(arguments.prior), arguments.images, Console().print
    pictures = held_out(arguments.prior, arguments.data, 2 * n)
    limits = {name: error.quantile(QUANTILE) for name, error in errors(prior, pictures[:n])}
    limit = round(float(max(limits.values())), 3)
    print_(
        f"{prior.name}: familiar_error {limit}, from {n} pictures; by mask", {k: f"{v:.3f}" for k, v in limits.items()}
    )
    sets = {"others held out": pictures[n:], "inverted": -pictures[:OTHERS]} | noises(pictures[:OTHERS])
    for what, images in sets.items():
        alarms = {name: f"{float((error > limit).float().mean()):.3f}" for name, error in errors(prior, images)}
        print_(f"{prior.name}, {what}, {len(images)} pictures: share of alarms", alarms)


def held_out(name: str, folder: Path, count: int) -> Tensor:
    """Pictures that the training of the prior left out, ``(count, C, H, W)``."""
    if name == "fashion32":
        return load_split(folder, train=False)[0][FIRST : FIRST + count]
    return draw_held_out(name, count)[0]


def noises(like: Tensor) -> dict[str, Tensor]:
    """Uniform noise, of pixels and smooth, of the shape of the pictures."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(*like.shape[:2], 5, 5, generator=generator) * 2 - 1
    smooth = torch.nn.functional.interpolate(small, size=like.shape[-2:], mode="bicubic").clamp(-1, 1)
    return {"noise": torch.rand(like.shape, generator=generator) * 2 - 1, "smooth noise": smooth}


def errors(prior: DiffusionPrior, images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """:func:`familiar_error` under each mask, ``(N,)``; the masks of a kind differ between the pictures."""
    for name, make in MASKS.items():
        masks = make(images.shape[-1], len(images), seed=1)
        pairs = zip(images.split(CHUNK), masks.split(CHUNK), strict=True)
        yield name, torch.cat([familiar_error(prior, x, mask) for x, mask in pairs])


if __name__ == "__main__":
    main()
