"""Measures the shipped prior ``faces32``: its denoising loss beside the least possible, its classifier, its samples.

**Loss.** The mean over held-out faces and pixels of (D(x + sigma n; sigma, label) - x)^2, n ~ N(0, I). It is the least
that any denoiser has, E Var(x given x_sigma, label), plus an excess, E |D - E[x given x_sigma, label]|^2; both are
estimated from faces drawn from the exact posterior, by enumeration of all faces of the label.

**Classifier.** Its accuracy slot by slot on held-out faces: as they are, blurred, and with noise.

**Samples.** Faces by the prior's own chain, Eq. 3, on evenly spaced times, the last denoised; labels take turns.
Measured are, slot by slot, the share for which the classifier of parts gives one class a probability of .9 or more,
beside that of held-out faces; how far the shares of the classes are from uniform, as a total variation, beside what as
many exact draws have; how often the hair is of the style asked for; the PSNR to the nearest of all faces (the one of
largest exact posterior); the share of nearest faces that are held out, a tenth if the prior did not learn its training
faces by heart; and the kernel distance (KID's kernel on AlexNet features) to held-out faces::

    python -m recipes.faces32.evaluate

writes ``evaluation.json`` and the picture ``samples.png`` beside the weights. Each third can be run alone, and the
samples on several devices; other figures are kept if they belong to the same weights.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from safetensors import safe_open
from torch import Tensor

from pyro_vipaint.cats.classifier import PartsClassifier, load_classifier, part_probabilities
from pyro_vipaint.cats.parts import Layers, draw_parts, is_held_out, load_layers
from pyro_vipaint.cats.posterior import given_class, parts_posterior
from pyro_vipaint.cats.scores import expected_total_variation
from pyro_vipaint.metrics import alexnet_features, psnr
from pyro_vipaint.models import DiffusionPrior, load_prior
from pyro_vipaint.models.priors.schedules import time_of
from recipes.cats64.classifier import labels_of as part_labels
from recipes.edm import WEIGHTS
from recipes.evaluation import Result, by_slot, distance, earlier_results, save_grid, timed, write_json
from recipes.faces32.classifier import CLASSIFIER, held_out_accuracies
from recipes.faces32.export import FOLDER
from recipes.faces32.parts import HAIR_COLOURS, HAIR_STYLES, labels_of
from recipes.faces32.train import SIGMA_DATA

NUM_CLASSES = len(HAIR_STYLES)
LOSS_SIGMAS = (0.05, 0.2, 0.6, 1.0, 2.0, 4.0, 10.0)
DRAWS = 64  # from each exact posterior
NEAREST_SIGMA = 0.2  # of the posterior whose mode is the nearest face; any other gives the same
CHUNK = 100
POSTERIORS = 16  # at once, 71 MB


@dataclass(frozen=True)
class Sizes:
    """How much is computed: held-out faces, and of these with exact posteriors; drawn faces, steps of the chain."""

    held_out: int = 2000
    enumerated: int = 128
    samples: int = 240
    steps: int = 200
    seed: int = 0


def mean_and_error(values: Tensor) -> Result:
    """Mean and standard error of ``(N,)``."""
    values = values.double()
    return {"mean": values.mean().item(), "standard_error": (values.std() / len(values) ** 0.5).item()}


def posterior_moments(layers: Layers, y: Tensor, sigma: float, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(N, 3, 32, 32)`` of :data:`DRAWS` exact posterior draws given y = x + sigma n and label."""
    moments = []
    for observed, label in zip(y.split(POSTERIORS), labels.split(POSTERIORS), strict=True):
        posterior = parts_posterior(layers, observed, torch.ones_like(observed[:, :1]), sigma)
        posterior = given_class(posterior, label, len(HAIR_COLOURS))
        faces = layers.compose(posterior.sample(DRAWS).flatten(0, 1)).unflatten(0, (DRAWS, len(label)))
        moments.append((faces.mean(0), faces.var(0)))
    mean, variance = (torch.cat(each) for each in zip(*moments, strict=True))
    return mean, variance


def nearest_parts(layers: Layers, x: Tensor) -> Tensor:
    """The combination ``(N, 6)`` whose picture is nearest to each of ``x``."""
    found = []
    for chunk in x.split(POSTERIORS):
        log_probs = parts_posterior(layers, chunk, torch.ones_like(chunk[:, :1]), NEAREST_SIGMA).log_probs
        found.append(torch.stack(torch.unravel_index(log_probs.flatten(1).argmax(1), log_probs.shape[1:]), -1))
    return torch.cat(found)


@torch.inference_mode()
def measure_loss(prior: DiffusionPrior, layers: Layers, sizes: Sizes, device: str) -> Result:
    """The error of the denoised face by noise level, and the least possible one."""
    generator = torch.Generator().manual_seed(sizes.seed)
    index = draw_parts(layers, sizes.held_out, True, generator)
    x, labels, levels = layers.compose(index), labels_of(index), []
    for sigma in LOSS_SIGMAS:
        y = x + sigma * torch.randn(x.shape, generator=generator)
        pairs = zip(y.split(CHUNK), labels.split(CHUNK), strict=True)
        denoised = torch.cat([denoise(prior, *pair, sigma, device) for pair in pairs])
        few = slice(sizes.enumerated)
        mean, variance = posterior_moments(layers, y[few], sigma, labels[few])
        excess = (denoised[few] - mean).square() - variance / DRAWS
        levels.append(
            {
                "sigma": sigma,
                "error": mean_and_error((denoised - x).square().flatten(1).mean(1)),
                "least": mean_and_error(variance.flatten(1).mean(1)),
                "excess": mean_and_error(excess.flatten(1).mean(1)),
                "trivial": SIGMA_DATA**2 * sigma**2 / (SIGMA_DATA**2 + sigma**2),
            }
        )
    return {"images": len(x), "enumerated": sizes.enumerated, "levels": levels}


def denoise(prior: DiffusionPrior, y: Tensor, labels: Tensor, sigma: float, device: str) -> Tensor:
    """D(y; sigma, label) on the CPU; ``y`` is an image plus noise of standard deviation sigma."""
    t = time_of(prior.schedule, sigma)
    return prior.denoise(y.to(device), t, class_labels=labels.to(device)).cpu()


def measure_classifier(layers: Layers, classifier: PartsClassifier, sizes: Sizes) -> Result:
    """Accuracies by kind of picture and slot, as :func:`held_out_accuracies` has them."""
    return {"images": sizes.held_out, "rows": held_out_accuracies(classifier, layers, sizes.held_out)}


@torch.inference_mode()
def draw_samples(prior: DiffusionPrior, sizes: Sizes, device: str) -> tuple[Tensor, Tensor]:
    """Faces ``(samples, 3, 32, 32)`` in [-1, 1] by the prior's chain, and their labels."""
    torch.manual_seed(sizes.seed)
    labels, last = torch.arange(sizes.samples) % NUM_CLASSES, 1 / sizes.steps
    faces = []
    for chunk in labels.split(CHUNK if device == "cpu" else 1000):
        condition = {"class_labels": chunk.to(device)}
        z = prior.marginal(last, steps=sizes.steps - 1, **condition).sample((len(chunk),))
        faces.append(prior.denoise(z, last, **condition).clamp(-1, 1).cpu())
    return torch.cat(faces), labels


@torch.inference_mode()
def measure_samples(
    prior: DiffusionPrior, layers: Layers, classifier: PartsClassifier, sizes: Sizes, picture: Path, device: str
) -> Result:
    """Drawn faces beside real ones."""
    samples, labels = draw_samples(prior, sizes, device)
    save_grid(picture, samples[:96].repeat_interleave(2, -1).repeat_interleave(2, -2), NUM_CLASSES)
    held_out = layers.compose(draw_parts(layers, sizes.held_out, True, torch.Generator().manual_seed(sizes.seed)))
    generator = torch.Generator().manual_seed(sizes.seed + 1)
    training = layers.compose(draw_parts(layers, sizes.samples, False, generator))
    judged, reference = part_probabilities(classifier, samples), alexnet_features(held_out)
    nearest = nearest_parts(layers, samples)
    agree = {slot: (judged[slot].argmax(-1) == y) for slot, y in part_labels(layers, nearest).items()}
    style = (judged["hair"].argmax(-1) // len(HAIR_COLOURS) == labels).double().mean().item()
    slots = by_slot(judged)
    for slot, values in slots.items():
        counts = judged[slot].argmax(-1).bincount(minlength=values["classes"])
        uniform = torch.full((values["classes"],), 1 / values["classes"], dtype=torch.float64)
        values["counts"] = counts.tolist()
        values["total_variation"] = (counts / counts.sum() - uniform).abs().sum().item() / 2
        values["total_variation_exact"] = expected_total_variation(uniform, len(samples)).item()
        values["nearest_agrees"] = agree[slot].double().mean().item()
    to_nearest = psnr(samples, layers.compose(nearest))
    return {
        "images": len(samples),
        "calls_per_sample": sizes.steps,
        "slots": slots,
        "held_out_slots": by_slot(part_probabilities(classifier, held_out)),
        "style_as_asked": style,
        "psnr_to_nearest": mean_and_error(to_nearest)
        | {name: to_nearest.quantile(q).item() for name, q in (("worst_tenth", 0.1), ("median", 0.5))},
        "held_out_share": is_held_out(nearest).double().mean().item(),
        "kernel_distance": {
            "held_out_images": len(held_out),
            "samples": distance(alexnet_features(samples), reference),
            "training_images": distance(alexnet_features(training), reference),
        },
    }


def describe(folder: Path) -> Result:
    """Which weights the figures belong to: digests, sizes, and what the files' headers state."""
    described: Result = {}
    for part, path in {"unet": folder / WEIGHTS, "classifier": folder / CLASSIFIER.name}.items():
        with safe_open(path, framework="pt") as file:
            parameters = sum(file.get_tensor(name).numel() for name in file.keys())
            header = file.metadata()
        stated: Result = {name: int(header[name]) for name in ("iterations", "seconds") if name in header}
        if "half_precision_error" in header:
            stated["half_precision_error"] = float(header["half_precision_error"])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        described[part] = {"sha256": digest, "bytes": path.stat().st_size, "parameters": parameters} | stated
    return described


def evaluate(folder: Path, out: Path, sizes: Sizes, only: str | None = None, device: str = "cpu") -> Result:
    """Measures one third or all and writes ``out`` after each."""
    prior, layers = load_prior(folder, device), load_layers(folder / "parts.safetensors")
    classifier = load_classifier(folder / CLASSIFIER.name)
    weights = describe(folder)
    results = earlier_results(out, weights) | {"prior": weights}
    thirds: dict[str, Callable[[], Result]] = {
        "loss": lambda: measure_loss(prior, layers, sizes, device),
        "classifier": lambda: measure_classifier(layers, classifier, sizes),
        "samples": lambda: measure_samples(prior, layers, classifier, sizes, out.with_name("samples.png"), device),
    }
    for name, measure in thirds.items():
        if only in (None, name):
            found = timed(measure)
            results[name] = {**results.get(name, {}), device: found} if name == "samples" else found
            write_json(out, results)
            Console().print(f"{name}: {found['seconds']} s")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=FOLDER / "evaluation.json")
    parser.add_argument("--only", choices=("loss", "classifier", "samples"))
    parser.add_argument("--samples", type=int, default=Sizes.samples, help="drawn faces, at least 96")
    parser.add_argument("--steps", type=int, default=Sizes.steps)
    parser.add_argument("--held-out", type=int, default=Sizes.held_out, help="held-out faces")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    chosen = Sizes(options.held_out, samples=options.samples, steps=options.steps)
    Console().print_json(data=evaluate(options.prior, options.out, chosen, options.only, options.device))
