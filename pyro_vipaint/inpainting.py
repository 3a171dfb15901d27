"""The one-call facade: an image with a hole and a prior in, posterior samples out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vipaint.calls import count_calls
from pyro_vipaint.devices import device_for
from pyro_vipaint.elbos import BetaELBO
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.guides.base import LatentGuide
from pyro_vipaint.inputs import (
    check_guidance,
    check_image,
    check_label,
    check_mask,
    check_pair,
    check_perceptual,
    check_prior,
    check_prompt,
    check_seed,
    check_settings,
    check_whole,
)
from pyro_vipaint.keypoints import keypoints
from pyro_vipaint.likelihoods import Laplace, Perceptual
from pyro_vipaint.metrics import takes_lpips
from pyro_vipaint.models import DiffusionModel, DiffusionPrior
from pyro_vipaint.operators import Inpainting
from pyro_vipaint.refinement import refine
from pyro_vipaint.sampling import initial_latent, sample
from pyro_vipaint.seeding import seeded
from pyro_vipaint.settings import Settings, default_settings
from pyro_vipaint.svi import DEFAULT_LR, Fit, fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[str, int, int, float | None], None]
GuideFactory = Callable[[DiffusionModel, Tensor], LatentGuide]


@dataclass(frozen=True, eq=False)
class InpaintingResult:
    """What :func:`inpaint` returns; images in [-1, 1], on the CPU.

    Attributes:
        samples: posterior samples, ``(S, N, C, H, W)``, as refined: observed pixels are not pasted in.
        observation: y = m ⊙ image, ``(N, C, H, W)``.
        mask: 1 = observed, ``(N, 1, H, W)``.
        fit: losses, terms and cost of phase 1.
        settings: the numbers of this run.
        calls: network calls of both phases.
        evaluations: images passed through the network in them.
        seconds: wall time.
    """

    samples: Tensor
    observation: Tensor
    mask: Tensor
    fit: Fit
    settings: Settings
    calls: int
    evaluations: int
    seconds: float

    @property
    def mean(self) -> Tensor:
        """Mean over samples, ``(N, C, H, W)``."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation over samples, ``(N, C, H, W)``; zero for a single sample."""
        return self.samples.std(0, correction=1 if len(self.samples) > 1 else 0)

    def plot(self, truth: Tensor | None = None) -> Figure:
        """The contact sheet: truth where known, observation, mean, standard deviation, samples; a row an image."""
        from pyro_vipaint.plotting import contact_sheet

        return contact_sheet(self, truth)


def inpaint(
    image: Tensor,
    mask: Tensor,
    prior: str | Path | DiffusionPrior = "fashion32",
    levels: int = 4,
    num_samples: int = 10,
    *,
    label: int | Tensor | None = None,
    prompt: str | Sequence[str] | None = None,
    guidance_scale: float | None = None,
    settings: Settings | None = None,
    guide: GuideFactory | None = None,
    steps: int | None = None,
    beta: float | None = None,
    refine_steps: int | None = None,
    device: str = "auto",
    seed: int | None = None,
    progress: Progress | None = None,
) -> InpaintingResult:
    """``num_samples`` completions of each image, by VIPaint-``levels``.

    Args:
        image: ``(C, H, W)`` or ``(N, C, H, W)`` floats in [-1, 1], a tensor or an array (``(H, W)`` will do for one
            channel); what it holds at hidden pixels is not looked at, and NaN may mark them.
        mask: 1 = observed, 0 = hidden, any dtype; ``(1, H, W)``, ``(H, W)`` or ``(N, 1, H, W)``. One mask goes with
            several images, and one image with several masks.
        prior: a shipped name, a folder, a hub id, or a prior.
        levels: K, the number of keypoints.
        num_samples: S.
        label: class of the images for class-conditional priors, one or ``(N,)``; ``None`` leaves it open.
        prompt: text for priors that take it, one or N; ``None`` is the empty one.
        guidance_scale: weight w >= 0 of label or prompt against none (:mod:`pyro_vipaint.guidance`), in both phases;
            not given, and with 1, the conditional prior is used as it is, at half the cost. With another w the bound
            is that of a prior whose denoiser is guided.
        settings: all numbers of the run; if not given, :func:`default_settings` of ``levels`` and the kind of prior,
            without the perceptual term where LPIPS cannot take the images.
        guide: makes the guide from the model and the latent ``(N, *event)`` at which its means start, for example
            ``MixtureGuide`` or ``lambda model, start: LowRankGuide(model, start, rank=4)``; not given,
            :class:`HierarchicalGuide` with gamma and tau of the settings. Kinds of parameters for which the settings
            name no rate have that of :func:`fit`.
        steps, beta, refine_steps: single numbers to change in the settings.
        device: ``auto`` (CUDA, then MPS, then CPU; for a prior that is loaded already, where it lies) or a name.
        seed: makes the result reproducible on one machine.
        progress: called as ``progress(phase, step, total, bound)`` with phase ``fit`` (and the bound on -log p(y),
            summed over images, in nats) or ``refine`` (and ``None``).

    Raises:
        InputError: anything about the input that cannot be used, in one line.
    """
    num_samples, seed = check_whole("samples", num_samples), check_seed(seed)
    levels, target = check_whole("levels", levels), device_for(prior, device)
    prior = check_prior(prior, target)
    image, mask = check_pair(check_image(image, prior), check_mask(mask, prior))
    settings = settings or _defaults(levels, prior)
    settings = check_settings(_override(settings, steps=steps, beta=beta, refine_steps=refine_steps))
    check_perceptual(settings, prior)
    condition: dict[str, Any] = {**check_label(label, len(image), prior), **check_prompt(prompt, len(image), prior)}
    condition |= check_guidance(guidance_scale, condition, prior)
    y, mask = torch.where(mask != 0, image, 0.0).to(target), mask.to(target)
    begun = time.perf_counter()
    with seeded(seed), count_calls() as calls:
        fitted, samples = _run(prior, y, mask, num_samples, settings, guide, condition, progress)
    seconds = time.perf_counter() - begun
    return InpaintingResult(
        samples.cpu(), y.cpu(), mask.cpu(), fitted, settings, calls.calls, calls.evaluations, seconds
    )


def _run(
    prior: DiffusionPrior,
    y: Tensor,
    mask: Tensor,
    num_samples: int,
    settings: Settings,
    factory: GuideFactory | None,
    condition: dict[str, Any],
    progress: Progress | None,
) -> tuple[Fit, Tensor]:
    """Both phases."""
    report = progress or (lambda phase, step, total, bound: None)
    condition = {name: value.to(y.device) if isinstance(value, Tensor) else value for name, value in condition.items()}
    likelihood = _likelihood(mask, settings)
    times = keypoints(prior, noise_levels=[level * prior.data_std for level in settings.noise_levels])
    model = DiffusionModel(prior, likelihood, times, **condition)
    start = initial_latent(prior, likelihood, y, **condition)
    guide = (factory or _hierarchical(settings))(model, start)
    elbo = BetaELBO(settings.beta, settings.num_particles)
    fitted = fit(
        model, guide, y, elbo, settings.steps, {**DEFAULT_LR, **settings.lr}, final_lr=settings.final_lr,
        callback=lambda step, loss: report("fit", step + 1, settings.steps, float(elbo.negative_bound().sum())),
    )  # fmt: skip
    z = sample(guide, y, num_samples)
    samples = refine(
        model, z, y, settings.refine_steps, zeta=settings.zeta,
        callback=lambda step: report("refine", step + 1, settings.refine_steps, None),
    )  # fmt: skip
    return fitted, samples


def _defaults(levels: int, prior: DiffusionPrior) -> Settings:
    """The default settings, without the perceptual term where LPIPS cannot take the images."""
    settings = default_settings(levels, prior.is_latent)
    return settings if takes_lpips(prior.image_shape) else replace(settings, perceptual_weight=0.0)


def _hierarchical(settings: Settings) -> GuideFactory:
    """The default guide, with gamma and tau of the settings."""
    return partial(HierarchicalGuide, gamma_logit=settings.gamma_logit, tau_scale=settings.tau_scale)


def _likelihood(mask: Tensor, settings: Settings) -> Laplace:
    operator = Inpainting(mask)
    if settings.perceptual_weight == 0:
        return Laplace(operator, settings.scale)
    return Perceptual(operator, settings.scale, settings.perceptual_weight)


def _override(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})
