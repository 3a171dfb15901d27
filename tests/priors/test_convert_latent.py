"""Latent diffusion under the authors' names, written from networks of diffusers, comes back unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel
from safetensors.torch import save_file
from torch import Tensor, nn

from pyro_vipaint.errors import InputError
from pyro_vipaint.models import convert, load_prior
from pyro_vipaint.models.pretrained.convert_unets import autoencoder
from tests.pipelines import livelier

ALPHAS_CUMPROD = (1 - torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)

# ImageNet-256: from the names of diffusers to those of the authors

UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0": "output_blocks.1.2",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    ".norm1.": ".in_layers.0.",
    ".conv1.": ".in_layers.2.",
    ".time_emb_proj.": ".emb_layers.1.",
    ".norm2.": ".out_layers.0.",
    ".conv2.": ".out_layers.3.",
    ".conv_shortcut.": ".skip_connection.",
}
AUTOENCODER = {
    "up_blocks.0": "up.1",
    "up_blocks.1": "up.0",
    "down_blocks": "down",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    ".resnets.": ".block.",
    "samplers.0.conv": "sample.conv",
    "group_norm": "norm",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "to_out.0": "proj_out",
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
}
WIDTHS, LAYERS = (32, 32), 1


def renamed(name: str, table: dict[str, str]) -> str:
    """A weight of diffusers under its name in latent diffusion."""
    for ours, theirs in table.items():
        name = name.replace(ours, theirs)
    return name


def as_theirs(name: str, weight: Tensor) -> Tensor:
    """The attention of the autoencoder consists of 1×1 convolutions there, of matrices in diffusers."""
    return weight[..., None, None].contiguous() if ".attn_1." in name and weight.ndim == 2 else weight


def first_stage(autoencoder: nn.Module) -> dict[str, Tensor]:
    """The autoencoder's part of a state dict of latent diffusion."""
    named = {renamed(name, AUTOENCODER): weight for name, weight in autoencoder.state_dict().items()}
    return {f"first_stage_model.{name}": as_theirs(name, weight) for name, weight in named.items()}


def checkpoint(unet: nn.Module, vqvae: nn.Module, table: Tensor) -> dict[str, Tensor]:
    """The state dict of a latent diffusion of classes."""
    weights = {}
    for name, weight in unet.state_dict().items():
        inside = {} if ".transformer_blocks." in name else RESNET
        weights[f"model.diffusion_model.{renamed(name, {**UNET, **inside})}"] = weight
    return {**weights, **first_stage(vqvae), "cond_stage_model.embedding.weight": table}


def configuration(latent_channels: int = 3) -> dict[str, Any]:
    """The configuration of cin256-v2.yaml with two levels."""
    unet = {
        "in_channels": 3,
        "out_channels": 3,
        "model_channels": WIDTHS[0],
        "attention_resolutions": [2],
        "num_res_blocks": LAYERS,
        "channel_mult": [1, 1],
        "num_heads": 1,
        "transformer_depth": 1,
        "context_dim": 8,
    }
    layers = {
        "z_channels": latent_channels,
        "resolution": 32,
        "in_channels": 3,
        "out_ch": 3,
        "ch": WIDTHS[0],
        "ch_mult": [1, 1],
        "num_res_blocks": LAYERS,
    }
    parts = {"unet_config": unet, "first_stage_config": {"embed_dim": 3, "n_embed": 16, "ddconfig": layers}}
    betas = {"linear_start": 0.0015, "linear_end": 0.0195, "timesteps": 1000, "image_size": 16}
    return {"model": {"params": {**betas, **{name: {"params": value} for name, value in parts.items()}}}}


def _networks() -> tuple[Any, Any]:
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=WIDTHS,
        layers_per_block=LAYERS,
        cross_attention_dim=8,
        attention_head_dim=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vqvae = VQModel(
        block_out_channels=WIDTHS,
        layers_per_block=LAYERS,
        num_vq_embeddings=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return livelier(unet), livelier(vqvae)


@torch.no_grad()
def test_a_checkpoint_of_latent_diffusion_converts(tmp_path: Path) -> None:
    """A UNet with cross-attention and a VQModel under the authors' names come back unchanged, guidance included."""
    (unet, vqvae), table = _networks(), torch.randn(5, 8)
    nn.init.normal_(vqvae.quantize.embedding.weight)
    save_file(checkpoint(unet, vqvae, table), tmp_path / "imagenet256.safetensors")
    (tmp_path / "cin256-v2.yaml").write_text(json.dumps(configuration()), encoding="utf-8")  # JSON is YAML
    convert(tmp_path / "imagenet256.safetensors", tmp_path / "prior", config=tmp_path / "cin256-v2.yaml")

    prior = load_prior(tmp_path / "prior")
    assert (prior.event_shape, prior.image_shape) == ((3, 16, 16), (3, 32, 32))
    assert prior.class_names == ("0", "1", "2", "3") and prior.guided_by == ("class_labels",)
    labels, z = torch.tensor([3, 1]), torch.randn(2, 3, 16, 16)
    alpha, sigma = ALPHAS_CUMPROD[600].sqrt(), (1 - ALPHAS_CUMPROD[600]).sqrt()
    given = unet(z, 600, table[labels][:, None]).sample
    null = unet(z, 600, table[-1:, None].expand(2, -1, -1)).sample
    assert (given - null).abs().max() > 0.01
    for noise, condition in ((given, {"guidance_scale": 1.0}), (null + 3 * (given - null), {"guidance_scale": 3.0})):
        ours = prior.denoise(z, 601 / 1000, class_labels=labels, **condition)
        torch.testing.assert_close(ours, ((z - sigma * noise) / alpha).float(), rtol=1e-4, atol=1e-4)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(prior.encode(x), vqvae.encode(x).latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prior.decode(z), vqvae.decode(z).sample, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_autoencoder_of_latent_diffusion_converts() -> None:
    """AutoencoderKL under the authors' names comes back unchanged, with the factor that is given."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": WIDTHS, "layers_per_block": LAYERS, "latent_channels": 4}
    vae = livelier(AutoencoderKL(**{**blocks, **sizes}))
    tensors = {name.removeprefix("first_stage_model."): value for name, value in first_stage(vae).items()}
    part = autoencoder(tensors, groups=32, scale=0.6, sample_size=32)
    again: Any = AutoencoderKL.from_config(part.config)
    again.load_state_dict(part.tensors)
    x, z = torch.rand(1, 3, 32, 32), torch.randn(1, 4, 16, 16)
    assert again.config["scaling_factor"] == pytest.approx(0.6)
    torch.testing.assert_close(again.encode(x).latent_dist.mode(), vae.encode(x).latent_dist.mode())
    torch.testing.assert_close(again.decode(z).sample, vae.decode(z).sample)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_file_in_half_precision_has_the_schedule_that_it_states(tmp_path: Path, dtype: torch.dtype) -> None:
    """Its table of noise levels is rounded too; another schedule is refused in half precision as well."""
    tensors = checkpoint(*_networks(), torch.randn(5, 8)) | {"alphas_cumprod": ALPHAS_CUMPROD}
    save_file({name: value.to(dtype) for name, value in tensors.items()}, tmp_path / "file.safetensors")
    params = configuration()["model"]["params"]
    convert(tmp_path / "file.safetensors", tmp_path / "prior", config=params)
    with pytest.raises(InputError, match="another schedule"):
        convert(tmp_path / "file.safetensors", tmp_path / "other", config={**params, "linear_end": 0.0194})


@pytest.mark.parametrize(
    "name", ["logvar", "encoder.mid.attn_1.q", "encoder.down.x.block.0.conv1.weight", "decoder.up.0.upsample"]
)
def test_a_weight_that_no_autoencoder_has_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"first_stage_model.{name} has no place"):
        autoencoder({name: torch.zeros(1)}, groups=32, scale=1.0, sample_size=32)


def _with_a_mask(weights: dict[str, Tensor]) -> None:
    """As latent diffusion's network for inpainting, which takes the masked picture and the mask beside the noise."""
    first = "model.diffusion_model.input_blocks.0.0.weight"
    weights[first] = torch.cat([weights[first], weights[first], weights[first][:, :1]], 1)


def _with_another_autoencoder(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if name.startswith("first_stage_model.")]:
        del weights[name]
    sizes: dict[str, Any] = {"block_out_channels": WIDTHS, "layers_per_block": LAYERS, "latent_channels": 4}
    sizes |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    weights |= first_stage(AutoencoderKL(**sizes))


@pytest.mark.parametrize(
    ("change", "config", "says"),
    [
        (lambda w: w.update(scale_factor=torch.ones(2)), {}, "neither the weights nor the arguments"),
        (lambda w: None, {"scale_factor": 1e300}, "at most 1e"),
        (_with_a_mask, {}, "predicts 3 channels of 7"),
        (_with_another_autoencoder, {}, "latents have 4 channels, the UNet takes 3"),
    ],
)
def test_what_no_prior_is_made_of_is_refused_and_not_written(
    tmp_path: Path, change: Any, config: dict[str, Any], says: str
) -> None:
    tensors = checkpoint(*_networks(), torch.randn(5, 8))
    change(tensors)
    save_file(tensors, tmp_path / "file.safetensors")
    with pytest.raises(InputError, match=says):
        convert(
            tmp_path / "file.safetensors", tmp_path / "prior", config={**configuration()["model"]["params"], **config}
        )
    assert not (tmp_path / "prior").exists()
