r"""CoPaint (Zhang et al. 2023, *Towards Coherent Image Inpainting Using Denoising Diffusion Implicit Models*, ICML).

DDIM with eta = 0 from pure noise, so that the noise alone decides the image. At each time, t = 1 included, gradient
steps change the noise until the prediction agrees with the observation. With :math:`\bar z` the z_t before them and
u = z / c_t, c_t = sqrt(alpha_t^2 + sigma_t^2), the variance-preserving coordinates in which the authors work, G times

.. math::
    u \leftarrow u - \eta \nabla_u L, \qquad
    L = |y - A(decode(\hat z_0(z)))|^2 + \lambda |u - \bar u|^2, \qquad
    \eta = 0.02 \cdot 1.012^i \, \alpha_t / c_t,

and each sample by itself shrinks its eta by 0.8 until its own L does not rise. Then z_s by DDIM.

Defaults are those of the authors' code, ``configs/imagenet.yaml`` (``configs/celebahq.yaml``, for faces alone, has
lambda 1e-4, growing by 1.01 a step). With other than 250 steps the rate runs through the same range,
1.012^(250 i / steps); so does the authors' fast version, 100 steps with 1.03.

Deviations: the authors shrink the rate of the whole batch, and call the network again at a point that they have just
accepted. Here only samples that failed are evaluated again, and the prediction at the accepted point serves the next
gradient and the DDIM step: G + 1 calls a step instead of 2 G + 1. They clamp predictions to [-1, 1]; here only the
image, the last prediction, is clamped.

Bias: L takes the observation as free of noise, so that every sample repeats it exactly; hidden pixels move with the
gradient of the prediction, which is not that of the posterior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vipaint._torch import gradients
from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.errors import number, whole
from pyro_vipaint.models.measurements.likelihoods import weighted
from pyro_vipaint.models.priors.denoisers import flatten_condition
from pyro_vipaint.models.priors.kernels import coordinate_scale, ddim, expand_event
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time
from pyro_vipaint.progress import Callback

STEPS, GRADIENT_STEPS, LR, GROWTH, REGULARISATION = 250, 2, 0.02, 1.012, 1e-2
SHRINK = 0.8
ROUNDING = 1e-5  # relative: at high noise a step moves L by less than float32 resolves, which is no rise
TRIES = 30  # 0.8^30 = 0.001; the authors' loop does not end where L is not a number


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
    """Images by CoPaint; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    Args:
        gradient_steps: G at each time; as all defaults, that of the authors' code. With 0 it is the prior's DDIM chain.
        lr: rate of the gradient steps at t = 1, without the factor alpha_t / c_t.
        growth: factor of the rate from step to step, of 250.
        regularisation: lambda, the weight of the distance to the DDIM chain.
    """
    coherence = Coherence(prior, likelihood, y, condition, gradient_steps, lr, growth, regularisation)

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        for step, (t, s) in enumerate(pairwise(times)):
            z, x_hat = coherence(z, t, step / steps)
            z = ddim(prior.schedule, z, x_hat, t, s)
            yield x_hat

    return run("copaint", chain, prior, likelihood, y, num_samples, steps, seed, callback, condition)


def copaint_calls(steps: int = STEPS, gradient_steps: int = GRADIENT_STEPS) -> int:
    """Network calls of :func:`copaint` if L never rises; each smaller rate that is tried costs one more."""
    return steps * (gradient_steps + 1)


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

    def __post_init__(self) -> None:
        whole("gradient_steps", self.gradient_steps, least=0)
        for name in ("lr", "growth", "regularisation"):
            number(name, getattr(self, name))

    def __call__(self, z: Tensor, t: float, progress: float) -> tuple[Tensor, Tensor]:
        """``(z, prediction)`` after them, ``(S, N, *event)`` as ``z``, at time t and ``progress`` i / steps."""
        objective, rows = partial(self.point, z, t), torch.arange(z.shape[:2].numel(), device=z.device)
        alpha, _ = self.prior.schedule(as_time(t))
        unit = float(alpha * coordinate_scale(self.prior.schedule, t))
        here = objective(z.flatten(0, 1), rows, self.gradient_steps > 0)
        rate = here.loss.new_full(here.loss.shape, self.lr * self.growth ** (STEPS * progress))
        for step in range(self.gradient_steps):
            here, rate = gradient_step(objective, unit, here, rate, step + 1 < self.gradient_steps)
        return here.z.unflatten(0, z.shape[:2]), here.x_hat.unflatten(0, z.shape[:2])

    def point(self, origin: Tensor, t: float, z: Tensor, rows: Tensor, with_gradient: bool) -> Point:
        """The samples ``rows``, of S × N that were at ``origin``, moved to ``z``, ``(B, *event)``: one network call."""
        leading = origin.shape[:2]
        flat = {name: flatten_condition(value, leading, z.device) for name, value in self.condition.items()}
        condition = {name: value[rows] if isinstance(value, Tensor) else value for name, value in flat.items()}
        with gradients() if with_gradient else torch.no_grad():
            z = z.detach().requires_grad_(with_gradient)
            x_hat = self.prior.denoise(z, t, **condition)
            way = (z - origin.flatten(0, 1)[rows]) / float(coordinate_scale(self.prior.schedule, t))
            x = self.prior.decode(x_hat)  # the operator sees all S × N images: it may have a mask for each of the N
            images = x.new_zeros(leading.numel(), *x.shape[1:]).index_copy(0, rows, x).unflatten(0, leading)
            residual = weighted(self.likelihood, self.likelihood.residual(images, self.y))
            misfit = residual.flatten(2).square().sum(-1).flatten()[rows]
            loss = misfit + self.regularisation * way.flatten(1).square().sum(-1)
            gradient = torch.autograd.grad(loss.sum(), z)[0] if with_gradient else torch.zeros_like(z)
        return Point(z.detach(), x_hat.detach(), gradient, loss.detach())


class Point(NamedTuple):
    """Where B samples are: ``z`` with its prediction and the gradient of its L, ``(B, *event)``; L, ``(B,)``."""

    z: Tensor
    x_hat: Tensor
    gradient: Tensor
    loss: Tensor


def gradient_step(
    objective: Callable[..., Point], unit: float, here: Point, rate: Tensor, with_gradient: bool
) -> tuple[Point, Tensor]:
    """``(point, rate)`` after one step, for each sample at the first of its rates that does not raise its L.

    A sample for which none does stays where it is. ``with_gradient``: whether the new point's gradient is needed.
    ``unit`` is c_t alpha_t: a step of rate eta_0 alpha_t / c_t in u is one of rate c_t alpha_t eta_0 in z.
    """
    found, failed = here, torch.arange(len(rate), device=rate.device)
    for _ in range(TRIES):
        step = expand_event(unit * rate[failed], here.z) * here.gradient[failed]
        there = objective(here.z[failed] - step, failed, with_gradient)
        better = there.loss <= (1 + ROUNDING) * here.loss[failed]
        accepted = failed[better]
        pairs = zip(found, there, strict=True)
        found = Point(*(value.index_copy(0, accepted, other[better]) for value, other in pairs))
        failed = failed[~better]
        if not len(failed):
            break
        rate = rate.index_copy(0, failed, SHRINK * rate[failed])
    return found, rate
