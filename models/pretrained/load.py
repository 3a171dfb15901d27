"""Loading priors: by shipped name, from a folder in diffusers' layout, from a hub, or from a pipeline.

A folder holds a network (in ``unet/`` or ``transformer/``, or a UNet at the root), a scheduler (``scheduler/``), for
latent priors an autoencoder (``vae/`` or ``vqvae/``), for text encoders and tokenizers, and optionally ``prior.json``
with the entries that diffusers has no field for: ``sigma_data``, ``classes``, ``null_label``.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyro_vipaint.errors import InputError
from pyro_vipaint.models.pretrained.components import PARTS, read_components, read_json
from pyro_vipaint.models.pretrained.pipelines import build_prior

if TYPE_CHECKING:
    from pyro_vipaint.models.priors.prior import DiffusionPrior

# The files of diffusers and transformers, without second copies of the weights in one file or in half precision.
WANTED = ["*.json", "*merges.txt", "*diffusion_pytorch_model*.safetensors", "text_encoder*/model*.safetensors"]
UNWANTED = ["*.fp16*", "*non_ema*"]


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
) -> DiffusionPrior:
    """A prior by its shipped name, from a local folder, or by a hub id ``owner/name``.

    Args:
        source: name, folder or id.
        device: the device of the weights.
        dtype: the floating-point type in which denoiser, autoencoder and text encoders compute: ``torch.bfloat16``
            halves the memory, on devices that have it. Latents, images and the algebra of the diffusion keep theirs.
        checkpointing: recompute the activations of denoiser and decoder instead of keeping them for the gradient.

    Raises:
        InputError: there is no such prior, it has no safetensors weights, or a model in it is not supported.
    """
    name, folder, cause = str(source), Path(source), None
    if name in embedded_priors():
        folder = weights_folder() / name
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not folder.exists():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, allow_patterns=WANTED, ignore_patterns=UNWANTED))
        except Exception as error:
            cause = error
    if not folder.is_dir():
        raise InputError(
            f"Unknown prior {name!r}: use one of {', '.join(embedded_priors())}, a folder in diffusers' layout, "
            "or the id owner/name of a hub that can be reached."
        ) from cause
    details = read_json(folder / "prior.json") if (folder / "prior.json").exists() else {}
    return _built(str(folder), read_components(folder, device, dtype), details, Path(source).name, checkpointing)


def from_diffusers(pipeline: Any, *, checkpointing: bool = False) -> DiffusionPrior:
    """The prior of a diffusers pipeline; its networks are frozen and keep their device and dtype.

    Args:
        pipeline: with ``scheduler``; ``unet`` (``UNet2DModel``, ``UNet2DConditionModel``) or ``transformer``
            (``SD3Transformer2DModel``); for latent priors ``vae`` or ``vqvae``; for text its encoders and tokenizers.
            The pipelines of DDPM, DDIM, LDM, Stable Diffusion and Stable Diffusion 3 have these parts.
        checkpointing: as for :func:`load_prior`.

    Raises:
        InputError: a part is missing or not supported.
    """
    parts = {name: getattr(pipeline, name, None) for name in PARTS}
    kind = type(pipeline).__name__
    return _built(kind, {name: part for name, part in parts.items() if part is not None}, {}, kind, checkpointing)


def _built(
    owner: str, parts: dict[str, Any], details: dict[str, Any], name: str, checkpointing: bool
) -> DiffusionPrior:
    """:func:`build_prior`, whose errors name the ``owner`` of the parts."""
    try:
        return build_prior(parts, details, name, checkpointing)
    except InputError as error:
        raise InputError(f"{owner}: {error}") from error
