"""The networks of the published checkpoints at full width, with random weights.

The arguments are those that :func:`pyro_vipaint.models.convert` finds in the published names and shapes
(``tests/bench/test_full_size.py`` compares them where these are at hand). Those of EDM's FFHQ network, of Stable
Diffusion 1.5 and of the transformer of 3.5 medium are those of their repositories.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vipaint.models import DiffusionPrior, from_diffusers
from pyro_vipaint.models.pretrained.components import OWN


@dataclass(frozen=True)
class Published:
    """A checkpoint.

    Attributes:
        parts: class and arguments of its networks, by name of the part.
        scheduler: the configuration of its scheduler.
        text: shape of each condition of one image, for networks that take text.
        classes: number of classes, where it takes labels.
    """

    parts: dict[str, tuple[str, dict[str, Any]]]
    scheduler: dict[str, Any]
    text: dict[str, tuple[int, ...]] = field(default_factory=dict)
    classes: int = 0


def _levels(count: int, attending: tuple[int, ...], attends: str, plain: str) -> dict[str, Any]:
    down = [(attends if level in attending else plain).format("Down") for level in range(count)]
    up = [(attends if level in attending else plain).format("Up") for level in reversed(range(count))]
    return {"down_block_types": down, "up_block_types": up}


def _song(side: int, widths: list[int], attending: list[int], classes: int | None) -> tuple[str, dict[str, Any]]:
    """DDPM++ of EDM."""
    return "ResidualUNet", {
        "sample_size": side, "in_channels": 3, "out_channels": 3, "base_channels": 128, "block_out_channels": widths,
        "layers_per_block": 4, "attention_levels": attending, "up_attention": "last", "num_heads": 1,
        "attention_head_dim": None, "norm_num_groups": 32, "min_group_channels": 4, "norm_eps": 1e-6,
        "scale_shift": False, "skip_scale": math.sqrt(0.5), "resample_filter": [1, 1], "skip_kernels": True,
        "residual_inputs": False, "noise_channels": 128, "embedding_channels": 512, "noise_embedding": "positional",
        "sines_first": True, "endpoint": True, "num_class_embeds": classes, "class_in_noise": True,
    }  # fmt: skip


def _adm(
    side: int, widths: list[int], layers: int, attending: tuple[int, ...], outputs: int, classes: int | None
) -> tuple[str, dict[str, Any]]:
    """The network of guided-diffusion."""
    return "UNet2DModel", {
        "sample_size": side, "in_channels": 3, "out_channels": outputs, "block_out_channels": widths,
        "layers_per_block": layers, "num_class_embeds": classes, "norm_num_groups": 32, "attn_norm_num_groups": 32,
        "attention_head_dim": 64, "downsample_type": "resnet", "upsample_type": "resnet", "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift", "time_embedding_dim": 4 * widths[0],
        **_levels(len(widths), attending, "Attn{}Block2D", "Resnet{}sampleBlock2D"),
    }  # fmt: skip


def _autoencoder(kind: str, widths: list[int], channels: int, scale: float, side: int, **more: Any) -> Any:
    return kind, {
        "sample_size": side, "in_channels": 3, "out_channels": 3, "latent_channels": channels,
        "block_out_channels": widths, "layers_per_block": 2, "norm_num_groups": 32, "scaling_factor": scale,
        **_levels(len(widths), (), "", "{}EncoderBlock2D"),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths), **more,
    }  # fmt: skip


def _ddpm(schedule: str) -> dict[str, Any]:
    return {
        "_class_name": "DDPMScheduler", "beta_schedule": schedule, "num_train_timesteps": 1000, "beta_start": 1e-4,
        "beta_end": 0.02, "prediction_type": "epsilon", "variance_type": "learned_range", "clip_sample": False,
    }  # fmt: skip


def _ddim(start: float, end: float) -> dict[str, Any]:
    return {
        "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": start, "beta_end": end,
        "num_train_timesteps": 1000, "prediction_type": "epsilon", "clip_sample": False,
    }  # fmt: skip


EDM = {
    "_class_name": "EDMEulerScheduler", "num_train_timesteps": 1000, "prediction_type": "epsilon", "rho": 7.0,
    "sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002, "sigma_schedule": "karras",
}  # fmt: skip
ADM_64 = (64, [192, 384, 576, 768], 3, (1, 2, 3))
KL_F8 = [128, 256, 512, 512]
PUBLISHED: dict[str, Published] = {
    "edm-cifar10-cond-ddpmpp": Published({"unet": _song(32, [256] * 3, [1], 11)}, EDM, classes=10),
    "edm-ffhq-uncond-ddpmpp": Published({"unet": _song(64, [128, 256, 256, 256], [2], None)}, EDM),
    "edm-imagenet64-cond-adm": Published({"unet": _adm(*ADM_64, 3, 1001)}, EDM, classes=1000),
    "guided-diffusion-imagenet64-cond": Published(
        {"unet": _adm(*ADM_64, 6, 1000)}, _ddpm("squaredcos_cap_v2"), classes=1000
    ),
    "guided-diffusion-imagenet256-uncond": Published(
        {"unet": _adm(256, [256, 256, 512, 512, 1024, 1024], 2, (3, 4, 5), 6, None)}, _ddpm("linear")
    ),
    "ldm-cin256-v2": Published(
        {
            "unet": (
                "LabelledUNet",
                {
                    "sample_size": 64, "in_channels": 3, "out_channels": 3, "block_out_channels": [192, 384, 576, 960],
                    "layers_per_block": 2, "num_class_embeds": 1001, "norm_num_groups": 32,
                    "attention_head_dim": [1] * 4, "cross_attention_dim": 512,
                    **_levels(4, (1, 2, 3), "CrossAttn{}Block2D", "{}Block2D"),
                },
            ),
            "vqvae": _autoencoder(
                "VQModel", [128, 256, 512], 3, 1.0, 256, num_vq_embeddings=8192, vq_embed_dim=3
            ),
        },
        _ddim(0.0015, 0.0195), classes=1000,
    ),
    "ldm-lsun-churches256": Published(
        {
            "unet": (
                "ResidualUNet",
                {
                    "sample_size": 32, "in_channels": 4, "out_channels": 4, "base_channels": 192,
                    "block_out_channels": [192, 384, 384, 768, 768], "layers_per_block": 2,
                    "attention_levels": [0, 1, 2, 3], "up_attention": "all", "scale_shift": True, "noise_channels": 192,
                    "embedding_channels": 768, "noise_embedding": "positional", "num_class_embeds": None,
                    "residual_inputs": False, "num_heads": 8, "norm_num_groups": 32, "attention_head_dim": None,
                    "min_group_channels": 1,
                },
            ),
            "vae": _autoencoder("AutoencoderKL", KL_F8, 4, 1.0, 256),
        },
        _ddim(0.0015, 0.0155),
    ),
    "stable-diffusion-1.5": Published(
        {
            "unet": (
                "UNet2DConditionModel",
                {
                    "sample_size": 64, "in_channels": 4, "out_channels": 4,
                    "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2, "attention_head_dim": 8,
                    "cross_attention_dim": 768, "norm_num_groups": 32,
                    **_levels(4, (0, 1, 2), "CrossAttn{}Block2D", "{}Block2D"),
                },
            ),
            "vae": _autoencoder("AutoencoderKL", KL_F8, 4, 0.18215, 512),
        },
        _ddim(0.00085, 0.012), text={"encoder_hidden_states": (77, 768)},
    ),
    "stable-diffusion-3.5-medium": Published(  # at 512 pixels; the text is 77 tokens of CLIP and 256 of T5
        {
            "transformer": (
                "SD3Transformer2DModel",
                {
                    "sample_size": 64, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
                    "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
                    "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 384,
                    "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm",
                },
            ),
            "vae": _autoencoder(
                "AutoencoderKL", KL_F8, 16, 1.5305, 1024, shift_factor=0.0609, use_quant_conv=False,
                use_post_quant_conv=False,
            ),
        },
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
        text={"encoder_hidden_states": (333, 4096), "pooled_projections": (2048,)},
    ),
}  # fmt: skip


@contextmanager
def made_in(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Tensors that are made inside are of this dtype, on this device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def network(kind: str, arguments: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A network with random weights, drawn by its constructor."""
    model = getattr(import_module(OWN.get(kind, "diffusers")), kind)
    with made_in(device, dtype):
        built = model.from_config(arguments)
    return nn.Module.to(built, device, dtype)


def build(name: str, device: torch.device, dtype: torch.dtype, checkpointing: bool) -> tuple[DiffusionPrior, int]:
    """The prior of a checkpoint by its name, and its number of parameters."""
    import diffusers

    published = PUBLISHED[name]
    parts = {part: network(*made, device, dtype) for part, made in published.parts.items()}
    kind = published.scheduler["_class_name"]
    scheduler = getattr(diffusers, kind).from_config(published.scheduler)
    prior = from_diffusers(SimpleNamespace(**parts, scheduler=scheduler), checkpointing=checkpointing)
    return prior, sum(p.numel() for module in parts.values() for p in module.parameters())


def condition(name: str, device: torch.device) -> dict[str, Tensor]:
    """What the network of one image is conditioned on: a class, or random embeddings in the place of a text."""
    published = PUBLISHED[name]
    text = {key: torch.randn(1, *shape, device=device) for key, shape in published.text.items()}
    return text | ({"class_labels": torch.zeros(1, dtype=torch.long, device=device)} if published.classes else {})
