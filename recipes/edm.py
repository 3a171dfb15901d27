"""What the recipes of preconditioned pixel priors share: their loss, their scheduler, and the files that ship.

The network F is preconditioned as in Karras et al. (2022), Table 1,

    E[x | x_sigma] = c_skip x_sigma + c_out F(c_in x_sigma, log(sigma) / 4, label),
    c_skip = sigma_data^2 / (sigma^2 + sigma_data^2),   c_out = sigma sigma_data / sqrt(sigma^2 + sigma_data^2),
    c_in = 1 / sqrt(sigma^2 + sigma_data^2),

which is what diffusers' ``EDMEulerScheduler`` calls the prediction type "epsilon" (its "v_prediction" is -F). The loss
is that of their Eq. 8,

    E  lambda(sigma) |c_skip x_sigma + c_out F - x|^2,   log sigma ~ N(mean, std^2),

which in the network's own units is the plain squared error of F. The label is replaced by the "no label" class with
some probability, so that the prior is also unconditional.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import EDMEulerScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.export import move_files, relative_difference
from recipes.training import channels_last, load_average

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0  # Karras et al. (2022), Table 1
CHECKED_SIGMAS = (0.05, 0.2, 0.6, 2.0, 10.0)
MAX_BYTES = 10_000_000
WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")


@dataclass(frozen=True)
class DenoisingLoss:
    """The loss of a batch, on the device that the batch is on.

    Args:
        sigma_data: standard deviation of the images.
        mean: of log sigma.
        std: of log sigma.
        null_label: the class that means "no label".
        dropout: probability with which a label is replaced by it.
    """

    sigma_data: float
    mean: float
    std: float
    null_label: int
    dropout: float

    def __call__(self, network: Callable[..., Any], x: Tensor, labels: Tensor) -> Tensor:
        """The mean squared error of F for images ``(B, C, H, W)`` and labels ``(B,)``; predicting the mean has 1."""
        sigma = torch.exp(self.mean + self.std * torch.randn(len(x), device=x.device))
        dropped = torch.rand(len(x), device=x.device) < self.dropout
        labels = labels.masked_fill(dropped, self.null_label)
        s = sigma.view(-1, 1, 1, 1)
        noise = torch.randn_like(x)
        norm = torch.sqrt(s**2 + self.sigma_data**2)
        target = (s / self.sigma_data * x - self.sigma_data * noise) / norm  # (x - c_skip x_sigma) / c_out
        scaled = ((x + s * noise) / norm).contiguous(memory_format=torch.channels_last)
        output = network(scaled, sigma.log() / 4, class_labels=labels, return_dict=False)[0]
        return torch.nn.functional.mse_loss(output.float(), target)


@dataclass(frozen=True)
class PixelPrior:
    """What ships of a class-conditional prior, and its export in the layout of diffusers' ``save_pretrained``.

    Args:
        build_network: the network with random weights.
        sigma_data: standard deviation of the images.
        event_shape: of one image.
        classes: their names; the label after the last one means "no label".
    """

    build_network: Callable[[], UNet2DModel]
    sigma_data: float
    event_shape: tuple[int, int, int]
    classes: tuple[str, ...]

    def description(self) -> dict[str, object]:
        """What ``prior.json`` states: all a loader needs beyond diffusers' own configurations."""
        return {
            "kind": "edm",
            "sigma_data": self.sigma_data,
            "event_shape": list(self.event_shape),
            "classes": list(self.classes),
            "null_label": len(self.classes),
        }

    def build_scheduler(self) -> EDMEulerScheduler:
        """The noise levels and the preconditioning."""
        return EDMEulerScheduler(
            sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, sigma_data=self.sigma_data, rho=RHO, prediction_type="epsilon"
        )

    @torch.inference_mode()
    def outputs(self, network: UNet2DModel, per_level: int = 16, seed: int = 0) -> Tensor:
        """F at standard normal inputs, the scale that c_in gives any noise level, ``(levels * per_level, C, H, W)``."""
        generator = torch.Generator().manual_seed(seed)
        sigma = torch.tensor(CHECKED_SIGMAS).repeat_interleave(per_level)
        labels = torch.arange(len(sigma)) % (len(self.classes) + 1)
        inputs = torch.randn(len(sigma), *self.event_shape, generator=generator)
        return network(inputs, sigma.log() / 4, class_labels=labels).sample

    def rounding_error(self, network: UNet2DModel) -> float:
        """Relative change of the network's output when its weights are rounded to half precision."""
        rounded = self.build_network().eval()
        rounded.load_state_dict({name: value.half().float() for name, value in network.state_dict().items()})
        return relative_difference(self.outputs(rounded), self.outputs(network))

    def write(self, folder: Path, network: UNet2DModel, metadata: dict[str, str]) -> None:
        """Writes every file of the layout into ``folder``; ``metadata`` goes into the header of the weights."""
        network.save_config(folder / "unet")
        half = {name: value.half().contiguous() for name, value in network.state_dict().items()}
        save_file(half, folder / WEIGHTS, {"format": "pt"} | metadata)
        self.build_scheduler().save_pretrained(folder / "scheduler")
        (folder / "prior.json").write_text(json.dumps(self.description(), indent=2) + "\n")

    def check(self, folder: Path, network: UNet2DModel, expected: float) -> None:
        """Reads ``folder`` back; raises if it is too large or differs from ``network`` by more than the rounding."""
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size > MAX_BYTES:
            raise ValueError(f"the export takes {size} bytes, more than {MAX_BYTES}")
        found = relative_difference(self.outputs(load_exported(folder)), self.outputs(network))
        if abs(found - expected) > 1e-5:
            raise ValueError(f"read back, the output differs by {found:.1e}; rounding alone gives {expected:.1e}")
        scheduler: Any = EDMEulerScheduler.from_pretrained(folder, subfolder="scheduler")
        if scheduler.config.sigma_data != self.sigma_data or scheduler.config.prediction_type != "epsilon":
            raise ValueError("the scheduler's configuration did not survive")

    def export(self, work: Path, out: Path, metadata: dict[str, str] | None = None) -> float:
        """Writes the average in ``checkpoint.pt`` of ``work`` to ``out``; what half precision changes (relative rms).

        New files are read back and compared before they replace older ones, each by one rename.
        """
        network = self.build_network()
        step = load_average(network, work / "checkpoint.pt")
        error = self.rounding_error(network)
        stated = {"iterations": str(step), "half_precision_error": f"{error:.2e}"}
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export") as temporary:
            self.write(Path(temporary), network, stated | (metadata or {}))
            self.check(Path(temporary), network, error)
            move_files(Path(temporary), out)
        return error


def load_exported(folder: Path) -> UNet2DModel:
    """The shipped network, its half-precision weights raised to single precision."""
    network = UNet2DModel.from_pretrained(folder, subfolder="unet", use_safetensors=True, low_cpu_mem_usage=False)
    return network.eval()


def starting_network(build_network: Callable[[], UNet2DModel], start: Path | None) -> UNet2DModel:
    """The network before the first step: random, or the exported weights in the folder ``start``."""
    network = build_network()
    if start is not None:
        network.load_state_dict({name: value.float() for name, value in load_file(start / WEIGHTS).items()})
    return channels_last(network)
