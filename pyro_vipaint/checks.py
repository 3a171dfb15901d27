"""Checks of user input: each function returns it in the form the library works with, or says what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vipaint._torch import half_precision, resolve_device
from pyro_vipaint.errors import InputError, instance, number, whole
from pyro_vipaint.metrics import takes_lpips
from pyro_vipaint.models import DiffusionPrior, load_prior
from pyro_vipaint.models.measurements.operators import Inpainting, Operator, apply, has_one_per_image, observation_mask
from pyro_vipaint.models.priors.classifier_free import WEIGHT
from pyro_vipaint.settings import Settings, settings_for

WIDEST = 2.0  # images live in [-1, 1]; noisy observations may leave it, bytes and standardised pixels lie further off
SPREAD = 6.0  # standard deviations of noise beyond WIDEST
NOISE = 0.05  # standard deviation, images in [-1, 1]: the paper's for super-resolution and deblurring


@dataclass(frozen=True, eq=False)
class Problem:
    """A prior and an observation, in the form that the library works with; nothing of it is checked again.

    Attributes:
        prior: loaded, on the device of the run.
        y: observations ``(N, *observation)`` there, zero where hidden.
        operator: A.
        condition: of the denoiser, there.
    """

    prior: DiffusionPrior
    y: Tensor
    operator: Operator
    condition: dict[str, Any]


def checked(
    y: Any,
    operator: Any,
    prior: Any,
    label: Any = None,
    prompt: Any = None,
    guidance_scale: Any = None,
    noise: float | None = None,
    device: str | torch.device = "auto",
) -> Problem:
    """The problem that a user states; arguments and errors are those of :func:`pyro_vipaint.restore`."""
    target = resolve_device(device, prior)
    prior = check_prior(prior, target)
    y = check_observation(y, operator, prior, target, NOISE if noise is None else number("noise", noise))
    condition: dict[str, Any] = {} if label is None else {"class_labels": check_label(label, len(y), prior)}
    if prompt is not None:
        condition |= prior.encode_prompt(prompt, len(y))
    if guidance_scale is not None:
        condition |= check_guidance(guidance_scale, condition, prior)
    placed = {name: value.to(target) if isinstance(value, Tensor) else value for name, value in condition.items()}
    return Problem(prior, y, operator, placed)


def masked(image: Any, mask: Any, prior: Any, device: str | torch.device) -> tuple[Tensor, Inpainting, DiffusionPrior]:
    """The images as observations of an inpainting operator, and the loaded prior, each of the shape of the prior.

    Hidden values, observed values and the numbers of images and masks are left to :func:`checked`.
    """
    target = resolve_device(device, prior)
    prior = check_prior(prior, target)
    return check_image(image, prior), Inpainting(check_mask(mask, prior).to(target)), prior


def checked_settings(
    problem: Problem,
    levels: Any,
    num_samples: Any,
    settings: Settings | None,
    noise: float | None,
    changes: Mapping[str, Any],
) -> Settings:
    """The numbers of a run: ``settings`` or the problem's defaults, with the ``changes`` that are not None.

    The likelihood's scale is at least ``noise``. :class:`Settings` checks its numbers itself.
    """
    whole("samples", num_samples)
    chosen = settings or settings_for(levels, problem.prior, problem.operator, problem.y)
    instance("settings", chosen, isinstance(chosen, Settings), "Settings such as default_settings()")
    chosen = replace(chosen, **{name: value for name, value in changes.items() if value is not None})
    if chosen.perceptual_weight > 0 and not takes_lpips(problem.y.shape):
        shape = tuple(problem.y.shape[1:])
        raise InputError(f"LPIPS cannot take observations of shape {shape}: set perceptual_weight to 0.")
    return replace(chosen, scale=max(chosen.scale, noise or 0.0))


def check_prior(prior: Any, device: torch.device, half: bool = False, checkpointing: bool = False) -> DiffusionPrior:
    """``prior`` itself, or the one of that name, refused unless it can be loaded and is about images.

    A prior that is loaded here computes in :func:`half_precision` of the device if ``half``; ``checkpointing`` is that
    of :func:`load_prior`.
    """
    if isinstance(prior, (str, Path)):
        dtype = half_precision(device) if half else torch.float32
        try:
            prior = load_prior(prior, device, dtype=dtype, checkpointing=checkpointing)
        except Exception as error:  # broken weights and configurations raise anything
            raise _in_one_line(f"The prior {str(prior)!r} cannot be loaded", error) from error
    if not isinstance(prior, DiffusionPrior) or prior.event_dim != 3:
        shape = f" of events {tuple(prior.event_shape)}" if isinstance(prior, DiffusionPrior) else ""
        wanted = "a name, a folder or a DiffusionPrior of images (C, H, W)"
        raise InputError(f"The prior must be {wanted}, not {type(prior).__name__}{shape}; see from_diffusers.")
    return prior


def check_image(image: Any, prior: DiffusionPrior) -> Tensor:
    """``image`` as ``(N, C, H, W)`` floats, refused unless its shape fits the prior."""
    image, expected = as_tensor("image", image, floats=True), prior.image_shape
    wanted = f"the prior takes (C, H, W) = {tuple(expected)} or (N, C, H, W): resize it (command line: --resize)"
    return as_batch("image", image, expected, wanted)


def check_mask(mask: Any, prior: DiffusionPrior) -> Tensor:
    """``mask`` as ``(N, 1, H, W)``, refused unless it is 0/1, of the prior's size, and neither all 0 nor all 1."""
    mask, size = as_tensor("mask", mask), prior.image_shape[1:]
    wanted = f"the prior takes (H, W) = {tuple(size)}, (1, H, W) or (N, 1, H, W): resize it (command line: --resize)"
    mask = as_batch("mask", mask, (1, *size), wanted)
    share = mask.float().flatten(1).mean(1)
    if not ((mask == 0) | (mask == 1)).all() or (share == 0).any() or (share == 1).any():
        raise InputError(
            "The mask must hold 0 (hidden, black) and 1 (observed, white), both and nothing else; --invert-mask swaps."
        )
    return mask.float()


def as_batch(name: str, x: Tensor, expected: Sequence[int], wanted: str) -> Tensor:
    """``x`` as ``(N, *expected)``, N >= 1; leading dimensions of size one may be missing."""
    batch = x.reshape((1,) * (len(expected) + 1 - x.ndim) + x.shape)
    if not len(batch) or batch.shape[1:] != torch.Size(expected):
        raise InputError(f"The {name} has shape {tuple(x.shape)}, {wanted}.")
    return batch


def check_observation(y: Any, operator: Any, prior: DiffusionPrior, device: torch.device, noise: float = 0.0) -> Tensor:
    """``y`` as ``(N, *observation)`` floats on ``device``, zero where hidden.

    Refused unless A and noise of standard deviation ``noise`` can have made it.
    """
    if not (hasattr(operator, "A") and hasattr(operator, "A_adjoint")):
        raise InputError(f"The operator must have A and A_adjoint, {type(operator).__name__} has not.")
    y, mask = as_tensor("observation", y, floats=True).to(device), observation_mask(operator)
    if mask is not None and mask.ndim == y.ndim and len(mask) != len(y) and 1 not in (len(mask), len(y)):
        raise InputError(f"{len(y)} observations and {len(mask)} masks do not go together: give one mask, or one each.")
    count = len(y) if y.ndim and has_one_per_image(operator) else 1
    expected = observed_by(operator, torch.zeros(count, *prior.image_shape, device=device)).shape[1:]
    made = f"the operator makes {tuple(expected)} of an image of the prior's, {tuple(prior.image_shape)}"
    y = as_batch("observation", y, expected, made)
    y = y if mask is None else torch.where(mask.to(y.device) != 0, y, 0.0)
    widest = WIDEST + SPREAD * noise if getattr(operator, "keeps_range", False) else math.inf
    low, high = float(y.min()), float(y.max())
    if not (math.isfinite(low + high) and max(-low, high) <= widest):
        wanted = "finite" if widest == math.inf else "finite and in [-1, 1] up to noise"
        todo = "hide them, scale them (bytes: x / 127.5 - 1), or state the noise"
        raise InputError(f"Observed values must be {wanted}, they range from {low:g} to {high:g}: {todo}.")
    return y


def observed_by(operator: Any, images: Tensor) -> Tensor:
    """A(images), ``(N, *observation)``; refuses an operator that cannot take the images ``(N, C, H, W)``."""
    try:
        return apply(operator, images)
    except Exception as error:  # operators of other libraries raise anything
        raise _in_one_line(f"The operator cannot take images of shape {tuple(images.shape[1:])}", error) from error


def check_label(label: Any, count: int, prior: DiffusionPrior) -> Tensor:
    """One label for each image, ``(N,)``, refused where the prior has no such class."""
    classes = len(prior.class_names)
    if not classes:
        raise InputError(f"The prior {prior.name} has no classes: omit the label.")
    labels = as_tensor("label", label)
    is_whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    fits = labels.ndim <= 1 and labels.numel() in (1, count)
    if not (is_whole and fits and ((labels >= 0) & (labels < classes)).all()):
        given = shorten(str(labels.tolist()), 50, placeholder="…")
        wanted = f"a whole number from 0 to {classes - 1}, or one for each of {count} images"
        raise InputError(f"The label must be {wanted}, not {given}.")
    return labels.long().reshape(-1).expand(count).contiguous()


def check_guidance(scale: Any, condition: Mapping[str, Any], prior: DiffusionPrior) -> dict[str, float]:
    """The weight of classifier-free guidance as one more condition, refused where there is nothing to guide by."""
    weight = number("guidance-scale", scale)
    if not condition:
        raise InputError("guidance-scale weighs a label or a prompt: there is nothing to guide by, give one.")
    for name in condition.keys() - set(prior.guided_by):
        raise InputError(f"The prior {prior.name} has no null condition to weigh {name} against: omit guidance-scale.")
    return {WEIGHT: weight}


def check_truth(truth: Tensor | None, shape: Sequence[int]) -> None:
    """Refuses a true image of another shape than the images, ``(…, C, H, W)``."""
    if truth is not None and tuple(truth.shape[-3:]) != tuple(shape[-3:]):
        shapes = f"{tuple(truth.shape[-3:])}, the images {tuple(shape[-3:])}"
        raise InputError(f"The true image has shape {shapes}.")


def as_tensor(name: str, value: Any, floats: bool = False) -> Tensor:
    """A tensor without history, from a tensor, an array (copied: its strides may be negative) or nested numbers.

    With ``floats`` it is in float32, and refused unless the numbers are floats: bytes would not be in [-1, 1].
    """
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value, order="C"))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"The {name} must be a tensor or an array of numbers, not {type(value).__name__}.") from None
    if not floats:
        return tensor
    if not tensor.is_floating_point():
        raise InputError(f"The {name} holds {tensor.dtype}, not floats in the units of [-1, 1] (bytes: x / 127.5 - 1).")
    return tensor.float()


def _in_one_line(what: str, error: Exception) -> InputError:
    """The error of another library, which may have many lines, as an InputError that begins with ``what``."""
    if isinstance(error, InputError):
        return error
    return InputError(f"{what}: {shorten(str(error), 200, placeholder=' …')}")
