r"""The hierarchical posterior of VIPaint (Eq. 11-12).

.. math::
    q(z_{T_e}) &= N(\alpha_{T_e} \mu_K, \tau_K^2) \\
    q(z_{s(i)} \mid z_{s(i+1)}) &= N(\gamma_i \hat z_{s(i)} + (1 - \gamma_i) \alpha_{s(i)} \mu_i, \tau_i^2)

z_hat is the mean of the *prior* at that site, which Pyro passes to ``get_posterior``: the guide makes no network call
of its own. mu is in the scale of the clean latent, one number per element; gamma in (0, 1) and tau > 0 may be coarser.

With a correction c of :mod:`pyro_vipaint.corrections` the mean is that of its step, weighted by w_i,

.. math:: \gamma_i (\hat z_{s(i)} + w_i\, b\, c) + (1 - \gamma_i) \alpha_{s(i)} \mu_i,

and gamma = 1 is the mean of :class:`pyro_vipaint.guides.TwistedGuide`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vipaint.errors import broadcast, choice, number, numbers
from pyro_vipaint.guides.base import gaussian
from pyro_vipaint.guides.twisted import FollowsObservation

if TYPE_CHECKING:
    from pyro_vipaint.corrections import Correction
    from pyro_vipaint.models import DiffusionModel

GRANULARITIES = ("element", "channel", "level", "shared")


class ChainGuide(FollowsObservation):
    """A guide whose levels below T_e are those of Eq. 12; a subclass implements ``get_top(prior)``, q(z_Te).

    The constructor creates ``mu_i`` and ``tau_i`` for every level and ``gamma_i`` below T_e. tau starts at sigma at
    T_e and at ``tau_scale`` times the prior's standard deviation below it (0.7 in the authors' code), the logit of
    gamma at ``gamma_logit`` (4 to 5 in theirs). The initial distribution is the same at every granularity.

    ===========  ==============================================================  ==================
    granularity  one number for                                                  shape
    ===========  ==============================================================  ==================
    element      each element of each image                                      ``(N, *event)``
    channel      each index of the first event dimension of each image           ``(N, C, 1, …)``
    level        each level of each image                                        ``(N, 1, …)``
    shared       each image, at all levels: ``gamma_shared``; ``tau_shared``     ``(N, 1, …)``
                 multiplies the initial value of each level
    ===========  ==============================================================  ==================

    Args:
        model, init: as for :class:`LatentGuide`; see :func:`pyro_vipaint.initial_latent`.
        gamma_logit: initial logit of gamma, a number or a tensor that broadcasts to the shape of gamma: with a lower
            value on observed pixels these follow mu, and so the observation, from the first step on.
        tau_scale: initial value of tau below T_e, in units of the prior's standard deviation there.
        gamma, tau: their granularity, from the table.
        correction: moves the prior's mean towards the observation, which every run then needs. ``w_i``, one number per
            level below T_e, starts at 1. The noise is tau, also where the step of the correction has another.

    Raises:
        InputError: a granularity that is not in the table, a ``gamma_logit`` finer than gamma or not finite, or a
            ``tau_scale`` that is not positive and finite; or an error of :class:`TwistedGuide` about its correction.
    """

    def __init__(
        self,
        model: DiffusionModel,
        init: Tensor | None = None,
        *,
        gamma_logit: float | Tensor = 4.0,
        tau_scale: float = 0.7,
        gamma: str = "element",
        tau: str = "element",
        correction: Correction | None = None,
    ) -> None:
        super().__init__(model, init)
        self.settings = {"gamma": gamma, "tau": tau}
        if tau == "shared":
            self.settings["tau_scale"] = tau_scale  # of the initial values, which the parameter multiplies
        self._start_tau = {level.name: self._initial_tau(level, tau_scale) for level in model.levels}
        start = self._start(model, init)
        self._follow(model, correction, start.new_ones(()))
        ones = start.new_ones(granular_shape(tau, start.shape))
        gamma_start = expand_logit(gamma_logit, start.new_empty(granular_shape(gamma, start.shape))).sigmoid()
        for name, initial_tau in self._start_tau.items():
            self._create("mu", name, start)
            if tau != "shared":
                self._create("tau", name, torch.full_like(ones, initial_tau), constraints.positive)
            if gamma != "shared" and name != self._top:
                self._create("gamma", name, gamma_start, constraints.unit_interval)
        if tau == "shared":
            self._create("tau", "shared", ones, constraints.positive)
        if gamma == "shared" and len(model.levels) > 1:
            self._create("gamma", "shared", gamma_start, constraints.unit_interval)

    def get_tau(self, name: str) -> Tensor:
        """tau at the site ``name``, in the scale of z there; broadcasts to ``(N, *event)``."""
        if self.settings["tau"] == "shared":
            return self._start_tau[name] * self.tau_shared
        return self._of("tau", name)

    def get_posterior(self, name: str, prior: Any) -> TorchDistribution:
        """q at the site ``name``; ``prior`` is the prior's distribution there given the levels above."""
        if name == self._top:
            return self.get_top(prior)
        mean, gamma = self._location(name), self._of("gamma", "shared" if self.settings["gamma"] == "shared" else name)
        mean = mean + gamma * (self._predicted(name, prior.mean) - mean)
        return gaussian(mean, self.get_tau(name), prior.event_dim)

    @abstractmethod
    def get_top(self, prior: Any) -> TorchDistribution:
        """q(z_Te), of batch shape ``(N,)`` and the event shape of the prior."""


class HierarchicalGuide(ChainGuide):
    """q(z_Te) prod_i q(z_s(i) given z_s(i+1)), Eq. 11-12: one Gaussian at T_e, the levels of :class:`ChainGuide` below.

    The arguments are those of :class:`ChainGuide`. All KL terms are analytic where the prior's marginal at T_e is
    Gaussian; otherwise the entropy at T_e is analytic and the rest of that term is sampled.
    """

    def get_top(self, prior: Any) -> TorchDistribution:
        """N(alpha_Te mu_K, tau_K^2)."""
        return gaussian(self._location(self._top), self.get_tau(self._top), prior.event_dim)


def granular_shape(granularity: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a parameter for latents of ``shape``, ``(N, *event)``, by the table of :class:`ChainGuide`.

    >>> granular_shape("channel", (2, 3, 32, 32))
    (2, 3, 1, 1)
    """
    choice("granularity", granularity, GRANULARITIES)
    kept = {"element": len(shape), "channel": 2}.get(granularity, 1)
    return (*shape[:kept], *(1 for _ in shape[kept:]))


def expand_logit(gamma_logit: float | Tensor, like: Tensor) -> Tensor:
    """``gamma_logit`` as a tensor with the shape, dtype and device of ``like``."""
    if not isinstance(gamma_logit, Tensor):
        gamma_logit = torch.tensor(number("gamma_logit", gamma_logit, signed=True))
    logit = numbers("gamma_logit", gamma_logit.to(like))
    return broadcast(like.shape, gamma_logit=logit)[0].contiguous()
