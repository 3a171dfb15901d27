"""The methods of the comparison, each held to a budget of NFE per sample or run as its authors run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_vipaint.baselines import BaselineResult
from pyro_vipaint.bench.trials import Trial
from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.models.measurements.likelihoods import Gaussian
from pyro_vipaint.restoration import GuideFactory, restore
from pyro_vipaint.settings import (
    FIT_SHARE,
    Settings,
    default_settings,
    restoration_settings,
    settings_for,
    within,
)

SIGMA = 0.05  # of the likelihood where the observation is clean
SHORT = 40  # a budget below it is a short one


@dataclass(frozen=True, eq=False)
class Outcome:
    """Samples ``(S, N, C, H, W)``, their cost in all, and the bound by SVI step (its mean over images, in nats)."""

    samples: Tensor
    calls: int
    nfe: int
    seconds: float
    bounds: list[float] = field(default_factory=list)
    gradients: int = 0


class Method(Protocol):
    """A method of the comparison."""

    def applies(self, prior: DiffusionPrior, is_inpainting: bool) -> bool:
        """Whether it is made for such a prior and such a task."""
        ...

    def numbers(self) -> str:
        """All numbers that it runs with where the caller gives none; results of other numbers are refused."""
        ...

    def __call__(self, trial: Trial, num_samples: int, budget: int | None) -> Outcome:
        """Its samples; ``budget`` in NFE per sample, ``None`` for the authors' own settings."""
        ...


@dataclass(frozen=True)
class VIPaint:
    """VIPaint with K ``levels``; without a budget, with the defaults of this library.

    ``settings`` replaces those of the ``preset``, and ``guide`` the guide; such a variant keeps to no budget.
    """

    levels: int
    preset: str = "inference"
    settings: Settings | None = None
    guide: GuideFactory | None = None

    def applies(self, prior: DiffusionPrior, is_inpainting: bool) -> bool:
        return True

    def numbers(self) -> str:
        defaults = [default_settings(self.levels, latent, self.preset) for latent in (False, True)]
        defaults += [restoration_settings(self.levels, latent) for latent in (False, True)]
        return repr([self.settings or defaults, self.guide, FIT_SHARE])

    def __call__(self, trial: Trial, num_samples: int, budget: int | None) -> Outcome:
        settings = self.settings or settings_for(self.levels, trial.prior, trial.operator, trial.y, self.preset)
        if self.settings is None and budget is not None:
            settings = within(settings, budget, num_samples)
        result = restore(
            trial.y, trial.operator, trial.prior, num_samples=num_samples, seed=trial.seed, guide=self.guide,
            settings=settings, label=trial.condition.get("class_labels"),
        )  # fmt: skip
        bounds = result.fit.bounds.mean(-1).tolist()
        return Outcome(result.samples, result.calls, result.nfe, result.seconds, bounds, result.gradients)


@dataclass(frozen=True)
class Baseline:
    """A method of :mod:`pyro_vipaint.baselines`.

    Attributes:
        run: the method.
        calls: ``(steps, **options) -> network calls``.
        pixels, latents: the kinds of priors that it is made for.
        only_inpainting: whether it needs a mask.
        options, latent_options: what changes at a budget, with priors of pixels and of latents. For other tasks than
            inpainting, a ``zeta`` of pixels is that of :func:`restore`; that of latents is divided by the operator's
            norm.
        short_options: what else changes at a budget below :data:`SHORT`, with pixels.
    """

    run: Callable[..., BaselineResult]
    calls: Callable[..., int]
    pixels: bool = True
    latents: bool = False
    only_inpainting: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    latent_options: Mapping[str, Any] = field(default_factory=dict)
    short_options: Mapping[str, Any] = field(default_factory=dict)

    def applies(self, prior: DiffusionPrior, is_inpainting: bool) -> bool:
        return (self.latents if prior.is_latent else self.pixels) and (is_inpainting or not self.only_inpainting)

    def numbers(self) -> str:
        defaults = {name: each.default for name, each in signature(self.run).parameters.items()}
        given = {name: value for name, value in defaults.items() if isinstance(value, (int, float, tuple))}
        restored = restoration_settings().zeta
        return repr([given, self.options, self.latent_options, self.short_options, restored, SHORT, SIGMA])

    def at(self, budget: int, latent: bool) -> dict[str, Any]:
        """The most steps whose network calls are within the budget, at least one, and the other arguments."""
        options = dict(self.latent_options if latent else self.options)
        if budget < SHORT and not latent:
            options |= self.short_options
        counted = {name: value for name, value in options.items() if name in signature(self.calls).parameters}
        steps = sum(self.calls(steps, **counted) <= budget for steps in range(1, budget + 1))
        return {"steps": max(1, steps), **options}

    def __call__(self, trial: Trial, num_samples: int, budget: int | None) -> Outcome:
        likelihood = Gaussian(trial.operator, trial.noise or SIGMA)
        chosen = {} if budget is None else self.at(budget, trial.prior.is_latent)
        if "zeta" in chosen and trial.mask is None:
            zeta = settings_for(2, trial.prior, trial.operator, trial.y, "pictures").zeta
            if trial.prior.is_latent:
                zeta = zeta / restoration_settings(2, latent=True).zeta * chosen["zeta"]
            chosen["zeta"] = zeta
        with torch.no_grad():
            result = self.run(
                trial.prior, likelihood, trial.y, num_samples, seed=trial.seed, **chosen, **trial.condition
            )
        return Outcome(result.samples.cpu(), result.calls, result.nfe, result.seconds, gradients=result.gradients)
