"""Trains the classifier that says which parts a sample of ``faces32`` shows.

The network of :mod:`pyro_vipaint.cats.classifier`, (B, 3, 32, 32) -> one head a slot, minimises the sum over slots of

    -E log softmax(f(x))_class

over faces drawn afresh, never from the held-out combinations. So that it judges samples of a prior fairly, half of the
batches are blurred (a Gaussian of up to a pixel), and all get noise (of up to .2). What ships is an exponential moving
average, in half precision. Interrupted, the same command goes on::

    python -m recipes.faces32.classifier --work WORKDIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas
import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy

from pyro_vipaint.cats.classifier import PartsClassifier, load_classifier, part_probabilities
from pyro_vipaint.cats.parts import Layers, draw_parts
from recipes.cats64.classifier import blurred, labels_of, save_classifier
from recipes.faces32.parts import SIZE, TARGET
from recipes.faces32.train import draw_training_parts, layers_on
from recipes.training import Schedule, channels_last, load_average, train

BATCH_SIZE = 256
ITERATIONS = 3000
LEARNING_RATE = 2e-3
LARGEST_BLUR = 1.0  # its standard deviation, in pixels
LARGEST_NOISE = 0.2  # standard deviation, in units of [-1, 1]
CLASSIFIER = TARGET.with_name("classifier.safetensors")


def damaged(x: Tensor) -> Tensor:
    """Faces ``(B, 3, 32, 32)`` with noise and, half of the batches, blurred."""
    if int(torch.randint(2, ())):
        x = blurred(x, 0.1 + (LARGEST_BLUR - 0.1) * float(torch.rand(())))
    return x + LARGEST_NOISE * torch.rand(len(x), 1, 1, 1, device=x.device) * torch.randn_like(x)


def held_out_accuracies(network: PartsClassifier, layers: Layers, num: int = 2000) -> list[dict[str, object]]:
    """Accuracies on held-out faces by slot and kind: as they are, blurred, and with noise, both the largest."""
    generator = torch.Generator().manual_seed(1)
    index = draw_parts(layers, num, held_out=True, generator=generator)
    x, labels = layers.compose(index), labels_of(layers, index)
    noise = LARGEST_NOISE * torch.randn(x.shape, generator=generator)
    rows: list[dict[str, object]] = []
    for kind, images in {"clean": x, "blurred": blurred(x, LARGEST_BLUR), "noisy": x + noise}.items():
        for slot, probabilities in part_probabilities(network, images).items():
            right = (probabilities.argmax(-1) == labels[slot]).double()
            rows.append({"kind": kind, "slot": slot, "accuracy": float(right.mean())})
    return rows


def run(work: Path, iterations: int = ITERATIONS, device: str = "cuda") -> None:
    """Trains from the checkpoint in ``work``, or from the start."""
    layers = layers_on(device)
    torch.manual_seed(0)
    network = channels_last(PartsClassifier(layers.num_classes, SIZE).to(device))

    def batch_loss() -> Tensor:
        index = draw_training_parts(layers, BATCH_SIZE)
        x = damaged(layers.compose(index)).contiguous(memory_format=torch.channels_last)
        losses = [cross_entropy(logits, y) for logits, y in zip(network(x).values(), index.T, strict=True)]
        return torch.stack(losses).sum()

    train(network, batch_loss, work, Schedule(iterations, LEARNING_RATE), decay=0.99, every=500)


def export(work: Path, target: Path) -> None:
    """Writes the average in ``work`` and says how good it is, read back as it ships."""
    layers = layers_on("cpu")
    network = PartsClassifier(layers.num_classes, SIZE)
    load_average(network, work / "checkpoint.pt")
    save_classifier(network, target)
    table = pandas.DataFrame(held_out_accuracies(load_classifier(target), layers))
    Console(width=120).print(table.round(4).to_string(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--target", type=Path, default=CLASSIFIER, help="the safetensors file to write")
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    run(arguments.work, arguments.iterations, arguments.device)
    export(arguments.work, arguments.target)
