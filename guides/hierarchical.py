r"""The hierarchical posterior of VIPaint (Eq. 11-12).

.. math::
    q(z_{T_e}) &= N(\alpha_{T_e} \mu_K, \tau_K^2) \\
    q(z_{s(i)} \mid z_{s(i+1)}) &= N(\gamma_i \hat z_{s(i)} + (1 - \gamma_i) \alpha_{s(i)} \mu_i, \tau_i^2)

with z_hat the mean of the *prior* at that site, which Pyro hands to :meth:`get_posterior`: the guide makes no network
call of its own. mu lives in the scale of the clean latent, gamma in (0, 1), tau > 0, all per element of every image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from pyro.distributions import Distribution, Normal
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyro_vipaint.guides.base import LatentGuide


class LevelLike(Protocol):
    """A latent site as the model describes it: alpha and sigma there, the prior's spread given the level above."""

    @property
    def name(self) -> str: ...
    @property
    def alpha(self) -> float: ...
    @property
    def sigma(self) -> float: ...
    @property
    def step_std(self) -> float: ...


class PriorLike(Protocol):
    """The shape of one latent."""

    @property
    def event_shape(self) -> Sequence[int]: ...


class ModelLike(Protocol):
    """What the guide reads of a :class:`DiffusionModel`."""

    def __call__(self, y: Tensor | None = None, num_images: int | None = None) -> Tensor: ...

    @property
    def levels(self) -> Sequence[LevelLike]: ...

    @property
    def prior(self) -> PriorLike: ...

    @property
    def num_images(self) -> int: ...


class HierarchicalGuide(LatentGuide):
    """q(z_Te) prod_i q(z_s(i) given z_s(i+1)), Eq. 11-12.

    Parameters are created at once: ``mu_i``, ``tau_i`` for every level and ``gamma_i`` below T_e, each of shape
    ``(N, *event)``. At the start tau is sigma at T_e and ``tau_scale`` times the prior's step below it (0.7 in the
    authors' code), and the logit of gamma is ``gamma_logit`` (4 to 5 in theirs).

    Args:
        model: the :class:`DiffusionModel` to be approximated.
        init: where mu starts at every level, shape ``(N, *event)``, clean scale; zeros if not given. See
            :func:`pyro_vipaint.initial_latent`.
        gamma_logit: logit of gamma at the start, a number or a tensor that broadcasts to ``init``: a lower value on
            observed pixels lets them follow mu, and so the observation, from the first step on.
        tau_scale: tau below T_e at the start, in units of the prior's standard deviation there.
    """

    def __init__(
        self, model: ModelLike, init: Tensor | None = None, *, gamma_logit: float | Tensor = 4.0, tau_scale: float = 0.7
    ) -> None:
        super().__init__(model)
        if init is None:
            init = torch.zeros(model.num_images, *model.prior.event_shape)
        self._alpha = {level.name: level.alpha for level in model.levels}
        self._top = model.levels[0].name
        gamma = torch.as_tensor(gamma_logit).to(init).sigmoid().expand(init.shape).contiguous()
        for level in model.levels:
            index, is_top = level.name.removeprefix("z_"), level.name == self._top
            tau = level.sigma if is_top else tau_scale * level.step_std
            self._create(f"mu_{index}", init.detach().clone(), constraints.real)
            self._create(f"tau_{index}", torch.full_like(init, tau), constraints.positive)
            if not is_top:
                self._create(f"gamma_{index}", gamma.clone(), constraints.unit_interval)

    def _create(self, name: str, value: Tensor, constraint: constraints.Constraint) -> None:
        setattr(self, name, PyroParam(value, constraint=constraint))

    def get_posterior(self, name: str, prior: Any) -> Distribution:
        """q at site ``name`` given the prior's distribution there, which carries the levels above."""
        index = name.removeprefix("z_")
        mean = self._alpha[name] * getattr(self, f"mu_{index}")
        if name != self._top:
            gamma = getattr(self, f"gamma_{index}")
            mean = mean + gamma * (prior.mean - mean)
        tau = getattr(self, f"tau_{index}")
        return Normal(mean, tau.expand(mean.shape), validate_args=False).to_event(prior.event_dim)
