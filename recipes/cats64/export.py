"""Writes ``cats64``, autoencoder and latent prior, in the layout of diffusers' ``save_pretrained``, in half precision.

What ships are the moving averages of the weights in the two checkpoints::

    python -m recipes.cats64.export --autoencoder DECODER_WORKDIR --prior PRIOR_WORKDIR

writes ``vae/`` and ``unet/`` (weights and configuration), ``scheduler/`` and ``prior.json`` below
``models/weights/cats64``; the latents' shift and scale go into the autoencoder's configuration. New files are read back
and compared before they replace older ones, each by one rename.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DModel
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from pyro_vipaint.cats.parts import draw_parts, shipped_layers
from recipes.cats64 import prior as prior_recipe
from recipes.cats64.autoencoder import build_network as build_autoencoder
from recipes.export import move_files, relative_difference
from recipes.training import load_average

TARGET = Path(__file__).resolve().parents[2] / "models" / "weights" / "cats64"
WEIGHTS = "diffusion_pytorch_model.safetensors"
MAX_BYTES = 25_000_000
CHECKED_TIMESTEPS = (50, 250, 500, 750, 950)


@torch.inference_mode()
def decoded(autoencoder: AutoencoderKL) -> Tensor:
    """Reconstructions of 16 held-out cats."""
    layers = shipped_layers()
    x = layers.compose(draw_parts(layers, 16, held_out=True, generator=torch.Generator().manual_seed(0)))
    moments: Any = autoencoder.encode(x)
    decoding: Any = autoencoder.decode(moments.latent_dist.mode())
    return decoding.sample


@torch.inference_mode()
def predicted(network: UNet2DModel) -> Tensor:
    """v at standard normal inputs and five times, ``(40, 4, 16, 16)``."""
    timestep = torch.tensor(CHECKED_TIMESTEPS).repeat_interleave(8)
    z = torch.randn(len(timestep), 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return network(z, timestep).sample


def write_half(folder: Path, network: AutoencoderKL | UNet2DModel, step: int) -> None:
    """Configuration and half-precision weights of one network; the file's header states the training steps."""
    network.save_config(folder)
    half = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(half, folder / WEIGHTS, {"format": "pt", "iterations": str(step)})


def write(folder: Path, autoencoder_work: Path, prior_work: Path) -> dict[str, float]:
    """Writes every file of the layout, reads the weights back; what half precision changes, relative rms."""
    autoencoder, network = build_autoencoder(), prior_recipe.build_network()
    autoencoder.register_to_config(**json.loads((prior_work / "latents.json").read_text()))
    write_half(folder / "vae", autoencoder, load_average(autoencoder, autoencoder_work / "checkpoint.pt"))
    write_half(folder / "unet", network, load_average(network, prior_work / "checkpoint.pt"))
    prior_recipe.build_scheduler().save_pretrained(folder / "scheduler")
    (folder / "prior.json").write_text(json.dumps({"sigma_data": 1.0}, indent=2) + "\n")
    kept = {"use_safetensors": True, "low_cpu_mem_usage": False, "torch_dtype": torch.float32}
    return {
        "decoded images": relative_difference(
            decoded(AutoencoderKL.from_pretrained(folder / "vae", **kept)), decoded(autoencoder)
        ),
        "predicted v": relative_difference(
            predicted(UNet2DModel.from_pretrained(folder / "unet", **kept)), predicted(network)
        ),
    }


def export(autoencoder_work: Path, prior_work: Path, out: Path) -> dict[str, float]:
    """Writes both checkpoints to ``out``; the relative changes through half precision.

    Raises:
        ValueError: more than 25 MB, or a change through half precision of more than one per cent.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export") as temporary:
        changes = write(Path(temporary), autoencoder_work, prior_work)
        size = sum(path.stat().st_size for path in Path(temporary).rglob("*") if path.is_file())
        if size > MAX_BYTES or max(changes.values()) > 0.01:
            raise ValueError(f"not exported: {size} bytes, half precision changes {changes}")
        move_files(Path(temporary), out)
    return changes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", type=Path, required=True, help="work folder of recipes.cats64.autoencoder")
    parser.add_argument("--prior", type=Path, required=True, help="work folder of recipes.cats64.prior")
    parser.add_argument("--out", type=Path, default=TARGET)
    arguments = parser.parse_args()
    change = export(arguments.autoencoder, arguments.prior, arguments.out)
    Console().print(f"{arguments.out} written; half precision changes (relative rms): {change}")
