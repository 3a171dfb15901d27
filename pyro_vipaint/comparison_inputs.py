"""What :func:`pyro_vipaint.compare` is handed, checked before the first fit: hours of it may follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vipaint.errors import InputError
from pyro_vipaint.guides.base import LatentGuide
from pyro_vipaint.inputs import check_seed, check_whole
from pyro_vipaint.models.diffusion import DiffusionModel
from pyro_vipaint.models.observations import check_shape
from pyro_vipaint.sampling import initial_latent
from pyro_vipaint.svi import check_rates

Builder = Callable[[Any], Any]


def check_observations(model: Any, y: Any) -> None:
    """Refuses a ``y`` that is not what the model observes: an image without its batch dimension would broadcast."""
    if not isinstance(model, DiffusionModel):
        raise InputError(f"model must be a DiffusionModel, not {_kind(model)}.")
    if not isinstance(y, Tensor) or not y.ndim or not len(y):
        raise InputError("y must be a tensor of observations (N, *observation), N at least 1.")
    for name, value in model.condition.items():
        if isinstance(value, Tensor) and value.ndim and len(value) != len(y):
            raise InputError(f"y holds {len(y)} images, the model's condition {name} is for {len(value)}.")
    with torch.no_grad():
        x = model.prior.decode(torch.zeros(len(y), *model.prior.event_shape).to(y))
        check_shape(y, model.likelihood(x))


def check_guides(guides: Any) -> None:
    """Refuses anything but what makes fresh guides, by name."""
    for name, build in _named("guides", guides, "{'hierarchical': HierarchicalGuide}").items():
        if isinstance(build, nn.Module) or not callable(build):
            raise InputError(
                f"guides[{name!r}] is one {_kind(build)}, not what makes a fresh guide for each run: give a class, "
                f"or a function of the model."
            )


def check_elbos(elbos: Any) -> None:
    """Refuses anything but objectives, by name."""
    for name, elbo in _named("elbos", elbos, "{'beta': BetaELBO()}").items():
        if isinstance(elbo, type):
            raise InputError(f"elbos[{name!r}] is the class {elbo.__name__}: give an objective, {elbo.__name__}(…).")
        if not callable(getattr(elbo, "loss_and_grads", None)):
            raise InputError(f"elbos[{name!r}] is no objective but {_kind(elbo)}: give one such as BetaELBO().")


def check_seeds(seeds: Any) -> list[int]:
    """The seeds as a list of whole numbers."""
    try:
        found = [index(seed) for seed in seeds]
    except TypeError:
        raise InputError(f"seeds must be a sequence of whole numbers such as (0, 1, 2), not {seeds!r}.") from None
    if not found:
        raise InputError("There is nothing to compare: seeds is empty.")
    for seed in found:
        check_seed(seed)
    return found


def check_numbers(
    steps: int, lr: float | Mapping[str, float] | None, final_lr: float, num_draws: int, batch_size: int | None
) -> None:
    """Refuses numbers with which no run could be made."""
    check_whole("steps", steps)
    check_whole("num_draws", num_draws)
    if batch_size is not None:
        check_whole("batch_size", batch_size)
    check_rates(lr, final_lr)


def check_evidence(evidence: Tensor | None, num_images: int) -> None:
    """Refuses an evidence that is not one number an image."""
    if evidence is not None and evidence.shape != (num_images,):
        raise InputError(f"evidence has shape {tuple(evidence.shape)}, not one number for each of {num_images} images.")


def check_posterior(posterior: Tensor | None, num_images: int, event: torch.Size) -> Tensor | None:
    """The draws as ``(S', N, D)``: the exact posteriors of the library draw flattened events."""
    if posterior is None:
        return None
    shape = posterior.shape
    if len(shape) < 2 or not shape[0] or shape[1] != num_images or shape[2:].numel() != event.numel():
        raise InputError(
            f"posterior has shape {tuple(shape)}, not (draws, {num_images} images, *event) with an event of "
            f"{tuple(event)}, flattened or not."
        )
    return posterior.flatten(2)


def builders(guides: Mapping[str, Builder], model: DiffusionModel, y: Tensor) -> dict[str, Builder]:
    """What makes each guide of the model. A class of ours starts at :func:`initial_latent`, made once for all."""
    if not any(_is_ours(build) for build in guides.values()):
        return dict(guides)
    init = _start(model, y)
    return {name: _from(build, init) if _is_ours(build) else build for name, build in guides.items()}


def _from(build: Callable[..., Any], init: Tensor) -> Builder:
    return lambda model: build(model, init)


def _start(model: DiffusionModel, y: Tensor) -> Tensor:
    """Zeros under a likelihood that is no operator and noise."""
    if hasattr(model.likelihood, "operator"):
        return initial_latent(model.prior, model.likelihood, y, **model.condition)
    return torch.zeros(len(y), *model.prior.event_shape).to(y)


def _is_ours(build: Any) -> bool:
    return isinstance(build, type) and issubclass(build, LatentGuide)


def _named(what: str, values: Any, example: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise InputError(f"{what} must be a mapping from names such as {example}, not {_kind(values)}.")
    if not values:
        raise InputError(f"There is nothing to compare: {what} is empty.")
    return values


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
