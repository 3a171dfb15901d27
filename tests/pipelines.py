"""Small random pipelines of diffusers that several tests share."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    LDMPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    VQModel,
)
from torch import nn

from tests.networks import random_unet

LATENT = (4, 8, 8)
IMAGE = (3, 16, 16)
WIDTH = 16  # of a CLIP
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def livelier(module: Any, factor: float = 1.5) -> Any:
    """The same module with larger weights, so that its output depends on every input; its own are close to zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)
    return module.eval()


def random_vae(**settings: Any) -> AutoencoderKL:
    """Images (3, 16, 16) to latents (4, 8, 8), scaled and shifted."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    widths = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4}
    return livelier(AutoencoderKL(**{**blocks, **widths, "scaling_factor": 0.7, "shift_factor": 0.2, **settings}))


def random_vq(**settings: Any) -> VQModel:
    """Images (3, 16, 16) to latents (4, 8, 8) that a codebook of 32 entries of order one quantises."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    widths = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4, "num_vq_embeddings": 32}
    network = livelier(VQModel(**{**blocks, **widths, "scaling_factor": 0.6, **settings}))
    nn.init.normal_(network.quantize.embedding.weight)
    return network


def ldm_pipeline() -> LDMPipeline:
    """Unconditional latent diffusion on quantised latents."""
    unet = random_unet(in_channels=4, out_channels=4)
    return LDMPipeline(random_vq(), unet, DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False))


def random_tokenizer() -> Any:
    """CLIP's byte pairs with an alphabet and no merges: a token a letter."""
    from transformers import CLIPTokenizer

    special = ("<|startoftext|>", "<|endoftext|>")
    tokens = (*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *special)
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def random_clip(projection: bool) -> Any:
    """A CLIP text encoder of width 16 for the alphabet, with or without its projection."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    vocabulary = 2 * len(LETTERS) + 2
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=32,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return livelier((CLIPTextModelWithProjection if projection else CLIPTextModel)(config), 3.0)


def random_t5() -> tuple[Any, Any]:
    """``(encoder, tokenizer)`` of a T5 of width 32 for the alphabet."""
    import transformers
    from transformers import T5Config, T5EncoderModel

    tokenizer_class: Any = transformers.T5TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    config = T5Config(vocab_size=len(pieces), d_model=2 * WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return livelier(T5EncoderModel(config)), tokenizer_class(vocab=pieces, extra_ids=0)


def random_conditional_unet(**settings: Any) -> UNet2DConditionModel:
    """A UNet on latents (4, 8, 8) with cross-attention to width 16."""
    return livelier(
        UNet2DConditionModel(
            **{
                "sample_size": 8,
                "block_out_channels": (8, 16),
                "layers_per_block": 1,
                "norm_num_groups": 4,
                "attention_head_dim": 4,
                "cross_attention_dim": WIDTH,
                "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
                **settings,
            }
        )
    )


def ddpm(**settings: Any) -> Any:
    """The chain with the variance of Eq. 3 and the table of latent diffusion."""
    kept = {"beta_schedule": "scaled_linear", "variance_type": "fixed_small", "clip_sample": False, "steps_offset": 1}
    return diffusers.DDPMScheduler(**{**kept, **settings})


def stable_diffusion(**scheduler: Any) -> StableDiffusionPipeline:
    """Text to image with one CLIP."""
    parts = {"vae": random_vae(shift_factor=None), "text_encoder": random_clip(False), "tokenizer": random_tokenizer()}
    others: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, unet=random_conditional_unet(), scheduler=ddpm(**scheduler), **others)


def random_transformer() -> SD3Transformer2DModel:
    """The transformer of Stable Diffusion 3 on latents (4, 8, 8)."""
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
    )
    return livelier(transformer, 2.0)


def stable_diffusion_3(t5: bool = False, shift: float = 3.0) -> StableDiffusion3Pipeline:
    """Text to image by a rectified flow with two CLIPs, and T5 if asked for."""
    encoder, tokenizer = random_t5() if t5 else (None, None)
    parts: dict[str, Any] = {"text_encoder_3": encoder, "tokenizer_3": tokenizer}
    for ending in ("", "_2"):
        parts |= {f"text_encoder{ending}": random_clip(True), f"tokenizer{ending}": random_tokenizer()}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    return StableDiffusion3Pipeline(
        transformer=random_transformer(), vae=random_vae(use_quant_conv=False), scheduler=scheduler, **parts
    )
