"""Prompts as conditions: the tokenizers and text encoders of a pipeline, through diffusers' own ``encode_prompt``.

================================  =======================================================================
Stable Diffusion                  ``encoder_hidden_states`` (N, 77, D), of CLIP
Stable Diffusion 3                ``encoder_hidden_states`` (N, 77 + 256, D), of two CLIPs and T5 (zeros without
                                  it), and ``pooled_projections`` (N, D'), of both CLIPs
================================  =======================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.errors import InputError
from pyro_vipaint.models.pretrained.components import check_safetensors, load_weights, read_json

EncodeText = Callable[[list[str]], dict[str, Tensor]]

ENCODERS = {
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "text_encoder_3": ("T5EncoderModel",),
}
TOKENIZERS = {"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer", "tokenizer_3": "T5TokenizerFast"}


def read_text(folder: Path, device: str | torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The text encoders and tokenizers in a pipeline's folder, by name; empty where there are none.

    Raises:
        InputError: transformers is not installed, or a part cannot be read.
    """
    names = [name for name in ENCODERS if (folder / name).is_dir()]
    if not names:
        return {}
    if find_spec("transformers") is None:
        raise InputError(f"{folder} has a text encoder: install transformers (pip install 'pyro-vipaint[text]').")
    import transformers

    parts: dict[str, Any] = {name: _read_encoder(folder / name, name, dtype, folder).to(device) for name in names}
    for name, kind in TOKENIZERS.items():
        if (folder / name).is_dir():
            parts[name] = _read_tokenizer(getattr(transformers, kind), folder / name, folder)
    return parts


def _read_encoder(root: Path, name: str, dtype: torch.dtype, owner: Path) -> Any:
    import transformers

    check_safetensors(root, owner)
    (kind, *_) = read_json(root / "config.json").get("architectures") or [""]
    if kind not in ENCODERS[name]:
        raise InputError(f"{owner} holds a {kind}; its {name} is read from a {' or '.join(ENCODERS[name])}.")
    return load_weights(getattr(transformers, kind).from_pretrained, root, dtype, owner)


def _read_tokenizer(kind: Any, root: Path, owner: Path) -> Any:
    try:
        return kind.from_pretrained(root, local_files_only=True)
    except Exception as error:  # an OSError, or whatever the reader of a broken vocabulary raises
        raise InputError(f"{owner}: the vocabulary in {root.name} cannot be read.") from error


def text_encoder(parts: Mapping[str, Any]) -> EncodeText | None:
    """What turns prompts into conditions for the network among ``parts``; ``None`` where an encoder is missing."""
    has = {name for name in (*ENCODERS, *TOKENIZERS) if parts.get(name) is not None}
    if "transformer" in parts:
        return _three_encoders(parts) if has >= {"text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"} else None
    return _one_encoder(parts) if has >= {"text_encoder", "tokenizer"} else None


@dataclass(frozen=True, eq=False)
class StableDiffusionText:
    """Prompts for a UNet with cross-attention."""

    pipeline: Any

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> dict[str, Tensor]:
        device = self.pipeline.text_encoder.device
        embedding, _ = self.pipeline.encode_prompt(prompts, device, 1, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": embedding}


@dataclass(frozen=True, eq=False)
class StableDiffusion3Text:
    """Prompts for the transformer of Stable Diffusion 3."""

    pipeline: Any

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> dict[str, Tensor]:
        device = self.pipeline.text_encoder.device
        embedding, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, None, device=device, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": embedding, "pooled_projections": pooled}


def _one_encoder(parts: Mapping[str, Any]) -> EncodeText:
    from diffusers import StableDiffusionPipeline

    others = dict.fromkeys(("vae", "unet", "scheduler", "safety_checker", "feature_extractor"))
    pipeline = StableDiffusionPipeline(
        text_encoder=_frozen(parts["text_encoder"], "CLIPTextModel"),
        tokenizer=parts["tokenizer"],
        requires_safety_checker=False,
        **others,  # pyright: ignore[reportArgumentType]
    )
    return StableDiffusionText(pipeline)


def _three_encoders(parts: Mapping[str, Any]) -> EncodeText:
    from diffusers import StableDiffusion3Pipeline

    encoders = {name: _frozen(parts.get(name), kinds[-1]) for name, kinds in ENCODERS.items()}
    tokenizers = {name: parts.get(name) for name in TOKENIZERS}
    others: dict[str, Any] = {"transformer": parts["transformer"], "vae": None, "scheduler": None}
    return StableDiffusion3Text(StableDiffusion3Pipeline(**encoders, **tokenizers, **others))


def _frozen(encoder: Any, kind: str) -> Any:
    if encoder is not None and type(encoder).__name__ != kind:
        raise InputError(f"The text encoder is a {type(encoder).__name__}; this network takes a {kind}.")
    return encoder if encoder is None else encoder.requires_grad_(False).eval()
