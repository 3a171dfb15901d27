r"""Rényi's variational bound and IWAE, with separate importance weights for each image.

With w_p = p(y, z_p) / q(z_p), z_p ~ q for P particles of one image (Li and Turner 2016; Burda et al. 2016 for
alpha = 0),

.. math::
    L_\alpha = \frac{1}{1 - \alpha} \log \frac{1}{P} \sum_p w_p^{1 - \alpha}, \quad \log p(y) \ge E\, L_\alpha
    \quad (\alpha \ge 0, \alpha \ne 1).

alpha tending to 1 gives the ELBO. For alpha < 1 the mean grows with P from the ELBO (P = 1), for alpha = 0 towards
log p(y). For alpha > 1 it falls with P below the ELBO.

**It is not a bound when the marginal is estimated.** :class:`DiffusionMarginal` gives an estimate l of log p(z_K) with
E[l | z_K] <= log p(z_K). The ELBO is linear in l and stays a bound in the mean. Here l is in an exponent: by Jensen's
inequality E[exp l | z_K] >= exp E[l | z_K], which may exceed p(z_K), and as P grows the value for alpha = 0 tends to

.. math::
    \log \int E[e^{l(z_K)}] \prod_i p_\theta(z_i \mid z_{i+1})\, p(y \mid z_1)\, dz,

which may lie above log p(y): by v/2 nats for an l that is normal with mean log p(z_K) and variance v. The bound holds
for priors whose ``marginal(t).log_prob`` is exact, as for those in ``models/exact``.
"""

from __future__ import annotations

import math

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_vipaint.elbos.base import PerImageELBO, image_means, sampled_term, site_terms
from pyro_vipaint.errors import InputError, number


class RenyiELBO(PerImageELBO):
    """-L_alpha, a bound on -log p(y) for each image, summed; minimised.

    **It is a bound only where the prior's marginal is exact**, an optimistic estimate for a network's prior (see the
    module). There is no beta, and a scale set by ``poutine.scale`` is ignored.

    Args:
        alpha: order, >= 0 and not 1. Negative orders, which Pyro allows, give no bound.
        num_particles: P, the draws whose weights are averaged (5, the default of the other objectives).

    ``terms`` holds those of :class:`SampledELBO` and ``importance``, the correction by the weights, <= 0 for alpha < 1:
    their sum is the objective of each image. Costs are those of :class:`WeightedELBO`.

    Raises:
        InputError: alpha is below 0 or equal to 1; or the guide has a site outside the plate of images, so that there
            are no weights per image.
    """

    def __init__(self, alpha: float = 0.0, num_particles: int = 5) -> None:
        super().__init__(num_particles)
        self.alpha = number("alpha", alpha)
        if self.alpha == 1:
            raise InputError("alpha must not be 1: that is SampledELBO.")

    def _objective(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        terms = site_terms(model_trace, guide_trace, sampled_term)
        if len({term.numel() for term in terms.values()}) > 1:
            raise InputError("weights per image need a guide whose sites are all in the plate of images.")
        log_weights = -torch.stack([term.reshape(self.num_particles, -1) for term in terms.values()]).sum(0)
        order = 1 - self.alpha
        bound = (torch.logsumexp(order * log_weights, 0) - math.log(self.num_particles)) / order
        self.terms = image_means(terms)
        self.terms["importance"] = -bound.detach() - self.negative_bound()
        return -bound.sum()
