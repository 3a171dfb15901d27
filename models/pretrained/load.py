"""Loading priors: by name (shipped here), from a folder in diffusers' layout, from a hub, or from a pipeline.

A folder holds a network (in ``unet/`` or ``transformer/``, or a UNet at the root), a scheduler (``scheduler/``), for
latent priors an autoencoder (``vae/`` or ``vqvae/``), for text its encoders and tokenizers, and optionally
``prior.json`` with what diffusers has no field for: ``sigma_data``, ``classes``, ``null_label``. Weights are read from
safetensors only; anything else could run code when opened.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from pyro_vipaint.errors import InputError
from pyro_vipaint.models.pretrained.components import NETWORKS, read_components, read_json
from pyro_vipaint.models.pretrained.pipelines import build_prior
from pyro_vipaint.models.pretrained.text import ENCODERS, TOKENIZERS, read_text
from pyro_vipaint.models.priors.prior import DiffusionPrior

# What diffusers and transformers write, and no second copy of the weights in one file or in half precision.
WANTED = ["*.json", "*merges.txt", "*diffusion_pytorch_model*.safetensors", "text_encoder*/model*.safetensors"]
UNWANTED = ["*.fp16*", "*non_ema*"]


def weights_folder() -> Path:
    """Where the shipped priors lie."""
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
        device: where the weights go.
        dtype: in which the networks (denoiser, autoencoder, text encoders) compute: ``torch.bfloat16`` halves the
            memory, on devices that have it. Latents, images and the algebra of the diffusion keep their own.
        checkpointing: recompute the activations of denoiser and decoder instead of keeping them for the gradient.

    Raises:
        InputError: nothing of that name, no safetensors weights, or a model that is not understood.
    """
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InputError(f"dtype must be a floating-point type such as torch.bfloat16, not {dtype}.")
    folder = _find_folder(source)
    details = read_json(folder / "prior.json") if (folder / "prior.json").exists() else {}
    parts = {**read_components(folder, device, dtype), **read_text(folder, device, dtype)}
    try:
        return build_prior(parts, details, Path(source).name, checkpointing)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def from_diffusers(pipeline: Any, *, checkpointing: bool = False) -> DiffusionPrior:
    """The prior inside a diffusers pipeline, whose networks are frozen and compute where and in the dtype they are in.

    Args:
        pipeline: with ``scheduler``; ``unet`` (``UNet2DModel``, ``UNet2DConditionModel``) or ``transformer``
            (``SD3Transformer2DModel``); for latent priors ``vae`` or ``vqvae``; for text its encoders and tokenizers.
            Such are those of DDPM, DDIM, LDM, Stable Diffusion and Stable Diffusion 3.
        checkpointing: as for :func:`load_prior`.

    Raises:
        InputError: the pipeline has other parts than these.
    """
    names = (*NETWORKS, "scheduler", *ENCODERS, *TOKENIZERS)
    parts = {name: getattr(pipeline, name, None) for name in names}
    kind = type(pipeline).__name__
    if parts["scheduler"] is None or (parts["unet"] is None and parts["transformer"] is None):
        raise InputError(f"{kind} is not supported: a pipeline with unet or transformer and scheduler is.")
    try:
        return build_prior(parts, {}, kind, checkpointing)
    except InputError as error:
        raise InputError(f"{kind}: {error}") from error


def _find_folder(source: str | Path) -> Path:
    name = str(source)
    if name in embedded_priors():
        return weights_folder() / name
    if Path(source).is_dir():
        return Path(source)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(source).exists():
        return _download(name)
    raise InputError(
        f"Unknown prior {name!r}: use one of {', '.join(embedded_priors())}, a folder in diffusers' layout, "
        "or a hub id such as owner/name."
    )


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except Exception as error:
        raise InputError(f"Prior {name!r} is neither a folder here nor could it be fetched from the hub.") from error
