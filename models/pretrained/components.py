"""Reading the parts of a pipeline, one folder each, as diffusers' ``save_pretrained`` writes them.

Weights are read from safetensors only; anything else could run code when opened. Each part has the classes that are
understood, so that no folder can name code of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
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


def read_components(folder: Path, device: str | torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The parts in ``folder`` by their names in a pipeline, networks on ``device``; a bare network is the ``unet``.

    Raises:
        InputError: a part is missing, has no safetensors, or is of a class that is not understood.
    """
    found = {name: folder / name for name in NETWORKS if (folder / name).is_dir()}
    if not found.keys() & {"unet", "transformer"}:
        found["unet"] = folder
    parts: dict[str, Any] = {
        name: read_network(path, NETWORKS[name], dtype, owner=folder).to(device) for name, path in found.items()
    }
    return {**parts, "scheduler": read_scheduler(folder)}


def read_network(root: Path, kinds: tuple[str, ...], dtype: torch.dtype, owner: Path) -> nn.Module:
    """A model of diffusers, one of the classes ``kinds``, from its own folder; ``owner`` stands in the messages."""
    import diffusers

    check_safetensors(root, owner)
    kind = read_json(root / "config.json").get("_class_name")
    if kind not in kinds:
        raise InputError(f"{owner} holds a {kind}; priors are read from a {' or '.join(kinds)}.")
    sparing = find_spec("accelerate") is not None  # diffusers warns where it is asked to be and cannot
    network = load_weights(getattr(diffusers, kind).from_pretrained, root, dtype, owner, low_cpu_mem_usage=sparing)
    return nn.Module.to(network, dtype)  # some transformers come in float32 all the same


def load_weights(load: Callable[..., Any], root: Path, dtype: torch.dtype, owner: Path, **options: Any) -> nn.Module:
    """``load`` from the safetensors in ``root``, without the hub."""
    try:
        return load(root, use_safetensors=True, local_files_only=True, torch_dtype=dtype, **options)
    except OSError as error:
        raise InputError(f"{owner} has no weights that can be read: save the model as safetensors.") from error


def check_safetensors(root: Path, owner: Path) -> None:
    """Refuses a folder without safetensors."""
    if any(root.glob("*.safetensors")):
        return
    others = [path.name for path in root.glob("*") if path.suffix in PICKLES]
    reason = f"only {others[0]}, a pickle, which is not opened" if others else "no weights"
    raise InputError(f"{owner} has {reason}: save the model as safetensors.")


def read_scheduler(folder: Path) -> Any:
    """The scheduler of a pipeline's folder."""
    import diffusers

    path = folder / "scheduler"
    if not path.is_dir():
        raise InputError(f"{folder} has no scheduler folder: save the pipeline with save_pretrained.")
    kind = read_json(path / "scheduler_config.json").get("_class_name", "")
    scheduler = getattr(diffusers, kind, None) if isinstance(kind, str) else None
    if not (isinstance(scheduler, type) and issubclass(scheduler, diffusers.SchedulerMixin)):
        raise InputError(f"{folder}: this version of diffusers has no scheduler {kind!r}.")
    return scheduler.from_pretrained(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON.") from error
