r"""Phase 2: from z_Ts to an image by diffusion posterior sampling (section 4.3; Chung et al. 2023).

The chain, the residual r and the scales c are those of :mod:`pyro_vipaint.baselines.dps`, started at T_s. Three things
are added.

**The times** are those at which the noise level falls as in Karras et al. 2022 (Eq. 5, rho = 7), on every schedule.
Evenly spaced times have this spacing only on Karras' own schedule. On a variance-preserving schedule their last network
call is made at a high noise level, and a prediction from there has lost small details.

**Zeta falls** linearly in the number of the step, from ``zeta`` to ``zeta_decay`` times that; 1 is DPS. The gradient of
a norm does not shrink with the residual, so that the last steps of a constant zeta oscillate around y.

**A step has a longest length.** The gradient of a decoder or a network is at times many times longer than usual, and
one such step ruins a sample. A sample's step is therefore at most twice as long as the noise of the transition, which
has the length sqrt(D) times its standard deviation (Yang et al. 2024 fix it to once that length). This limit
never shortens a gradient with respect to z_t / c_t that is no longer than |A|; close to t = 0 this is the larger bound.
With ``polyak`` a step is also at most that many times :math:`r / |\nabla r|`, Polyak's (1969) step, after which a
linear residual would be zero; the gradient is again that with respect to z_t / c_t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from pyro_vipaint._torch import seeded
from pyro_vipaint.baselines.corrected import corrected_chain
from pyro_vipaint.baselines.dps import dps_chain
from pyro_vipaint.corrections import Correction
from pyro_vipaint.errors import MOST_STEPS, finite, instance, number, numbers, whole
from pyro_vipaint.models.measurements.linalg import operator_norm
from pyro_vipaint.models.measurements.operators import Inpainting
from pyro_vipaint.models.measurements.problem import FOLLOWED, check_problem
from pyro_vipaint.models.priors.classifier_free import WEIGHT
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import lowest_level, noise_level, time_of
from pyro_vipaint.progress import Callback, Progress, showing

if TYPE_CHECKING:
    from pyro_vipaint.models import DiffusionModel

DEFAULT_STEPS = 15
DEFAULT_ZETA, DEFAULT_ZETA_DECAY = 2.5, 0.2
RHO, BISECTIONS = 7.0, 60
LOWEST = 0.003  # noise level over sigma_data towards which the times fall; 0.004 in Karras et al. 2022
LIMIT = 2.0  # in lengths of the transition's noise


@dataclass(frozen=True)
class StepLimit:
    """The longest correction step.

    Attributes:
        noise: in lengths of the transition's noise.
        gradient: a gradient with respect to z_t / c_t of this length is never shortened by ``noise``.
        polyak: in lengths of Polyak's step; ``None`` sets no such limit.
    """

    noise: float
    gradient: float = 1.0
    polyak: float | None = None

    def __call__(
        self, gradient: Tensor, residual: Tensor, std: float, zeta: float, scales: tuple[float, float]
    ) -> Tensor:
        """``gradient``, ``(S, N, *event)``, with each sample's own scaled down where the step would be too long."""
        if zeta <= 0:
            return gradient
        c_t, c_s = scales
        event = gradient.shape[residual.ndim :]
        noise = std * event.numel() ** 0.5
        length = gradient.flatten(residual.ndim).norm(dim=-1).clamp(min=1e-20)
        longest: Tensor | float = max(self.gradient, self.noise * noise / (zeta * c_s)) / c_t
        if self.polyak is not None:
            longest = (self.polyak * residual / (zeta * c_t**2 * length)).clamp(max=longest)
        return gradient * (longest / length.clamp(min=longest)).reshape(length.shape + (1,) * len(event))


def refine(
    model: DiffusionModel,
    z: Tensor,
    y: Tensor,
    steps: int = DEFAULT_STEPS,
    *,
    zeta: float = DEFAULT_ZETA,
    zeta_decay: float = DEFAULT_ZETA_DECAY,
    polyak: float | None = None,
    correction: Correction | None = None,
    order: int = 1,
    guidance_scale: float | None = None,
    seed: int | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor:
    """Images ``(S, N, C, H, W)`` in [-1, 1] from draws ``z`` of z_Ts, ``(S, N, *event)``: ``steps`` network calls.

    Args:
        model: its prior, likelihood and conditions are used, and T_s, the last keypoint, as the starting time.
        z: latents at T_s, as :func:`pyro_vipaint.sample` returns them.
        y: observations ``(N, *observation)``.
        steps: steps from T_s to 0, at :func:`refinement_times`.
        zeta: weight of the observation; 0.5 for inpainting in the DPS paper, 2.5 tuned here on fashion32.
        zeta_decay: the share of zeta that is left at the last correction step; 1 in the DPS paper, 0.2 tuned here.
        polyak: longest correction step in lengths of Polyak's, positive; 1 for latent priors (``benchmarks/cats.py``),
            not tried on pixels, where ``None`` sets no such limit.
        correction: another way to follow the observation, of :mod:`pyro_vipaint.corrections`, such as ``PiGDM()``, for
            pixel priors; its step is at most :data:`LIMIT` lengths of the noise long. ``None`` is DPS with the numbers
            above, which have no influence on other corrections.
        order: 1, or 2 to extrapolate the corrected predictions of a ``correction``
            (:func:`pyro_vipaint.baselines.corrected.corrected_chain`): fewer steps keep the spread of many.
        guidance_scale: weight of the condition (:mod:`pyro_vipaint.models.priors.classifier_free`); the model's own if
            not given.
        seed: seed of the noise; ``None`` draws from the global generator. The same call gives the same bits; another
            batch or number of samples gives other draws of the same law (docs/bound.md, "What a seed promises").
        callback: called after each step with its :class:`pyro_vipaint.progress.Progress`, phase ``refine``.
        progress: draw a bar, on a terminal or in a notebook.

    Raises:
        InputError: ``steps`` is less than 1; another number is negative, infinite or NaN, or ``polyak`` zero; the
            likelihood has no ``operator`` or ``residual``; ``y`` cannot be its observation; ``z`` is not finite, or for
            another number of images than ``y``; ``torch.inference_mode()`` is on.
        NonFiniteError: an image ended infinite or NaN.
    """
    steps = whole("steps", steps, most=MOST_STEPS)
    zeta, zeta_decay = number("zeta", zeta), number("zeta_decay", zeta_decay)
    whole("order", order, most=1 if correction is None else 2)
    instance("model", model, hasattr(model, "likelihood"), "a DiffusionModel")
    if polyak is not None:
        number("polyak", polyak, positive=True)
    prior, likelihood = model.prior, cast(Any, model.likelihood)
    condition = dict(model.condition)
    if guidance_scale is not None:
        condition[WEIGHT] = guidance_scale
    check_problem(prior, likelihood, y, condition, FOLLOWED if correction is None else (*FOLLOWED, "noise_std"))
    numbers("z", z, ("S", len(y), *prior.event_shape), least=1)
    times = refinement_times(prior, model.keypoints[-1], steps)
    zetas = torch.linspace(zeta, zeta * zeta_decay, steps - 1, dtype=torch.float64).tolist()
    shape = (len(y), *prior.image_shape)
    masked = isinstance(likelihood.operator, Inpainting)
    limit = StepLimit(LIMIT, 1.0 if masked else operator_norm(likelihood.operator, shape, y.device), polyak)
    with seeded(seed), torch.no_grad(), showing(progress, callback) as callback:
        if correction is None:
            chain = dps_chain(prior, likelihood, z, y, times, zetas, condition, limit)
        else:
            correction.check(prior)
            chain = corrected_chain(prior, likelihood, z, y, times, correction, condition, LIMIT, order)
        for step, z_hat in enumerate(chain, 1):
            z = z_hat
            if callback is not None:
                callback(Progress("refine", step, steps))
        return finite("The refinement", prior.decode(z), "try a lower zeta, or fit the guide anew").clamp(-1, 1)


def refinement_times(prior: DiffusionPrior, start: float, steps: int) -> list[float]:
    r"""``steps`` + 1 times from ``start`` to 0; their noise levels l_i fall as in Karras et al. 2022, Eq. 5.

    .. math:: l_i = \big(l_0^{1/\rho} + \tfrac{i}{steps} (l_{end}^{1/\rho} - l_0^{1/\rho})\big)^\rho, \qquad \rho = 7

    for all but the last time. The level l_end is LOWEST times the prior's ``sigma_data`` or the lowest level at which
    the network was trained (0.04 for a thousand steps of latent diffusion), whichever is larger, and at most a tenth
    of l_0.
    """
    level, bottom = float(noise_level(prior.schedule, start)), lowest_level(prior.schedule)
    lowest = max(float(noise_level(prior.schedule, 0.0)), min(max(LOWEST * prior.sigma_data, bottom), level / 10))
    first, last = (value ** (1 / RHO) for value in (level, lowest))
    levels = [(first + i / steps * (last - first)) ** RHO for i in range(1, steps)]
    return [start, *(time_of(prior.schedule, level, BISECTIONS) for level in levels), 0.0]
