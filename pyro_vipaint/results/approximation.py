"""A fitted guide with all that a draw from it depends on: the model, the observations, the refinement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor, nn

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint.models.diffusion import DiffusionModel
from pyro_vipaint.models.priors.matched import MatchedPrior
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback
from pyro_vipaint.refinement import refine
from pyro_vipaint.sampling import sample
from pyro_vipaint.settings import Settings

TOLERANCE = 0.05  # of |y - A x| above the least, among draws that explain y alike: docs/tuning.md


class Draws(NamedTuple):
    """Images ``(S, N, C, H, W)``, and the guide's latents behind them by site, ``(S, N, *event)``, on the CPU.

    ``latents`` is None for guides that are not of this library, which do not run on all samples at once.
    """

    samples: Tensor
    latents: dict[str, Tensor] | None


@dataclass(frozen=True, eq=False)
class Approximation:
    """q(z), the model it approximates, and how its draws become images.

    Attributes:
        guide: fitted.
        model: the K-level program that it was fitted to, with likelihood, keypoints and conditions; on a
            :class:`pyro_vipaint.models.MatchedPrior` where the settings ask for it.
        y: observations ``(N, *observation)``, on the device of the run.
        prior: of the refinement: the model's own without matched variances.
        settings: the numbers of the refinement.
    """

    guide: nn.Module
    model: DiffusionModel
    y: Tensor
    prior: DiffusionPrior
    settings: Settings

    __repr__, _repr_html_ = compact, as_html

    def draw(self, num_samples: int, callback: Callback | None = None) -> Draws:
        """Images and their latents: K - 1 network calls of the guide and those of the refinement.

        With ``settings.spare`` more are drawn, and those are left out that explain y worst.
        """
        numbers, model = self.settings, self.model
        with _Record() as record:
            z = sample(self.guide, self.y, numbers.drawn(num_samples))
        samples = refine(
            DiffusionModel(self.prior, model.likelihood, model.keypoints, **model.condition), z, self.y,
            numbers.refine_steps, zeta=numbers.zeta, zeta_decay=numbers.zeta_decay, polyak=numbers.polyak,
            correction=numbers.correction, order=numbers.order, callback=callback,
        )  # fmt: skip
        known = hasattr(self.guide, "sample_latents")
        latents = {name: value.detach().cpu() for name, value in record.values.items()} if known else None
        if len(samples) == num_samples:
            return Draws(samples.cpu(), latents)
        likelihood: Any = model.likelihood
        kept = explaining(likelihood.residual(samples, self.y), num_samples).cpu()
        chosen = None if latents is None else {name: _at(value, kept) for name, value in latents.items()}
        return Draws(_at(samples.cpu(), kept), chosen)


def explaining(residual: Tensor, count: int) -> Tensor:
    """Which ``count`` draws of each image to keep, ``(count, N)``, in their order: those that explain y.

    The first of the draws whose |y - A x| is within :data:`TOLERANCE` of the least of their image, and where these are
    too few, the nearest of the others. Draws that all explain y are kept as they come, whatever they have in the hole.

    Args:
        residual: y - A x of S draws of each image, ``(S, N, *observation)``.
        count: at most S.
    """
    misfit = residual.flatten(2).norm(dim=-1)
    least = (1 + TOLERANCE) * misfit.min(0).values
    order = torch.maximum(misfit, least).sort(stable=True, dim=0).indices
    return order[:count].sort(0).values


def _at(draws: Tensor, index: Tensor) -> Tensor:
    """``draws[index[s, n], n]``, for draws ``(S, N, *event)``."""
    return draws[index, torch.arange(index.shape[1])]


def model_of(prior: DiffusionPrior, likelihood: Any, numbers: Settings, condition: Mapping[str, Any]) -> DiffusionModel:
    """The model of a run; the few levels of a twisted guide know which elements of an image go together."""
    covariance = prior.data_covariance
    few = numbers.twist is not None and numbers.levels > 1
    matched = prior if covariance is None or not few else MatchedPrior(prior, covariance)
    return DiffusionModel(matched, likelihood, numbers.keypoints(prior), **condition)


def picture_of(prior: DiffusionPrior, likelihood: Any, y: Tensor) -> Tensor:
    """y in the units of images, zero where hidden, on the CPU."""
    return likelihood.residual(y.new_zeros(len(y), *prior.image_shape), y).cpu()


@dataclass(eq=False)
class _Record(Messenger):
    """The values of the latent sites inside the block."""

    values: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def _pyro_post_sample(self, msg: Message) -> None:
        value: Any = msg["value"]
        if not msg["is_observed"] and isinstance(value, Tensor) and value.is_floating_point():
            self.values[str(msg["name"])] = value
