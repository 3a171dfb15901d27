"""Checks of user input: each function returns it in the form the library works with, or says what to do."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vipaint import guides, plugins
from pyro_vipaint._torch import half_precision, resolve_device
from pyro_vipaint.errors import InputError, choice, described, in_one_line, instance, number, whole
from pyro_vipaint.metrics import takes_lpips
from pyro_vipaint.models import DiffusionPrior, load_prior
from pyro_vipaint.models.measurements.laws import check_gradient, check_operator
from pyro_vipaint.models.measurements.likelihoods import Gaussian
from pyro_vipaint.models.measurements.masks import is_soft, observed_pixels, soft_inpainting
from pyro_vipaint.models.measurements.operators import (
    Inpainting,
    Operator,
    check_is_operator,
    check_mask_values,
    has_one_per_image,
    observation_mask,
    observed_by,
)
from pyro_vipaint.models.measurements.problem import SUPPORTS, check_likelihood, check_problem
from pyro_vipaint.models.priors.classifier_free import WEIGHT
from pyro_vipaint.models.priors.conditions import check_classes, class_numbers
from pyro_vipaint.settings import PRESETS, Settings, settings_for

WIDEST = 2.0  # images live in [-1, 1]; noisy observations may leave it, bytes and standardised pixels lie further off
QUIET = 1e-9  # stands for no noise
NOISE = 0.05  # standard deviation, images in [-1, 1]: the paper's for super-resolution and deblurring

NAMED_GUIDES = tuple(guides.__all__)
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in grey: ITU-R BT.601
GREY = "grey=True turns colour grey (command line: --grey)"
EQUAL = "grey=True gives a grey picture equal channels (command line: --grey)"


@dataclass(frozen=True, eq=False)
class Problem:
    """A prior and an observation, in the form that the library works with.

    Attributes:
        prior: loaded, on the device of the run.
        y: observations ``(N, *observation)`` there, zero where hidden.
        operator: A.
        likelihood: that of the user, or None for that of the settings.
        condition: of the denoiser, there.
    """

    prior: DiffusionPrior
    y: Tensor
    operator: Operator
    likelihood: Any
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
    likelihood: Any = None,
) -> Problem:
    """The problem that a user states; arguments and errors are those of :func:`pyro_vipaint.restore`."""
    if likelihood is not None and noise is not None:
        raise InputError("The likelihood states the noise: omit noise, or the likelihood.")
    target = resolve_device(device, prior)
    prior = check_prior(prior, target)
    y = check_observation(y, operator, prior, target, NOISE if noise is None else number("noise", noise), likelihood)
    condition: dict[str, Any] = {} if label is None else {"class_labels": check_label(label, len(y), prior)}
    if prompt is not None:
        condition |= prior.encode_prompt(prompt, len(y))
    if guidance_scale is not None:
        condition |= check_guidance(guidance_scale, condition, prior)
    placed = {name: value.to(target) if isinstance(value, Tensor) else value for name, value in condition.items()}
    return Problem(prior, y, operator, likelihood, placed)


def masked(
    image: Any, mask: Any, prior: Any, device: str | torch.device, grey: bool = False
) -> tuple[Tensor, Inpainting, DiffusionPrior]:
    """The images as observations of an inpainting operator, and the loaded prior, each of the shape of the prior.

    A soft mask observes where it is not 0. With ``grey`` a picture in colour becomes grey for a grey prior, and a grey
    one gets equal channels for a prior in colour. Hidden values, observed values and the numbers of images and masks
    are left to :func:`checked`.
    """
    target = resolve_device(device, prior)
    prior = check_prior(prior, target)
    return check_image(image, prior, grey), Inpainting(observed_pixels(check_mask(mask, prior).to(target))), prior


def softened(
    mask: Any, operator: Inpainting, prior: DiffusionPrior, noise: float | None, settings: Settings | None
) -> Gaussian | None:
    """The likelihood of a soft mask with the ``operator`` of :func:`masked`; ``None`` for one of 0 and 1 alone.

    Its sigma where the mask is 1 is that of the settings, by default :data:`NOISE`, and at least ``noise``.
    """
    weights = check_mask(mask, prior).to(operator.mask.device)
    if not is_soft(weights):
        return None
    sigma = NOISE if settings is None or settings.sigma is None else settings.sigma
    sigma = sigma if noise is None else max(sigma, number("noise", noise))
    return replace(soft_inpainting(weights, sigma), operator=operator)


def checked_settings(
    problem: Problem,
    levels: Any,
    num_samples: Any,
    settings: Settings | None,
    noise: float | None,
    changes: Mapping[str, Any],
    preset: str = "inference",
) -> Settings:
    """The numbers of a run: ``settings`` or the problem's defaults, with the ``changes`` that are not None.

    The likelihood's scale is at least ``noise``. :class:`Settings` checks its numbers itself.
    """
    whole("samples", num_samples)
    choice("preset", preset, PRESETS)
    if settings is None:
        settings = settings_for(levels, problem.prior, problem.operator, problem.y, preset)
    instance("settings", settings, isinstance(settings, Settings), "Settings such as default_settings()")
    if settings.twist is not None and problem.prior.is_latent:
        todo = "take default_settings(levels, latent=True)"
        raise InputError(f"The settings are those of a pixel prior, {problem.prior.name} is one of latents: {todo}.")
    chosen = replace(settings, **{name: value for name, value in changes.items() if value is not None})
    if chosen.correction is not None:
        chosen.correction.check(problem.prior)
    if chosen.perceptual_weight > 0 and not takes_lpips(problem.y.shape):
        shape = tuple(problem.y.shape[1:])
        raise InputError(f"LPIPS cannot take observations of shape {shape}: set perceptual_weight to 0.")
    sigma = None if chosen.sigma is None else max(chosen.sigma, noise or 0.0)
    return replace(chosen, scale=max(chosen.scale, noise or 0.0), sigma=sigma)


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
            raise in_one_line(f"The prior {str(prior)!r} cannot be loaded", error) from error
    if not isinstance(prior, DiffusionPrior) or prior.event_dim != 3:
        shape = f" of events {tuple(prior.event_shape)}" if isinstance(prior, DiffusionPrior) else ""
        wanted = "a name, a folder or a DiffusionPrior of images (C, H, W)"
        raise InputError(f"The prior must be {wanted}, not {type(prior).__name__}{shape}; see from_diffusers.")
    return prior


@lru_cache(maxsize=2)
def warm_prior(name: str, device: str, half: bool = False, checkpointing: bool = False) -> DiffusionPrior:
    """The prior of that name, loaded once in each process; arguments and errors are those of :func:`check_prior`."""
    return check_prior(name, torch.device(device), half, checkpointing)


def guide_names() -> list[str]:
    """The families of guides that a name stands for: those of this library, then those of plug-ins."""
    return [*NAMED_GUIDES, *sorted(plugins.found("guides").keys() - set(NAMED_GUIDES))]


def check_guide(guide: Any) -> Any:
    """A guide by its name, or ``guide`` itself, refused unless it makes a guide of a model and a start."""
    if guide is None:
        return None
    if isinstance(guide, str):
        choice("guide", guide, guide_names())
        name, own = guide, guide in NAMED_GUIDES
        guide = getattr(guides, name) if own else plugins.load("guides", name)
        if not (own or callable(guide)):
            raise plugins.unusable("guides", name, guide, "a class of guides or a function of a model and a start")
    fits = callable(guide) and not isinstance(guide, nn.Module)
    try:
        inspect.signature(guide).bind(None, None)
    except TypeError:
        fits = False
    except ValueError:  # some built-in functions state no arguments
        pass
    if not fits:
        wanted = "a class of guides or a function, lambda model, start: LowRankGuide(model, start, rank=4)"
        raise InputError(f"guide must be {wanted}, not {described(guide)}.")
    return guide


def check_image(image: Any, prior: DiffusionPrior, grey: bool = False) -> Tensor:
    """``image`` as ``(N, C, H, W)`` floats, refused unless its shape fits the prior; ``grey`` as for :func:`masked`."""
    image, expected = as_tensor("image", image, floats=True), prior.image_shape
    image = recoloured(image, expected[0]) if grey else image
    wanted = f"the prior takes (C, H, W) = {tuple(expected)} or (N, C, H, W): {reshaping(image.shape, expected)}"
    return as_batch("image", image, expected, wanted)


def recoloured(image: Tensor, channels: int) -> Tensor:
    """An image of three channels as one of luma (ITU-R BT.601, as Pillow), one of one channel repeated to three."""
    found = image.shape[-3] if image.ndim > 2 else 1
    if (found, channels) == (3, 1):
        return (image * image.new_tensor(LUMA)[:, None, None]).sum(-3, keepdim=True)
    if (found, channels) == (1, 3):
        image = image if image.ndim > 2 else image.unsqueeze(0)
        return image.expand(*image.shape[:-3], 3, *image.shape[-2:]).contiguous()
    return image


def reshaping(shape: Sequence[int], expected: Sequence[int], grey: str = GREY) -> str:
    """What makes an image of this ``shape`` one of the ``expected`` shape (C, H, W); ``grey`` if C is 1."""
    channels, *size = expected
    found = [1, 1, *shape][-3:]
    if found[:2] == size and found[1:] != size:
        return "put its channels first, x.movedim(-1, -3)"
    if found[1:] != size:
        return "resize it (command line: --resize)"
    if channels == 1:
        return grey
    return EQUAL if (found[0], channels) == (1, 3) else f"give it {channels} channels"


def check_mask(mask: Any, prior: DiffusionPrior) -> Tensor:
    """``mask`` as ``(N, 1, H, W)`` floats in [0, 1], refused unless of the prior's size and neither all 0 nor all 1."""
    mask, size = as_tensor("mask", mask), prior.image_shape[1:]
    channels = "one channel masks all of the image's, mask[..., :1, :, :]"
    rows = "one mask per image is mask[:, None]; " if mask.ndim == len(size) + 1 else ""
    todo = reshaping(mask.shape, (1, *size), rows + channels)
    wanted = f"the prior takes (H, W) = {tuple(size)}, (1, H, W) or (N, 1, H, W): {todo}"
    mask = as_batch("mask", mask, (1, *size), wanted)
    if not is_soft(mask):
        check_mask_values(mask)
    mask = mask.float()
    nothing, everything = (observed_pixels(mask) == 0).flatten(1).all(1), (mask == 1).flatten(1).all(1)
    if nothing.any() or everything.any():
        fault = "all 0, nothing is observed" if nothing.any() else "all 1, nothing is hidden"
        wanted = "0 (hidden, black) and 1 (observed, white), both"
        raise InputError(f"The mask must hold {wanted}: {fault}; --invert-mask, or 1 - mask, swaps.")
    return mask


def as_batch(name: str, x: Tensor, expected: Sequence[int], wanted: str) -> Tensor:
    """``x`` as ``(N, *expected)``, N >= 1; leading dimensions of size one may be missing."""
    batch = x.reshape((1,) * (len(expected) + 1 - x.ndim) + x.shape)
    if not len(batch) or batch.shape[1:] != torch.Size(expected):
        raise InputError(f"The {name} has shape {tuple(x.shape)}, {wanted}.")
    return batch


def check_observation(
    y: Any, operator: Any, prior: DiffusionPrior, device: torch.device, noise: float = 0.0, likelihood: Any = None
) -> Tensor:
    """``y`` as ``(N, *observation)`` floats on ``device``, zero where hidden.

    Refused unless A is an operator, and the ``likelihood``, or noise of standard deviation ``noise``, can have made y.
    """
    check_is_operator(operator)
    if likelihood is not None and getattr(likelihood, "operator", None) is not operator:
        todo = "restore(y, operator, likelihood=Poisson(operator, gain=100))"
        raise InputError(f"The likelihood must be one of the given operator: {todo}.")
    made = None if likelihood is None else check_likelihood(prior, likelihood, device)
    counts = made is not None and made.support in SUPPORTS
    y, mask = as_tensor("observation", y, floats=not counts).float().to(device), observation_mask(operator)
    if mask is not None and mask.ndim == y.ndim and len(mask) != len(y) and 1 not in (len(mask), len(y)):
        raise InputError(f"{len(y)} observations and {len(mask)} masks do not go together: give one mask, or one each.")
    count = len(y) if y.ndim and has_one_per_image(operator) else 1
    shape = (count, *prior.image_shape)
    expected = observed_by(operator, torch.zeros(shape, device=device)).shape[1:]
    wanted = f"the operator makes {tuple(expected)} of an image of the prior's, {tuple(prior.image_shape)}"
    wanted += ": bring it to this size (command line: --simulate takes --resize)"
    y = as_batch("observation", y, expected, wanted)
    if type(operator) is not Inpainting:
        check_operator(operator, shape, device)
        check_gradient(operator, shape, device)
    y = y if mask is None else torch.where(mask.to(y.device) != 0, y, 0.0)
    check_problem(prior, likelihood or Gaussian(operator, noise or QUIET), y, {}, farthest=WIDEST)
    return y


def check_label(label: Any, count: int, prior: DiffusionPrior) -> Tensor:
    """One label for each image, ``(N,)``, refused where the prior has no such class."""
    if not prior.class_names:
        raise InputError(f"The prior {prior.name} has no classes: omit the label.")
    labels = as_tensor("label", class_numbers(label, prior))
    whole_numbers = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    labels = labels.long() if whole_numbers else labels
    check_classes(labels, prior, count)
    return labels.reshape(-1).expand(count).contiguous()


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
    if tensor.is_meta or tensor.is_complex() or tensor.layout != torch.strided:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise InputError(f"The {name} must be a dense tensor of real numbers, not one of {kind}.")
    if not floats:
        return tensor
    if not tensor.is_floating_point():
        raise InputError(f"The {name} holds {tensor.dtype}, not floats in the units of [-1, 1] (bytes: x / 127.5 - 1).")
    return tensor.float()
