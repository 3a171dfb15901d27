"""``vipaint check-prior``: whether a prior and pictures go together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pyro_vipaint.cli import options as shared
from pyro_vipaint.cli.options import console
from pyro_vipaint.errors import InputError


def check_prior(
    pictures: Annotated[Path, typer.Argument(help="Folder of pictures of the kind that the prior was trained on.")],
    prior: shared.Prior = "fashion32",
    label: shared.Label = None,
    device: shared.Device = "auto",
    seed: shared.Seed = 0,
    resize: Annotated[bool, typer.Option("--resize", help="Resize the pictures to the prior's size.")] = False,
    grey: shared.Grey = False,
) -> None:
    """Denoises the first 64 PICTURES at five noise levels; exit code 1 where the prior does not fit them."""
    import torch

    from pyro_vipaint._files import PICTURES, read_image
    from pyro_vipaint._torch import resolve_device
    from pyro_vipaint.checks import check_image
    from pyro_vipaint.checks import check_prior as loaded_prior
    from pyro_vipaint.prior_check import MOST
    from pyro_vipaint.prior_check import check_prior as run

    if not pictures.is_dir():
        raise InputError(f"{pictures} is not a folder of pictures.")
    paths = sorted(path for path in pictures.iterdir() if path.suffix.lower() in PICTURES)[:MOST]
    if not paths:
        raise InputError(f"{pictures} holds no pictures ({', '.join(PICTURES)}).")
    loaded = loaded_prior(prior, resolve_device(device))
    channels, height, width = loaded.image_shape
    size = (height, width) if resize else None
    images = torch.cat([check_image(read_image(path, channels, size, grey), loaded) for path in paths])
    with console.status("denoising"):
        found = run(loaded, images, label=shared.class_number(label, loaded), seed=seed)
    table = Table(*found.table.columns)
    for _, row in found.table.iterrows():
        table.add_row(*(f"{value:.3g}" for value in row))
    console.print(table)
    console.print(found.verdict, soft_wrap=True, markup=False)
    if not found.sound:
        raise typer.Exit(1)
