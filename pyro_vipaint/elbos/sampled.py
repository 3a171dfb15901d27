r"""The weighted bound with every term taken at the draw, none in closed form.

.. math::
    -\log p(y \mid z_1) + \sum_i \beta_i \big( \log q(z_i \mid z_{i+1}) - \log p_\theta(z_i \mid z_{i+1}) \big),
    \quad z \sim q

Its mean is that of :class:`BetaELBO`. At beta = 1 it is minus the log of the importance weight: constant in
z if and only if q is the posterior.

The sampled bound without the score of q in its gradient (Roeder, Wu and Duvenaud 2017, "Sticking the landing").

With z = z(phi, eps), the gradient of log q_phi(z) has two parts, the path through z and the score,

.. math::
    \frac{d}{d\phi} \log q_\phi(z(\phi, \epsilon)) = \frac{\partial \log q}{\partial z} \frac{\partial z}{\partial\phi}
        + \frac{\partial \log q_\phi(z)}{\partial \phi}, \quad E_q \frac{\partial \log q_\phi(z)}{\partial \phi} = 0.

Leaving the score out keeps the mean and, where log q - log p(z, y) is constant in z, leaves nothing: the variance is
zero when q is the posterior. In a hierarchical guide q(z_i | z_{i+1}) also moves with the draw above it; that is part
of the path. Hence only the *parameters* are held constant, and q is built again from the same draws under constant
parameters. Detaching the distribution would keep the mean but lose the zero.
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

from pyro_vipaint.elbos.base import Beta, WeightedELBO, latent_sites, sampled_term


class SampledELBO(WeightedELBO):
    """-log p(y | z) + beta × (log q(z) - log p(z)) at the draw, a Monte-Carlo KL; minimised.

    The bound on -log p(y) at beta = 1, as with :class:`BetaELBO`. It asks nothing of the guide but draws that are
    reparameterised and a density, and no particular dependency structure. Its *value* loses its variance as q
    approaches the posterior; its gradient does not (:class:`StickingTheLandingELBO`'s does).

    A step costs K + 1 network calls for a K-level model, each on ``num_particles`` × N images.

    Args:
        beta: weight of the latent sites: a positive number, a mapping from site name to one (absent names keep 1),
            or a schedule, which is called with the number of steps already taken and returns either.
        num_particles: Monte-Carlo draws of the guide in one step, run as one batch (5 in the paper's code).

    After each evaluation ``terms`` holds the *unweighted* terms by site, each of shape ``(N,)``, in nats: they sum to
    a one-step estimate of the bound on -log p(y) whatever beta is.

    Raises:
        ValueError: a weight that is not positive and finite, or a site that does not exist; from a schedule, at the
            step that meets it.
    """

    def __init__(self, beta: Beta = 1.0, num_particles: int = 5) -> None:
        super().__init__(beta, num_particles)

    def _latent_term(self, model_site: Any, guide_site: Any) -> Tensor:
        return sampled_term(model_site, guide_site)


class StickingTheLandingELBO(WeightedELBO):
    """The objective of :class:`SampledELBO`, with a gradient that leaves out the score of q; minimised.

    Same value, same mean gradient, but the gradient's variance vanishes as q approaches the posterior (for beta = 1
    and an exact marginal; with one beta for all sites, the posterior with the likelihood tempered to 1/beta). Far
    from the posterior it may be the noisier of the two.

    A step costs K + 1 network calls for a K-level model, each on ``num_particles`` × N images: q is evaluated twice,
    the network never. A guide of Pyro's that is not a ``GuideMessenger`` is run a second time on the same draws; for
    an inverse autoregressive flow that means inverting it, one pass a dimension.

    The guide's parameters must be known to Pyro, as a module's parameters or by ``pyro.param``; the score of others
    stays in the gradient. A flow must have an inverse (coupling and autoregressive flows do, planar ones do not).

    Args:
        beta: weight of the latent sites: a positive number, a mapping from site name to one (absent names keep 1),
            or a schedule, which is called with the number of steps already taken and returns either.
        num_particles: Monte-Carlo draws of the guide in one step, run as one batch (5 in the paper's code).

    After each evaluation ``terms`` holds the *unweighted* terms by site, each of shape ``(N,)``, in nats: they sum to
    a one-step estimate of the bound on -log p(y) whatever beta is.

    Raises:
        ValueError: a weight that is not positive and finite, or a site that does not exist; from a schedule, at the
            step that meets it.
    """

    def __init__(self, beta: Beta = 1.0, num_particles: int = 5) -> None:
        super().__init__(beta, num_particles)

    def _latent_term(self, model_site: Any, guide_site: Any) -> Tensor:
        return sampled_term(model_site, guide_site)

    def _get_trace(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any
    ) -> tuple[Trace, Trace]:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        with constant(_parameters(guide, model_trace, guide_trace)), poutine.block():
            for name, q in _posteriors(guide, model_trace, guide_trace, args, kwargs):
                site: Any = guide_trace.nodes[name]
                # In place: a guide may look up the distributions of the levels above, which must be constant as well.
                site["fn"] = q
                # A copy: flows remember the parameters' graph together with the very tensor that they returned.
                site["unscaled_log_prob"] = q.log_prob(site["value"].clone())
        return model_trace, guide_trace


@contextmanager
def constant(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Operations inside the block take the parameters as constants; graphs recorded before it still reach them."""
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
    if isinstance(program, GuideMessenger):
        yield from ((name, _posterior(program, name, model_trace.nodes[name]["fn"])) for name in names)
    else:
        again = poutine.trace(poutine.replay(guide, trace=guide_trace)).get_trace(*args, **kwargs)
        yield from ((name, again.nodes[name]["fn"]) for name in names)


def _posterior(guide: GuideMessenger, name: str, prior: Any) -> Any:
    """What the guide puts in place of ``prior``, the model's distribution given the draws above: no network call."""
    posterior = guide.get_posterior(name, prior)
    if isinstance(posterior, Tensor):
        return Delta(posterior, event_dim=prior.event_dim).expand(prior.batch_shape)
    return posterior.expand(prior.batch_shape) if posterior.batch_shape != prior.batch_shape else posterior
