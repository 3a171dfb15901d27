"""Images, and what is observed of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._files import read_image
from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.tasks import TASKS
from pyro_vipaint.bench.weights import fingerprint
from pyro_vipaint.cats.parts import draw_held_out_cats
from pyro_vipaint.checks import check_prior
from pyro_vipaint.demo import held_out_images
from pyro_vipaint.errors import InputError
from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.models.measurements.operators import Inpainting, Operator

CATS = 256
SEEDS_APART = 100_000  # images of one seed before those of the next
NOISE_SEEDS = 2**31  # those of the noise in y begin here: a method's own noise, from a small seed, is another
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class Problem:
    """Some images ``(N, C, H, W)``, an operator on them, the observation, and the condition of the denoiser.

    Everything lies on one device.
    """

    prior: DiffusionPrior
    truth: Tensor
    y: Tensor
    operator: Operator
    noise: float
    condition: dict[str, Any]

    @property
    def mask(self) -> Tensor | None:
        """1 = observed, ``(N, 1, H, W)``, where the problem is inpainting."""
        return self.operator.mask if isinstance(self.operator, Inpainting) else None


@lru_cache(maxsize=2)
def warm_prior(name: str, device: str) -> DiffusionPrior:
    """The prior, loaded once in each process."""
    return check_prior(name, torch.device(device))


@lru_cache(maxsize=2)
def weights_of(name: str, device: str) -> str:
    """The fingerprint of the prior's weights."""
    return fingerprint(warm_prior(name, device))


@lru_cache(maxsize=64)
def pictures_of(name: str, device: str, folder: str | None, start: int, stop: int) -> str:
    """The fingerprint of the true images ``start`` to ``stop``."""
    images, _ = load_images(name, warm_prior(name, device), folder, stop)
    return fingerprint(images[start:])


def load_problem(cell: Cell, device: str) -> Problem:
    """The problem of a cell. What is seen of an image depends on its number, the task and the seed alone.

    Raises:
        InputError: there are not so many images.
    """
    prior, task, here = warm_prior(cell.prior, device), TASKS[cell.task], slice(cell.start, cell.stop)
    images, labels = load_images(cell.prior, prior, cell.images, cell.stop)
    truth = images[here]
    seeds = [cell.seed * SEEDS_APART + number for number in range(cell.start, cell.stop)]
    operator = task.operator(truth.shape[-1], seeds)
    y = _observe(operator, truth, task.noise, seeds).to(device)
    if isinstance(operator, Inpainting):
        operator = Inpainting(operator.mask.to(device))
    condition = {} if labels is None else {"class_labels": labels[here].to(device)}
    return Problem(prior, truth.to(device), y, operator, task.noise, condition)


def _observe(operator: Operator, truth: Tensor, noise: float, seeds: Sequence[int]) -> Tensor:
    """y = A(x) + v, the noise of each image from its own seed."""
    clean = operator.A(truth)
    generators = [torch.Generator().manual_seed(NOISE_SEEDS + seed) for seed in seeds]
    return clean + noise * torch.stack([torch.randn(clean.shape[1:], generator=each) for each in generators])


def load_images(name: str, prior: DiffusionPrior, folder: str | None, num: int) -> tuple[Tensor, Tensor | None]:
    """The first ``num`` images and their labels: of a folder of pictures, or held out from an embedded prior.

    Raises:
        InputError: there are not so many, or none come with the prior.
    """
    if folder is not None:
        images, labels = _read_folder(Path(folder), prior, num), None
    elif name == "fashion32":
        images, labels = held_out_images()
    elif name == "cats64":
        images, labels = draw_held_out_cats(CATS), None
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
