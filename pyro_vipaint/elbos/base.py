r"""The base of the objectives: terms by site and image, and the weight beta of the prior side (Eq. 13).

One run of guide and model, on P particles of N images at once, gives each site a term of shape ``(P, N)``, in nats;
that of a latent site may be a KL divergence, its conditional mean:

.. math::
    -\log p(y) \le E_q\Big[ -\log p(y \mid z_1) + \sum_i \log q(z_i \mid z_{i+1}) - \log p(z_i \mid z_{i+1}) \Big].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro.infer import (
    EnergyDistance,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.infer.util import check_fully_reparametrized
from pyro.poutine.trace_struct import Trace
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint.errors import InputError, brief, number, whole

Weights = float | Mapping[str, float]
Beta = Weights | Callable[[int], Weights]
JIT = (JitTrace_ELBO, JitTraceMeanField_ELBO, JitTraceGraph_ELBO, JitTraceEnum_ELBO)
UNSUITED = {  # Pyro's objectives that a fit cannot minimise; docs/elbos.md has all of them
    TraceTailAdaptive_ELBO: "has a gradient, but no value: use it with pyro.infer.SVI.",
    ReweightedWakeSleep: "has two losses: use it with pyro.infer.SVI and a guide that is no GuideMessenger.",
    EnergyDistance: "is a function that torch differentiates: use it with pyro.infer.SVI.",
}


class PerImageELBO(Trace_ELBO, ABC):
    """An objective that keeps the terms of each image apart; a subclass combines them into one loss.

    After each evaluation ``terms`` holds the terms of a one-step estimate of the bound on -log p(y), each of shape
    ``(N,)``, in nats, without any weight: they sum to the bound. The term of a guide's site outside the plate of images
    is divided equally among the images.
    """

    __repr__, _repr_html_ = compact, as_html

    def __init__(self, num_particles: int) -> None:
        count = whole("num_particles", num_particles)
        super().__init__(num_particles=count, max_plate_nesting=1, vectorize_particles=True)
        self.terms: dict[str, Tensor] = {}

    def _facts(self) -> dict[str, Any]:
        """What the objective prints: its numbers."""
        names = ("beta", "alpha", "num_particles")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    @abstractmethod
    def _objective(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        """The loss, summed over images; sets ``terms``."""

    def negative_bound(self) -> Tensor:
        """The last estimate of the bound on -log p(y), the sum of ``terms``: ``(N,)``, in nats, without beta."""
        return torch.stack(list(self.terms.values())).sum(0)

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The objective, a sum over images and a mean over particles, with its autograd graph."""
        (traces,) = self._get_traces(model, guide, args, kwargs)
        return self._objective(*traces)

    def loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """The objective as a number, without gradients."""
        with torch.no_grad():
            return number_of(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """The objective as a number; adds its gradients to those of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return number_of(loss)


def number_of(loss: Tensor) -> float:
    """The loss, with Pyro's warning if it is NaN; a GPU is asked once."""
    number: Any = loss.item()
    warn_if_nan(number, "loss")
    return number


class WeightedELBO(PerImageELBO):
    """-log p(y | z) + beta × (the prior side), minimised; a subclass implements the term of a latent site.

    A step costs K + 1 network calls for a K-level model, K where it begins at t = 1, each on ``num_particles`` × N
    images.

    Args:
        beta: weight of the latent sites: a positive number, a mapping from site names to such numbers (omitted sites
            keep 1; sites that only the guide has are named as the guide names them), or a schedule: a function of the
            number of steps already taken that returns either.
        num_particles: Monte-Carlo draws of the guide in one step, run as one batch (5 in the paper's code).

    ``step`` counts the evaluations with gradients, and so the steps taken; a schedule receives it. :func:`fit` sets it,
    so that a second fit starts at 0 and a resumed fit where it stopped; elsewhere it may be set by hand.

    Raises:
        InputError: a weight that is not positive and finite, or a site that does not exist; from a schedule, at the
            first step with such a weight.
    """

    def __init__(self, beta: Beta = 1.0, num_particles: int = 5) -> None:
        super().__init__(num_particles)
        self.beta = beta if callable(beta) else check_weights(beta)
        self.step = 0

    @abstractmethod
    def _latent_term(self, model_site: Any, guide_site: Any) -> Tensor:
        """An unbiased estimate of KL(q || p) at one site, unweighted, of the batch shape."""

    def _objective(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        # Not poutine.scale: it scales observations too, and one on the model alone misses the terms of the guide.
        beta = check_weights(self.beta(self.step)) if callable(self.beta) else self.beta
        weights = beta if isinstance(beta, Mapping) else dict.fromkeys(latent_sites(guide_trace), beta)
        if unknown := weights.keys() - latent_sites(guide_trace).keys():
            raise InputError(f"beta names {', '.join(sorted(unknown))}, which the guide does not sample.")
        self.step += int(torch.is_grad_enabled())
        terms = site_terms(model_trace, guide_trace, self._latent_term)
        self.terms = image_means(terms)
        sites = {**guide_trace.nodes, **model_trace.nodes}
        weighted = [(weights.get(name, 1.0) * sites[name]["scale"] * term).sum() for name, term in terms.items()]
        return torch.stack(weighted).sum() / self.num_particles


def check_objective(elbo: Any) -> None:
    """Refuses an objective of Pyro that :func:`pyro_vipaint.fit` cannot minimise, and says why.

    Raises:
        InputError: it is one of them.
    """
    reason = next((reason for kind, reason in UNSUITED.items() if isinstance(elbo, kind)), None)
    if isinstance(elbo, JIT) and pyro.settings.get("module_local_params"):
        reason = "needs Pyro's store: make and fit the guide below pyro.settings.context(module_local_params=False)."
    if reason is not None:
        raise InputError(f"{type(elbo).__name__} {reason}")


def check_weights(beta: Weights) -> Weights:
    """``beta``; every weight must be a positive and finite number."""
    values = beta.values() if isinstance(beta, Mapping) else (beta,)
    try:
        for value in values:
            number("beta", value.item() if isinstance(value, Tensor) and value.numel() == 1 else value, positive=True)
    except InputError:
        wanted = "a positive and finite number, a mapping such as {'z_1': 2.0} from sites to such numbers"
        raise InputError(f"beta must be {wanted}, or a schedule, not {brief(beta)}.") from None
    return beta


def site_terms(model_trace: Trace, guide_trace: Trace, latent_term: Callable[[Any, Any], Tensor]) -> dict[str, Tensor]:
    """The unweighted terms by site, of the batch shape; a site that only the guide has contributes log q.

    Raises:
        NotImplementedError: a site of the guide is not reparameterised, so that its gradient would be wrong.
    """
    terms, drawn = {}, latent_sites(guide_trace)
    for site in drawn.values():
        check_fully_reparametrized(site)
    for name, site in model_trace.nodes.items():
        if site["type"] == "sample":
            terms[name] = -site["unscaled_log_prob"] if site["is_observed"] else latent_term(site, drawn[name])
            if not site["is_observed"]:
                _check_term(name, terms[name], drawn[name])
    return terms | {name: site["unscaled_log_prob"] for name, site in drawn.items() if name not in terms}


def _check_term(name: str, term: Any, site: Any) -> None:
    """Refuses a term of another shape: it would be summed, and divided by the particles, as if it were right."""
    batch = tuple(site["value"].shape[: site["value"].ndim - site["fn"].event_dim])
    if not isinstance(term, Tensor) or tuple(term.shape) != batch:
        shape = tuple(term.shape) if isinstance(term, Tensor) else brief(term)
        raise InputError(f"The term of {name} must be a tensor (particles, N), {batch}, not {shape}.")


def latent_sites(trace: Trace) -> dict[str, Any]:
    """The sites that a run has drawn, by name."""
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and not site["is_observed"]}


def sampled_term(model_site: Any, guide_site: Any) -> Tensor:
    """log q - log p at the draw."""
    return guide_site["unscaled_log_prob"] - model_site["unscaled_log_prob"]


def image_means(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Means over particles by site, ``(N,)`` each, detached."""
    count = max(term.shape[-1] if term.ndim else 1 for term in terms.values())
    means = {}
    for name, term in terms.items():
        per_image = term.ndim and term.shape[-1] == count
        means[name] = (term.reshape(-1, count).mean(0) if per_image else (term.mean() / count).expand(count)).detach()
    return means
