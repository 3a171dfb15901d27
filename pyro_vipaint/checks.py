"""What a user hands in, checked: each function returns it in the form the library works with, or says what to do."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vipaint._torch import device_for, device_of, half_precision
from pyro_vipaint.errors import InputError
from pyro_vipaint.metrics import takes_lpips
from pyro_vipaint.models import DiffusionPrior, load_prior
from pyro_vipaint.models.measurements.blur import GaussianBlur, MotionBlur
from pyro_vipaint.models.measurements.operators import Inpainting, Operator, apply, has_one_per_image, observation_mask
from pyro_vipaint.models.measurements.super_resolution import SuperResolution
from pyro_vipaint.models.priors.classifier_free import WEIGHT
from pyro_vipaint.settings import Settings, settings_for
from pyro_vipaint.svi import check_rates

WIDEST = 2.0  # images live in [-1, 1]; a noisy observation may lie outside, bytes and standardised pixels lie further
SPREAD = 6.0  # standard deviations of noise beyond it
AVERAGES = (GaussianBlur, Inpainting, MotionBlur, SuperResolution)  # operators whose observations live there too


NOISE = 0.05  # standard deviation, images in [-1, 1]: the paper's for super-resolution and deblurring


@dataclass(frozen=True, eq=False)
class Problem:
    """What a run is about, in the form that the library works with; nothing of it is checked again.

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
    """The problem that a user states; see :func:`pyro_vipaint.restore` for the arguments.

    Raises:
        InputError: whatever of it cannot be used, in one line that says what to do.
    """
    target = device_for(prior, device)
    prior = check_prior(prior, target)
    y = check_observation(y, operator, prior, target, NOISE if noise is None else check_noise(noise))
    condition: dict[str, Any] = {**check_label(label, len(y), prior), **check_prompt(prompt, len(y), prior)}
    condition |= check_guidance(guidance_scale, condition, prior)
    return Problem(prior, y, operator, {name: _to(value, target) for name, value in condition.items()})


def masked(image: Any, mask: Any, prior: DiffusionPrior) -> tuple[Tensor, Inpainting]:
    """The observation m ⊙ image and its operator, for images and masks that fit the prior and each other."""
    image, mask = check_pair(check_image(image, prior), check_mask(mask, prior))
    home = device_of(prior) or image.device
    return torch.where(mask != 0, image, 0.0).to(home), Inpainting(mask.to(home))


def checked_settings(
    problem: Problem,
    levels: Any,
    num_samples: Any,
    settings: Settings | None,
    noise: float | None,
    changes: Mapping[str, Any],
) -> Settings:
    """The numbers of a run: ``settings`` or the problem's defaults, with the ``changes`` that are not None.

    The likelihood's scale is at least ``noise``.
    """
    levels = check_whole("levels", levels)
    check_whole("samples", num_samples)
    chosen = settings or settings_for(levels, problem.prior, problem.operator, problem.y)
    chosen = replace(chosen, **{name: value for name, value in changes.items() if value is not None})
    chosen = check_settings(replace(chosen, scale=max(chosen.scale, noise or 0.0)))
    check_perceptual(chosen, problem.y.shape)
    return chosen


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def check_prior(prior: Any, device: torch.device, half: bool = False, checkpointing: bool = False) -> DiffusionPrior:
    """``prior`` itself, or the one of that name, refused if it is something else or cannot be loaded.

    One that is loaded computes in :func:`half_precision` of the device if ``half``; ``checkpointing`` is that of
    :func:`load_prior`.
    """
    if isinstance(prior, DiffusionPrior):
        return prior
    if not isinstance(prior, (str, Path)):
        kind = type(prior).__name__
        raise InputError(f"The prior must be a name, a folder or a DiffusionPrior, not {kind}; see from_diffusers.")
    try:
        dtype = half_precision(device) if half else torch.float32
        return load_prior(prior, device, dtype=dtype, checkpointing=checkpointing)
    except InputError:
        raise
    except Exception as error:  # broken weights and configurations raise anything, over many lines
        raise InputError(f"The prior {str(prior)!r} cannot be loaded: {_in_short(error)}") from error


def check_image(image: Any, prior: DiffusionPrior) -> Tensor:
    """``image`` as ``(N, C, H, W)`` floats, refused unless its shape fits the prior."""
    image, expected = as_tensor("image", image), _image_shape(prior)
    given = tuple(image.shape)
    if image.ndim == 2 and expected[0] == 1:
        image = image.unsqueeze(0)
    image = image.unsqueeze(0) if image.ndim == 3 else image
    if image.ndim != 4 or not len(image) or image.shape[1] != expected[0]:
        raise InputError(f"The image has shape {given}, the prior wants (C, H, W) = {tuple(expected)} or (N, C, H, W).")
    if image.shape[2:] != expected[1:]:
        raise InputError(
            f"The image is {_shown(image.shape[2:])}, the prior wants {_shown(expected[1:])}: "
            "resize it (command line: --resize)."
        )
    if not image.is_floating_point():
        raise InputError(f"The image holds {image.dtype}, not floats in [-1, 1] (from bytes: image / 127.5 - 1).")
    return image.float()


def check_mask(mask: Any, prior: DiffusionPrior) -> Tensor:
    """``mask`` as ``(N, 1, H, W)``, refused unless it is 0/1, of the prior's size, and neither all 0 nor all 1."""
    mask, expected = as_tensor("mask", mask), _image_shape(prior)
    given = tuple(mask.shape)
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape) if mask.ndim in (2, 3) else mask
    if mask.ndim != 4 or not len(mask) or mask.shape[1] != 1:
        raise InputError(f"The mask has shape {given}: it must be (H, W), (1, H, W) or (N, 1, H, W).")
    if mask.shape[2:] != expected[1:]:
        raise InputError(
            f"The mask is {_shown(mask.shape[2:])}, the prior wants {_shown(expected[1:])}: "
            "resize it (command line: --resize)."
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise InputError("The mask must hold 0 (hidden) and 1 (observed) only.")
    mask = mask.float()
    share = mask.flatten(1).mean(1)
    if (share == 1).any():
        raise InputError("The mask marks every pixel as observed: there is nothing to inpaint (white means observed).")
    if (share == 0).any():
        raise InputError("The mask hides every pixel: nothing is observed (white means observed; --invert-mask swaps).")
    return mask


def check_pair(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Both expanded to N, refused unless their numbers agree and every *observed* pixel is a number that fits."""
    count = max(len(image), len(mask))
    if not {len(image), len(mask)} <= {1, count}:
        raise InputError(f"{len(image)} images and {len(mask)} masks do not go together: give one mask, or one each.")
    image = image.expand(count, -1, -1, -1)
    mask = mask.to(image.device).expand(count, -1, -1, -1)
    observed = image[(mask != 0).expand_as(image)]
    if not observed.isfinite().all():
        raise InputError("The image has observed pixels that are NaN or infinite: replace them or mark them as hidden.")
    low, high = float(observed.min()), float(observed.max())
    if max(-low, high) > WIDEST:
        raise InputError(f"The image has values from {low:g} to {high:g}, not in [-1, 1] (bytes: image / 127.5 - 1).")
    return image, mask


def check_observation(y: Any, operator: Any, prior: DiffusionPrior, device: torch.device, noise: float = 0.0) -> Tensor:
    """``y`` as ``(N, *observation)`` floats on ``device``, zero where hidden.

    Refused unless A and noise of standard deviation ``noise`` can have made it.
    """
    if not (hasattr(operator, "A") and hasattr(operator, "A_adjoint")):
        raise InputError(f"The operator must have A and A_adjoint, {type(operator).__name__} has not.")
    y, mask = as_tensor("observation", y), observation_mask(operator)
    if mask is not None and mask.ndim == y.ndim and len(mask) not in (1, len(y)):
        raise InputError(f"{len(y)} observations and {len(mask)} masks do not go together: give one mask, or one each.")
    count = len(y) if y.ndim and has_one_per_image(operator) else 1
    images = torch.zeros(count, *_image_shape(prior), device=device)
    expected = observed_by(operator, images).shape[1:]
    given = tuple(y.shape)
    y = y.unsqueeze(0) if y.ndim == len(expected) else y
    if y.shape[1:] != expected or not len(y):
        made = f"the operator makes {tuple(expected)} of an image of the prior's, {tuple(_image_shape(prior))}"
        raise InputError(f"The observation has shape {given}, {made}.")
    if not y.is_floating_point():
        raise InputError(f"The observation holds {y.dtype}, not floats in the units of images in [-1, 1].")
    widest = WIDEST + SPREAD * noise if isinstance(operator, AVERAGES) else math.inf
    return _check_elements(y.to(device).float(), mask, widest)


def check_noise(noise: float) -> float:
    """A standard deviation, refused unless it is finite and not negative."""
    if not 0 <= noise < math.inf:
        raise InputError(f"noise must be finite and not negative, not {noise:g}.")
    return float(noise)


def _check_elements(y: Tensor, mask: Tensor | None, widest: float) -> Tensor:
    """``y`` with zeros where hidden, refused unless the rest are numbers, none farther from zero than ``widest``."""
    y = y if mask is None else torch.where(mask.to(y.device) != 0, y, 0.0)
    if not y.isfinite().all():
        raise InputError("The observation has elements that are NaN or infinite, and are not hidden by a mask.")
    low, high = float(y.min()), float(y.max())
    if max(-low, high) > widest:
        raise InputError(
            f"The observation has values from {low:g} to {high:g}, not in [-1, 1]: scale it, or state its noise."
        )
    return y


def observed_by(operator: Any, images: Tensor) -> Tensor:
    """A(images), ``(N, *observation)``; refuses an operator that cannot take the images ``(N, C, H, W)``."""
    try:
        return apply(operator, images)
    except InputError:
        raise
    except Exception as error:  # operators of other libraries raise anything
        shape = tuple(images.shape[1:])
        raise InputError(f"The operator cannot take images of shape {shape}: {_in_short(error)}") from error


def check_label(label: Any, count: int, prior: DiffusionPrior) -> dict[str, Tensor]:
    """The denoiser's condition for a label, refused where the prior has no such class."""
    if label is None:
        return {}
    classes = len(prior.class_names)
    if not classes:
        raise InputError(f"The prior {prior.name} has no classes: leave the label away.")
    labels = as_tensor("label", label)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"Labels must be whole numbers, not {labels.dtype}.")
    if labels.ndim > 1 or labels.numel() not in (1, count):
        raise InputError(f"Labels of shape {tuple(labels.shape)} for {count} images: give one, or one each.")
    labels = labels.long().reshape(-1).expand(count).contiguous()
    for wrong in labels[(labels < 0) | (labels >= classes)].tolist()[:1]:
        raise InputError(f"Label {wrong} is out of range: the prior has classes 0 to {classes - 1}.")
    return {"class_labels": labels}


def check_prompt(prompt: Any, count: int, prior: DiffusionPrior) -> dict[str, Tensor]:
    """The denoiser's condition for a prompt, or one for each image; refused where the prior takes no text."""
    if prompt is None:
        return {}
    if not isinstance(prompt, (str, list, tuple)):
        raise InputError(f"The prompt must be a text, or a list with one for each image, not {type(prompt).__name__}.")
    return prior.encode_prompt(prompt, count)


def check_guidance(scale: Any, condition: Mapping[str, Tensor], prior: DiffusionPrior) -> dict[str, float]:
    """The weight of guidance as one more condition, refused where there is nothing to guide by."""
    if scale is None:
        return {}
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not (math.isfinite(scale) and scale >= 0):
        raise InputError(f"guidance-scale must be finite and not negative, not {scale!r}.")
    if not condition:
        raise InputError("guidance-scale weighs a label or a prompt: there is nothing to guide by, give one.")
    for name in condition.keys() - set(prior.guided_by):
        raise InputError(f"The prior {prior.name} has no null condition to weigh {name} against: no guidance-scale.")
    return {WEIGHT: float(scale)}


def check_settings(settings: Settings) -> Settings:
    """``settings``, refused unless every number can be used; the keypoints are checked where they become times."""
    for name in ("steps", "num_particles", "refine_steps"):
        check_whole(name.replace("_", "-"), getattr(settings, name))
    limited = () if settings.polyak is None else ("polyak",)
    for name in ("scale", "beta", "lr_decay", "tau_scale", *limited):
        value = getattr(settings, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name.replace('_', '-')} must be positive and finite, not {value:g}.")
    for name in ("perceptual_weight", "zeta", "zeta_decay"):
        value = getattr(settings, name)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name.replace('_', '-')} must be finite and not negative, it is {value:g}.")
    check_rates(settings.lr, settings.lr_decay)
    if not math.isfinite(settings.gamma_logit):
        raise InputError(f"gamma-logit must be finite, not {settings.gamma_logit:g}.")
    if not 0 <= settings.average <= settings.steps:
        raise InputError(f"average is a number of steps, between 0 and {settings.steps}, not {settings.average}.")
    return settings


def check_perceptual(settings: Settings, shape: Sequence[int]) -> None:
    """Refuses a perceptual term for observations ``(…, C, H, W)`` that LPIPS cannot take."""
    if settings.perceptual_weight > 0 and not takes_lpips(shape):
        channels, *size = shape[-3:]
        seen = f"images of {_shown(torch.Size(size))} with {channels} channels" if len(size) == 2 else "vectors"
        raise InputError(f"LPIPS cannot take {seen}: set the settings' perceptual_weight to 0.")


def check_whole(name: str, value: Any) -> int:
    """``value`` as a Python integer, refused unless it is a whole number of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be a whole number, not {value!r}.") from None
    if number < 1:
        raise InputError(f"{name} must be at least 1, not {number}.")
    return number


def check_seed(seed: Any) -> int | None:
    """``seed`` as PyTorch takes it: ``None`` or a whole number of 64 bits, negative or not."""
    try:
        number = None if seed is None else operator.index(seed)
    except TypeError:
        raise InputError(f"The seed must be a whole number, not {seed!r}.") from None
    if number is not None and not -(2**63) <= number < 2**64:
        raise InputError(f"The seed must fit into 64 bits, {number} does not.")
    return number


def check_truth(truth: Tensor | None, shape: Sequence[int]) -> None:
    """Refuses a true image of another shape than the images, ``(…, C, H, W)``."""
    if truth is not None and tuple(truth.shape[-3:]) != tuple(shape[-3:]):
        sizes = (_shown(torch.Size(sides[-2:])) for sides in (truth.shape, shape))
        raise InputError("The true image is {}, the other one {}.".format(*sizes))


def as_tensor(name: str, value: Any) -> Tensor:
    """A tensor without history, from a tensor, an array (copied: its strides may be negative) or nested numbers."""
    try:
        return value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value, order="C"))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"The {name} must be a tensor or an array of numbers, not {type(value).__name__}.") from None


def _image_shape(prior: DiffusionPrior) -> torch.Size:
    """(C, H, W) of the images that the prior is about."""
    if prior.event_dim != 3:
        raise InputError(f"The prior is about events of shape {tuple(prior.event_shape)}, not about images (C, H, W).")
    return prior.image_shape


def _in_short(error: Exception) -> str:
    """What others raised, which may be many lines long, in one."""
    return shorten(str(error), 200, placeholder=" …")


def _shown(size: torch.Size) -> str:
    return "×".join(str(side) for side in reversed(size))
