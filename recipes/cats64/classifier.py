"""Trains the classifier that says which parts a sample of ``cats64`` shows.

The network of :mod:`pyro_vipaint.cats.classifier`, (B, 3, 64, 64) -> one head a slot, minimises the sum over slots of

    -E log softmax(f(x))_class

over pictures drawn afresh, never from the held-out combinations. So that it judges samples of a latent prior fairly, a
third of the batches went through the shipped autoencoder with noise on the latents (of up to .2 of their standard
deviation), another third is blurred (a Gaussian of up to a pixel), and all get noise (of up to .1). What ships is an
exponential moving average, in half precision. Interrupted, the same command goes on::

    python -m recipes.cats64.classifier --work WORKDIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas
import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision.transforms.v2.functional import gaussian_blur

from pyro_vipaint._files import write_whole
from pyro_vipaint.cats.classifier import PartsClassifier, load_classifier, part_probabilities
from pyro_vipaint.cats.parts import Layers, draw_parts, shipped_layers
from pyro_vipaint.cats.posterior import parts_posterior
from pyro_vipaint.cats.scores import is_shown
from pyro_vipaint.models import DiffusionPrior, load_prior
from recipes.cats64.parts import TARGET as PARTS
from recipes.training import Schedule, load_average, train

BATCH_SIZE = 64
ITERATIONS = 1500
LEARNING_RATE = 2e-3
KERNEL = 7  # pixels, side of the blur
LARGEST_BLUR = 1.0  # its standard deviation, in pixels
LARGEST_NOISE = 0.1  # standard deviation, in units of [-1, 1]
LARGEST_LATENT_NOISE = 0.2  # standard deviation, in units of that of the latents
DECISIVE_NOISE = 0.05  # sigma at which a picture shows its parts
TARGET = PARTS.with_name("classifier.safetensors")


def labels_of(layers: Layers, index: Tensor) -> dict[str, Tensor]:
    """slot -> class numbers ``(N,)`` of part numbers ``(N, L)``."""
    return {slot: number[column] for (slot, number), column in zip(layers.classes.items(), index.T, strict=True)}


def damaged(prior: DiffusionPrior, x: Tensor) -> Tensor:
    """Pictures ``(B, 3, 64, 64)`` with noise and, a third of the batches each, blurred or through the autoencoder."""
    kind = int(torch.randint(3, ()))
    if kind == 1:
        x = blurred(x, 0.1 + (LARGEST_BLUR - 0.1) * float(torch.rand(())))
    if kind == 2:
        x = through_autoencoder(prior, x, LARGEST_LATENT_NOISE * torch.rand(len(x), 1, 1, 1))
    return x + LARGEST_NOISE * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)


@torch.no_grad()
def through_autoencoder(prior: DiffusionPrior, x: Tensor, noise: Tensor | float = 0.0) -> Tensor:
    """Decoded latents of pictures, with Gaussian noise of that standard deviation on the latents."""
    z = prior.encode(x)
    return prior.decode(z + noise * torch.randn_like(z)).clamp(-1, 1)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Pictures under a Gaussian blur of so many pixels."""
    return gaussian_blur(x, [KERNEL, KERNEL], [sigma, sigma])


def held_out_accuracies(
    network: PartsClassifier, prior: DiffusionPrior, layers: Layers, num: int = 2000
) -> list[dict[str, object]]:
    """Accuracies on held-out cats by kind (clean, blurred, decoded) and slot: of all, and of those that show.

    A slot shows where the exact posterior of the whole picture is nearly sure of it; a covered mouth does not.
    """
    index = draw_parts(layers, num, held_out=True, generator=torch.Generator().manual_seed(1))
    images, labels, shows = layers.compose(index), labels_of(layers, index), which_show(layers, index)
    rows = []
    decoded = torch.cat([through_autoencoder(prior, batch) for batch in images.split(BATCH_SIZE)])
    for kind, x in {"clean": images, "blurred": blurred(images, LARGEST_BLUR), "decoded": decoded}.items():
        for slot, probabilities in part_probabilities(network, x).items():
            right = (probabilities.argmax(-1) == labels[slot]).double()
            shown = float(right[shows[slot]].mean())
            share = float(shows[slot].double().mean())
            rows.append({"kind": kind, "slot": slot, "all": float(right.mean()), "shown": shown, "share shown": share})
    return rows


def which_show(layers: Layers, index: Tensor) -> dict[str, Tensor]:
    """slot -> whether the whole picture determines the class of the part, ``(N,)``."""
    batches = []
    for batch in track(index.split(BATCH_SIZE), description="exact posteriors"):
        x = layers.compose(batch)
        batches.append(is_shown(parts_posterior(layers, x, torch.ones_like(x[:, :1]), DECISIVE_NOISE).marginals))
    return {slot: torch.cat([batch[slot] for batch in batches]) for slot in layers.parts}


def run(layers: Layers, work: Path, iterations: int) -> None:
    """Trains from the checkpoint in ``work``, or from the start."""
    torch.manual_seed(0)
    prior = load_prior(TARGET.parent)
    network = PartsClassifier(layers.num_classes).to(memory_format=torch.channels_last)

    def batch_loss() -> Tensor:
        index = draw_parts(layers, BATCH_SIZE, held_out=False)
        x = damaged(prior, layers.compose(index)).contiguous(memory_format=torch.channels_last)
        targets = labels_of(layers, index).values()
        losses = [cross_entropy(logits, y) for logits, y in zip(network(x).values(), targets, strict=True)]
        return torch.stack(losses).sum()

    train(network, batch_loss, work, Schedule(iterations, LEARNING_RATE), decay=0.99)


def save_classifier(network: PartsClassifier, path: Path) -> None:
    """Writes the network in half precision, with its slots in the metadata."""
    slots = " ".join(f"{slot}={size}" for slot, size in network.num_classes.items())
    weights = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    write_whole(path, save(weights, {"slots": slots}))


def export(layers: Layers, work: Path, target: Path) -> None:
    """Writes the average in ``work`` and says how good it is, read back as it ships."""
    network = PartsClassifier(layers.num_classes)
    load_average(network, work / "checkpoint.pt")
    save_classifier(network, target)
    table = pandas.DataFrame(held_out_accuracies(load_classifier(target), load_prior(TARGET.parent), layers))
    Console(width=120).print(table.round(4).to_string(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--target", type=Path, default=TARGET, help="the safetensors file to write")
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    arguments = parser.parse_args()
    run(shipped_layers(), arguments.work, arguments.iterations)
    export(shipped_layers(), arguments.work, arguments.target)
