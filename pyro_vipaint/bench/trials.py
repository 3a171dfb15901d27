"""Images and what is observed of them: the trial that all methods are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._files import PICTURES, read_image
from pyro_vipaint._torch import NOISE, child_seed, fingerprint
from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.tasks import Task
from pyro_vipaint.cats.parts import draw_held_out, has_layers
from pyro_vipaint.checks import warm_prior
from pyro_vipaint.demo import held_out_images
from pyro_vipaint.errors import InputError
from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.models.measurements.operators import Inpainting, Operator

DRAWN = 256  # held-out pictures of a layered prior
SEEDS_APART = 100_000  # images of one seed before those of the next


@dataclass(frozen=True, eq=False)
class Trial:
    """One inverse problem for some images; everything lies on one device.

    Attributes:
        prior: what the methods know of such images.
        truth: the images, ``(N, C, H, W)`` in [-1, 1].
        y: what is observed of them, ``(N, *observation)``.
        operator: A.
        noise: standard deviation of the noise in y.
        condition: of the denoiser.
        seed: of the method.
        start: the number of the first image.
    """

    prior: DiffusionPrior
    truth: Tensor
    y: Tensor
    operator: Operator
    noise: float
    condition: dict[str, Any]
    seed: int
    start: int = 0

    @property
    def mask(self) -> Tensor | None:
        """1 = observed, ``(N, 1, H, W)``, where the task is inpainting."""
        return self.operator.mask if isinstance(self.operator, Inpainting) else None

    def to(self, device: str) -> Trial:
        """The trial on another device, where its prior lies already."""
        operator = self.operator
        if isinstance(operator, Inpainting):
            operator = Inpainting(operator.mask.to(device))
        condition = {name: value.to(device) for name, value in self.condition.items()}
        truth, y = self.truth.to(device), self.y.to(device)
        return Trial(self.prior, truth, y, operator, self.noise, condition, self.seed, self.start)


@lru_cache(maxsize=2)
def weights_of(name: str, device: str) -> str:
    """The fingerprint of the prior's weights."""
    return fingerprint(warm_prior(name, device))


def load_trial(cell: Cell, task: Task, device: str) -> Trial:
    """The trial of a cell. What is observed of an image depends on its number, the task and the seed alone.

    Raises:
        InputError: there are fewer images.
    """
    prior, here = warm_prior(cell.prior, device), slice(cell.start, cell.stop)
    if task.draws is None:
        images, labels = load_images(cell.prior, prior, cell.images, cell.stop)
        truth, labels = images[here], None if labels is None else labels[here]
    else:
        truth, labels = task.draws(prior, weights_of(cell.prior, device), cell.start, cell.stop, device)
    seeds = [cell.seed * SEEDS_APART + number for number in range(cell.start, cell.stop)]
    operator = task.operator(truth.shape[-1], seeds)
    y = _observe(operator, truth, task.noise, seeds)
    condition = {} if labels is None else {"class_labels": labels}
    return Trial(prior, truth, y, operator, task.noise, condition, cell.seed).to(device)


def _observe(operator: Operator, truth: Tensor, noise: float, seeds: Sequence[int]) -> Tensor:
    """y = A(x) + v, zero where a mask hides it; the noise of each image from its own seed."""
    clean = operator.A(truth)
    generators = [torch.Generator().manual_seed(child_seed(seed, NOISE)) for seed in seeds]
    v = torch.stack([torch.randn(clean.shape[1:], generator=each) for each in generators])
    return clean + noise * (operator.A(v) if isinstance(operator, Inpainting) else v)


def load_images(name: str, prior: DiffusionPrior, folder: str | None, num: int) -> tuple[Tensor, Tensor | None]:
    """The first ``num`` images and their labels: of a folder of pictures, or held out from an embedded prior.

    Raises:
        InputError: there are fewer, or none come with the prior.
    """
    if folder is not None:
        images, labels = _read_folder(Path(folder), prior, num), None
    elif name == "fashion32":
        images, labels = held_out_images()
    elif has_layers(name):
        images, labels = draw_held_out(name, DRAWN)
    else:
        raise InputError(f"No images come with the prior {name}: name a folder of them with --pictures.")
    if len(images) < num:
        raise InputError(f"There are {len(images)} images for {name}, {num} are wanted: ask for fewer.")
    return images[:num], None if labels is None else labels[:num]


def _read_folder(folder: Path, prior: DiffusionPrior, num: int) -> Tensor:
    """The first ``num`` pictures in the order of their names, resized to the prior's height and width."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of pictures.")
    channels, *size = prior.image_shape
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)[:num]
    return torch.stack([read_image(path, channels, (size[0], size[1])) for path in paths]) if paths else torch.empty(0)
