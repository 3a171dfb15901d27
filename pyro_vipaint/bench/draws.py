"""True images that are drawn from the prior itself: what a method then misses is its own error, not the prior's."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pyro_vipaint._files import read_tensors, write_whole
from pyro_vipaint._torch import TRUTH, child_seed, seeded
from pyro_vipaint.errors import InputError
from pyro_vipaint.models import DiffusionPrior

BLOCK = 16  # images that are drawn together, from a seed of their own
MOST = 256  # images
_DRAWN: dict[tuple[str, int, int], Tensor] = {}  # in this process, by weights, steps and block


@dataclass(frozen=True)
class PriorDraws:
    """Draws of a prior by its chain; which ones depends on their numbers alone.

    Attributes:
        steps: of the chain, evenly spaced in time, as the recipes of the shipped priors draw.
        folder: where they are kept, since another number of threads or another machine draws others; ``None`` keeps
            them in the process.
    """

    steps: int = 200
    folder: Path | None = None

    def __call__(
        self, prior: DiffusionPrior, weights: str, start: int, stop: int, device: str
    ) -> tuple[Tensor, Tensor | None]:
        """Images ``start`` to ``stop`` in [-1, 1], and their labels, which take turns."""
        first, end = start // BLOCK, -(-stop // BLOCK)
        blocks = [self._block(prior, weights, number, device) for number in range(first, end)]
        images = torch.cat(blocks)[start - first * BLOCK :][: stop - start]
        return images, _labels(prior, start, stop)

    def _block(self, prior: DiffusionPrior, weights: str, number: int, device: str) -> Tensor:
        key = (weights, self.steps, number)
        if self.folder is None:
            if key not in _DRAWN:
                _DRAWN[key] = self._draw(prior, number, device)
            return _DRAWN[key]
        path = self.folder / f"prior-draws-{weights}-{self.steps}-{number}.safetensors"
        with suppress(InputError, KeyError):
            return read_tensors(path)[0]["images"]
        images = self._draw(prior, number, device)
        _write(path, images)
        return images

    @torch.no_grad()
    def _draw(self, prior: DiffusionPrior, number: int, device: str) -> Tensor:
        labels, last = _labels(prior, number * BLOCK, (number + 1) * BLOCK), 1 / self.steps
        condition = {} if labels is None else {"class_labels": labels.to(device)}
        with seeded(child_seed(number, TRUTH)):
            z = prior.marginal(last, steps=self.steps - 1, **condition).sample(torch.Size([BLOCK]))
            return prior.decode(prior.denoise(z, last, **condition)).clamp(-1, 1).cpu()


def _labels(prior: DiffusionPrior, start: int, stop: int) -> Tensor | None:
    return torch.arange(start, stop) % len(prior.class_names) if prior.class_names else None


def _write(path: Path, images: Tensor) -> None:
    from safetensors.torch import save

    write_whole(path, save({"images": images.contiguous()}))
