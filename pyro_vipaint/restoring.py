"""The facade for any linear measurement: a damaged image, its operator and a prior in, posterior samples out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from pyro_vipaint.devices import device_for
from pyro_vipaint.errors import InputError
from pyro_vipaint.inputs import (
    check_noise,
    check_observation,
    check_perceptual,
    check_prior,
    check_seed,
    check_settings,
    check_whole,
)
from pyro_vipaint.models import DiffusionPrior
from pyro_vipaint.operators import Inpainting, Operator, is_one_an_image, observation_mask, operator_norm
from pyro_vipaint.running import GuideFactory, Progress, Summaries, conditions, override, perceptual_where_possible, run
from pyro_vipaint.settings import Settings, default_settings
from pyro_vipaint.svi import Fit

NOISE = 0.05  # standard deviation, images in [-1, 1]: the paper's for super-resolution and deblurring
SCALE, STEPS, REFINE_STEPS, ZETA = 0.05, 15, 34, 2.0  # benchmarks/restoration.py has the record


@dataclass(frozen=True, eq=False)
class RestorationResult(Summaries):
    """What :func:`restore` returns; images in [-1, 1], on the CPU.

    Attributes:
        samples: posterior samples, ``(S, N, C, H, W)``.
        observation: y, ``(N, *observation)``, zero where hidden.
        operator: A.
        fit: losses, terms and cost of phase 1.
        settings: the numbers of this run.
        calls: network calls of both phases.
        evaluations: images passed through the network in them.
        seconds: wall time.
    """

    samples: Tensor
    observation: Tensor
    operator: Operator
    fit: Fit
    settings: Settings
    calls: int
    evaluations: int
    seconds: float

    @property
    def mask(self) -> Tensor | None:
        """1 where an element of the observation was observed, of its shape; None where all were."""
        mask = observation_mask(self.operator)
        return None if mask is None else mask.cpu().float().expand(self.observation.shape)


def restore(
    y: Tensor,
    operator: Operator,
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
    zeta: float | None = None,
    noise: float | None = None,
    device: str = "auto",
    seed: int | None = None,
    progress: Progress | None = None,
) -> RestorationResult:
    """``num_samples`` images for each observation y = A(x) + v, by VIPaint-``levels``.

    Args:
        y: observations ``(N, *observation)``, or one without the leading dimension, floats in the units of images in
            [-1, 1]; elements that the operator's mask hides are not looked at, and NaN may mark them.
        operator: A, of :mod:`pyro_vipaint.operators`, a physics of DeepInverse, or anything with ``A`` and
            ``A_adjoint``; a module has to be on the device of the run. The same for all images, or with a mask or
            filter ``(N, C, H, W)`` for each.
        prior, levels, num_samples, label, prompt, guidance_scale, guide: as for :func:`inpaint`.
        settings: all numbers of the run; if not given, :func:`restoration_settings` for the norm of the operator, or
            for :class:`Inpainting` those of :func:`inpaint`; without the perceptual term where LPIPS cannot take the
            observations.
        steps, beta, refine_steps, zeta: single numbers to change in the settings.
        noise: standard deviation of v, in the units of images; the likelihood's scale is made as large, if it is less.
            The default settings were tuned with .05, the paper's.
        device, seed, progress: as for :func:`inpaint`.

    Raises:
        InputError: anything about the input that cannot be used, in one line.
    """
    num_samples, seed = check_whole("samples", num_samples), check_seed(seed)
    levels, target = check_whole("levels", levels), device_for(prior, device)
    prior = check_prior(prior, target)
    y = check_observation(y, operator, prior, target, NOISE if noise is None else check_noise(noise))
    settings = settings or settings_for(levels, prior, operator, y)
    settings = check_settings(override(settings, steps=steps, beta=beta, refine_steps=refine_steps, zeta=zeta))
    settings = replace(settings, scale=max(settings.scale, noise or 0.0))
    check_perceptual(settings, y.shape)
    condition = conditions(prior, len(y), label, prompt, guidance_scale)
    outcome = run(prior, y, operator, num_samples, settings, guide, condition, seed, progress)
    return RestorationResult(
        outcome.samples.cpu(), y.cpu(), operator, outcome.fit, settings,
        outcome.calls, outcome.evaluations, outcome.seconds,
    )  # fmt: skip


def restoration_settings(levels: int = 4, latent: bool = False, norm: float = 1.0) -> Settings:
    """The settings of :func:`restore` for an operator of this ``norm``, its largest singular value.

    The guidance of the refinement is a unit vector times A^T: its scale zeta is divided by the norm, so that an
    operator in other units (and super-resolution, whose norm is 1 / factor) is followed as closely. Pixel priors:
    those of inpainting with a sharper likelihood and more refinement, as tuned on fashion32, because here every pixel
    is observed a little; latent priors: those of inpainting, not tuned.
    """
    settings = default_settings(levels, latent)
    if latent:
        return replace(settings, zeta=settings.zeta / norm)
    return replace(settings, scale=SCALE, steps=STEPS, refine_steps=REFINE_STEPS, zeta=ZETA / norm, final_zeta=1.0)


def settings_for(levels: int, prior: DiffusionPrior, operator: Operator, y: Tensor) -> Settings:
    """The defaults of :func:`restore` for observations ``y`` by ``operator``.

    Those of inpainting for a mask, :func:`restoration_settings` for others; without the perceptual term where LPIPS
    cannot take the observations.

    Raises:
        InputError: the operator makes zero of every image.
    """
    if isinstance(operator, Inpainting):
        settings = default_settings(levels, prior.is_latent)
    else:
        count = len(y) if is_one_an_image(operator) else 1
        norm = operator_norm(operator, (count, *prior.image_shape), y.device)
        if norm == 0:
            raise InputError("The operator makes zero of every image: there is nothing to restore from.")
        settings = restoration_settings(levels, prior.is_latent, norm)
    return perceptual_where_possible(settings, y.shape[1:])
