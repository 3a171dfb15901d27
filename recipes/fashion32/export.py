"""Writes the trained prior ``fashion32`` in the layout of diffusers' ``save_pretrained``, in half precision.

What ships is the moving average of the weights in ``checkpoint.pt``. The network F is preconditioned as in Karras et
al. (2022), Table 1,

    E[x | x_sigma] = c_skip x_sigma + c_out F(c_in x_sigma, log(sigma) / 4, label),
    c_skip = sigma_data^2 / (sigma^2 + sigma_data^2),   c_out = sigma sigma_data / sqrt(sigma^2 + sigma_data^2),
    c_in = 1 / sqrt(sigma^2 + sigma_data^2),

which is what diffusers' ``EDMEulerScheduler`` calls the prediction type "epsilon" (its "v_prediction" is -F)::

    python -m recipes.fashion32.export --work WORKDIR --out models/weights/fashion32

writes ``unet/`` (weights and configuration), ``scheduler/`` and ``prior.json``: what a loader needs besides. New files
are read back and compared before they replace older ones, each by one rename. There is no ``model_index.json``: no
pipeline of diffusers joins these two parts, and naming one that ignores the preconditioning would draw noise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import EDMEulerScheduler, UNet2DModel
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from recipes.export import move_files, relative_difference
from recipes.fashion32.data import CLASS_NAMES
from recipes.fashion32.train import NUM_CLASSES, SIGMA_DATA, WEIGHTS, build_network
from recipes.training import load_average

EVENT_SHAPE = (1, 32, 32)
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0  # Karras et al. (2022), Table 1
CHECKED_SIGMAS = (0.05, 0.2, 0.6, 2.0, 10.0)
MAX_BYTES = 10_000_000


def load_exported(folder: Path) -> UNet2DModel:
    """The shipped network, its half-precision weights raised to single precision."""
    network = UNet2DModel.from_pretrained(folder, subfolder="unet", use_safetensors=True, low_cpu_mem_usage=False)
    return network.eval()


@torch.inference_mode()
def outputs(network: UNet2DModel, per_level: int = 16, seed: int = 0) -> Tensor:
    """F at standard normal inputs, the scale that c_in gives any noise level, ``(levels * per_level, 1, 32, 32)``."""
    generator = torch.Generator().manual_seed(seed)
    sigma = torch.tensor(CHECKED_SIGMAS).repeat_interleave(per_level)
    labels = torch.arange(len(sigma)) % (NUM_CLASSES + 1)
    inputs = torch.randn(len(sigma), *EVENT_SHAPE, generator=generator)
    return network(inputs, sigma.log() / 4, class_labels=labels).sample


def rounding_error(network: UNet2DModel) -> float:
    """Relative change of the network's output when its weights are rounded to half precision."""
    rounded = build_network().eval()
    rounded.load_state_dict({name: value.half().float() for name, value in network.state_dict().items()})
    return relative_difference(outputs(rounded), outputs(network))


def prior_description() -> dict[str, object]:
    """What ``prior.json`` states: all a loader needs beyond diffusers' own configurations."""
    return {
        "kind": "edm",
        "sigma_data": SIGMA_DATA,
        "event_shape": list(EVENT_SHAPE),
        "classes": list(CLASS_NAMES),
        "null_label": NUM_CLASSES,
    }


def build_scheduler() -> EDMEulerScheduler:
    """The noise levels and the preconditioning of the prior."""
    return EDMEulerScheduler(
        sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, sigma_data=SIGMA_DATA, rho=RHO, prediction_type="epsilon"
    )


def write(folder: Path, network: UNet2DModel, metadata: dict[str, str]) -> None:
    """Writes every file of the layout into ``folder``; ``metadata`` goes into the header of the weights."""
    network.save_config(folder / "unet")
    half = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(half, folder / WEIGHTS, {"format": "pt"} | metadata)
    build_scheduler().save_pretrained(folder / "scheduler")
    (folder / "prior.json").write_text(json.dumps(prior_description(), indent=2) + "\n")


def check(folder: Path, network: UNet2DModel, expected: float) -> None:
    """Reads ``folder`` back; raises if it is too large or differs from ``network`` by more than the rounding."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise ValueError(f"the export takes {size} bytes, more than {MAX_BYTES}")
    found = relative_difference(outputs(load_exported(folder)), outputs(network))
    if abs(found - expected) > 1e-5:
        raise ValueError(f"read back, the output differs by {found:.1e}; rounding alone gives {expected:.1e}")
    scheduler: Any = EDMEulerScheduler.from_pretrained(folder, subfolder="scheduler")
    if scheduler.config.sigma_data != SIGMA_DATA or scheduler.config.prediction_type != "epsilon":
        raise ValueError("the scheduler's configuration did not survive")


def export(work: Path, out: Path) -> float:
    """Writes the checkpoint in ``work`` to ``out``; the relative change of the output through half precision."""
    network = build_network()
    step = load_average(network, work / "checkpoint.pt")
    error = rounding_error(network)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export") as temporary:
        write(Path(temporary), network, {"iterations": str(step), "half_precision_error": f"{error:.2e}"})
        check(Path(temporary), network, error)
        move_files(Path(temporary), out)
    return error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("models/weights/fashion32"))
    arguments = parser.parse_args()
    change = export(arguments.work, arguments.out)
    written = (arguments.out / WEIGHTS).stat().st_size
    Console().print(
        f"{arguments.out}: {written / 1e6:.2f} MB of weights, fp16 changes the output by {change:.1e} (relative rms)"
    )
