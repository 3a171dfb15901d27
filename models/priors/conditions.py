"""What a denoiser is conditioned on, checked where it enters: names, numbers of images, classes."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vipaint._torch import device_of, has_values
from pyro_vipaint.errors import InputError, choice, number
from pyro_vipaint.models.priors.classifier_free import WEIGHT

if TYPE_CHECKING:
    from pyro_vipaint.models.priors.prior import DiffusionPrior

LABELS = "class_labels"
CPU = torch.device("cpu")
LABEL_TYPES = (torch.int64, torch.int32)  # those that an embedding takes


def class_numbers(label: Any, prior: DiffusionPrior) -> Any:
    """The label with the numbers of the classes in the place of their names, in any case of letters.

    Raises:
        InputError: the prior has no class of that name; the message lists its names.
    """
    if isinstance(label, str):
        numbers = {name.lower(): number for number, name in enumerate(prior.class_names)}
        if label.lower() not in numbers:
            choice("class", label, prior.class_names)
        return numbers[label.lower()]
    if isinstance(label, (list, tuple)) and any(isinstance(each, str) for each in label):
        return [class_numbers(each, prior) for each in label]
    return label


def with_class_numbers(condition: Mapping[str, Any], prior: DiffusionPrior) -> dict[str, Any]:
    """The condition, whose ``class_labels`` are a tensor where they were names of classes."""
    labels = condition.get(LABELS)
    if not prior.class_names or (numbers := class_numbers(labels, prior)) is labels:
        return dict(condition)
    return {**condition, LABELS: torch.as_tensor(numbers, device=device_of(prior)).reshape(-1)}


def check_given(prior: DiffusionPrior, condition: Mapping[str, Any]) -> None:
    """The check of every network call: names that the network takes, and classes that it has.

    A prior that does not state its ``conditions`` takes any name. Labels on a GPU are not read. The weight of guidance
    is checked by :func:`pyro_vipaint.models.priors.classifier_free.is_guided`, which every call asks.
    """
    known = prior.conditions
    for name, value in condition.items() if known is not None else ():
        choice(f"condition of the prior {prior.name}", name, (*(known or ()), WEIGHT))
        if name != WEIGHT and not isinstance(value, (Tensor, type(None))):
            given = shorten(repr(value), 50, placeholder="…")
            raise InputError(f"{name} must be a tensor with one row per image, not {given}.")
    labels = condition.get(LABELS)
    if labels is not None and prior.class_names and getattr(labels, "device", CPU) == CPU:
        check_classes(torch.as_tensor(labels), prior, None)


def check_condition(
    prior: DiffusionPrior,
    condition: Mapping[str, Any],
    count: int | None = None,
    device: torch.device | None = None,
) -> None:
    """Refuses conditions of other names, for another number of images than ``count``, elsewhere than on ``device``.

    Refused are also labels of classes that the prior does not have, and a guidance scale that is not a number >= 0.
    """
    for name, value in condition.items():
        if isinstance(value, Tensor) and value.ndim:
            check_count(name, len(value), count)
            check_place(name, value.device, "images", device)
    check_given(prior, condition)
    if condition.get(WEIGHT) is not None:
        number(WEIGHT, condition[WEIGHT])
    if condition.get(LABELS) is not None and prior.class_names:
        check_classes(torch.as_tensor(condition[LABELS]), prior, count)


def check_place(name: str, given: torch.device, others: str, device: torch.device | None) -> None:
    """Refuses something ``given`` on another device than the ``others``, where theirs is known."""
    if device not in (None, given):
        raise InputError(f"{name} lies on {given}, the {others} on {device}: move it there by .to.")


def check_count(name: str, given: int, count: int | None) -> None:
    """Refuses something ``given`` for a number of images that is neither one nor ``count``."""
    if count is not None and given not in (1, count):
        raise InputError(f"{count} images and {name} for {given} do not go together: give one, or one each.")


def check_classes(labels: Tensor, prior: DiffusionPrior, count: int | None) -> None:
    """Refuses labels that are not whole numbers of the prior's classes, one for all images or ``(count,)``."""
    classes = len(prior.class_names)
    fits = labels.dtype in LABEL_TYPES and labels.ndim <= 1 and (count is None or labels.numel() in (1, count))
    if not fits or (has_values(labels) and not ((labels >= 0) & (labels < classes)).all()):
        given = shorten(str(labels.tolist()), 50, placeholder="…")
        each = "each image" if count is None else f"each of {count} images"
        raise InputError(f"The label must be a whole number from 0 to {classes - 1}, or one for {each}, not {given}.")
