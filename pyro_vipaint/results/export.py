"""A result for ArviZ: images, what they predict, what was observed, and the weights of the guide's draws.

Draws of a guide are independent, even if the guide is wrong: R-hat and ESS do not judge it, its weights do. They are
those of the latents behind the images: ``pareto_k`` of them judges the guide, not the refinement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vipaint._torch import seeded
from pyro_vipaint.diagnostics.arviz import data_tree
from pyro_vipaint.errors import InputError
from pyro_vipaint.models.measurements.likelihoods import Perceptual, seen

if TYPE_CHECKING:
    from pyro_vipaint.results.result import Result

IMAGE = ("image", "channel", "row", "column")


def to_arviz(result: Result, latents: bool, seed: int | None) -> Any:
    """The groups; arguments and errors are those of :meth:`Result.to_arviz`."""
    sites = (result.latents or {}) if latents else {}
    predicted, log_likelihood = _predicted(result, seed)
    groups: dict[str, dict[str, Tensor]] = {
        "posterior": {"x": result.samples} | sites,
        "posterior_predictive": {"y": predicted},
        "sample_stats": _weights(result, seed),
        "log_likelihood": {} if log_likelihood is None else {"y": log_likelihood},
    }
    chains = {
        group: {name: value.unsqueeze(0).numpy() for name, value in values.items()}
        for group, values in groups.items()
        if values
    }
    dims = {"x": IMAGE, "log_weight": IMAGE[:1], "y": IMAGE[:1], **dict.fromkeys(sites, IMAGE[:1])}
    return data_tree(chains | {"observed_data": {"y": result.observation.numpy()}}, dims)


@torch.no_grad()
def _predicted(result: Result, seed: int | None) -> tuple[Tensor, Tensor | None]:
    """Draws of y given each image, zero where hidden, ``(S, N, *observation)``, and log p(y given x), ``(S, N)``."""
    y, likelihood = result._fitted.y, result.model.likelihood
    law: Any = likelihood(result.samples.to(y))
    observations = len(law.batch_shape) - 2
    law = law.to_event(observations) if observations > 0 else law
    with seeded(seed):
        drawn = law.sample()
    hidden = seen(likelihood, drawn).cpu()
    return hidden, None if isinstance(likelihood, Perceptual) else law.log_prob(seen(likelihood, y)).cpu()


def _weights(result: Result, seed: int | None) -> dict[str, Tensor]:
    """The log weights; none where the guide has no density."""
    try:
        return {"log_weight": result.log_weights(seed=seed)}
    except InputError:
        return {}
