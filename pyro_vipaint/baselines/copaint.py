r"""CoPaint (Zhang et al. 2023, *Towards Coherent Image Inpainting Using Denoising Diffusion Implicit Models*, ICML).

DDIM with eta = 0 from pure noise, so that the noise alone decides the image. At each time, t = 1 included, gradient
steps change the noise until the prediction agrees with the observation. With :math:`\bar z` where z_t stood before
them and u = z / c_t, c_t = sqrt(alpha_t^2 + sigma_t^2), the variance-preserving coordinates in which the authors work,
G times

.. math::
    u \leftarrow u - \eta \nabla_u L, \qquad
    L = |y - A(decode(\hat z_0(z)))|^2 + \lambda |u - \bar u|^2, \qquad
    \eta = 0.02 \cdot 1.012^i \, \alpha_t / c_t,

and each sample by itself shrinks its eta by 0.8 until its own L does not rise. Then z_s by DDIM.

Defaults are those of the authors' code, ``configs/imagenet.yaml``: 250 steps, G = 2, 0.02, 1.012, 0.8, lambda 1e-2
(the setting for many classes; ``configs/celebahq.yaml``, for faces alone, has lambda 1e-4, growing by 1.01 a step).
With other than 250 steps the rate runs through the same range, 1.012^(250 i / steps): so does the authors' fast
version, 100 steps with 1.03.

What differs from their code: they shrink the rate of the whole batch, and call the network again at a point that they
have just accepted. Here only samples that failed are evaluated again, and the prediction at the accepted point serves
the next gradient and the DDIM step: G + 1 calls a step for their 2 G + 1. They clamp predictions to [-1, 1], which
means nothing in latents; here only the image is clamped. The image is the last prediction.

Its bias on the Gaussian truth with these defaults (``test_the_bias_stated_in_the_docstring`` in
``tests/test_baseline_copaint.py``): the mean is off by 0.70 exact standard deviations on observed and 0.45 on hidden
pixels, the spread is 0.00 and 0.85 of the exact one. L takes the observation as free of noise, so that every sample
repeats it exactly; hidden pixels move with the gradient of the prediction, which is not that of the posterior.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vipaint._torch import gradients
from pyro_vipaint.baselines.base import BaselineResult, Callback, pure_noise, run, time_grid
from pyro_vipaint.models.priors.denoisers import flatten_condition
from pyro_vipaint.models.priors.kernels import coordinate_scale, ddim, expand_event
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time

STEPS, GRADIENT_STEPS, LR, GROWTH, REGULARISATION = 250, 2, 0.02, 1.012, 1e-2
SHRINK = 0.8
ROUNDING = 1e-5  # relative: at high noise a step moves L by less than float32 resolves, which is no rise
TRIES = 30  # 0.8^30 = 0.001; the authors' loop has no end where L is not a number


def copaint(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = STEPS,
    *,
    gradient_steps: int = GRADIENT_STEPS,
    lr: float = LR,
    growth: float = GROWTH,
    regularisation: float = REGULARISATION,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> BaselineResult:
    """``num_samples`` images for each of the N observations; see :func:`copaint_calls` for the cost.

    Args:
        prior, likelihood: as for :class:`DiffusionModel`; any differentiable operator.
        y: observations ``(N, *observation)``.
        num_samples: S.
        steps: the authors' default is 250.
        gradient_steps: G at each time; the authors' 2. With 0 it is the prior's own DDIM chain.
        lr: rate of the gradient steps at t = 1, without the factor alpha_t / c_t; the authors' 0.02.
        growth: factor of the rate from step to step, of 250; the authors' 1.012.
        regularisation: lambda, the weight of staying where DDIM went; the authors' 1e-2 for ImageNet.
        seed: seed of the first noise; ``None`` goes on with the global generator.
        callback: called as ``callback(step)``.
        condition: passed to the denoiser.
    """
    coherence = Coherence(prior, likelihood, y, condition, gradient_steps, lr, growth, regularisation)

    def chain() -> Tensor:
        z, times = pure_noise(prior, num_samples, y), time_grid(steps)
        x_hat = z
        for step, (t, s) in enumerate(pairwise(times)):
            z, x_hat = coherence(z, t, step / steps)
            z = ddim(prior.schedule, z, x_hat, t, s)
            if callback is not None:
                callback(step)
        return final_image(prior, x_hat)

    return run(chain, seed)


def copaint_calls(steps: int = STEPS, gradient_steps: int = GRADIENT_STEPS) -> int:
    """Network calls of a run in which L never rises; each smaller rate that is tried costs a call on those samples."""
    return steps * (gradient_steps + 1)


@torch.no_grad()
def final_image(prior: DiffusionPrior, x_hat: Tensor) -> Tensor:
    """The prediction as an image in [-1, 1]."""
    return prior.decode(x_hat).clamp(-1, 1)


@dataclass(frozen=True, eq=False)
class Coherence:
    """The gradient steps of :func:`copaint`, whose arguments these are."""

    prior: DiffusionPrior
    likelihood: Any
    y: Tensor
    condition: dict[str, Any]
    gradient_steps: int
    lr: float
    growth: float
    regularisation: float

    def __call__(self, z: Tensor, t: float, progress: float) -> tuple[Tensor, Tensor]:
        """``(z, prediction)`` after them, ``(S, N, *event)`` as ``z``, at time t and ``progress`` i / steps."""
        objective = Objective(self.prior, self.likelihood, self.y, self.condition, self.regularisation, z, t)
        here = objective(z.flatten(0, 1), objective.everyone, self.gradient_steps > 0)
        rate = here.loss.new_full(here.loss.shape, self.lr * self.growth ** (STEPS * progress))
        for step in range(self.gradient_steps):
            here, rate = gradient_step(objective, here, rate, step + 1 < self.gradient_steps)
        return here.z.unflatten(0, z.shape[:2]), here.x_hat.unflatten(0, z.shape[:2])


class Point(NamedTuple):
    """Where B samples stand: ``z`` with its prediction and the gradient of its L, ``(B, *event)``; L, ``(B,)``."""

    z: Tensor
    x_hat: Tensor
    gradient: Tensor
    loss: Tensor

    def at(self, chosen: Tensor) -> Point:
        """Those samples."""
        return Point(*(value[chosen] for value in self))

    def replaced(self, rows: Tensor, others: Point) -> Point:
        """The same samples, but ``others`` at ``rows``."""
        return Point(*(value.index_copy(0, rows, other) for value, other in zip(self, others, strict=True)))


@dataclass(frozen=True, eq=False)
class Objective:
    """L at time ``t`` of samples that stood at ``origin``, ``(S, N, *event)``; rows count through S × N."""

    prior: DiffusionPrior
    likelihood: Any
    y: Tensor
    condition: dict[str, Any]
    regularisation: float
    origin: Tensor
    t: float

    @property
    def everyone(self) -> Tensor:
        """All rows."""
        return torch.arange(self.origin.shape[:2].numel(), device=self.origin.device)

    @property
    def unit(self) -> float:
        """c_t alpha_t: a step of rate eta_0 alpha_t / c_t in u is one of rate c_t alpha_t eta_0 in z."""
        alpha, _ = self.prior.schedule(as_time(self.t))
        return float(alpha * coordinate_scale(self.prior.schedule, self.t))

    def __call__(self, z: Tensor, rows: Tensor, with_gradient: bool) -> Point:
        """The samples ``rows`` moved to ``z``, ``(B, *event)``: one network call."""
        with gradients() if with_gradient else torch.no_grad():
            z = z.detach().requires_grad_(with_gradient)
            x_hat = self.prior.denoise(z, self.t, **self._condition_of(rows))
            loss = self._misfit(self.prior.decode(x_hat), rows) + self.regularisation * self._way(z, rows)
            gradient = torch.autograd.grad(loss.sum(), z)[0] if with_gradient else torch.zeros_like(z)
        return Point(z.detach(), x_hat.detach(), gradient, loss.detach())

    def _condition_of(self, rows: Tensor) -> dict[str, Any]:
        """The conditions of these rows; what is not a tensor holds for all."""
        flat = {name: flatten_condition(value, self.origin.shape[:2]) for name, value in self.condition.items()}
        return {name: value[rows] if isinstance(value, Tensor) else value for name, value in flat.items()}

    def _misfit(self, x: Tensor, rows: Tensor) -> Tensor:
        """|y - A(x)|^2, ``(B,)``. The operator sees all S × N images, since it may have a mask for each of the N."""
        leading = self.origin.shape[:2]
        images = x.new_zeros(leading.numel(), *x.shape[1:]).index_copy(0, rows, x).unflatten(0, leading)
        return self.likelihood.residual(images, self.y).flatten(2).square().sum(-1).flatten()[rows]

    def _way(self, z: Tensor, rows: Tensor) -> Tensor:
        """|u - u_origin|^2, ``(B,)``."""
        way = (z - self.origin.flatten(0, 1)[rows]) / float(coordinate_scale(self.prior.schedule, self.t))
        return way.flatten(1).square().sum(-1)


def gradient_step(objective: Objective, here: Point, rate: Tensor, with_gradient: bool) -> tuple[Point, Tensor]:
    """``(point, rate)`` after one step, for each sample at the first of its rates that does not raise its L.

    A sample for which none does stays where it is. ``with_gradient``: whether the new point's gradient is needed.
    """
    found, failed = here, objective.everyone
    for _ in range(TRIES):
        step = expand_event(objective.unit * rate[failed], here.z) * here.gradient[failed]
        there = objective(here.z[failed] - step, failed, with_gradient)
        better = there.loss <= (1 + ROUNDING) * here.loss[failed]
        found = found.replaced(failed[better], there.at(better))
        failed = failed[~better]
        if not len(failed):
            break
        rate = rate.index_copy(0, failed, SHRINK * rate[failed])
    return found, rate
