"""Trains the latent prior of ``cats64`` on the autoencoder's latents, 4×16×16.

Variance-preserving diffusion with 1000 steps whose betas are linear in their square roots from .0015 to .0195, as in
the latent diffusion of Rombach et al. (2022) on ImageNet; the network predicts v = alpha_t eps - sigma_t z_0 (Salimans
and Ho 2022), t uniform. With ``--focus`` half of the t are logit-normal (Esser et al. 2024). With ``--parts`` the error
of v is measured by a metric in which the differences that fur, eyes and mouth make count as much each as all
directions together (:func:`part_metric`): a metric changes what is learnt first, not the minimiser. docs/tuning.md
gives the reasons and what was measured.

Latents are (E(x) - shift) * scale, which gives them mean 0 and variance 1; those of LATENTS pictures, none of a
held-out combination, are computed once. The moving average of the weights ships. An interrupted training continues by
the same command::

    python -m recipes.cats64.prior --autoencoder AUTOENCODER_WORKDIR --work WORKDIR
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel
from torch import Tensor

from pyro_vipaint.cats.parts import Layers, draw_parts, shipped_layers
from recipes.cats64.autoencoder import build_network as build_autoencoder
from recipes.training import Schedule, channels_last, load_average, train

BATCH_SIZE = 64
ITERATIONS = 14_400
# The cosine's length changed on the way: until batch b it was planned for n batches, as (b, n). At batches 3600 and
# 6800 the rate, which had come down to zero, rose again.
SHIPPED_RUN = (
    (300, 6000),
    (2150, 4200),
    (3600, 3600),
    (6800, 6800),
    (8900, 12_000),
    (10_500, 10_500),
    (11_700, 14_000),
    (14_400, 15_000),
)
# From which batch on --focus was given, and its numbers: mean and standard deviation of the logit of t / 1000.
SHIPPED_FOCUS = ((6800, (-0.8, 0.8)), (10_500, (-2.6, 1.0)))
PARTS_FROM = 11_700  # the batch from which on --parts was given
SMALL_PARTS = ("fur", "eyes", "mouth")
PAIRS = 1000  # of cats that differ in one part, for the metric
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
    return channels_last(network)


@torch.inference_mode()
def encode_cats(autoencoder: AutoencoderKL, num: int, seed: int) -> Tensor:
    """Latents ``(num, 4, 16, 16)`` of random cats that are not held out, without shift and scale."""
    layers, generator = shipped_layers(), torch.Generator().manual_seed(seed)
    index = draw_parts(layers, num, held_out=False, generator=generator)
    return _encode(autoencoder, layers, index)


def _encode(autoencoder: Any, layers: Layers, index: Tensor) -> Tensor:
    """Latents of the pictures of part numbers ``(N, L)``."""
    pictures = (layers.compose(chunk).contiguous(memory_format=torch.channels_last) for chunk in index.split(CHUNK))
    return torch.cat([autoencoder.encode(x).latent_dist.mode() for x in pictures]).contiguous()


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


@torch.inference_mode()
def part_metric(autoencoder: AutoencoderKL) -> Tensor:
    """The factor W ``(D, D)`` of the metric M = W W' on the D elements of a latent; the mean eigenvalue of M is one.

    M is proportional to I + D sum_s C_s^(1/2) / tr C_s^(1/2), C_s being the second moment of the differences of two
    latents whose pictures differ in the part of slot s alone; the sum is over :data:`SMALL_PARTS`.
    """
    layers, generator = shipped_layers(), torch.Generator().manual_seed(2)
    index = draw_parts(layers, PAIRS, held_out=False, generator=generator)
    latents = _encode(autoencoder, layers, index).flatten(1).double()
    metric = torch.eye(latents.shape[1], dtype=torch.float64)
    for slot, name in enumerate(layers.parts):
        if name in SMALL_PARTS:
            other, count = index.clone(), len(layers.classes[name])
            other[:, slot] += torch.randint(1, count, (PAIRS,), generator=generator)
            other[:, slot] %= count
            difference = _encode(autoencoder, layers, other).flatten(1).double() - latents
            root = _root(difference.T @ difference / PAIRS)
            metric += len(root) * root / root.trace()
    return _root(metric / metric.trace() * len(metric)).float()


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    return vectors * eigenvalues.clamp(min=0).sqrt() @ vectors.T


def draw_timesteps(num: int, num_timesteps: int, focus: Focus | None) -> Tensor:
    """``(num,)`` uniform timesteps; with ``focus`` the first half is logit-normal."""
    share = torch.rand(num)
    if focus is not None:
        (mean, std), half = focus, num // 2
        share[:half] = torch.sigmoid(mean + std * torch.randn(half))
    return (share * num_timesteps).long().clamp(max=num_timesteps - 1)


def training_loss(
    network: UNet2DModel, z: Tensor, alphas_cumprod: Tensor, focus: Focus | None, metric: Tensor | None = None
) -> Tensor:
    """The mean squared error of v for a batch ``(B, 4, 16, 16)``, in the metric of :func:`part_metric` if given."""
    timestep = draw_timesteps(len(z), len(alphas_cumprod), focus)
    alpha, sigma = (value[timestep].sqrt().view(-1, 1, 1, 1) for value in (alphas_cumprod, 1 - alphas_cumprod))
    noise = torch.randn_like(z)
    z_t = (alpha * z + sigma * noise).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        v = network(z_t, timestep).sample
    error = (v.float() - (alpha * noise - sigma * z)).flatten(1)
    return (error if metric is None else error @ metric).square().mean()


def run(autoencoder: Path, work: Path, iterations: int, focus: Focus | None, parts: bool) -> None:
    """Trains from the checkpoint in ``work``, or from the start."""
    latents, _, _ = load_latents(autoencoder, work)
    alphas_cumprod = build_scheduler().alphas_cumprod
    metric = part_metric(load_autoencoder(autoencoder)).clone() if parts else None  # not an inference tensor
    torch.manual_seed(0)
    network = channels_last(build_network())

    def batch_loss() -> Tensor:
        z = latents[torch.randint(len(latents), (BATCH_SIZE,))]
        return training_loss(network, z, alphas_cumprod, focus, metric)

    train(network, batch_loss, work, Schedule(iterations))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", type=Path, required=True, help="work folder of the trained autoencoder")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument(
        "--focus", type=float, nargs=2, metavar=("MEAN", "STD"), help="draw half of the t / 1000 with a normal logit"
    )
    parser.add_argument("--parts", action="store_true", help="measure the error by what tells small parts apart")
    arguments = parser.parse_args()
    run(arguments.autoencoder, arguments.work, arguments.iterations, arguments.focus, arguments.parts)
