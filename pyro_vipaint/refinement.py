r"""Phase 2: from z_Ts to an image by diffusion posterior sampling (section 4.3; Chung et al. 2023).

With x_hat = E[z_0 given z_t] and the residual r = |y - A(decode(x_hat))| of *each sample by itself*, one step is

.. math::
    z_s \sim p_\theta(z_s \mid z_t), \qquad z_s \leftarrow z_s - \zeta\, c_t c_s \nabla_{z_t} r,
    \qquad c_t = \sqrt{\alpha_t^2 + \sigma_t^2},

one network call with its gradient. The factors c take the step in the variance-preserving coordinates z / c, in which
it is the authors' DPS; so the same zeta means the same on every schedule.

The times are those at which the noise level falls as in Karras et al. 2022 (Eq. 5, rho = 7) on every schedule. Evenly
spaced times are these on their schedule alone: on a variance-preserving one 22 of them from a noise level of 1.5 make
the last network call at .16, and a prediction made from that has lost what is small (``benchmarks/cats.py``).

The gradient of a norm does not shrink with the residual, so that the last steps of a constant zeta throw a sample to
and fro around y. With ``zeta_decay`` it falls, evenly from step to step, to that share of itself; 1 is their DPS.

The gradient of a decoder or a network is at times many times longer than usual, and one such step throws a sample off
for good. So a sample's step is no longer than twice the noise of the transition, sqrt(D) times its standard deviation
(Yang et al. 2024 fix it to once that length), unless its gradient with respect to z_t / c_t is shorter than |A|, as it
is close to t = 0.

With ``polyak`` it is also no longer than so many times :math:`r / |\nabla r|`, Polyak's (1969) step, after which the
residual would be zero if it were linear; here, too, the gradient is that with respect to z_t / c_t. A sample that
explains y has a short residual and, where the noise is high, at times a long gradient: a step past the zero turns it
into another image (``benchmarks/cats.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vipaint._torch import gradients, seeded
from pyro_vipaint.errors import InputError
from pyro_vipaint.models.measurements.linalg import operator_norm
from pyro_vipaint.models.measurements.operators import Inpainting
from pyro_vipaint.models.priors.classifier_free import WEIGHT
from pyro_vipaint.models.priors.kernels import bridge, coordinate_scale
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import lowest_level, noise_level, time_of
from pyro_vipaint.progress import Callback, Progress

DEFAULT_STEPS = 15
DEFAULT_ZETA, DEFAULT_ZETA_DECAY = 2.5, 0.2
RHO, BISECTIONS = 7.0, 60
LOWEST = (
    0.003  # noise level over sigma_data towards which the grid falls (the last call is a step above); .004 in Karras
)
LIMIT = 2.0  # in lengths of the transition's noise; on cats64 one step in 900 is longer, about 7 times its noise


class StepLimit(NamedTuple):
    """A guidance step may be ``noise`` times as long as the transition's noise, or have a ``gradient`` so long.

    ``polyak``: and so many times as long as Polyak's; ``None`` sets no such limit.
    """

    noise: float
    gradient: float = 1.0
    polyak: float | None = None


@dataclass(frozen=True)
class Guidance:
    """The weight of the observation along a chain: ``zeta`` at first, at the last guided step ``final`` times that.

    ``limit``: of the steps; ``None`` is the authors' DPS, without one.
    """

    zeta: float
    final: float = 1.0
    limit: StepLimit | None = None

    def weights(self, steps: int) -> list[float]:
        """Evenly from the first to the last."""
        return torch.linspace(self.zeta, self.zeta * self.final, steps, dtype=torch.float64).tolist()


def refine(
    model: Any,
    z: Tensor,
    y: Tensor,
    steps: int = DEFAULT_STEPS,
    *,
    zeta: float = DEFAULT_ZETA,
    zeta_decay: float = DEFAULT_ZETA_DECAY,
    polyak: float | None = None,
    guidance_scale: float | None = None,
    seed: int | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Images ``(S, N, C, H, W)`` in [-1, 1] from draws ``z`` of z_Ts, ``(S, N, *event)``: ``steps`` network calls.

    Args:
        model: the :class:`DiffusionModel`: its prior, likelihood, conditions, and T_s as the starting time.
        z: latents at T_s, as :func:`pyro_vipaint.sample` returns them.
        y: observations ``(N, *observation)``.
        steps: steps from T_s to 0, at :func:`refinement_times`.
        zeta: weight of the observation; 0.5 for inpainting in the DPS paper, 2.5 tuned here on fashion32.
        zeta_decay: the factor that it has reached at the last guided step; 1 in the DPS paper, .2 tuned here.
        polyak: longest guidance step in units of Polyak's, positive; 1 for latent priors (``benchmarks/cats.py``), not
            tried on pixels, where ``None`` sets no such limit.
        guidance_scale: weight of the condition (:mod:`pyro_vipaint.models.priors.classifier_free`); the model's own if
            not given.
        seed: seed of the noise; ``None`` goes on with the global generator.
        callback: called after each step with its :class:`pyro_vipaint.progress.Progress`, phase ``refine``.

    Raises:
        InputError: ``y`` and ``z`` are of different numbers of images, or y of another shape than the operator makes;
            polyak is not positive and finite; ``torch.inference_mode()`` is on.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}.")
    if len(y) != z.shape[1]:
        raise InputError(f"y holds {len(y)} observations, z has latents of {z.shape[1]} images.")
    if polyak is not None and not 0 < polyak < math.inf:
        raise InputError(f"polyak must be positive and finite, not {polyak:g}.")
    times = refinement_times(model.prior, model.keypoints[-1], steps)
    condition = dict(model.condition)
    if guidance_scale is not None:
        condition[WEIGHT] = guidance_scale
    with seeded(seed):
        limit = StepLimit(LIMIT, _norm(model.likelihood.operator, model.prior, y), polyak)
        guidance = Guidance(zeta, zeta_decay, limit)
        return guided_chain(model.prior, model.likelihood, z, y, times, guidance, condition, callback)


def refinement_times(prior: DiffusionPrior, start: float, steps: int) -> list[float]:
    """``steps`` + 1 times from ``start`` to 0; with r = 1 / RHO their noise levels l_i are, but for the last,

    ``l_i = (l_0^r + i / steps (l_end^r - l_0^r))^(1 / r)``, l_end being LOWEST or the lowest level that the network
    has been trained at (.04 for a thousand steps of latent diffusion), and at most a tenth of l_0.
    """
    level, bottom = float(noise_level(prior.schedule, start)), lowest_level(prior.schedule)
    lowest = max(float(noise_level(prior.schedule, 0.0)), min(max(LOWEST * prior.sigma_data, bottom), level / 10))
    first, last = (value ** (1 / RHO) for value in (level, lowest))
    levels = [(first + i / steps * (last - first)) ** RHO for i in range(1, steps)]
    return [start, *(time_of(prior.schedule, level, BISECTIONS) for level in levels), 0.0]


def guided_chain(
    prior: DiffusionPrior,
    likelihood: Any,
    z: Tensor,
    y: Tensor,
    times: Sequence[float],
    guidance: Guidance,
    condition: dict[str, Any],
    callback: Callback | None = None,
    phase: str = "refine",
) -> Tensor:
    """DPS along ``times`` (decreasing), a network call for each but the last; the image is the last prediction."""
    *guided, last = times[:-1]
    weights = guidance.weights(len(guided))
    for step, (t, s, weight) in enumerate(zip(guided, times[1:], weights, strict=False)):
        z = _guided_step(prior, likelihood, z, y, (t, s), weight, condition, guidance.limit)
        if callback is not None:
            callback(Progress(phase, step + 1, len(guided) + 1))
    with torch.no_grad():
        x = prior.decode(prior.denoise(z, last, **condition)).clamp(-1, 1)
    if callback is not None:
        callback(Progress(phase, len(guided) + 1, len(guided) + 1))
    return x


def _guided_step(
    prior: DiffusionPrior,
    likelihood: Any,
    z: Tensor,
    y: Tensor,
    interval: tuple[float, float],
    zeta: float,
    condition: dict[str, Any],
    limit: StepLimit | None,
) -> Tensor:
    """z_s after one DPS step from t to s."""
    t, s = interval
    x_hat, residual, gradient = guidance_gradient(prior, likelihood, z, y, t, condition)
    with torch.no_grad():
        transition = bridge(prior.schedule, z, x_hat, t, s)
        c_t, c_s = (float(coordinate_scale(prior.schedule, time)) for time in interval)
        if limit is not None and zeta > 0:
            noise = float(transition.stddev.flatten()[0]) * torch.Size(prior.event_shape).numel() ** 0.5
            longest: Tensor | float = max(limit.gradient, limit.noise * noise / (zeta * c_s)) / c_t
            if limit.polyak is not None:
                length = _length(gradient, prior.event_dim)
                longest = (limit.polyak * residual / (zeta * c_t**2 * length)).clamp(max=longest)
            gradient = _shortened(gradient, longest, prior.event_dim)
        return transition.sample() - zeta * c_t * c_s * gradient


def guidance_gradient(
    prior: DiffusionPrior, likelihood: Any, z: Tensor, y: Tensor, t: float, condition: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """``(x_hat, r, gradient)``: E[z_0 given z_t], each sample's residual norm and its gradient with respect to z_t."""
    with gradients():
        z = z.detach().requires_grad_()
        x_hat = prior.denoise(z, t, **condition)
        norm = residual_norm(likelihood, prior.decode(x_hat), y, z.ndim - prior.event_dim)
        (gradient,) = torch.autograd.grad(norm.sum(), z)
    return x_hat.detach(), norm.detach(), gradient


def _norm(operator: Any, prior: DiffusionPrior, y: Tensor) -> float:
    """|A|, which is 1 for a mask."""
    if isinstance(operator, Inpainting):
        return 1.0
    return operator_norm(operator, (len(y), *prior.image_shape), y.device)


def _length(z: Tensor, event_dim: int) -> Tensor:
    """The length of each sample's event, at least the smallest that can be divided by."""
    return z.flatten(-event_dim).norm(dim=-1).clamp(min=1e-20)


def _shortened(gradient: Tensor, longest: Tensor | float, event_dim: int) -> Tensor:
    """``gradient`` with each sample's by itself scaled to the length ``longest`` where it is longer."""
    length = _length(gradient, event_dim)
    return gradient * (longest / length.clamp(min=longest)).reshape(length.shape + (1,) * event_dim)


def residual_norm(likelihood: Any, x: Tensor, y: Tensor, leading_dims: int) -> Tensor:
    """|y - A(x)| of each sample by itself, of the leading shape (never a batch mean)."""
    residual = likelihood.residual(x, y)
    return residual.flatten(leading_dims).square().sum(-1).clamp(min=1e-20).sqrt()
