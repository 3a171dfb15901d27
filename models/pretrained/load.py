"""Loading priors: by shipped name, from a folder in diffusers' layout, from a hub, or from a pipeline.

A folder holds a network (in ``unet/`` or ``transformer/``, or a UNet at the root), a scheduler (``scheduler/``), for
latent priors an autoencoder (``vae/`` or ``vqvae/``), for text encoders and tokenizers, and optionally ``prior.json``
with the entries that diffusers has no field for: ``sigma_data``, ``classes``, ``null_label``, ``familiar_error``; and
``covariance.safetensors``, the covariance of the clean latents. What in it is opened, and what is refused, stands in
docs/priors.md.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyro_vipaint import plugins
from pyro_vipaint._files import read_json, read_tensors
from pyro_vipaint._torch import resolve_device
from pyro_vipaint.errors import InputError, choice
from pyro_vipaint.models.pretrained.components import MAX_CONFIG, PARTS, read_components
from pyro_vipaint.models.pretrained.pipelines import build_prior
from pyro_vipaint.models.priors.covariance import DataCovariance
from pyro_vipaint.plugins import found

if TYPE_CHECKING:
    from pyro_vipaint.models.priors.prior import DiffusionPrior

# The files of diffusers and transformers, without second copies of the weights in one file or in half precision.
COVARIANCE = "covariance.safetensors"
WANTED = [
    COVARIANCE,
    "*.json",
    "*merges.txt",
    "*diffusion_pytorch_model*.safetensors",
    "text_encoder*/model*.safetensors",
]
UNWANTED = ["*.fp16*", "*non_ema*"]
NOTES = ("kind", "event_shape")
ENTRIES = ("sigma_data", "classes", "null_label", "familiar_error", *NOTES)  # of prior.json


def weights_folder() -> Path:
    """The folder of the shipped priors."""
    return Path(str(files("pyro_vipaint.models"))) / "weights"


def embedded_priors() -> list[str]:
    """Names of the priors that ship with the library."""
    return sorted(folder.parent.name for folder in weights_folder().glob("*/prior.json"))


def load_prior(
    source: str | Path,
    device: str | torch.device = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    checkpointing: bool = False,
    tile: int | None = None,
) -> DiffusionPrior:
    """A prior by its shipped name or that of a plug-in, from a local folder, or by a hub id ``owner/name``.

    Nothing that is read can run code, nothing outside the folder is read, and what costs more than its weights is
    refused before it is built: docs/priors.md has the rules and the bounds.

    Args:
        source: name, folder or id; a name that ships, or that an installed package declares
            (:mod:`pyro_vipaint.plugins`), comes before a folder of the working directory.
        device: the device of the weights.
        dtype: the floating-point type in which denoiser, autoencoder and text encoders compute: ``torch.bfloat16``
            halves the memory, on devices that have it. Latents, images and the algebra of the diffusion keep theirs.
        checkpointing: recompute the activations of denoiser and decoder instead of keeping them for the gradient.
        tile: decode by overlapping tiles of this side, in latents: the gradient of a decoder then needs the memory of
            one tile, and colours differ a little between tiles (docs/priors.md). ``None`` decodes as a whole.

    Raises:
        InputError: there is no such prior, the hub cannot be reached, or a file in the folder is not what it must be.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(
            f"load_prior takes a name, a folder or a hub id, not a {type(source).__name__}: pipelines go to "
            "from_diffusers, networks into a DiffusionPrior (docs/priors.md)."
        )
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InputError(f"dtype must be a floating-point type such as torch.float32, not {dtype!r}.")
    name, target = os.fspath(source), resolve_device(device)
    if name not in embedded_priors() and name in found("priors"):
        return _plugged_in(name, target, dtype, checkpointing, tile)
    folder = _folder(name)
    path = folder / "prior.json"
    details = read_json(path, most=MAX_CONFIG) if os.path.lexists(path) else {}
    for entry in details:
        choice(f"entry of {path},", entry, ENTRIES)
    prior = _built(str(folder), read_components(folder, target, dtype), details, Path(source).name, checkpointing, tile)
    again = os.path.abspath(name) if os.path.isdir(name) and name not in embedded_priors() else name
    return replace(prior, data_covariance=read_covariance(folder / COVARIANCE, prior.event_shape, target), source=again)


def _plugged_in(
    name: str, device: torch.device, dtype: torch.dtype, checkpointing: bool, tile: int | None
) -> DiffusionPrior:
    """The prior of a plug-in, which is one, or a folder, or a function of the device that returns one of these."""
    from pyro_vipaint.models.priors.prior import DiffusionPrior

    made = plugins.load("priors", name)
    if callable(made):
        try:
            made = made(device)
        except (Exception, SystemExit) as error:  # other people's code raises anything
            raise plugins.broken(found("priors")[name], "priors", error) from error
    if isinstance(made, (str, os.PathLike)) and os.path.isdir(made):
        prior = load_prior(Path(made).absolute(), device, dtype=dtype, checkpointing=checkpointing, tile=tile)
        return replace(prior, name=name, source=name)
    if not isinstance(made, DiffusionPrior):
        wanted = "a DiffusionPrior, a folder, or a function of the device that returns one of these"
        raise plugins.unusable("priors", name, made, wanted)
    if dtype != torch.float32 or checkpointing or tile is not None:
        raise InputError(f"The prior {name} is made by its package: omit dtype, checkpointing and tile (--half).")
    return replace(made, name=name, source=name)


def read_covariance(path: Path, event_shape: Sequence[int], device: torch.device) -> DataCovariance | None:
    """The covariance in a file of ``vectors`` ``(r, *event)``, ``variances`` ``(r,)`` and ``rest`` ``(1,)``.

    ``None`` where there is no file. The vectors, which may be in half precision, are made orthonormal again.

    Raises:
        InputError: the file holds something else.
    """
    if not os.path.lexists(path):
        return None
    tensors, _ = read_tensors(path)
    shapes = {name: tuple(value.shape) for name, value in tensors.items() if value.is_floating_point()}
    count = shapes.get("variances", (0,))[0]
    fit = shapes == {"vectors": (count, *event_shape), "variances": (count,), "rest": (1,)}
    if not (fit and 1 <= count <= math.prod(event_shape)):
        wanted = f"vectors (r, {', '.join(map(str, event_shape))}), variances (r,) and rest (1,), floats"
        raise InputError(f"{path} cannot be read as a covariance: it must hold {wanted}.")
    vectors = torch.linalg.qr(tensors["vectors"].float().flatten(1).T).Q.T.reshape(count, *event_shape)
    try:
        return DataCovariance(vectors, tensors["variances"].float(), tensors["rest"].item()).to(device)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _folder(name: str) -> Path:
    """The folder of a prior, which a hub may have to give."""
    if name in embedded_priors():
        return weights_folder() / name
    if name and os.path.isdir(name):
        return Path(name)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not os.path.lexists(name):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(snapshot_download(name, allow_patterns=WANTED, ignore_patterns=UNWANTED))
        except Exception as error:
            offline = isinstance(error, LocalEntryNotFoundError)
            answer = (
                "cannot be reached, nor is a copy here" if offline else f"does not give it ({type(error).__name__})"
            )
            raise InputError(
                f"There is no folder {name!r}, and the hub {answer}: check the id and the connection, or give a folder "
                "in diffusers' layout that was fetched elsewhere."
            ) from error
    known = ", ".join([*embedded_priors(), *found("priors")])
    raise InputError(
        f"Unknown prior {name!r:.80}: use one of {known}, a folder in diffusers' layout, "
        "or the id owner/name of a hub that can be reached."
    )


def from_diffusers(pipeline: Any, *, checkpointing: bool = False, tile: int | None = None) -> DiffusionPrior:
    """The prior of a diffusers pipeline; its networks are frozen and keep their device and dtype.

    Args:
        pipeline: with ``scheduler``; ``unet`` (``UNet2DModel``, ``UNet2DConditionModel``) or ``transformer``
            (``SD3Transformer2DModel``); for latent priors ``vae`` or ``vqvae``; for text its encoders and tokenizers.
            The pipelines of DDPM, DDIM, LDM, Stable Diffusion and Stable Diffusion 3 have these parts.
        checkpointing, tile: as for :func:`load_prior`.

    Raises:
        InputError: it is not a pipeline, or a part of it is missing or not supported.
    """
    kind = pipeline.__name__ if isinstance(pipeline, type) else type(pipeline).__name__
    parts = {name: getattr(pipeline, name, None) for name in PARTS}
    if isinstance(pipeline, type) or (parts["unet"] is None and parts["transformer"] is None):
        raise InputError(
            f"{kind}: from_diffusers takes a pipeline with a unet or transformer and a scheduler, such as "
            "DDPMPipeline(unet, scheduler); load_prior takes folders and hub ids."
        )
    return _built(kind, {name: part for name, part in parts.items() if part is not None}, {}, kind, checkpointing, tile)


def _built(
    owner: str, parts: dict[str, Any], details: dict[str, Any], name: str, checkpointing: bool, tile: int | None
) -> DiffusionPrior:
    """:func:`build_prior`, whose errors name the ``owner`` of the parts."""
    try:
        return build_prior(parts, details, name, checkpointing, tile)
    except InputError as error:
        raise InputError(f"{owner}: {error}") from error
