r"""Pictures painted from transparent parts, one from each slot, over a white ground.

With premultiplied colours c and opacities a of the parts k_1, …, k_L, from the lowest slot to the highest,

.. math:: x_0 = 1, \qquad x_l = c_{k_l} + (1 - a_{k_l}) x_{l-1}, \qquad x = 2 x_L - 1 .

The shipped prior ``cats64`` was trained on such pictures, with parts drawn uniformly and independently: a distribution
over images that can be enumerated (:mod:`pyro_vipaint.cats.posterior`). A tenth of the combinations was held out from
training, for demonstrations, tests and benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pyro_vipaint._files import read_tensors
from pyro_vipaint._repr import as_html, compact
from pyro_vipaint.errors import InputError
from pyro_vipaint.models.pretrained.load import weights_folder

HELD_OUT = 10  # one combination of parts in ten is held out
PER_CLASS = {"faces32": 4}  # by prior with classes: neighbouring parts of the last slot that make one class


@dataclass(frozen=True, eq=False)
class Layers:
    """Parts by slot, in the order in which they are painted.

    Args:
        parts: slot -> ``(n, C + 1, H, W)`` in [0, 1]: colours times opacity, then opacity.
    """

    parts: Mapping[str, Tensor]

    __repr__, _repr_html_ = compact, as_html

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of parts in each slot."""
        return tuple(len(part) for part in self.parts.values())

    @cached_property
    def classes(self) -> dict[str, Tensor]:
        """Class number of each part by slot, ``(n,)``; equal parts share a class, since no picture tells them apart.

        Classes are numbered 0, 1, … in the order in which they first appear.
        """
        rows = {slot: part.flatten(1) for slot, part in self.parts.items()}
        first = {slot: torch.stack([(x == row).all(1) for row in x]).int().argmax(1) for slot, x in rows.items()}
        return {slot: number.unique(return_inverse=True)[1] for slot, number in first.items()}

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of classes in each slot."""
        return {slot: int(number.max()) + 1 for slot, number in self.classes.items()}

    def compose(self, index: Tensor) -> Tensor:
        """The pictures ``(N, C, H, W)`` in [-1, 1] of part numbers ``(N, L)``."""
        first = next(iter(self.parts.values()))
        x = first.new_ones(len(index), first.shape[1] - 1, *first.shape[2:])
        for column, part in zip(index.T, self.parts.values(), strict=True):
            x = over(part[column], x)
        return 2 * x - 1

    def draw(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Part numbers ``(num, L)``, uniform in every slot."""
        return torch.stack([torch.randint(size, (num,), generator=generator) for size in self.sizes], 1)


def over(part: Tensor, ground: Tensor) -> Tensor:
    """``part`` ``(..., C + 1, H, W)`` painted over ``ground`` ``(..., C, H, W)``, both in [0, 1]."""
    return part[..., :-1, :, :] + (1 - part[..., -1:, :, :]) * ground


def load_layers(path: Path) -> Layers:
    """The layers in a safetensors file of bytes; its metadata ``slots`` names the slots from the lowest to the highest.

    Raises:
        InputError: the file does not exist or holds something else.
    """
    tensors, texts = read_tensors(path)
    slots = texts.get("slots", "").split()
    pictures = {value.shape[1:] for value in tensors.values() if value.dtype == torch.uint8 and value.ndim == 4}
    if not slots or set(slots) != tensors.keys() or len(pictures) != 1 or not all(map(len, tensors.values())):
        raise InputError(f"{path} cannot be read as layers: it must be a safetensors file of bytes with slots.")
    return Layers({slot: tensors[slot].float() / 255 for slot in slots})


def is_held_out(index: Tensor) -> Tensor:
    """Whether the training of a shipped prior left out the part numbers ``(N, L)``: their sum is 0 modulo 10."""
    return index.sum(-1) % HELD_OUT == 0


def draw_parts(layers: Layers, num: int, held_out: bool, generator: torch.Generator | None = None) -> Tensor:
    """``num`` combinations ``(num, L)``, uniform among the held-out ones or among the others."""
    kept = torch.empty(0, len(layers.sizes), dtype=torch.long)
    while len(kept) < num:
        index = layers.draw(2 * num * (HELD_OUT if held_out else 1), generator)
        kept = torch.cat([kept, index[is_held_out(index) == held_out]])
    return kept[:num]


def has_layers(name: str) -> bool:
    """Whether the shipped prior of that name was trained on layered pictures."""
    return _path(name).exists()


def shipped_layers(name: str = "cats64") -> Layers:
    """The parts that the shipped prior of that name was trained on."""
    return load_layers(_path(name))


def class_labels(name: str, index: Tensor) -> Tensor | None:
    """The class labels ``(N,)`` of part numbers ``(N, L)``; None for a shipped prior without classes."""
    return index[:, -1] // PER_CLASS[name] if name in PER_CLASS else None


def draw_held_out(name: str, num: int, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """``num`` pictures ``(num, C, H, W)`` in [-1, 1], uniform among the held-out combinations, and their labels."""
    layers = shipped_layers(name)
    index = draw_parts(layers, num, held_out=True, generator=torch.Generator().manual_seed(seed))
    return layers.compose(index), class_labels(name, index)


def _path(name: str) -> Path:
    return weights_folder() / name / "parts.safetensors"
