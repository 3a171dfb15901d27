"""``vipaint convert``: a published checkpoint as a folder for ``--prior``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyro_vipaint.cli.options import console


def convert(
    file: Annotated[Path, typer.Argument(help="The checkpoint: .safetensors, .pt, .ckpt, or .pkl of EDM.")],
    to: Annotated[Path, typer.Option(help="Folder for the prior: new or empty.")],
    kind: Annotated[str, typer.Option(help="edm, adm, ldm, sd, or auto: by the names of the weights.")] = "auto",
    config: Annotated[
        Path | None, typer.Option(help="Constructor arguments of an unpublished network: JSON or YAML.")
    ] = None,
) -> None:
    """Converts FILE, a published checkpoint, to a folder that --prior takes. Nothing in a pickle is run."""
    from pyro_vipaint.models import convert as run
    from pyro_vipaint.models import load_prior

    with console.status("converting"):
        found = run(file, to, kind=kind, config=config)
        prior = load_prior(to)
    shape, classes = "×".join(map(str, prior.image_shape)), len(prior.class_names)
    latent = f" from latents of {'×'.join(map(str, prior.event_shape))}" if prior.is_latent else ""
    labels = f", {classes} classes" if classes else ""
    null = " with a null label" if classes and "class_labels" in prior.guided_by else ""
    console.print(
        f"{found}: images of {shape}{latent}{labels}{null}. Use it by --prior {to}", soft_wrap=True, markup=False
    )
