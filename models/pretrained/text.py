"""Prompts as conditions: the tokenizers and text encoders of a pipeline, through ``encode_prompt`` of diffusers.

================================  =======================================================================
Stable Diffusion                  ``encoder_hidden_states`` (N, 77, D), of CLIP
Stable Diffusion 3                ``encoder_hidden_states`` (N, 77 + 256, D), of two CLIPs and T5 (zeros without
                                  it), and ``pooled_projections`` (N, D'), of both CLIPs
================================  =======================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.errors import InputError
from pyro_vipaint.models.pretrained.components import ENCODERS, TOKENIZERS

EncodeText = Callable[[list[str]], dict[str, Tensor]]


def text_encoder(parts: Mapping[str, Any]) -> EncodeText | None:
    """Prompts -> conditions of the network among ``parts``; ``None`` if a text encoder is missing."""
    if "transformer" in parts:
        needed = {"text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"}
        return _stable_diffusion_3(parts) if parts.keys() >= needed else None
    return _stable_diffusion(parts) if parts.keys() >= {"text_encoder", "tokenizer"} else None


def _stable_diffusion(parts: Mapping[str, Any]) -> EncodeText:
    """The conditions of a UNet with cross-attention."""
    from diffusers import StableDiffusionPipeline

    others = dict.fromkeys(("vae", "unet", "scheduler", "safety_checker", "feature_extractor"))
    pipeline = StableDiffusionPipeline(
        text_encoder=_frozen(parts["text_encoder"], "CLIPTextModel"),
        tokenizer=parts["tokenizer"],
        requires_safety_checker=False,
        **others,  # pyright: ignore[reportArgumentType]
    )

    @torch.no_grad()
    def encode(prompts: list[str]) -> dict[str, Tensor]:
        device = pipeline.text_encoder.device
        embedding, _ = pipeline.encode_prompt(prompts, device, 1, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": embedding}

    return encode


def _stable_diffusion_3(parts: Mapping[str, Any]) -> EncodeText:
    """The conditions of the transformer of Stable Diffusion 3."""
    from diffusers import StableDiffusion3Pipeline

    encoders = {name: _frozen(parts.get(name), kinds[-1]) for name, kinds in ENCODERS.items()}
    tokenizers = {name: parts.get(name) for name in TOKENIZERS}
    others: dict[str, Any] = {"transformer": parts["transformer"], "vae": None, "scheduler": None}
    pipeline: Any = StableDiffusion3Pipeline(**encoders, **tokenizers, **others)

    @torch.no_grad()
    def encode(prompts: list[str]) -> dict[str, Tensor]:
        device = pipeline.text_encoder.device
        embedding, _, pooled, _ = pipeline.encode_prompt(
            prompts, None, None, device=device, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": embedding, "pooled_projections": pooled}

    return encode


def _frozen(encoder: Any, kind: str) -> Any:
    if encoder is not None and type(encoder).__name__ != kind:
        raise InputError(f"The text encoder is a {type(encoder).__name__}; this network takes a {kind}.")
    return encoder if encoder is None else encoder.requires_grad_(False).eval()
