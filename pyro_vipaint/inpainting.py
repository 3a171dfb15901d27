"""The one-call facade: an image with a hole and a prior in, posterior samples out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pyro_vipaint.devices import device_for
from pyro_vipaint.inputs import (
    check_image,
    check_mask,
    check_pair,
    check_perceptual,
    check_prior,
    check_seed,
    check_settings,
    check_whole,
)
from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.operators import Inpainting
from pyro_vipaint.running import GuideFactory, Progress, Summaries, conditions, override, perceptual_where_possible, run
from pyro_vipaint.settings import Settings, default_settings
from pyro_vipaint.svi import Fit


@dataclass(frozen=True, eq=False)
class InpaintingResult(Summaries):
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
    def operator(self) -> Inpainting:
        """A, the mask as an operator."""
        return Inpainting(self.mask)


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
    defaults = default_settings(levels, prior.is_latent)
    settings = settings or perceptual_where_possible(defaults, prior.image_shape)
    settings = check_settings(override(settings, steps=steps, beta=beta, refine_steps=refine_steps))
    check_perceptual(settings, prior.image_shape)
    condition = conditions(prior, len(image), label, prompt, guidance_scale)
    y, mask = torch.where(mask != 0, image, 0.0).to(target), mask.to(target)
    outcome = run(prior, y, Inpainting(mask), num_samples, settings, guide, condition, seed, progress)
    return InpaintingResult(
        outcome.samples.cpu(), y.cpu(), mask.cpu(), outcome.fit, settings,
        outcome.calls, outcome.evaluations, outcome.seconds,
    )  # fmt: skip
