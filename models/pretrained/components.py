"""Reading the parts of a pipeline from their folders, as diffusers' ``save_pretrained`` writes them.

Weights are read from safetensors only, since a pickle could run code when opened. Each part is one of the classes
listed here, so that no folder can name code of its own.
"""

from __future__ import annotations

import json
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_vipaint.errors import InputError

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
NETWORKS = {
    "unet": ("UNet2DModel", "UNet2DConditionModel"),
    "transformer": ("SD3Transformer2DModel",),
    "vae": ("AutoencoderKL",),
    "vqvae": ("VQModel",),
}
ENCODERS = {
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "text_encoder_3": ("T5EncoderModel",),
}
TOKENIZERS = {"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer", "tokenizer_3": "T5TokenizerFast"}
PARTS = (*NETWORKS, "scheduler", *ENCODERS, *TOKENIZERS)


def read_components(folder: Path, device: str | torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The :data:`PARTS` in ``folder`` by name, networks on ``device``; a network at the root is the ``unet``.

    Raises:
        InputError: a part cannot be read, has no safetensors, or is of an unknown class.
    """
    found = {name: folder / name for name in (*NETWORKS, *ENCODERS) if (folder / name).is_dir()}
    if not found.keys() & {"unet", "transformer"}:
        found["unet"] = folder
    kinds = {**NETWORKS, **ENCODERS}
    parts: dict[str, Any] = {name: read_network(path, kinds[name], dtype).to(device) for name, path in found.items()}
    if found.keys() & ENCODERS.keys():
        parts |= _read_tokenizers(folder)
    return {**parts, "scheduler": _read_scheduler(folder / "scheduler")}


def read_network(root: Path, kinds: tuple[str, ...], dtype: torch.dtype) -> nn.Module:
    """The model in ``root``, of one of the classes ``kinds`` of diffusers or transformers."""
    config = read_json(root / "config.json")
    kind = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    if kind not in kinds:
        raise InputError(f"{root} holds a {kind}, not a {' or '.join(kinds)}.")
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "torch_dtype": dtype}
    if "_class_name" in config:
        library = import_module("diffusers")
        options["low_cpu_mem_usage"] = find_spec("accelerate") is not None  # diffusers warns if it is missing
    else:
        library = _transformers(root)
    network = None
    if any(root.glob("*.safetensors")):
        with suppress(OSError):  # they are not those of the network
            network = getattr(library, kind).from_pretrained(root, **options)
    if network is None:
        pickles = sorted(path.name for path in root.iterdir() if path.suffix in PICKLES)
        found = f"only {pickles[0]}, a pickle, which is not opened" if pickles else "no weights that can be read"
        raise InputError(f"{root} has {found}: save the model as safetensors.")
    # from_pretrained leaves some models of diffusers in float32; text encoders keep the layers that need it
    return nn.Module.to(network, dtype) if "_class_name" in config else network


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path} is missing or does not hold a JSON object.")
    return value


def _read_scheduler(folder: Path) -> Any:
    import diffusers

    kind = read_json(folder / "scheduler_config.json").get("_class_name")
    scheduler = getattr(diffusers, kind, None) if isinstance(kind, str) else None
    if not (isinstance(scheduler, type) and issubclass(scheduler, diffusers.SchedulerMixin)):
        raise InputError(f"{folder}: this version of diffusers has no scheduler {kind!r}.")
    return scheduler.from_pretrained(folder)


def _read_tokenizers(folder: Path) -> dict[str, Any]:
    library, tokenizers = _transformers(folder), {}
    for name, kind in TOKENIZERS.items():
        if (folder / name).is_dir():
            try:
                tokenizers[name] = getattr(library, kind).from_pretrained(folder / name, local_files_only=True)
            except Exception as error:  # an OSError, or anything that the reader of a broken vocabulary raises
                raise InputError(f"{folder}: the vocabulary in {name} cannot be read.") from error
    return tokenizers


def _transformers(folder: Path) -> Any:
    if find_spec("transformers") is None:
        raise InputError(f"{folder} has a text encoder: install transformers (pip install 'pyro-vipaint[text]').")
    return import_module("transformers")
