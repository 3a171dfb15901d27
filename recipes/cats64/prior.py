"""Trains the latent prior of ``cats64`` on the autoencoder's latents, 4×16×16.

Variance-preserving diffusion with 1000 steps whose betas are linear in their square roots from .0015 to .0195, as in
the latent diffusion of Rombach et al. (2022) on ImageNet; the network predicts v = alpha_t eps - sigma_t z_0 (Salimans
and Ho 2022), t uniform; with ``--focus`` half of the t are logit-normal (Esser et al. 2024). Around t = .31 furs and
mouths are decided, around .07 the network must draw them finely: before it was trained there, its prediction from z_t
at t = .03 showed the right fur less often (.89) and the right mouth (.71) than z_t itself did (.97, .78).

Latents are (E(x) - shift) * scale, which gives them mean 0 and variance 1; those of LATENTS pictures, none of a
held-out combination, are computed once. What ships is a moving average. Interrupted, the same command goes on::

    python -m recipes.cats64.prior --autoencoder AUTOENCODER_WORKDIR --work WORKDIR
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel
from torch import Tensor

from pyro_vipaint.held_out import draw_parts, shipped_layers
from recipes.cats64.autoencoder import build_network as build_autoencoder
from recipes.training import Schedule, load_average, train

BATCH_SIZE = 64
ITERATIONS = 10_500
# The cosine's length changed on the way: until batch b it was planned for n batches, as (b, n). At batches 3600 and
# 6800 the rate, which had come down to zero, rose again.
SHIPPED_RUN = ((300, 6000), (2150, 4200), (3600, 3600), (6800, 6800), (8900, 12_000), (10_500, 10_500))
# From which batch on --focus was given, and its numbers: mean and standard deviation of the logit of t / 1000.
SHIPPED_FOCUS = ((6800, (-0.8, 0.8)), (10_500, (-2.6, 1.0)))
LATENTS = 40_000
CHUNK = 250

Focus = Sequence[float]
"""Mean and standard deviation of the logit of t / 1000."""


def build_network() -> UNet2DModel:
    """The 7.4 M-parameter UNet, ``(B, 4, 16, 16) -> (B, 4, 16, 16)``."""
    return UNet2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=16,
    )


def build_scheduler() -> DDPMScheduler:
    """The noise that the network was trained with."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
    )


def load_autoencoder(work: Path) -> AutoencoderKL:
    """The averaged autoencoder in the checkpoint of ``work``."""
    network = build_autoencoder()
    load_average(network, work / "checkpoint.pt")
    return network.to(memory_format=torch.channels_last)


@torch.inference_mode()
def encode_cats(autoencoder: AutoencoderKL, num: int, seed: int) -> Tensor:
    """Latents ``(num, 4, 16, 16)`` of random cats that are not held out, without shift and scale."""
    layers, generator = shipped_layers(), torch.Generator().manual_seed(seed)
    index = draw_parts(layers, num, held_out=False, generator=generator)
    encoded = []
    for chunk in index.split(CHUNK):
        x = layers.compose(chunk).contiguous(memory_format=torch.channels_last)
        encoded.append(autoencoder.encode(x).latent_dist.mode())
    return torch.cat(encoded).contiguous()


def load_latents(autoencoder: Path, work: Path) -> tuple[Tensor, float, float]:
    """``(latents, shift, scale)``: normalised latents, computed unless ``work`` has them."""
    path = work / "latents.pt"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        torch.save(encode_cats(load_autoencoder(autoencoder), LATENTS, seed=1), path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    z = torch.load(path, weights_only=True)
    shift, scale = round(z.mean().item(), 4), round(1 / z.std().item(), 4)
    (work / "latents.json").write_text(json.dumps({"shift_factor": shift, "scaling_factor": scale}) + "\n")
    return (z - shift) * scale, shift, scale


def draw_timesteps(num: int, num_timesteps: int, focus: Focus | None) -> Tensor:
    """``(num,)`` uniform timesteps; with ``focus`` the first half is logit-normal."""
    share = torch.rand(num)
    if focus is not None:
        (mean, std), half = focus, num // 2
        share[:half] = torch.sigmoid(mean + std * torch.randn(half))
    return (share * num_timesteps).long().clamp(max=num_timesteps - 1)


def training_loss(network: UNet2DModel, z: Tensor, alphas_cumprod: Tensor, focus: Focus | None) -> Tensor:
    """The squared error of v for a batch ``(B, 4, 16, 16)``."""
    timestep = draw_timesteps(len(z), len(alphas_cumprod), focus)
    alpha, sigma = (value[timestep].sqrt().view(-1, 1, 1, 1) for value in (alphas_cumprod, 1 - alphas_cumprod))
    noise = torch.randn_like(z)
    z_t = (alpha * z + sigma * noise).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        v = network(z_t, timestep).sample
    return torch.nn.functional.mse_loss(v.float(), alpha * noise - sigma * z)


def run(autoencoder: Path, work: Path, iterations: int, focus: Focus | None) -> None:
    """Trains from the checkpoint in ``work``, or from the start."""
    latents, _, _ = load_latents(autoencoder, work)
    alphas_cumprod = build_scheduler().alphas_cumprod
    torch.manual_seed(0)
    network = build_network().to(memory_format=torch.channels_last)

    def batch_loss() -> Tensor:
        return training_loss(network, latents[torch.randint(len(latents), (BATCH_SIZE,))], alphas_cumprod, focus)

    train(network, batch_loss, work, Schedule(iterations))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", type=Path, required=True, help="work folder of the trained autoencoder")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument(
        "--focus", type=float, nargs=2, metavar=("MEAN", "STD"), help="draw half of the t / 1000 with a normal logit"
    )
    arguments = parser.parse_args()
    run(arguments.autoencoder, arguments.work, arguments.iterations, arguments.focus)
