"""The entry ``familiar_error`` of a shipped prior's ``prior.json``, with its false and true alarms.

    python -m recipes.familiar fashion32 --data FOLDER    # of the IDX files, as recipes/fashion32/data.py says
    python -m recipes.familiar faces32

The denoiser's error at the noise level ``sigma_data`` is measured on the visible pixels of held-out pictures under each
mask of the paper. The limit is the 99.5 % quantile over pictures under the mask that makes it largest. False alarms of
the limit in ``prior.json``, if there is one, are those on as many other held-out pictures; true ones those on inverted
pictures, on uniform noise and on smooth noise.
"""

from __future__ import annotations

import argparse
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
    known = {name: error.quantile(QUANTILE) for name, error in errors(prior, pictures[:n]).items()}
    by_mask = ", ".join(f"{name} {error:.3f}" for name, error in known.items())
    print_(f"{prior.name}: the 99.5 % quantile of {n} pictures is {max(known.values()):.3f}; by mask {by_mask}")
    limit = prior.familiar_error or float(max(known.values()))
    sets = {"others held out": pictures[n:], "inverted": -pictures[:OTHERS]} | noises(pictures[:OTHERS])
    for what, images in sets.items():
        shares = ", ".join(
            f"{name} {(each > limit).float().mean():.3f}" for name, each in errors(prior, images).items()
        )
        print_(f"{prior.name}, {what}, {len(images)} pictures, above {limit}: {shares}")


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


def errors(prior: DiffusionPrior, images: Tensor) -> dict[str, Tensor]:
    """:func:`familiar_error` under each mask, ``(N,)``; the masks of a kind differ between the pictures."""
    masks = torch.stack([make(images.shape[-1], len(images), seed=1) for make in MASKS.values()])
    pairs = zip(images.split(CHUNK), masks.split(CHUNK, 1), strict=True)
    return dict(zip(MASKS, torch.cat([familiar_error(prior, x, mask) for x, mask in pairs], 1), strict=True))


if __name__ == "__main__":
    main()
