"""The code of docs/priors.md runs as printed, on small random networks, and gives the priors that it describes."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pyro_vipaint as vp
from benchmarks import memory
from pyro_vipaint.models import load_prior
from pyro_vipaint.models.priors.denoisers import EDMDenoiser
from pyro_vipaint.models.priors.schedules import EDM
from tests.networks import random_unet
from tests.pipelines import livelier, random_vae
from tests.priors.test_pretrained import Bomb

LATENT, IMAGE = (4, 16, 16), (3, 32, 32)  # large enough for LPIPS
DOCUMENT = Path(__file__).parents[2] / "docs" / "priors.md"
ALPHAS_CUMPROD = (1 - torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)


def run_block(containing: str, **names: Any) -> dict[str, Any]:
    """The names after the one block of Python that contains the text."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    (code,) = (block for block in blocks if containing in block)
    exec(code.replace("(4, 32, 32)", str(LATENT)), names)
    return names


# a user's network and autoencoder


@pytest.fixture(scope="module")
def ten_lines() -> dict[str, Any]:
    """The names after the ten lines on a random network and autoencoder; the left half of an image is observed."""
    torch.manual_seed(0)
    image, mask = torch.rand(IMAGE) * 2 - 1, torch.zeros(IMAGE[1:])
    mask[:, :16] = 1
    names: dict[str, Any] = {"image": image, "mask": mask, "alphas_cumprod": ALPHAS_CUMPROD.tolist()}
    network = random_unet(sample_size=16, in_channels=4, out_channels=4)
    return run_block('name="mine"', network=network, autoencoder=random_vae(shift_factor=None), **names)


def test_the_ten_lines_inpaint(ten_lines: dict[str, Any]) -> None:
    """Ten lines; K + 1 calls for each step of the fit, one before it, K - 1 for sampling, one per refinement step."""
    block = next(b for b in DOCUMENT.read_text(encoding="utf-8").split("```") if 'name="mine"' in b)
    assert len([line for line in block.splitlines()[1:] if line]) <= 10
    result, settings = ten_lines["result"], ten_lines["result"].settings
    assert result.calls == 1 + settings.steps * (2 + 1) + 1 + settings.refine_steps
    assert result.samples.shape == (10, 1, *IMAGE) and result.samples.isfinite().all()
    assert result.fit.bounds.isfinite().all() and len(result.fit.bounds) == settings.steps
    assert not any(p.requires_grad for m in (ten_lines["network"], ten_lines["autoencoder"]) for p in m.parameters())


@torch.no_grad()
def test_its_transition_by_hand(ten_lines: dict[str, Any]) -> None:
    """Step n to step m is the Gaussian bridge at the clean latent implied by the predicted noise."""
    for n, m in ((999, 500), (400, 399), (30, 2)):
        prior, z = ten_lines["prior"], torch.randn(2, *LATENT)
        noise = ten_lines["network"](z, n).sample.double()
        at, below = ALPHAS_CUMPROD[n], ALPHAS_CUMPROD[m]
        clean = (z.double() - (1 - at).sqrt() * noise) / at.sqrt()
        ratio = at / below
        mean = (ratio.sqrt() * (1 - below) * z.double() + below.sqrt() * (1 - ratio) * clean) / (1 - at)
        variance = (1 - ratio) * (1 - below) / (1 - at)
        step = prior.transition(z, (n + 1) / 1000, (m + 1) / 1000)
        torch.testing.assert_close(step.mean, mean.float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(step.stddev, variance.sqrt().float().expand_as(z), rtol=1e-4, atol=1e-6)


def test_its_own_codec_takes_part(ten_lines: dict[str, Any]) -> None:
    """``Folded`` is its own inverse under any leading dimensions, and images have the shape that it states."""
    codec = run_block("class Folded")["Folded"]()
    x = torch.rand(3, 2, 1, 32, 32) * 2 - 1
    z = codec.encode(x)
    assert z.shape == (3, 2, *LATENT) and z[1, 1, :, 2, 3].tolist() == x[1, 1, 0, 4:6, 6:8].flatten().tolist()
    assert torch.equal(codec.decode(z), x)
    prior = replace(ten_lines["prior"], codec=codec)
    result = vp.inpaint(x[0], torch.ones(32, 32).triu(), prior, 2, 3, steps=2, refine_steps=2, seed=0)
    assert result.samples.shape == (3, 2, 1, 32, 32) and result.fit.bounds.isfinite().all()


# single files: opened once


@torch.no_grad()
def test_diffusers_refuses_what_step_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .ckpt with more than tensors: diffusers does not open it; step one runs it and keeps its tensors."""
    monkeypatch.chdir(tmp_path)
    tensors = {"a": torch.randn(2, 3).T, "b": torch.ones(1)}
    torch.save({"state_dict": tensors, "callbacks": Bomb(tmp_path / "ran")}, "model.ckpt")
    with pytest.raises(OSError, match="model"):
        AutoencoderKL.from_single_file("model.ckpt", original_config=configuration())
    assert not (tmp_path / "ran").exists()
    run_block("weights_only=False")
    assert (tmp_path / "ran").exists()
    torch.testing.assert_close(load_file("model.safetensors"), tensors)


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


@torch.no_grad()
def test_a_checkpoint_of_latent_diffusion_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A UNet with cross-attention and a VQModel under the authors' names come back unchanged, guidance included."""
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
    unet, vqvae, table = livelier(unet), livelier(vqvae), torch.randn(5, 8)
    nn.init.normal_(vqvae.quantize.embedding.weight)
    monkeypatch.chdir(tmp_path)
    save_file(checkpoint(unet, vqvae, table), "imagenet256.safetensors")
    Path("cin256-v2.yaml").write_text(json.dumps(configuration()), encoding="utf-8")  # JSON is YAML
    run_block("convert_ldm_vae_checkpoint")

    prior = load_prior("imagenet256")
    assert (prior.event_shape, prior.image_shape) == ((3, 16, 16), (3, 32, 32))
    labels, z = torch.tensor([3, 1]), torch.randn(2, 3, 16, 16)
    names = run_block("null=", labels=labels)
    alpha, sigma = ALPHAS_CUMPROD[600].sqrt(), (1 - ALPHAS_CUMPROD[600]).sqrt()
    given = unet(z, 600, table[labels][:, None]).sample
    null = unet(z, 600, table[-1:, None].expand(2, -1, -1)).sample
    assert (given - null).abs().max() > 0.01
    for noise, condition in ((given, {"guidance_scale": 1.0}), (null + 3 * (given - null), {"guidance_scale": 3.0})):
        ours = names["prior"].denoise(z, 601 / 1000, **{**names["condition"], **condition})
        torch.testing.assert_close(ours, ((z - sigma * noise) / alpha).float(), rtol=1e-4, atol=1e-4)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(prior.encode(x), vqvae.encode(x).latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prior.decode(z), vqvae.decode(z).sample, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_autoencoder_of_latent_diffusion_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoencoderKL under the authors' names comes back unchanged, with the factor of the checkpoint."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": WIDTHS, "layers_per_block": LAYERS, "latent_channels": 4}
    vae = livelier(AutoencoderKL(**{**blocks, **sizes}))
    monkeypatch.chdir(tmp_path)
    save_file({**first_stage(vae), "scale_factor": torch.tensor(0.6)}, "churches.safetensors")
    Path("config.yaml").write_text(json.dumps(configuration(4)), encoding="utf-8")
    run_block("churches/vae")
    again: Any = AutoencoderKL.from_pretrained("churches/vae")
    x, z = torch.rand(1, 3, 32, 32), torch.randn(1, 4, 16, 16)
    assert again.config["scaling_factor"] == pytest.approx(0.6)
    torch.testing.assert_close(again.encode(x).latent_dist.mode(), vae.encode(x).latent_dist.mode())
    torch.testing.assert_close(again.decode(z).sample, vae.decode(z).sample)


# ImageNet-64: EDM


class Inner(nn.Module):
    """F of Karras et al. 2022 with the authors' signature, and an output that depends on all inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.embedding = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(1000, 3)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor) -> Tensor:
        shift = self.embedding(class_labels * 1000**0.5) + noise_labels[:, None]
        return self.convolution(x) + shift[..., None, None]


class Precond(nn.Module):
    """Eq. 7 with the coefficients of Table 1, sigma_data = .5, as the authors' class of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Inner()
        self.init_kwargs = {"img_resolution": 64}

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor) -> Tensor:
        sigma = sigma.float().reshape(-1, 1, 1, 1)
        total = sigma**2 + 0.5**2
        inner = self.model(x / total.sqrt(), sigma.log().flatten() / 4, class_labels.float())
        return 0.5**2 / total * x + sigma * 0.5 / total.sqrt() * inner


@torch.no_grad()
def test_edm_by_the_authors_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported once and loaded again, the prior's denoiser is D(z; sigma), and so is EDMDenoiser on F."""
    monkeypatch.chdir(tmp_path)
    original, network = Precond(), Precond()
    Path("edm.pkl").write_bytes(pickle.dumps({"ema": original}))
    run_block("edm.pkl")
    network.load_state_dict(load_file("edm.safetensors"))
    names = run_block("one_hot", network=network)
    prior, z, labels = names["prior"], torch.randn(2, 3, 64, 64), torch.tensor([7, 900])
    one_hot = torch.eye(1000)[labels]
    for t in (0.1, 0.5, 0.9):
        sigma = (0.002 ** (1 / 7) + t * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
        expected = original(z, torch.full((2,), sigma), one_hot)
        torch.testing.assert_close(prior.denoise(z, t, class_labels=labels), expected, rtol=1e-4, atol=1e-4)
        inner = EDMDenoiser(network.model, EDM())
        torch.testing.assert_close(inner(z, t, class_labels=one_hot), expected, rtol=1e-4, atol=1e-4)
        assert (prior.denoise(z, t, class_labels=labels.flip(0)) - expected).abs().max() > 1e-3


# memory


@pytest.mark.slow
def test_its_memory_table_is_that_of_the_results() -> None:
    """The rows in the document are those of the benchmark's file, and its line meets the held-out width."""
    rows = memory.read_rows()
    assert memory.table(rows).split("\n\n")[0] in DOCUMENT.read_text(encoding="utf-8")
    (check,) = (row for row in rows if row["fraction"] == memory.HELD_OUT)
    for on in (False, True):
        assert memory.line(rows, on, memory.HELD_OUT) == pytest.approx(check["peak"][on], rel=1e-3)


@pytest.mark.slow
def test_checkpointing_repeats_the_forward_pass() -> None:
    """Three passes instead of two: a second forward pass beside the first and the backward pass to the input."""
    plain, again = (memory.operations(memory.FITTED[0], on) for on in (False, True))
    assert 1.3 < again / plain < 1.5


def test_the_peak_is_what_is_alive_at_one_time() -> None:
    """Two MiB of three are alive together; earlier tensors do not count."""
    before = torch.ones(2**20)

    def step() -> None:
        first = torch.zeros(2**18)
        del first
        both = torch.zeros(2**18), torch.zeros(2**18)
        assert before.sum() + both[0][0] > 0

    assert memory.peak_bytes(step, "cpu") == pytest.approx(2 * 2**20, rel=0.01)
