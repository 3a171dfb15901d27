r"""A Markov sampler as a guide: the prior's own chain with its predictions corrected towards the observation.

.. math::
    q(z_{T_e}) &= N(0, \tau_K^2 \sigma_{T_e}^2) \\
    q(z_s \mid z_t, y) &= N\big(a z_t + b (\hat x + w_s\, c(\hat x, z_t, y)),\; \tau_s^2 v\big), \qquad
    \hat x = E[x \mid z_t]

with c a correction of :mod:`pyro_vipaint.corrections`: DPS, Pi-GDM, MMPS and others draw z_s from exactly such
Gaussians, most of them with the a, b and v of the prior's own transition, Eq. 3. w and tau are one number per level and
start at 1, the method as its authors have it. They belong to no image: fitted on some observations, they serve others.
On a :class:`pyro_vipaint.models.MatchedPrior` the variance is :math:`\tau_s^2 (v + b^2\, Var(x \mid z_t, y))`, with the
diagonal of :math:`c_t - c_t A^\top (A c_t A^\top + \sigma_y^2)^{-1} A c_t`. With MMPS the means are exact where x given
z_t is Gaussian, and the whole guide is where its elements are independent as well.

The guide makes no network call of its own. The prediction is read off the prior's mean at the site,
:math:`\hat x = (\hat z_s - a z_t) / b`, and its gradient runs through the call that the model has made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from pyro.nn.module import pyro_method
from pyro.poutine.runtime import Message
from torch import Tensor
from torch.distributions import constraints

from pyro_vipaint._torch import gradients
from pyro_vipaint.distributions import ReshapedLowRank
from pyro_vipaint.errors import InputError, instance
from pyro_vipaint.guides.base import LatentGuide, gaussian

if TYPE_CHECKING:
    from pyro_vipaint.corrections import Correction, Move
    from pyro_vipaint.models import DataCovariance, DiffusionModel, DiffusionPrior, Level


@dataclass(frozen=True, eq=False)
class Prediction:
    """x_hat = E[x given z_t] on the way from t to s, and what a correction may ask of it.

    Attributes:
        prior, likelihood, y: those of the model, and the observations.
        z: z_t, ``(…, N, *event)``, with a gradient.
        x_hat: of the shape of ``z``, a function of it.
        alpha_t, sigma_t, alpha_s, sigma_s: of the schedule.
        step_std: standard deviation of the bridge from t to s.
        differentiable: whether the correction itself is to be differentiated, for the fit of a guide.
        variance: c_t of x given z_t, which broadcasts to an event, or its covariance, on a prior of matched variance;
            None on another.
    """

    prior: DiffusionPrior
    likelihood: Any
    y: Tensor
    z: Tensor
    x_hat: Tensor
    alpha_t: float
    sigma_t: float
    alpha_s: float
    sigma_s: float
    step_std: float
    differentiable: bool = False
    variance: Tensor | DataCovariance | None = None

    @property
    def a(self) -> float:
        """The factor of z_t in the mean of z_s."""
        return self.alpha_t / self.alpha_s * self.sigma_s**2 / self.sigma_t**2

    @property
    def b(self) -> float:
        """The factor of x in the mean of z_s."""
        return self.alpha_s * self.step_std**2 / self.sigma_s**2

    @property
    def leading(self) -> int:
        """The number of dimensions in front of an event."""
        return self.z.ndim - self.prior.event_dim

    def residual(self) -> Tensor:
        """y - A(x_hat), zero where nothing was observed."""
        x_hat = self.x_hat if self.differentiable else self.x_hat.detach()
        return self.likelihood.residual(x_hat, self.y)

    def pull_back(self, v: Tensor) -> Tensor:
        """J^T v with J the Jacobian of x_hat in z_t: one gradient."""
        (gradient,) = torch.autograd.grad(self.x_hat, self.z, v, retain_graph=True, create_graph=self.differentiable)
        return gradient

    def covariance(self, v: Tensor) -> Tensor:
        """C_t v, C_t = (sigma_t^2 / alpha_t) J^T, the covariance of x given z_t: one gradient."""
        return self.sigma_t**2 / self.alpha_t * self.pull_back(v)


class FollowsObservation(LatentGuide):
    """A guide whose ``correction``, if it has one, moves the prior's predictions towards the observation of the run.

    A run takes the K - 1 network calls of the model and the gradients of the correction. Without a correction it is
    that of :class:`LatentGuide`.
    """

    def _follow(self, model: DiffusionModel, correction: Correction | None, one: Tensor) -> None:
        """Sets the correction; with one, ``w_i`` below T_e starts at ``one``."""
        self.correction = correction
        if correction is None:
            return
        likelihood: Any = model.likelihood
        followed = all(hasattr(likelihood, name) for name in ("operator", "residual", "noise_std"))
        wanted = "one with operator, residual and noise_std, such as Gaussian(operator, sigma=0.05)"
        instance("the likelihood of the model", likelihood, followed, wanted)
        instance("correction", correction, hasattr(correction, "move"), "a Correction such as PiGDM()")
        if len(model.levels) > 1:
            correction.check(model.prior)
        for level in model.levels[1:]:
            self._create("w", level.name, one)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Runs model and guide together on the observations, ``y`` or the first argument."""
        with self._run(args[0] if args else kwargs.get("y"), "guide(y)"):
            return super().__call__(*args, **kwargs)

    @pyro_method
    def sample_latents(self, num_images: int, y: Tensor | None = None) -> Tensor:
        """Draws z_K … z_1 from the guide given ``y`` and returns z_1: K - 1 network calls and their gradients."""
        with self._run(y, "sample_latents(num_images, y)"):
            z = super().sample_latents(num_images, y)
        return z if self.correction is None else z.detach()

    def _pyro_post_sample(self, msg: Message) -> None:
        if self.correction is not None and msg["name"] in self._levels:
            value: Any = msg["value"]
            if not self._fitting:
                value = value.detach()
                _forget_graph(msg)
            msg["value"] = value if value.requires_grad else value.requires_grad_(torch.is_grad_enabled())
            self._z: Any = msg["value"]
        super()._pyro_post_sample(msg)

    @contextmanager
    def _run(self, y: Tensor | None, call: str) -> Iterator[None]:
        """Gradients are on where the correction takes them; if they were off, each level forgets its graph."""
        if self.correction is None:
            yield
            return
        if y is None:
            raise InputError(f"a guide with a correction needs the observations: {call}.")
        self._y, self._z, self._fitting = y, y, torch.is_grad_enabled()
        try:
            with gradients() if self.correction.takes_gradients else nullcontext():
                yield
        finally:
            del self._y, self._z

    def _move(self, name: str, mean: Tensor) -> Move:
        """The correction's step to the site ``name``, where the prior has this ``mean``, its shift times w."""
        correction: Any = self.correction
        at = self._prediction(self._levels[name], mean)
        move = correction.move(at, correction(at))
        return move._replace(shift=self._of("w", name) * move.shift)

    def _predicted(self, name: str, mean: Tensor) -> Tensor:
        """The prior's ``mean`` at the site ``name``, or with a correction the mean of its step."""
        if self.correction is None:
            return mean
        move = self._move(name, mean)
        return move.mean + move.shift

    def _prediction(self, level: Level, mean: Tensor) -> Prediction:
        """x_hat, read off the mean a z_t + b x_hat of the prior at ``level``."""
        above = self._above[level.name]
        model: Any = self.model
        at = Prediction(
            model.prior, model.likelihood, self._y, self._z, mean,
            above.alpha, above.sigma, level.alpha, level.sigma, level.step_std, self._fitting, above.variance,
        )  # fmt: skip
        return replace(at, x_hat=(mean - at.a * self._z) / at.b)


class TwistedGuide(FollowsObservation):
    """The chain of the prior, corrected; ``w_i`` and ``tau_i``, one number per level, are learnt.

    A run takes the K - 1 network calls of the model and the gradients of the correction. It needs the observations:
    ``guide(y)``.

    Args:
        model: the :class:`DiffusionModel`, of pixels, with a likelihood that has ``operator``, ``residual`` and
            ``noise_std``. Its first keypoint may be 1, where the prior is N(0, sigma^2).
        init: its values have no influence; w and tau have its device and dtype.
        correction: of :mod:`pyro_vipaint.corrections`.

    Raises:
        InputError: the likelihood is a function alone; or, when the guide runs, there is no observation.
    """

    def __init__(self, model: DiffusionModel, init: Tensor | None = None, *, correction: Correction) -> None:
        super().__init__(model, init)
        instance("correction", correction, correction is not None, "a Correction such as PiGDM()")
        one = torch.ones(()) if init is None else init.new_ones(())
        self._follow(model, correction, one)
        for level in model.levels:
            self._create("tau", level.name, one, constraints.positive)

    def get_posterior(self, name: str, prior: Any) -> TorchDistribution:
        """q at the site ``name``; ``prior`` is the prior's distribution there given z_t."""
        tau, level = self._of("tau", name), self._levels[name]
        if name == self._top:
            zero = self._y.new_zeros(*prior.batch_shape, *prior.event_shape)
            return gaussian(zero, tau * level.sigma, prior.event_dim)
        return self._move(name, prior.mean).law(tau, prior.event_dim)


def _forget_graph(msg: Message) -> None:
    """The distributions of a drawn site without their graphs, which would hold every level's activations."""
    infer: Any = msg["infer"]
    infer["prior"], msg["fn"] = (_detached(fn) for fn in (infer["prior"], msg["fn"]))


def _detached(distribution: Any) -> Any:
    """A Gaussian on events without its graph; other distributions, those at T_e, have none."""
    if isinstance(distribution, ReshapedLowRank):
        return distribution.detached()
    base = getattr(distribution, "base_dist", None)
    if not (isinstance(distribution, Independent) and isinstance(base, Normal)):
        return distribution
    return Normal(base.loc.detach(), base.scale.detach(), validate_args=False).to_event(distribution.event_dim)
