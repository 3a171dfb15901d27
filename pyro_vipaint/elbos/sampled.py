r"""The weighted bound with every term evaluated at the draw, none in closed form.

.. math::
    -\log p(y \mid z_1) + \sum_i \beta_i \big( \log q(z_i \mid z_{i+1}) - \log p_\theta(z_i \mid z_{i+1}) \big),
    \quad z \sim q

Its mean is that of :class:`BetaELBO`. At beta = 1 it is minus the log of the importance weight: constant in z if and
only if q is the posterior.

*Sticking the landing* (Roeder, Wu and Duvenaud 2017) omits the score of q from the gradient. With z = z(phi, eps), the
gradient of log q_phi(z) has two parts, the path through z and the score,

.. math::
    \frac{d}{d\phi} \log q_\phi(z(\phi, \epsilon)) = \frac{\partial \log q}{\partial z} \frac{\partial z}{\partial\phi}
        + \frac{\partial \log q_\phi(z)}{\partial \phi}, \quad E_q \frac{\partial \log q_\phi(z)}{\partial \phi} = 0.

Without the score the mean stays the same, and where log q - log p(z, y) is constant in z the gradient is zero: it has
no variance when q is the posterior. In a hierarchical guide q(z_i | z_{i+1}) also depends on the draw above; that
dependence is part of the path. Hence only the *parameters* are held constant, and q is built again from the same draws
under constant parameters. Detaching the distribution would keep the mean but lose the zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pyro_vipaint.elbos.base import WeightedELBO, latent_sites, sampled_term
from pyro_vipaint.errors import InputError


class SampledELBO(WeightedELBO):
    """-log p(y | z) + beta × (log q(z) - log p(z)) at the draw, a Monte-Carlo KL; minimised.

    The guide needs only reparameterised draws and a density, no particular dependency structure. The variance of the
    *value* vanishes as q approaches the posterior; that of the gradient does not.

    Arguments, costs, ``terms`` and errors are those of :class:`WeightedELBO`.
    """

    def _latent_term(self, model_site: Any, guide_site: Any) -> Tensor:
        return sampled_term(model_site, guide_site)


class StickingTheLandingELBO(WeightedELBO):
    """The objective of :class:`SampledELBO`, with a gradient that omits the score of q; minimised.

    Value and mean gradient are the same, but the gradient's variance vanishes as q approaches the posterior (for
    beta = 1 and an exact marginal; with one beta for all sites, the posterior with the likelihood tempered to 1/beta).
    Far from the posterior its gradient may be noisier than that of :class:`SampledELBO`.

    Arguments, costs, ``terms`` and errors are those of :class:`WeightedELBO`: q is evaluated twice, the network is not.
    A guide of Pyro's that is not a ``GuideMessenger`` is run a second time on the same draws; for an inverse
    autoregressive flow that means inverting it, one pass per dimension.

    The guide's parameters must be known to Pyro, as parameters of a module or by ``pyro.param``; the score of others
    stays in the gradient. A flow must have an inverse. A guide with a ``correction`` is refused.
    """

    def _latent_term(self, model_site: Any, guide_site: Any) -> Tensor:
        return sampled_term(model_site, guide_site)

    def _get_trace(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any
    ) -> tuple[Trace, Trace]:
        if getattr(poutine.unwrap(guide), "correction", None) is not None:
            raise InputError(
                f"{type(self).__name__} does not take a guide with a correction, whose graph runs through the network: "
                "use SampledELBO or BetaELBO."
            )
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        with constant(_parameters(guide, model_trace, guide_trace)), poutine.block():
            for name, q in _posteriors(guide, model_trace, guide_trace, args, kwargs):
                site: Any = guide_trace.nodes[name]
                # In place: a guide may look up the distributions of the levels above; they must be constant as well.
                site["fn"] = q
                # A copy: flows cache the graph of the parameters under the tensor that they returned.
                site["unscaled_log_prob"] = q.log_prob(site["value"].clone())
        return model_trace, guide_trace


@contextmanager
def constant(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Operations inside the block treat the parameters as constants; graphs recorded before still reach them."""
    learnt = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learnt:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learnt:
            parameter.requires_grad_(True)


def _parameters(guide: Callable[..., Any], *traces: Trace) -> list[Tensor]:
    """The guide's parameters: those of its module and those of ``pyro.param`` statements."""
    program = poutine.unwrap(guide)
    parameters: list[Tensor] = list(program.parameters()) if isinstance(program, nn.Module) else []
    for trace in traces:
        values: list[Any] = [site["value"] for site in trace.nodes.values() if site["type"] == "param"]
        parameters += [value.unconstrained() if hasattr(value, "unconstrained") else value for value in values]
    return parameters


def _posteriors(
    guide: Callable[..., Any], model_trace: Trace, guide_trace: Trace, args: Any, kwargs: Any
) -> Iterator[tuple[str, Any]]:
    """The guide's distributions one by one, built again on the draws of ``guide_trace``."""
    program, names = poutine.unwrap(guide), latent_sites(guide_trace)
    if not isinstance(program, GuideMessenger):
        again = poutine.trace(poutine.replay(guide, trace=guide_trace)).get_trace(*args, **kwargs)
        yield from ((name, again.nodes[name]["fn"]) for name in names)
        return
    for name in names:
        prior: Any = model_trace.nodes[name]["fn"]  # given the draws above: no network call
        q: Any = program.get_posterior(name, prior)
        q = Delta(q, event_dim=prior.event_dim) if isinstance(q, Tensor) else q
        yield name, q if q.batch_shape == prior.batch_shape else q.expand(prior.batch_shape)
