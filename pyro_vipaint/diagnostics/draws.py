r"""Draws of a guide and the terms of their importance weights.

.. math::
    \log w = \log p(y \mid z_1) + \sum_i \log p_\theta(z_i \mid z_{i+1}) - \log q(z_i \mid z_{i+1}), \qquad z \sim q

The model is the *unscaled* one, a scale set by handlers is ignored: the weights of a beta-scaled model belong to no
posterior. Guide and model run together, K + 1 network calls per batch, K where the model begins at t = 1. KL terms are
sampled, never analytic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions import Delta, Independent
from pyro.infer.enum import get_importance_trace
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import double, seeded
from pyro_vipaint.calls import count_calls
from pyro_vipaint.errors import InputError, instance, numbers, whole
from pyro_vipaint.models.diffusion import DiffusionModel


@dataclass(frozen=True, eq=False)
class WeightedDraws:
    """Draws of a guide and the terms of the bound at each of them.

    Attributes:
        z: z_Ts, the last latent of the model, ``(S, N, *event)``.
        terms: by site, log q - log p at the draw, and -log p(y | z_1) at ``y``: ``(S, N)``, float64, in nats.
        nfe: images passed through the network.
    """

    z: Tensor
    terms: dict[str, Tensor]
    nfe: int

    __repr__, _repr_html_ = compact, as_html

    @property
    def log_weights(self) -> Tensor:
        """log p(y, z) - log q(z), ``(S, N)``, in nats."""
        return -torch.stack(list(self.terms.values())).sum(0)


@torch.no_grad()
def weighted_draws(
    model: Callable[..., Any],
    guide: Any,
    y: Tensor,
    num_samples: int = 1000,
    *,
    seed: int | None = None,
    batch_size: int | None = None,
    at: Mapping[str, Tensor] | None = None,
) -> WeightedDraws:
    """Runs guide and unscaled model on ``num_samples`` draws of each image: S × N × (K + 1) NFE.

    On models that begin at t = 1 it is S × N × K.

    Args:
        model: the Pyro program, called as ``model(y)``, its images in one plate at dimension -1.
        guide: any guide of the model that has a density.
        y: observations ``(N, *observation)``.
        num_samples: S >= 1, draws of each image.
        seed: seed of these draws; it must differ from the seed of the fit, whose noise they would repeat. ``None``
            continues the global generator.
        batch_size: draws of each image in one pass; all of them if not given. It bounds the memory.
        at: earlier draws of this guide by site, ``(num_samples, N, *event)``, at which the terms are taken, in the
            place of new ones. For guides of this library.

    Raises:
        InputError: the guide is a point mass, has one density for all images together where N > 1, or was built on
            another model (a guide messenger runs the model that it was built on); or ``num_samples`` or ``batch_size``
            is not positive.
    """
    if isinstance(guide, GuideMessenger) and guide.model is not model:
        raise InputError("The guide was built on another model and would run that one: build it on this model.")
    instance("model", model, callable(model), "a Pyro program such as a DiffusionModel")
    instance("guide", guide, callable(guide), "a guide of the model")
    if isinstance(model, DiffusionModel):
        model.check(y)
    size = num_samples if batch_size is None else whole("batch_size", batch_size)
    starts = range(0, whole("num_samples", num_samples), size)
    with seeded(seed), count_calls() as count:
        parts = [_run(model, guide, y, min(size, num_samples - start), _rows(at, start, size)) for start in starts]
    z = torch.cat([part for part, _ in parts])
    terms = {name: torch.cat([part[name] for _, part in parts]) for name in parts[0][1]}
    return WeightedDraws(z, terms, count.nfe)


def check_log_weights(log_weights: Tensor) -> Tensor:
    """Log weights ``(S, N)``, S >= 1, refused where one is NaN or +inf, or where all those of an image are -inf.

    A single -inf is a weight of zero.
    """
    if isinstance(log_weights, Tensor) and log_weights.ndim == 2 and len(log_weights):
        numbers("the largest log weight of each image", log_weights.max(0).values)
        return log_weights
    return numbers("log_weights", log_weights, ("S", "N"), least=1)


def _rows(at: Mapping[str, Tensor] | None, start: int, size: int) -> dict[str, Tensor]:
    return {} if at is None else {name: value[start : start + size] for name, value in at.items()}


class _At(Messenger):
    """Gives sites their ``values``; entered before a guide, which then sets their distributions."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[str(msg["name"])], True


def _run(
    model: Callable[..., Any], guide: Any, y: Tensor, count: int, at: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """z_Ts and the terms by site of ``count`` draws of each image, or of those ``at`` which they are taken."""
    model, guide = (pyro.plate("draws", count, dim=-2)(program) for program in (model, guide))
    guide = _At(at)(guide) if at else guide
    model_trace, guide_trace = get_importance_trace("flat", 2, model, guide, (y,), {})
    # A guide that consists of points has no density; one with auxiliary sites, from which points follow, has one.
    if all(_is_point(site["fn"]) for _, site in _sample_sites(guide_trace)):
        raise InputError("The guide is a point mass and has no density: importance weights need a guide with one.")
    shape, terms = (count, len(y)), {}
    for sign, trace in ((-1, model_trace), (1, guide_trace)):
        for name, site in _sample_sites(trace):
            terms[name] = terms.get(name, 0) + sign * _per_image(name, site["unscaled_log_prob"], shape)
    z = [site["value"] for _, site in _sample_sites(model_trace) if not site["is_observed"]][-1]
    return z, terms


def _sample_sites(trace: Trace) -> Iterator[tuple[str, Any]]:
    """The sites that have a density; ``pyro.deterministic`` creates sample sites without one."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not (site["infer"] or {}).get("_deterministic"):
            yield name, site


def _is_point(distribution: Any) -> bool:
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return isinstance(distribution, Delta)


def _per_image(name: str, log_prob: Tensor, shape: tuple[int, int]) -> Tensor:
    """The log density of a site, ``(S, N)``, in float64: the weights are differences of large numbers."""
    images = log_prob.shape[-1] if log_prob.ndim else 1
    if log_prob.ndim > 2 or images != shape[1]:
        raise InputError(
            f"The density of site {name} has shape {tuple(log_prob.shape)}, not (samples, images) = {shape}: "
            "weights per image need guide and model to factorise over images; give them one image at a time."
        )
    return double(log_prob).expand(shape)
