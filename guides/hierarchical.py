r"""What the hierarchical guides share: every level below T_e, Eq. 12.

.. math:: q(z_{s(i)} \mid z_{s(i+1)}) = N(\gamma_i \hat z_{s(i)} + (1 - \gamma_i) \alpha_{s(i)} \mu_i, \tau_i^2)

with z_hat the mean of the *prior* at that site, which Pyro hands to ``get_posterior``: the guide makes no network
call of its own. mu lives in the scale of the clean latent, one number an element; gamma in (0, 1) and tau > 0 may be
coarser.

The hierarchical posterior of VIPaint (Eq. 11-12).

.. math::
    q(z_{T_e}) &= N(\alpha_{T_e} \mu_K, \tau_K^2) \\
    q(z_{s(i)} \mid z_{s(i+1)}) &= N(\gamma_i \hat z_{s(i)} + (1 - \gamma_i) \alpha_{s(i)} \mu_i, \tau_i^2)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vipaint.errors import InputError
from pyro_vipaint.guides.base import LatentGuide, LevelLike, ModelLike, gaussian

GRANULARITIES = ("element", "channel", "level", "shared")


class ChainGuide(LatentGuide):
    """A guide whose levels below T_e are those of Eq. 12; a subclass says ``get_top(prior)``, q(z_Te).

    Parameters are created at once: ``mu_i`` and ``tau_i`` for every level and ``gamma_i`` below T_e. At the start tau
    is sigma at T_e and ``tau_scale`` times the prior's step below it (0.7 in the authors' code), and the logit of
    gamma is ``gamma_logit`` (4 to 5 in theirs). The start is the same at every granularity.

    ===========  ==============================================================  ==================
    granularity  one number for                                                  shape
    ===========  ==============================================================  ==================
    element      each element of each image                                      ``(N, *event)``
    channel      each index of the first event dimension of each image           ``(N, C, 1, …)``
    level        each level of each image                                        ``(N, 1, …)``
    shared       each image, at all levels: ``gamma_shared``; ``tau_shared``     ``(N, 1, …)``
                 multiplies the starting value of each level
    ===========  ==============================================================  ==================

    Args:
        model: the :class:`DiffusionModel` to be approximated.
        init: where mu starts at every level, shape ``(N, *event)``, clean scale; zeros if not given. See
            :func:`pyro_vipaint.initial_latent`.
        gamma_logit: logit of gamma at the start, a number or a tensor that broadcasts to the shape of gamma: a lower
            value on observed pixels lets them follow mu, and so the observation, from the first step on.
        tau_scale: tau below T_e at the start, in units of the prior's standard deviation there.
        gamma, tau: their granularity, from the table.

    Raises:
        InputError: a granularity that is not in the table, a ``gamma_logit`` finer than gamma, or a ``tau_scale`` that
            is not positive and finite.
    """

    def __init__(
        self,
        model: ModelLike,
        init: Tensor | None = None,
        *,
        gamma_logit: float | Tensor = 4.0,
        tau_scale: float = 0.7,
        gamma: str = "element",
        tau: str = "element",
    ) -> None:
        super().__init__(model, init)
        self.settings = {"gamma": gamma, "tau": tau}
        if tau == "shared":
            self.settings["tau_scale"] = tau_scale  # of the starting values, which the parameter multiplies
        self._start_tau = {level.name: self._initial_tau(level, tau_scale) for level in model.levels}
        init = self._start(model, init)
        shape = granular_shape(tau, init.shape)
        gamma_start = _expand(gamma_logit, init, granular_shape(gamma, init.shape)).sigmoid()
        for level in model.levels:
            self._create_level(level, init, init.new_ones(shape), gamma_start)
        if tau == "shared":
            self._create("tau_shared", init.new_ones(shape), constraints.positive)
        if gamma == "shared" and len(model.levels) > 1:
            self._create("gamma_shared", gamma_start.clone(), constraints.unit_interval)

    def _create_level(self, level: LevelLike, init: Tensor, ones: Tensor, gamma: Tensor) -> None:
        index = level.name.removeprefix("z_")
        self._create(f"mu_{index}", init.clone())
        if self.settings["tau"] != "shared":
            tau = torch.full_like(ones, self._start_tau[level.name])
            self._create(f"tau_{index}", tau, constraints.positive)
        if self.settings["gamma"] != "shared" and level.name != self._top:
            self._create(f"gamma_{index}", gamma.clone(), constraints.unit_interval)

    def get_tau(self, name: str) -> Tensor:
        """tau at the site ``name``, in the scale of z there; broadcasts to ``(N, *event)``."""
        if self.settings["tau"] == "shared":
            return self._start_tau[name] * self.tau_shared
        return self._of("tau", name)

    def get_gamma(self, name: str) -> Tensor:
        """gamma at the site ``name``, below T_e; broadcasts to ``(N, *event)``."""
        return self.gamma_shared if self.settings["gamma"] == "shared" else self._of("gamma", name)

    def get_posterior(self, name: str, prior: Any) -> Distribution:
        """q at site ``name`` given the prior's distribution there, which carries the levels above."""
        if name == self._top:
            return self.get_top(prior)
        mean = self._location(name)
        mean = mean + self.get_gamma(name) * (prior.mean - mean)
        return gaussian(mean, self.get_tau(name), prior.event_dim)

    @abstractmethod
    def get_top(self, prior: Any) -> Distribution:
        """q(z_Te), of batch shape ``(N,)`` and the event shape of the prior."""


def granular_shape(granularity: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a parameter for latents of ``shape``, ``(N, *event)``, by the table of :class:`ChainGuide`.

    >>> granular_shape("channel", (2, 3, 32, 32))
    (2, 3, 1, 1)
    """
    if granularity not in GRANULARITIES:
        raise InputError(f"the granularity must be one of {', '.join(GRANULARITIES)}, not {granularity!r}.")
    kept = {"element": len(shape), "channel": 2}.get(granularity, 1)
    return (*shape[:kept], *(1 for _ in shape[kept:]))


def _expand(gamma_logit: float | Tensor, init: Tensor, shape: tuple[int, ...]) -> Tensor:
    logit = torch.as_tensor(gamma_logit).to(init)
    try:
        return logit.expand(shape).contiguous()
    except RuntimeError as error:
        raise InputError(f"gamma_logit of shape {tuple(logit.shape)} does not broadcast to {shape}.") from error


class HierarchicalGuide(ChainGuide):
    """q(z_Te) prod_i q(z_s(i) given z_s(i+1)), Eq. 11-12: one Gaussian at T_e, the levels of :class:`ChainGuide` below.

    The arguments are those of :class:`ChainGuide`. All KL terms are analytic where the prior's marginal at T_e is
    Gaussian; otherwise the entropy at T_e is analytic and the rest sampled.
    """

    def get_top(self, prior: Any) -> Distribution:
        """N(alpha_Te mu_K, tau_K^2)."""
        return gaussian(self._location(self._top), self.get_tau(self._top), prior.event_dim)
