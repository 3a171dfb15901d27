"""Both phases of VIPaint on any measurement: what the facades :func:`inpaint` and :func:`restore` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from pyro_vipaint.calls import count_calls
from pyro_vipaint.elbos import BetaELBO
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.guides.base import LatentGuide
from pyro_vipaint.inputs import as_tensor, check_guidance, check_label, check_prompt
from pyro_vipaint.keypoints import keypoints
from pyro_vipaint.likelihoods import Laplace, Perceptual
from pyro_vipaint.metrics import takes_lpips
from pyro_vipaint.models import DiffusionModel, DiffusionPrior
from pyro_vipaint.operators import Operator
from pyro_vipaint.refinement import refine
from pyro_vipaint.sampling import initial_latent, sample
from pyro_vipaint.seeding import seeded
from pyro_vipaint.settings import Settings
from pyro_vipaint.svi import DEFAULT_LR, Fit, fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[str, int, int, float | None], None]
GuideFactory = Callable[[DiffusionModel, Tensor], LatentGuide]


class Outcome(NamedTuple):
    """Samples ``(S, N, C, H, W)`` on the device of the run, the fit, and what both phases cost."""

    samples: Tensor
    fit: Fit
    calls: int
    evaluations: int
    seconds: float


class Summaries:
    """Moments over the ``samples`` ``(S, N, C, H, W)`` of a result, and its picture."""

    samples: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean over samples, ``(N, C, H, W)``."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation over samples, ``(N, C, H, W)``; zero for a single sample."""
        return self.samples.std(0, correction=1 if len(self.samples) > 1 else 0)

    def plot(self, truth: Any = None) -> Figure:
        """The contact sheet: truth where known, observation, mean, standard deviation, samples; a row an image."""
        from pyro_vipaint.plotting import contact_sheet

        truth = None if truth is None else as_tensor("truth", truth)

        return contact_sheet(self, truth)  # pyright: ignore[reportArgumentType]  # each subclass is a result


def run(
    prior: DiffusionPrior,
    y: Tensor,
    operator: Operator,
    num_samples: int,
    settings: Settings,
    factory: GuideFactory | None,
    condition: dict[str, Any],
    seed: int | None,
    progress: Progress | None,
) -> Outcome:
    """Both phases on the observations ``y``, which are zero where hidden."""
    begun = time.perf_counter()
    with seeded(seed), count_calls() as count:
        fitted, samples = _phases(prior, y, operator, num_samples, settings, factory, condition, progress)
    return Outcome(samples, fitted, count.calls, count.evaluations, time.perf_counter() - begun)


def conditions(
    prior: DiffusionPrior,
    count: int,
    label: int | Tensor | None,
    prompt: str | Sequence[str] | None,
    guidance_scale: float | None,
) -> dict[str, Any]:
    """The denoiser's conditions for ``count`` images.

    Raises:
        InputError: the prior has no such class, takes no text, or has nothing to guide by.
    """
    condition: dict[str, Any] = {**check_label(label, count, prior), **check_prompt(prompt, count, prior)}
    return condition | check_guidance(guidance_scale, condition, prior)


def perceptual_where_possible(settings: Settings, shape: Sequence[int]) -> Settings:
    """``settings``, without the perceptual term where LPIPS cannot take one observation of that ``shape``."""
    possible = len(shape) == 3 and takes_lpips(shape)
    return settings if possible else replace(settings, perceptual_weight=0.0)


def override(settings: Settings, **changes: Any) -> Settings:
    """``settings`` with the changes that are not None."""
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})


def _phases(
    prior: DiffusionPrior,
    y: Tensor,
    operator: Operator,
    num_samples: int,
    settings: Settings,
    factory: GuideFactory | None,
    condition: dict[str, Any],
    progress: Progress | None,
) -> tuple[Fit, Tensor]:
    report = progress or (lambda phase, step, total, bound: None)
    condition = {name: value.to(y.device) if isinstance(value, Tensor) else value for name, value in condition.items()}
    likelihood = _likelihood(operator, settings)
    times = keypoints(prior, noise_levels=[level * prior.data_std for level in settings.noise_levels])
    model = DiffusionModel(prior, likelihood, times, **condition)
    start = initial_latent(prior, likelihood, y, **condition)
    guide = (factory or _hierarchical(settings))(model, start)
    elbo = BetaELBO(settings.beta, settings.num_particles)
    fitted = fit(
        model, guide, y, elbo, settings.steps, {**DEFAULT_LR, **settings.lr},
        final_lr=settings.final_lr, average=settings.averaged_steps,
        callback=lambda step, loss: report("fit", step + 1, settings.steps, float(elbo.negative_bound().sum())),
    )  # fmt: skip
    z = sample(guide, y, num_samples)
    samples = refine(
        model, z, y, settings.refine_steps,
        zeta=settings.zeta, final_zeta=settings.final_zeta, polyak=settings.polyak,
        callback=lambda step: report("refine", step + 1, settings.refine_steps, None),
    )  # fmt: skip
    return fitted, samples


def _hierarchical(settings: Settings) -> GuideFactory:
    """The default guide, with gamma and tau of the settings."""
    return partial(HierarchicalGuide, gamma_logit=settings.gamma_logit, tau_scale=settings.tau_scale)


def _likelihood(operator: Operator, settings: Settings) -> Laplace:
    if settings.perceptual_weight == 0:
        return Laplace(operator, settings.scale)
    return Perceptual(operator, settings.scale, settings.perceptual_weight)
