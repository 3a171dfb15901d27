"""Trains the classifier that judges class-conditional samples of ``fashion32``.

A small convolutional network f with batch normalisation, (B, 1, 32, 32) -> (B, 10), minimises the cross-entropy

    -E log softmax(f(x))_label

over the 60 000 training images, mirrored at random; each of its three blocks halves the resolution, which keeps an
epoch far below a minute of one processor core. It never sees a generated image, so its agreement with the label that a
sample was drawn for measures the prior. Its accuracy on the 10 000 held-out images is kept in the file's metadata.
Interrupted, the same command goes on from the last finished epoch::

    python -m recipes.fashion32.classifier --data FOLDER --work WORKDIR
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recipes.fashion32.data import DEFAULT_FOLDER, load_split

NUM_CLASSES = 10
WIDTHS = (32, 64, 128)
BATCH_SIZE = 128
EPOCHS = 6
LEARNING_RATE = 4e-3  # the peak of the one-cycle schedule (Smith & Topin, 2018)
WEIGHT_DECAY = 5e-2


class Stateful(Protocol):
    """What a checkpoint keeps a part of: a module, an optimizer or a learning rate schedule."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object: ...


class Classifier(nn.Module):
    """Class logits ``(B, 10)`` of images ``(B, 1, 32, 32)`` in [-1, 1]; about 115 000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.features = nn.Sequential(
            *_block(1, first, kernel_size=5),
            *_block(first, second, kernel_size=3),
            *_block(second, third, kernel_size=3),
        )
        self.head = nn.Linear(third * 4 * 4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def _block(channels_in: int, channels_out: int, kernel_size: int) -> tuple[nn.Module, ...]:
    """Convolution of stride two, batch normalisation, rectifier."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size, stride=2, padding=kernel_size // 2, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()


def load_classifier(path: Path) -> Classifier:
    """The trained classifier in a ``classifier.safetensors``, in evaluation mode on the CPU."""
    classifier = Classifier()
    classifier.load_state_dict(load_file(path))
    return classifier.eval()


@torch.inference_mode()
def predict(classifier: Classifier, images: Tensor, batch_size: int = 250) -> Tensor:
    """The most probable class ``(N,)`` of each image ``(N, 1, 32, 32)``."""
    return torch.cat([classifier(batch).argmax(1) for batch in images.split(batch_size)])


def accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share, in [0, 1], of the images ``(N, 1, 32, 32)`` that get their label ``(N,)``."""
    return (predict(classifier, images) == labels).double().mean().item()


def mirrored(images: Tensor) -> Tensor:
    """Images ``(B, 1, 32, 32)``, each mirrored left to right with probability one half."""
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(-1), images)


def train_epoch(
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    images: Tensor,
    labels: Tensor,
    name: str,
) -> None:
    """One pass over the training images ``(N, 1, 32, 32)`` and labels ``(N,)`` in random order."""
    classifier.train()
    for index in track(torch.randperm(len(images)).split(BATCH_SIZE), description=name):
        loss = nn.functional.cross_entropy(classifier(mirrored(images[index])), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    classifier.eval()


def save_classifier(path: Path, classifier: Classifier, held_out_accuracy: float, epochs: int) -> None:
    """Writes a safetensors file that is whole or not there at all."""
    metadata = {"held_out_accuracy": f"{held_out_accuracy:.4f}", "epochs": str(epochs), "data": "Fashion-MNIST, 32x32"}
    part = path.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in classifier.state_dict().items()}, part, metadata)
    part.chmod(0o644)
    part.replace(path)


def train(data: Path, work: Path, epochs: int = EPOCHS, seed: int = 0) -> float:
    """Trains for ``epochs`` passes in all, from the checkpoint in ``work`` where there is one; held-out accuracy."""
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "classifier_checkpoint.pt"
    images, labels = load_split(data, train=True)
    held_out = load_split(data, train=False)
    torch.manual_seed(seed)
    classifier = Classifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=WEIGHT_DECAY)
    steps = -(-len(images) // BATCH_SIZE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * steps)
    parts = {"classifier": classifier, "optimizer": optimizer, "scheduler": scheduler}
    first = _resume(checkpoint, parts, epochs) if checkpoint.exists() else 0
    console = Console()
    for epoch in range(first, epochs):
        begun = time.perf_counter()
        train_epoch(classifier, optimizer, scheduler, images, labels, f"epoch {epoch + 1} of {epochs}")
        seconds = time.perf_counter() - begun
        _save_state(checkpoint, parts, epoch + 1, epochs)
        console.print(f"epoch {epoch + 1}: held-out accuracy {accuracy(classifier, *held_out):.4f}, {seconds:.0f} s")
    result = accuracy(classifier.eval(), *held_out)
    save_classifier(work / "classifier.safetensors", classifier, result, epochs)
    return result


def _save_state(path: Path, parts: Mapping[str, Stateful], epoch: int, epochs: int) -> None:
    """Writes a checkpoint of a finished epoch that is whole or not there at all."""
    state = {"epoch": epoch, "epochs": epochs, "rng": torch.get_rng_state()}
    torch.save(state | {name: part.state_dict() for name, part in parts.items()}, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def _resume(path: Path, parts: Mapping[str, Stateful], epochs: int) -> int:
    """Puts the checkpoint's state into ``parts``; the number of finished epochs."""
    state = torch.load(path, weights_only=True)
    if state["epochs"] != epochs:
        raise ValueError(f"{path} belongs to a training of {state['epochs']} epochs, not {epochs}; remove it first")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["rng"])
    return state["epoch"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    train(arguments.data, arguments.work, arguments.epochs)
