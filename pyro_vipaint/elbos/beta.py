r"""The bound of VIPaint with its prior side weighted by beta (Eq. 13).

.. math::
    -E_q \log p(y \mid z_1) + \sum_i \beta_i\, E_q KL(q(z_i \mid z_{i+1}) \| p_\theta(z_i \mid z_{i+1}))
    + \beta_K \big( E_q[-\log p(z_K)] - H[q(z_K)] \big)

beta = 1 is a bound on -log p(y). KL terms and entropies are analytic where the distributions allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.poutine.scale_messenger import ScaleMessenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence


class LatentScale(ScaleMessenger):
    """``poutine.scale`` for latent sites only, with one number for all or one by site name (absent names keep 1).

    It acts on model and guide alike when both run inside it: scaling the model alone changes nothing under
    ``TraceMeanField_ELBO`` (which reads the guide's scale) and mixes wrongly under ``Trace_ELBO``.
    """

    def __init__(self, beta: float | Mapping[str, float]) -> None:
        super().__init__(1.0)
        self.beta = beta

    def _process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"] or site_is_subsample(msg):
            return
        self.scale = self.beta if isinstance(self.beta, (int, float)) else self.beta.get(msg["name"], 1.0)
        super()._process_message(msg)


class BetaELBO(TraceMeanField_ELBO):
    """-log p(y | z) + beta × (the prior side), Eq. 13; minimised.

    Args:
        beta: weight of the latent sites, a positive number or a mapping from site name to one. 1 is the true bound.
        num_particles: Monte-Carlo draws of the guide in one step, run as one batch (5 in the paper's code).

    After each evaluation ``terms`` holds the *unweighted* terms by site, each of shape ``(N,)``, in nats: they sum to
    a one-step estimate of the bound on -log p(y) whatever beta is. Pyro's condition for analytic KL terms holds when
    guide and model have the same dependency structure (each level depends on the one above it).
    """

    def __init__(self, beta: float | Mapping[str, float] = 1.0, num_particles: int = 5) -> None:
        values = beta.values() if isinstance(beta, Mapping) else (beta,)
        if not all(value > 0 for value in values):
            raise ValueError(f"beta must be positive, not {beta}.")
        super().__init__(num_particles=num_particles, max_plate_nesting=1, vectorize_particles=True)
        self.beta = beta
        self.terms: dict[str, Tensor] = {}

    def negative_bound(self) -> Tensor:
        """The last estimate of the bound on -log p(y), the sum of ``terms``: ``(N,)``, in nats, whatever beta is."""
        return torch.stack(list(self.terms.values())).sum(0)

    def _get_trace(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any
    ) -> tuple[Trace, Trace]:
        with LatentScale(self.beta):
            return super()._get_trace(model, guide, args, kwargs)

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor]:
        self.terms, loss = {}, torch.zeros(())
        for name, site in model_trace.nodes.items():
            if site["type"] != "sample":
                continue
            term = observed_term(site) if site["is_observed"] else latent_term(site, guide_trace.nodes[name])
            loss = loss + (site["scale"] * term).sum()
            self.terms[name] = term.detach().reshape(-1, term.shape[-1]).mean(0) if term.ndim else term.detach()
        return loss.detach(), loss


def observed_term(site: Any) -> Tensor:
    """-log p(y | z), unscaled, of the batch shape."""
    return -site["unscaled_log_prob"]


def latent_term(model_site: Any, guide_site: Any) -> Tensor:
    """KL(q || p) of one site, unscaled, of the batch shape: analytic, or -H[q] - log p at the sample."""
    q, p = guide_site["fn"], model_site["fn"]
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return -_entropy(q, guide_site) - model_site["unscaled_log_prob"]


def _entropy(q: Any, guide_site: Any) -> Tensor:
    """H[q], or its one-sample estimate where it has no closed form."""
    try:
        return q.entropy()
    except NotImplementedError:
        return -guide_site["unscaled_log_prob"]
