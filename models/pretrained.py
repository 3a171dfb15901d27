"""Loading priors: by name (shipped here), from a folder in diffusers' layout, from a hub, or from a pipeline.

A folder holds a ``UNet2DModel`` (in ``unet/`` or at its root), a scheduler (``scheduler/``), and optionally
``prior.json`` with what diffusers has no field for: ``sigma_data``, ``classes``, ``null_label``. Weights are read
from safetensors only; anything else could run code when opened.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vipaint.denoisers import (
    EDMDenoiser,
    EpsilonDenoiser,
    NetworkDenoiser,
    SampleDenoiser,
    VDenoiser,
    integer_timestep,
)
from pyro_vipaint.errors import InputError
from pyro_vipaint.models.priors import DiffusionPrior
from pyro_vipaint.schedules import EDM, TableVP

BY_PREDICTION: dict[str, type[NetworkDenoiser]] = {
    "epsilon": EpsilonDenoiser,
    "v_prediction": VDenoiser,
    "sample": SampleDenoiser,
}


@dataclass(frozen=True, eq=False)
class LabelledNetwork:
    """A class-conditional network that is given the "no label" class, if it has one, where the caller names none."""

    network: nn.Module
    null_label: int | None

    def __call__(self, z: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Any:
        if class_labels is None:
            if self.null_label is None:
                raise InputError("This prior is class-conditional and names no null_label in prior.json: give a label.")
            class_labels = torch.full((len(z),), self.null_label, device=z.device)
        return self.network(z, timestep, class_labels=class_labels)


def weights_folder() -> Path:
    """Where the shipped priors lie."""
    return Path(str(files("pyro_vipaint.models"))) / "weights"


def embedded_priors() -> list[str]:
    """Names of the priors that ship with the library."""
    return sorted(folder.parent.name for folder in weights_folder().glob("*/prior.json"))


def load_prior(source: str | Path, device: str | torch.device = "cpu") -> DiffusionPrior:
    """A prior by its shipped name, from a local folder, or by a hub id ``owner/name``.

    Raises:
        InputError: nothing of that name, no safetensors weights, or a model that is not understood.
    """
    folder = _find_folder(source)
    details = _read_json(folder / "prior.json") if (folder / "prior.json").exists() else {}
    network = _load_network(folder, device)
    scheduler = _load_scheduler(folder)
    try:
        return build_prior(network, scheduler, details, name=Path(source).name)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def from_diffusers(pipeline: Any) -> DiffusionPrior:
    """The prior inside a diffusers pipeline that has a ``unet`` (``UNet2DModel``) and a ``scheduler``, in pixels.

    Raises:
        InputError: the pipeline has other parts than these.
    """
    if not hasattr(pipeline, "unet") or not hasattr(pipeline, "scheduler") or hasattr(pipeline, "vae"):
        raise InputError(f"{type(pipeline).__name__} is not supported: a pixel pipeline with unet and scheduler is.")
    return build_prior(pipeline.unet, pipeline.scheduler, {}, name=type(pipeline).__name__)


def build_prior(network: nn.Module, scheduler: Any, details: dict[str, Any], name: str) -> DiffusionPrior:
    """The prior of a ``UNet2DModel`` and the diffusers scheduler it was trained for."""
    config: Any = network.config
    size = config.sample_size
    if size is None or config.in_channels != config.out_channels:
        raise InputError("The network must state its sample_size and return as many channels as it takes.")
    height, width = (size, size) if isinstance(size, int) else size
    network.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    call: Any = network
    if config.num_class_embeds:
        call = LabelledNetwork(network, details.get("null_label"))
    denoiser = _build_denoiser(call, scheduler)
    unnamed = [str(label) for label in range(config.num_class_embeds or 0)]
    return DiffusionPrior(
        denoiser.schedule,
        denoiser,
        torch.Size((config.in_channels, height, width)),
        data_std=details.get("sigma_data", getattr(denoiser, "sigma_data", 0.5)),
        class_names=tuple(details.get("classes", unnamed)),
        name=name,
    )


def _build_denoiser(network: Any, scheduler: Any) -> NetworkDenoiser:
    config = scheduler.config
    kind = type(scheduler).__name__
    if kind.startswith("EDM"):
        if config.prediction_type != "epsilon" or config.sigma_schedule != "karras":
            raise InputError(
                f"{kind} with prediction_type {config.prediction_type} and sigma_schedule {config.sigma_schedule} "
                "is not supported: epsilon with karras is."
            )
        schedule = EDM(config.sigma_min, config.sigma_max, config.get("rho", 7.0))
        return EDMDenoiser(network, schedule, sigma_data=config.sigma_data)
    prediction = config.get("prediction_type", "epsilon")
    if not hasattr(scheduler, "alphas_cumprod") or prediction not in BY_PREDICTION:
        raise InputError(f"Scheduler {kind} with prediction_type {prediction} is not supported.")
    schedule = TableVP(scheduler.alphas_cumprod.tolist())
    return BY_PREDICTION[prediction](network, schedule, integer_timestep(schedule.num_steps))


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
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:
        raise InputError(f"Prior {name!r} is neither a folder here nor could it be fetched from the hub.") from error


def _load_network(folder: Path, device: str | torch.device) -> nn.Module:
    from diffusers import UNet2DModel

    root = folder / "unet" if (folder / "unet").is_dir() else folder
    if not any(root.glob("*.safetensors")):
        others = [path.name for path in root.glob("*") if path.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}]
        reason = f"only {others[0]}, a pickle, which is not opened" if others else "no weights"
        raise InputError(f"{folder} has {reason}: save the model as safetensors.")
    kind = _read_json(root / "config.json").get("_class_name")
    if kind != "UNet2DModel":
        raise InputError(f"{folder} holds a {kind}; priors are read from a UNet2DModel.")
    try:
        network: Any = UNet2DModel.from_pretrained(
            root, use_safetensors=True, local_files_only=True, torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
    except OSError as error:
        raise InputError(f"{folder} has no weights that diffusers can read: save the model as safetensors.") from error
    return network.to(device)


def _load_scheduler(folder: Path) -> Any:
    import diffusers

    path = folder / "scheduler"
    if not path.is_dir():
        raise InputError(f"{folder} has no scheduler folder: save the pipeline with save_pretrained.")
    kind = _read_json(path / "scheduler_config.json").get("_class_name", "")
    scheduler = getattr(diffusers, kind, None) if isinstance(kind, str) else None
    if not (isinstance(scheduler, type) and issubclass(scheduler, diffusers.SchedulerMixin)):
        raise InputError(f"{folder}: this version of diffusers has no scheduler {kind!r}.")
    return scheduler.from_pretrained(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON.") from error
