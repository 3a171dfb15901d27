"""A classifier of the parts of a picture: a small convolutional network with one head per slot of :class:`Layers`.

It judges samples that are not exactly pictures of parts, such as those of a latent prior. Its heads are over the
classes of :attr:`Layers.classes`, as are the exact marginals of :mod:`pyro_vipaint.cats.posterior`. The model card of
``cats64`` states the accuracies of its network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pyro_vipaint._files import read_tensors
from pyro_vipaint.errors import InputError, whole
from pyro_vipaint.models.pretrained.load import weights_folder

WIDTHS = (32, 64, 128, 128)
SHRINKING = 2 ** len(WIDTHS)
CHUNK = 250  # images in one pass


class PartsClassifier(nn.Module):
    """Class logits ``(B, n)`` by slot of images ``(B, 3, H, H)`` in [-1, 1]; about 375 000 parameters for the cats.

    Normalisation is over groups of channels, so that training, evaluation and averages of weights are one function.

    Args:
        num_classes: slot -> number of classes n.
        size: H, a multiple of 16.
    """

    def __init__(self, num_classes: Mapping[str, int], size: int = 64) -> None:
        super().__init__()
        self.num_classes = dict(num_classes)
        channels = zip((3, *WIDTHS[:-1]), WIDTHS, strict=True)
        self.features = nn.Sequential(*(_block(*pair) for pair in channels), nn.Flatten())
        self.heads = nn.Linear(WIDTHS[-1] * (size // SHRINKING) ** 2, sum(self.num_classes.values()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.heads(self.features(x)).split(list(self.num_classes.values()), -1)
        return dict(zip(self.num_classes, logits, strict=True))


def _block(channels_in: int, channels_out: int) -> nn.Module:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, channels_out), nn.ReLU())


def load_classifier(path: Path) -> PartsClassifier:
    """The network in a safetensors file of ``recipes/cats64/classifier.py``, in single precision on the CPU.

    Raises:
        InputError: the file does not exist or holds something else.
    """
    tensors, texts = read_tensors(path)
    try:
        slots = (entry.partition("=") for entry in texts["slots"].split())
        counts = {slot: whole(slot, int(count)) for slot, _, count in slots}
        logits, features = tensors["heads.weight"].shape
        if sum(counts.values()) != logits or not all(map(torch.is_floating_point, tensors.values())):
            raise ValueError(f"{logits} logits")
        network = PartsClassifier(counts, SHRINKING * math.isqrt(features // WIDTHS[-1]))
        network.load_state_dict(tensors)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as a classifier of parts.") from error
    return network.eval().requires_grad_(False)


def shipped_classifier(name: str = "cats64") -> PartsClassifier:
    """The classifier beside the shipped prior of that name."""
    return load_classifier(weights_folder() / name / "classifier.safetensors")


@torch.no_grad()
def part_probabilities(network: PartsClassifier, images: Tensor) -> dict[str, Tensor]:
    """slot -> class probabilities ``(..., n)`` of images ``(..., 3, H, H)`` in [-1, 1]."""
    batches = [network(batch) for batch in images.reshape(-1, *images.shape[-3:]).split(CHUNK)]
    logits = {slot: torch.cat([batch[slot] for batch in batches]) for slot in network.num_classes}
    return {slot: values.softmax(-1).reshape(*images.shape[:-3], -1) for slot, values in logits.items()}


def draw_labels(probabilities: Mapping[str, Tensor], generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """slot -> a class ``(...)`` drawn from each row of probabilities ``(..., n)``.

    Where a picture hides one of its parts (an accessory covers the mouth), the most probable class is an artefact of
    the network. A class drawn from p(c given x) is not: for x drawn from p(x given y) it is a draw from
    p(c given y) = E[p(c given x)], the exact marginal, as far as the network's probabilities are right.
    """
    return {
        slot: values.flatten(0, -2).multinomial(1, generator=generator).reshape(values.shape[:-1])
        for slot, values in probabilities.items()
    }
