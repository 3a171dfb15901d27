"""Measures the shipped prior ``fashion32``: denoising loss, class agreement and kernel distance of its samples.

**Loss.** With the preconditioned network of Karras et al. (2022), Eq. 7 and Table 1,

    D(x_sigma; sigma, label) = c_skip x_sigma + c_out F(c_in x_sigma, log(sigma) / 4, label),

the mean over held-out images and pixels of (D(x + sigma n; sigma, label) - x)^2, n ~ N(0, I), beside what the best
estimate does that knows nothing but the data's variance: sigma_data^2 sigma^2 / (sigma^2 + sigma_data^2).

**Samples.** The stochastic sampler of the same paper, Algorithm 2, without guidance: on the levels of its Eq. 5,

    sigma_i = (sigma_max^(1/rho) + i / (N - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,   sigma_N = 0,

each step first adds noise up to sigma_i (1 + gamma) and then solves dx / dsigma = (x - D(x; sigma)) / sigma by one step
of Heun's method. Added noise lets later steps mend what earlier ones got wrong: of this prior's samples without it
(``--churn 0``, Algorithm 1) the classifier agrees with fewer. Measured are how often the classifier of
``recipes.fashion32.classifier`` gives a sample the class it was drawn for, beside its accuracy on real images, and the
kernel distance (KID's kernel on AlexNet features) of samples to held-out images, beside that of as many training
images.
Images are in [-1, 1]; noise levels are in the same units::

    python -m recipes.fashion32.evaluate --prior models/weights/fashion32 --classifier WORKDIR/classifier.safetensors \\
        --data FOLDER --out models/weights/fashion32/evaluation.json

Either half can be run alone (``--only loss``, ``--only samples``); figures of the other half are kept if they belong to
the same weights. The picture ``samples.png`` is written beside the figures.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import UNet2DModel
from PIL import Image
from rich.console import Console
from rich.progress import track
from safetensors import safe_open
from torch import Tensor

from pyro_vipaint.metrics import alexnet_features
from recipes.edm import RHO, SIGMA_MAX, SIGMA_MIN, WEIGHTS, load_exported
from recipes.evaluation import Result, distance, earlier_results, timed, write_json
from recipes.fashion32.classifier import load_classifier, predict
from recipes.fashion32.data import CLASS_NAMES, DEFAULT_FOLDER, load_split
from recipes.fashion32.export import EVENT_SHAPE
from recipes.fashion32.train import NUM_CLASSES
from recipes.training import channels_last

LOSS_SIGMAS = (0.05, 0.2, 0.6, 2.0, 10.0)
# Heun steps; 2 * STEPS - 1 calls of the network. Karras et al. (2022) take 18 at 32×32, which on a Gaussian of standard
# deviation 0.5 draws 5 % too wide; the error falls with the square of the number.
STEPS = 32
# Noise is added in S_TMIN <= sigma <= S_TMAX: Karras et al. (2022), Table 5, for their class-conditional ImageNet-64.
S_CHURN, S_TMIN, S_TMAX, S_NOISE = 40.0, 0.05, 50.0, 1.003
GRID_COLUMNS = 10


@dataclass(frozen=True)
class Sizes:
    """How much is computed.

    Args:
        images: held-out images, for the loss, the classifier's accuracy and the kernel distance.
        per_class: samples, and training images to compare with, of each class.
        steps: Heun steps, 2 or more.
        churn: S_churn of the sampler, the noise added in all; 0 makes it deterministic.
        batch: images through the network at once.
        seed: of the noise.
    """

    images: int = 10_000
    per_class: int = 100
    steps: int = STEPS
    churn: float = S_CHURN
    batch: int = 250
    seed: int = 0


@dataclass(frozen=True)
class Prior:
    """The network F and the data's standard deviation in its preconditioning."""

    network: UNet2DModel
    sigma_data: float

    @torch.inference_mode()
    def denoise(self, x: Tensor, sigma: float, labels: Tensor) -> Tensor:
        """D(x; sigma, label), the estimate of the clean image, for ``x`` (B, 1, 32, 32) and ``labels`` (B,)."""
        norm = math.sqrt(sigma**2 + self.sigma_data**2)
        scaled = (x / norm).contiguous(memory_format=torch.channels_last)
        noise_level = torch.full((len(x),), math.log(sigma) / 4)
        output = self.network(scaled, noise_level, class_labels=labels).sample
        return (self.sigma_data / norm) ** 2 * x + sigma * self.sigma_data / norm * output


def load(folder: Path) -> Prior:
    """The exported prior in ``folder``, in single precision on the CPU."""
    description = json.loads((folder / "prior.json").read_text())
    if description["kind"] != "edm":
        raise ValueError(f"{folder} holds a prior of kind {description['kind']!r}, not 'edm'")
    network = channels_last(load_exported(folder))
    return Prior(network, description["sigma_data"])


def trivial_loss(sigma: float, sigma_data: float) -> float:
    """The error per pixel of the best linear estimate for independent pixels of variance ``sigma_data**2``."""
    return (sigma_data * sigma) ** 2 / (sigma**2 + sigma_data**2)


def denoising_loss(prior: Prior, images: Tensor, labels: Tensor, sigma: float, sizes: Sizes) -> Result:
    """Mean squared error per pixel at one noise level, with the standard error over images (N, 1, 32, 32)."""
    generator = torch.Generator().manual_seed(sizes.seed)
    batches = list(zip(images.split(sizes.batch), labels.split(sizes.batch), strict=True))
    errors = []
    for x, label in track(batches, description=f"loss at sigma {sigma:g}"):
        noise = torch.randn(x.shape, generator=generator)
        errors.append((prior.denoise(x + sigma * noise, sigma, label) - x).square().mean(dim=(1, 2, 3)))
    error = torch.cat(errors).double()
    return {
        "sigma": sigma,
        "mean_squared_error": error.mean().item(),
        "standard_error": error.std().item() / math.sqrt(len(error)),
        "trivial": trivial_loss(sigma, prior.sigma_data),
    }


def measure_loss(prior: Prior, data: Path, sizes: Sizes) -> Result:
    """The denoising loss of the held-out images at every level of ``LOSS_SIGMAS``."""
    images, labels = (values[: sizes.images] for values in load_split(data, train=False))
    levels = [denoising_loss(prior, images, labels, sigma, sizes) for sigma in LOSS_SIGMAS]
    return {"images": len(images), "seed": sizes.seed, "levels": levels}


def noise_levels(steps: int) -> list[float]:
    """The levels sigma_0 = sigma_max, ..., sigma_N = 0 of Karras et al. (2022), Eq. 5."""
    top, bottom = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return [(top + i / (steps - 1) * (bottom - top)) ** RHO for i in range(steps)] + [0.0]


def heun_step(prior: Prior, x: Tensor, labels: Tensor, sigma: float, lower: float) -> Tensor:
    """One step from ``sigma`` to ``lower``: Karras et al. (2022), Algorithm 1, lines 4 to 8."""
    slope = (x - prior.denoise(x, sigma, labels)) / sigma
    euler = x + (lower - sigma) * slope
    if lower == 0.0:
        return euler
    slope_there = (euler - prior.denoise(euler, lower, labels)) / lower
    return x + (lower - sigma) * (slope + slope_there) / 2


def add_noise(x: Tensor, sigma: float, sizes: Sizes, generator: torch.Generator) -> tuple[Tensor, float]:
    """``x`` at the noise level sigma (1 + gamma), and that level: Karras et al. (2022), Algorithm 2, lines 4 to 6."""
    gamma = min(sizes.churn / sizes.steps, math.sqrt(2) - 1) if S_TMIN <= sigma <= S_TMAX else 0.0
    raised = sigma * (1 + gamma)
    noise = torch.randn(x.shape, generator=generator)
    return x + S_NOISE * math.sqrt(raised**2 - sigma**2) * noise, raised


def draw_samples(prior: Prior, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """``per_class`` samples of each class ``(N, 1, 32, 32)`` in [-1, 1] and their labels ``(N,)``, classes in turn."""
    generator = torch.Generator().manual_seed(sizes.seed)
    labels = torch.arange(NUM_CLASSES).repeat(sizes.per_class)
    levels = noise_levels(sizes.steps)
    samples = []
    for label in track(labels.split(sizes.batch), description="samples"):
        x = SIGMA_MAX * torch.randn(len(label), *EVENT_SHAPE, generator=generator)
        for sigma, lower in itertools.pairwise(levels):
            x, raised = add_noise(x, sigma, sizes, generator)
            x = heun_step(prior, x, label, raised, lower)
        samples.append(x.clamp(-1, 1))
    return torch.cat(samples), labels


def balanced(images: Tensor, labels: Tensor, per_class: int) -> Tensor:
    """The first ``per_class`` images of each class, classes in turn, ``(10 * per_class, 1, 32, 32)``."""
    index = torch.stack([torch.nonzero(labels == label)[:per_class, 0] for label in range(NUM_CLASSES)], dim=1)
    return images[index.flatten()]


def agreement(predicted: Tensor, labels: Tensor) -> Result:
    """The share of equal labels ``(N,)``, its binomial standard error, and the share in each class."""
    equal = (predicted == labels).double()
    overall = equal.mean().item()
    return {
        "images": len(labels),
        "overall": overall,
        "standard_error": math.sqrt(overall * (1 - overall) / len(labels)),
        "per_class": {name: equal[labels == label].mean().item() for label, name in enumerate(CLASS_NAMES)},
    }


def measure_samples(prior: Prior, classifier_path: Path, data: Path, sizes: Sizes, grid: Path) -> Result:
    """Draws samples, writes their picture, and compares them with held-out and with training images."""
    held_out, held_out_labels = (values[: sizes.images] for values in load_split(data, train=False))
    training = balanced(*load_split(data, train=True), sizes.per_class)
    classifier = load_classifier(classifier_path)
    reference = alexnet_features(held_out)
    samples, labels = draw_samples(prior, sizes)
    save_grid(grid, samples)
    return {
        "steps": sizes.steps,
        "churn": sizes.churn,
        "calls_per_sample": 2 * sizes.steps - 1,
        "seed": sizes.seed,
        "agreement": agreement(predict(classifier, samples), labels),
        "classifier_on_held_out": agreement(predict(classifier, held_out), held_out_labels),
        "kernel_distance": {
            "held_out_images": len(held_out),
            "samples": distance(alexnet_features(samples), reference),
            "training_images": distance(alexnet_features(training), reference),
        },
    }


def save_grid(path: Path, samples: Tensor) -> None:
    """A picture of samples ``(N, 1, 32, 32)`` that take the classes in turn: one row a class, ten columns."""
    rows = samples[: NUM_CLASSES * GRID_COLUMNS, 0].unflatten(0, (-1, NUM_CLASSES)).transpose(0, 1)
    picture = rows.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(((picture + 1) * 127.5).round().byte().numpy()).save(path)


def describe(folder: Path, prior: Prior) -> Result:
    """Which weights the figures belong to: digest, size, and what the file's header states."""
    path = folder / WEIGHTS
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "parameters": sum(parameter.numel() for parameter in prior.network.parameters()),
        "iterations": int(header["iterations"]),
        "half_precision_error": float(header["half_precision_error"]),
    }


def evaluate(folder: Path, classifier: Path, data: Path, out: Path, sizes: Sizes, only: str | None = None) -> Result:
    """Measures one half or both and writes ``out`` after each."""
    prior = load(folder)
    weights = describe(folder, prior)
    results = earlier_results(out, weights) | {"prior": weights}
    halves: dict[str, Callable[[], Result]] = {
        "loss": lambda: measure_loss(prior, data, sizes),
        "samples": lambda: measure_samples(prior, classifier, data, sizes, out.with_name("samples.png")),
    }
    for name, measure in halves.items():
        if only in (None, name):
            results[name] = timed(measure)
            write_json(out, results)
            Console().print(f"{name}: {results[name]['seconds']} s")
    return results


def parse_arguments() -> argparse.Namespace:
    """The command line; sizes default to the full evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, default=Path("models/weights/fashion32"))
    parser.add_argument("--classifier", type=Path, required=True, help="classifier.safetensors")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--out", type=Path, default=Path("evaluation.json"))
    parser.add_argument("--only", choices=("loss", "samples"))
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return parser.parse_args()


if __name__ == "__main__":
    options = parse_arguments()
    chosen = Sizes(**{name: getattr(options, name) for name in asdict(Sizes())})
    outcome = evaluate(options.prior, options.classifier, options.data, options.out, chosen, options.only)
    Console().print_json(data=outcome)
