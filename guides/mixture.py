r"""A mixture of M hierarchical posteriors, for posteriors with several modes.

.. math::
    q(z_K, \dots, z_1) = \sum_m w_m\, N(z_K \mid \alpha_{T_e} \mu_{K,m}, \tau_{K,m}^2)
        \prod_i q_m(z_i \mid z_{i+1}),

each q_m below T_e as in Eq. 12 with its own parameters. A particle keeps its component at all levels, so that modes
that overlap at T_e may separate at any level; shared parameters below T_e would pull every mode to the same mu. The
density of a site sums over the components, and is a function of the sites above alone:

.. math::
    q(z_i \mid z_{i+1}, \dots, z_K) = \sum_m r_m\, q_m(z_i \mid z_{i+1}), \quad
    r_m \propto w_m \prod_{j > i} q_m(z_j \mid z_{j+1}).

*Sampling.* Where a gradient is taken, the components of S particles are drawn by systematic sampling for each image:
component m gets n_m = floor(S w_m) or ceil(S w_m) of them, in random order. Each particle alone is an exact draw of q;
the particles of one image are dependent. Under ``torch.no_grad`` (samples, diagnostics) they are independent.

*Gradients.* The gradient of means and spreads is pathwise, through the particle's own component. The gradient of the
weights is that of the stratified bound sum_m w_m E_m[f] (Morningstar et al. 2021), with E_m[f] estimated by the mean of
f over the particles of component m:

.. math::
    \sum_m \nabla w_m\, a_m (\bar f_m - b), \quad a_m = \frac{1[n_m > 0]}{P(n_m > 0)}, \quad
    P(n_m > 0) = \min(1, S w_m), \quad b = \frac{\sum_{m \in C} w_m \bar f_m}{\sum_{m \in C} w_m},

where C is the set of components that are certainly drawn (S w_m >= 1). The estimate is unbiased: given the counts n,
the mean of a_m f_m is a_m E_m[f], and the mean of b is the same number B for every n; with E[a_m] = 1 this leaves
sum_m grad w_m (E_m[f] - B), and sum_m grad w_m = 0. (The mean over the *particles* of C in place of b would be biased:
its shares n_m depend on which rare components were drawn.) A constant added to f changes nothing, unless C is empty:
then b is 0, and the constant adds noise.

f is the sum of all terms of one particle, levels below and observation included. Therefore the ``scale`` of every site
contains a factor of value one that carries this gradient. It is exact for objectives that are means over particles
(``BetaELBO``, ``Trace_ELBO``, ``TraceMeanField_ELBO``); for the logarithm of a mean (``RenyiELBO``, IWAE) the value and
the gradient of means and spreads are right, the gradient of the weights is not.

*Modes.* A component that loses its weight before it has reached a mode is rarely drawn and does not recover: the
weights should learn more slowly than the means, or stay constant at first (a fit with the rate 0 for ``weight``, then
another fit).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import Categorical, MixtureSameFamily, TorchDistribution  # pyright: ignore[reportAttributeAccessIssue]
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence, register_kl
from torch.nn.functional import one_hot

from pyro_vipaint.errors import InputError, number, whole
from pyro_vipaint.guides.base import LatentGuide, gaussian
from pyro_vipaint.guides.hierarchical import expand_logit

if TYPE_CHECKING:
    from pyro_vipaint.models import DiffusionModel


class StratifiedMixture(MixtureSameFamily):
    """A mixture of diagonal Gaussians whose draws are stratified by component over the particles.

    It is ``MixtureSameFamily(Categorical, Independent(Normal))`` with :meth:`rsample`. The last batch dimension is the
    images plate, those before it are particles. ``carried`` fixes the component of each particle where a level above
    has chosen it; after a draw ``which``, ``component`` and ``value`` hold its components and its value.

    A component that one particle has taken is rarer among the others, so that ranks, order statistics and standard
    errors of such draws are wrong. Draws are therefore stratified only where a gradient is taken
    (``torch.is_grad_enabled``).

    ``kl_divergence(q, p)`` of a drawn mixture is an unbiased estimate from that draw,
    KL(q_c || p) + log q(z) - log q_c(z): analytic given the component c, sampled in the overlap only.
    """

    has_rsample = True
    carried: Tensor | None = None
    which: Tensor | None = None
    component: Any = None
    value: Tensor | None = None

    def expand(self, batch_shape: Any, _instance: Any = None) -> StratifiedMixture:
        """The same mixture with another batch shape."""
        new = super().expand(batch_shape, _instance)
        new.carried = None if self.carried is None else self.carried.expand(new.batch_shape)
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape + event_shape``, pathwise in means and spreads."""
        shape = torch.Size(sample_shape) + self.batch_shape
        mixture = self.mixture_distribution
        if self.carried is not None:
            which = self.carried.expand(shape)
        elif torch.is_grad_enabled():
            which = systematic(mixture.probs.detach(), shape)
        else:
            which = mixture.sample(shape[: len(shape) - len(self.batch_shape)])
        normal = self.component_distribution.base_dist
        loc, scale = (self._pick(value, which) for value in (normal.loc, normal.scale))
        self.component = gaussian(loc, scale, len(self.event_shape))
        value: Tensor = self.component.rsample()
        self.which, self.value = which, value
        return value

    def posterior_logits(self, value: Tensor) -> Tensor:
        """log of the probability of each component given ``value``, up to a constant: ``(*batch, M)``."""
        return self.mixture_distribution.logits + self.component_distribution.log_prob(self._pad(value))

    def gradient_factor(self) -> Tensor | float:
        """A factor of value 1, of the shape of the last draw; see :func:`weight_gradient`. 1.0 before a draw."""
        if self.which is None:
            return 1.0
        weights = self.mixture_distribution.probs
        weights = weights.reshape(-1, *weights.shape[-2:])[0] if weights.ndim > 1 else weights[None]
        return weight_gradient(weights, self.which.reshape(-1, len(weights))).reshape(self.which.shape)

    def _pick(self, value: Tensor, which: Tensor) -> Tensor:
        """The rows ``which`` of ``value``, ``(*batch, M, *event)``, without the component dimension."""
        dim, event = which.ndim, self.event_shape
        index = which.reshape(which.shape + (1,) * (1 + len(event))).expand((*which.shape, 1, *event))
        return value.expand((*which.shape, -1, *event)).gather(dim, index).squeeze(dim)


@register_kl(StratifiedMixture, Distribution)
def _kl_of_the_draw(q: StratifiedMixture, p: Distribution) -> Tensor:
    return kl_divergence(q.component, p) + q.log_prob(q.value) - q.component.log_prob(q.value)


def systematic(weights: Tensor, shape: torch.Size) -> Tensor:
    """Indices of components, of ``shape`` (particles × images), by systematic sampling over the particles.

    ``weights`` are probabilities that broadcast to ``(*shape, M)``. For each image the S particles have the positions
    (k + u) / S, where k is a random permutation of 0 … S - 1 and u one uniform number: each position alone is uniform.
    """
    *particles, images = shape if shape else (1,)
    count = math.prod(particles)
    order = torch.rand(count, images, device=weights.device).argsort(0)
    position = (order + torch.rand(images, device=weights.device, dtype=weights.dtype)) / count
    below = weights.cumsum(-1).expand(*shape, -1).reshape(count, images, -1) <= position[..., None]
    return below.sum(-1).clamp(max=weights.shape[-1] - 1).reshape(shape)


def weight_gradient(weights: Tensor, which: Tensor) -> Tensor:
    """A factor of value 1, ``(S, N)``, for the terms of each particle, whose gradient is the one stated above.

    Args:
        weights: ``(N, M)``, probabilities.
        which: ``(S, N)``, components drawn by :func:`systematic`.
    """
    drawn = one_hot(which, weights.shape[-1]).to(weights)
    expected = len(which) * weights.detach()
    share = (drawn * weights / (expected.clamp(max=1) * drawn.sum(0).clamp(min=1))).sum(-1)
    certain = weights.detach() * (expected > 1 - 1e-6)
    base = (drawn * certain / drawn.sum(0).clamp(min=1)).sum(-1)
    centred = share - share.sum(0) * base / base.sum(0).clamp(min=1e-12)
    return 1 + len(which) * (centred - centred.detach())


class MixtureGuide(LatentGuide):
    """sum_m w_m q_m(z_K, …, z_1), each q_m a :class:`HierarchicalGuide`; for posteriors with several modes.

    Parameters are ``mu_i`` (clean scale) and ``tau_i`` for every level and ``gamma_i`` below T_e, each of shape
    ``(N, M, *event)``, and ``weight_logits``, ``(N, M)``, which start equal. Use at least as many particles as
    components, better twice as many: a component of weight w < 1 / S is drawn only in the fraction S w of the steps.
    KL terms are analytic given the component.

    Args:
        init: ``(N, *event)``, clean scale: mu of the first component starts at ``init``, the others start at draws of
            N(init, (spread × sigma_data)²). Or ``(N, M, *event)``: the initial mu of each component, for instance
            draws of the prior. Zeros if not given.
        num_components: M >= 1. 8 is a choice of this library, not tuned.
        spread: in units of the prior's ``sigma_data``, so that 1 covers the space of clean latents.
        generator: for the initial values of mu; torch's global one if not given.
        model, gamma_logit, tau_scale: as for :class:`ChainGuide`.

    Raises:
        InputError: ``num_components`` is below 1 or is not the M of ``init``, or an error of :class:`ChainGuide`.
    """

    def __init__(
        self,
        model: DiffusionModel,
        init: Tensor | None = None,
        *,
        num_components: int = 8,
        spread: float = 1.0,
        generator: torch.Generator | None = None,
        gamma_logit: float | Tensor = 4.0,
        tau_scale: float = 0.7,
    ) -> None:
        super().__init__(model, init)
        self.settings = {"num_components": num_components}
        whole("num_components", num_components)
        number("spread", spread)
        given = init if init is not None and init.ndim == len(model.prior.event_shape) + 2 else None
        start = self._start(model, init if given is None else given[:, 0])
        if given is None:
            noise = torch.randn(len(start), num_components - 1, *start.shape[1:], generator=generator).to(start)
            start = start[:, None]
            start = torch.cat([start, start + spread * model.prior.sigma_data * noise], 1)
        elif len(given[0]) == num_components:
            start = given.detach()
        else:
            raise InputError(f"init has {len(given[0])} components, num_components is {num_components}.")
        gamma = expand_logit(gamma_logit, start[:, 0]).sigmoid().unsqueeze(1).expand(start.shape)
        for level in model.levels:
            tau = torch.full_like(start, self._initial_tau(level, tau_scale))
            self._create("mu", level.name, start)
            self._create("tau", level.name, tau, constraints.positive)
            if level.name != self._top:
                self._create("gamma", level.name, gamma, constraints.unit_interval)
        self._create("weight", "logits", start.new_zeros(start.shape[:2]))

    @property
    def weights(self) -> Tensor:
        """w, ``(N, M)``: positive, sums to one."""
        return self.weight_logits.softmax(-1)

    def get_posterior(self, name: str, prior: Any) -> TorchDistribution:
        """The mixture at the site ``name`` with weights r_m, the components' responsibilities for the draws above."""
        mean, logits, carried = self._location(name), self.weight_logits, None
        if name != self._top:
            mean = mean + self._of("gamma", name) * (prior.mean.unsqueeze(-1 - prior.event_dim) - mean)
            above: Any = self.trace.nodes[self._above[name].name]
            logits, carried = above["fn"].posterior_logits(above["value"]), above["fn"].which
        components = gaussian(mean, self._of("tau", name), prior.event_dim)
        mixture = StratifiedMixture(Categorical(logits=logits, validate_args=False), components, validate_args=False)
        mixture.carried = carried
        return mixture

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            top: Any = msg if msg["name"] == self._top else self.trace.nodes[self._top]
            msg["scale"] = msg["scale"] * top["fn"].gradient_factor()
        super()._pyro_post_sample(msg)
