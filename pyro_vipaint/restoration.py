"""Images from incomplete observations in one call: both phases of VIPaint for any linear measurement.

:func:`restore` is the sentence of this library: a prior and a measurement make a model, a guide approximates its
posterior, an ELBO fits the guide, a refinement finishes the samples. :func:`inpaint` is :func:`restore` with a mask.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pyro_vipaint._torch import seeded
from pyro_vipaint.calls import count_calls
from pyro_vipaint.checks import check_guide, check_mask, checked, checked_settings, masked, softened
from pyro_vipaint.corrections import Correction
from pyro_vipaint.elbos import BetaELBO
from pyro_vipaint.errors import InputError, choice, one_warning_each
from pyro_vipaint.guides import HierarchicalGuide, TwistedGuide
from pyro_vipaint.models.diffusion import DiffusionModel
from pyro_vipaint.models.measurements.masks import composite as composited
from pyro_vipaint.models.measurements.operators import Operator
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.prior_check import warn_of_unfamiliar
from pyro_vipaint.progress import Callback
from pyro_vipaint.results.approximation import Approximation, model_of, picture_of
from pyro_vipaint.results.result import Result
from pyro_vipaint.sampling import initial_latent
from pyro_vipaint.settings import Settings
from pyro_vipaint.svi import DEFAULT_LR, fit

GuideFactory = Callable[[DiffusionModel, Tensor], nn.Module]  # of this library, or of Pyro


@one_warning_each()
def inpaint(
    image: Tensor,
    mask: Tensor,
    prior: str | Path | DiffusionPrior = "fashion32",
    levels: int = 4,
    num_samples: int = 10,
    *,
    label: int | str | Sequence[int | str] | Tensor | None = None,
    prompt: str | Sequence[str] | None = None,
    guidance_scale: float | None = None,
    preset: str | None = None,
    settings: Settings | None = None,
    guide: GuideFactory | str | None = None,
    elbo: Any = None,
    steps: int | None = None,
    beta: float | None = None,
    refine_steps: int | None = None,
    zeta: float | None = None,
    correction: Correction | None = None,
    noise: float | None = None,
    device: str = "auto",
    seed: int | None = None,
    callback: Callback | None = None,
    grey: bool = False,
    composite: bool = False,
    check: bool = False,
) -> Result:
    """``num_samples`` completions of each image, by VIPaint-``levels``: :func:`restore` with a mask.

    The arguments that are not listed, and the errors, are those of :func:`restore`.

    Args:
        image: ``(C, H, W)`` or ``(N, C, H, W)`` floats in [-1, 1], a tensor or an array (for one channel ``(H, W)`` is
            accepted); values at hidden pixels have no influence, and NaN may mark them.
        mask: 1 = observed, 0 = hidden, any dtype; ``(1, H, W)``, ``(H, W)`` or ``(N, 1, H, W)``. One mask may serve
            several images, and one image several masks. Floats between 0 and 1 make it soft: a pixel of m counts as one
            that was observed with the noise sigma / sqrt(m) (:func:`pyro_vipaint.models.soft_inpainting`), sigma being
            ``noise``, at least that of the settings, by default .05; the likelihood is Gaussian then in both presets.
        grey: turn a picture in colour grey for a grey prior (ITU-R BT.601), and give a grey one equal channels for a
            prior in colour; otherwise it is refused.
        composite: paste the observed pixels into the samples, blended by a soft mask
            (:func:`pyro_vipaint.models.composite`); by default they stay draws of the posterior, and those of
            ``result.sample`` always are.
            :func:`pyro_vipaint.metrics.seam` measures the border.
        check: warn, in one line, of a picture that the prior was not made for
            (:func:`pyro_vipaint.unfamiliar`), at one more network call on N images.
    """
    y, operator, loaded = masked(image, mask, prior, device, grey)
    likelihood = softened(mask, operator, loaded, noise, settings)
    noise = noise if likelihood is None else None
    result = restore(
        y, operator, loaded, levels, num_samples, label=label, prompt=prompt, guidance_scale=guidance_scale,
        preset=preset, settings=settings, likelihood=likelihood, guide=guide, elbo=elbo, steps=steps, beta=beta,
        refine_steps=refine_steps, zeta=zeta, correction=correction, noise=noise, device=device, seed=seed,
        callback=callback,
    )  # fmt: skip
    weights = check_mask(mask, loaded)
    if check:
        warn_of_unfamiliar(loaded, result.samples[0], weights)
    if not composite:
        return result
    return replace(result, samples=composited(result.samples, result.observation, weights))


@one_warning_each()
def restore(
    y: Tensor,
    operator: Operator,
    prior: str | Path | DiffusionPrior = "fashion32",
    levels: int = 4,
    num_samples: int = 10,
    *,
    label: int | str | Sequence[int | str] | Tensor | None = None,
    prompt: str | Sequence[str] | None = None,
    guidance_scale: float | None = None,
    preset: str | None = None,
    settings: Settings | None = None,
    likelihood: Any = None,
    guide: GuideFactory | str | None = None,
    elbo: Any = None,
    steps: int | None = None,
    beta: float | None = None,
    refine_steps: int | None = None,
    zeta: float | None = None,
    correction: Correction | None = None,
    noise: float | None = None,
    device: str = "auto",
    seed: int | None = None,
    callback: Callback | None = None,
) -> Result:
    """``num_samples`` images for each observation y = A(x) + v, by VIPaint-``levels``.

    Args:
        y: observations ``(N, *observation)``, or one without the leading dimension, floats in the units of images in
            [-1, 1]; elements that the operator's mask hides have no influence, and NaN may mark them.
        operator: A, of :mod:`pyro_vipaint.models`, a physics of DeepInverse, or anything with ``A`` and
            ``A_adjoint``; a module must be on the device of the run. It is the same for all images, or has a mask or
            filter ``(N, C, H, W)`` with one entry per image. :func:`pyro_vipaint.check_operator` tries it first.
        prior: a shipped name, a folder, a hub id, or a prior.
        levels: K, the number of keypoints.
        num_samples: S.
        label: class of the images for class-conditional priors, one or ``(N,)``, numbers or names such as ``"bag"``
            in any case of letters; ``None`` sets no condition.
        prompt: text for priors that take it, one or N; ``None`` is the empty prompt.
        guidance_scale: weight w >= 0 of classifier-free guidance by label or prompt
            (:mod:`pyro_vipaint.models.priors.classifier_free`), in both phases; by default, and with 1, the conditional
            prior is used without guidance, at half the cost. With another w the bound is that of a prior whose denoiser
            is guided.
        preset: ``inference``, by default, for draws whose spread is right, or ``pictures``, for the smallest mean LPIPS
            to the truth, whose draws are too alike (docs/truth.md). With latent priors and other operators than masks
            both have the numbers of ``pictures``.
        settings: all numbers of the run, in the place of a preset; by default those of
            :func:`pyro_vipaint.settings.settings_for`.
        likelihood: p(y given x) of this ``operator``, in the place of that of the settings, for example
            ``vp.Poisson(operator, gain=100)`` for counts, or ``vp.Gaussian(operator, sigma=map)`` for noise
            that differs between pixels; it states the noise, and ``y`` is in its units. The other settings stay.
        guide: makes the guide from the model and the latent ``(N, *event)`` at which its means start, for example
            ``MixtureGuide`` or ``lambda model, start: LowRankGuide(model, start, rank=4)``, and then the preset is that
            for pictures, which fits it; by default :class:`TwistedGuide` for inference with pixels, otherwise
            :class:`HierarchicalGuide` with gamma and tau of the settings. Pyro's own start there too with
            ``lambda model, start: AutoNormal(model, init_loc_fn=init_to_start(model, start))``. Kinds of parameters for
            which the settings name no rate have that of :func:`fit`. A text is the name of a family in
            ``pyro_vipaint.guides.__all__``, or of a plug-in (:mod:`pyro_vipaint.plugins`).
        elbo: the objective of the fit, of :mod:`pyro_vipaint.elbos` or of Pyro, in the place of ``BetaELBO`` with the
            ``beta`` and ``num_particles`` of the settings, for example ``vp.RenyiELBO(alpha=0.5)``; it has its own.
        steps, beta, refine_steps, zeta, correction: single entries to change in the settings.
        noise: standard deviation of v, in the units of images; the likelihood's scale is at least this large. The
            default settings were tuned with .05, the value of the paper.
        device: ``auto`` (CUDA, then MPS, then CPU; the device of a prior that is already loaded) or a name.
        seed: of all randomness. The same call gives the same bits on one machine; another batch or number of samples
            gives other draws of the same law (docs/bound.md, "What a seed promises").
        callback: called with a :class:`pyro_vipaint.progress.Progress` after each step of phase ``fit`` (whose
            ``bound`` is the bound on -log p(y), summed over images, in nats) and of phase ``refine``.

    Raises:
        InputError: an argument cannot be used; the message is one line that says what to do.
    """
    family: GuideFactory | None = check_guide(guide)
    problem = checked(y, operator, prior, label, prompt, guidance_scale, noise, device, likelihood)
    if elbo is not None and beta is not None:
        raise InputError("The objective states beta: omit beta, or elbo.")
    changes = {"steps": steps, "beta": beta, "refine_steps": refine_steps, "zeta": zeta, "correction": correction}
    preset = ("inference" if family is None else "pictures") if preset is None else preset
    numbers = checked_settings(problem, levels, num_samples, settings, noise, changes, preset)
    prior, y, condition = problem.prior, problem.y, problem.condition
    for kind in numbers.lr if family is None else ():
        choice("kind of parameters", kind, DEFAULT_LR)
    begun = time.perf_counter()
    with seeded(seed), count_calls() as count:
        # A prior and a measurement make a model,
        likelihood = problem.likelihood or numbers.likelihood(operator)
        model = model_of(prior, likelihood, numbers, condition)
        # a guide approximates its posterior,
        start = _start(prior, likelihood, y, numbers, family, condition)
        guide_of_y = (family or _default_guide(numbers))(model, start)
        # an ELBO fits the guide,
        elbo = BetaELBO(numbers.beta, numbers.num_particles) if elbo is None else elbo
        fitted = fit(
            model, guide_of_y, y, elbo, numbers.steps, {**DEFAULT_LR, **numbers.lr},
            lr_decay=numbers.lr_decay, average=numbers.average, callback=callback,
        )  # fmt: skip
        # a refinement finishes the samples.
        approximation = Approximation(guide_of_y, model, y, prior, numbers)
        samples, latents = approximation.draw(num_samples, callback)
    seconds = time.perf_counter() - begun
    picture = picture_of(prior, likelihood, y)
    return Result(
        samples, y.cpu(), operator, fitted, numbers, count.calls, count.nfe, seconds, picture, count.gradients,
        approximation, latents,
    )  # fmt: skip


def _start(
    prior: DiffusionPrior, likelihood: Any, y: Tensor, numbers: Settings, guide: Any, condition: Mapping[str, Any]
) -> Tensor:
    """Where the means of a guide start; a twisted guide has none, and takes the device and dtype alone."""
    if guide is None and numbers.twist is not None:
        return y.new_zeros(len(y), *prior.event_shape)
    return initial_latent(prior, likelihood, y, **condition)


def _default_guide(numbers: Settings) -> GuideFactory:
    if numbers.twist is not None:
        return partial(TwistedGuide, correction=numbers.twist)
    return partial(HierarchicalGuide, gamma_logit=numbers.gamma_logit, tau_scale=numbers.tau_scale)
