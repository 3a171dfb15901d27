"""Measures the shipped prior ``cats64``: the autoencoder and the classifier on held-out cats, and cats that it draws.

**Autoencoder.** PSNR and LPIPS (AlexNet) of decode(encode(x)) to x, for combinations of parts that no training saw.

**Classifier.** Its accuracy slot by slot on real held-out cats, blurred ones and ones that went through the
autoencoder: of all, and of those whose part shows (the exact posterior of the whole picture is sure of it).

**Samples.** Cats by the prior's own chain, Eq. 3, on evenly spaced times, the last denoised and decoded. Measured are,
slot by slot, the share of cats for which the classifier of parts gives one class a probability of .9 or more, beside
that of real held-out cats and its accuracy on them; how many classes of each slot are drawn with that confidence; and
the kernel distance (KID's kernel on AlexNet features) to held-out cats, beside that of as many training cats::

    python -m recipes.cats64.evaluate

writes ``evaluation.json`` and the pictures ``samples.png`` and ``reconstructions.png`` beside the weights. Each third
can be run alone; figures of the others are kept if they belong to the same weights.
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
from pyro_vipaint.cats.parts import Layers, draw_parts, shipped_layers
from pyro_vipaint.metrics import alexnet_features, lpips_distance, psnr
from pyro_vipaint.models import DiffusionPrior, load_prior
from recipes.cats64.classifier import held_out_accuracies, through_autoencoder
from recipes.cats64.export import TARGET, WEIGHTS
from recipes.evaluation import Result, by_slot, distance, earlier_results, save_grid, timed, write_json

CLASSIFIER = "classifier.safetensors"
CHUNK = 100


@dataclass(frozen=True)
class Sizes:
    """How much is computed: held-out cats, drawn cats (and training cats to compare with), steps of the chain."""

    held_out: int = 2000
    samples: int = 500
    steps: int = 100
    seed: int = 0


def draw_cats(layers: Layers, num: int, held_out: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Real cats ``(num, 3, 64, 64)`` and their part numbers ``(num, 5)``."""
    index = draw_parts(layers, num, held_out, torch.Generator().manual_seed(seed))
    return layers.compose(index), index


@torch.inference_mode()
def measure_autoencoder(prior: DiffusionPrior, layers: Layers, sizes: Sizes, picture: Path) -> Result:
    """Reconstruction of held-out cats, means with standard errors over cats."""
    x, _ = draw_cats(layers, sizes.held_out, True, sizes.seed)
    reconstruction = torch.cat([through_autoencoder(prior, chunk) for chunk in x.split(CHUNK)])
    save_grid(picture, torch.stack([x[:20], reconstruction[:20]], 1).flatten(0, 1), 10)
    values = {"psnr": psnr(reconstruction, x), "lpips": lpips_distance(reconstruction, x)}
    return {"images": len(x)} | {
        name: {"mean": value.mean().item(), "standard_error": (value.std() / len(value) ** 0.5).item()}
        for name, value in values.items()
    }


@torch.inference_mode()
def measure_classifier(prior: DiffusionPrior, layers: Layers, classifier: PartsClassifier, sizes: Sizes) -> Result:
    """Accuracies by kind of picture and slot, as :func:`held_out_accuracies` has them."""
    return {"images": sizes.held_out, "rows": held_out_accuracies(classifier, prior, layers, sizes.held_out)}


@torch.inference_mode()
def draw_samples(prior: DiffusionPrior, sizes: Sizes) -> Tensor:
    """Cats ``(samples, 3, 64, 64)`` in [-1, 1] by the prior's chain."""
    torch.manual_seed(sizes.seed)
    last = 1 / sizes.steps
    marginal = prior.marginal(last, steps=sizes.steps - 1)
    chunks = [min(CHUNK, sizes.samples - start) for start in range(0, sizes.samples, CHUNK)]
    return torch.cat([prior.decode(prior.denoise(marginal.sample((n,)), last)).clamp(-1, 1) for n in chunks])


def measure_samples(
    prior: DiffusionPrior, layers: Layers, classifier: PartsClassifier, sizes: Sizes, picture: Path
) -> Result:
    """Drawn cats beside real ones."""
    samples = draw_samples(prior, sizes)
    save_grid(picture, samples[:60], 12)
    held_out, _ = draw_cats(layers, sizes.held_out, True, sizes.seed)
    training, _ = draw_cats(layers, sizes.samples, False, sizes.seed + 1)
    judged, reference = part_probabilities(classifier, held_out), alexnet_features(held_out)
    return {
        "images": len(samples),
        "calls_per_sample": sizes.steps,
        "slots": by_slot(part_probabilities(classifier, samples)),
        "held_out_slots": by_slot(judged),
        "kernel_distance": {
            "held_out_images": len(held_out),
            "samples": distance(alexnet_features(samples), reference),
            "training_images": distance(alexnet_features(training), reference),
        },
    }


def describe(folder: Path) -> Result:
    """Which weights the figures belong to: digests, sizes, and the training steps where a file's header states them."""
    described: Result = {}
    paths = {part: folder / part / WEIGHTS for part in ("vae", "unet")} | {"classifier": folder / CLASSIFIER}
    for part, path in paths.items():
        with safe_open(path, framework="pt") as file:
            parameters = sum(file.get_tensor(name).numel() for name in file.keys())
            stated = {name: int(value) for name, value in file.metadata().items() if name == "iterations"}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        described[part] = {"sha256": digest, "bytes": path.stat().st_size, "parameters": parameters} | stated
    return described


def evaluate(folder: Path, out: Path, sizes: Sizes, only: str | None = None) -> Result:
    """Measures one third or all and writes ``out`` after each."""
    prior, layers = load_prior(folder), shipped_layers()
    classifier = load_classifier(folder / CLASSIFIER)
    weights = describe(folder)
    results = earlier_results(out, weights) | {"prior": weights}
    thirds: dict[str, Callable[[], Result]] = {
        "autoencoder": lambda: measure_autoencoder(prior, layers, sizes, out.with_name("reconstructions.png")),
        "classifier": lambda: measure_classifier(prior, layers, classifier, sizes),
        "samples": lambda: measure_samples(prior, layers, classifier, sizes, out.with_name("samples.png")),
    }
    for name, measure in thirds.items():
        if only in (None, name):
            results[name] = timed(measure)
            write_json(out, results)
            Console().print(f"{name}: {results[name]['seconds']} s")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, default=TARGET)
    parser.add_argument("--out", type=Path, default=TARGET / "evaluation.json")
    parser.add_argument("--only", choices=("autoencoder", "classifier", "samples"))
    parser.add_argument("--samples", type=int, default=Sizes.samples)
    parser.add_argument("--steps", type=int, default=Sizes.steps)
    options = parser.parse_args()
    chosen = Sizes(samples=options.samples, steps=options.steps)
    Console().print_json(data=evaluate(options.prior, options.out, chosen, options.only))
