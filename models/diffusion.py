r"""The Pyro program: z_Te, …, z_Ts from the prior, y from one denoising step at T_s.

.. math::
    z_K \sim p(z_{T_e}), \quad z_i \sim p_\theta(z_{s(i)} \mid z_{s(i+1)}), \quad
    y \sim p(y \mid \mathrm{decode}(E[z_0 \mid z_1]))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro
from torch import Tensor

from pyro_vipaint.models.measurements.likelihoods import check_shape, seen
from pyro_vipaint.models.priors.kernels import bridge_coefficients
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time, check_keypoints


class Level(NamedTuple):
    """One latent site: its name, time, alpha and sigma there, and the prior's standard deviation given the level above.

    At T_e, where there is no level above, ``step_std`` is ``sigma``.
    """

    name: str
    t: float
    alpha: float
    sigma: float
    step_std: float


class DiffusionModel:
    """p(z_K, …, z_1, y) as a Pyro program with sites ``z_K`` (at T_e) … ``z_1`` (at T_s) and ``y``.

    Called as ``model(y)`` it is conditioned on ``y`` of shape ``(N, *observation)``; as ``model(num_images=N)`` it
    draws from the prior predictive, N being the number of conditions if it is not given. All N images stand in one
    plate, ``images``. It costs K denoiser calls, one more where the log density of ``z_K`` is asked for, and where
    ``z_K`` itself is drawn from a network those of :class:`DiffusionMarginal`.

    Args:
        prior: a :class:`DiffusionPrior` or one of the exact priors.
        likelihood: image -> distribution of the observation, element by element.
        keypoints: times T_e > … > T_s; see :func:`pyro_vipaint.models.priors.schedules`.
        condition: passed to the denoiser, e.g. ``class_labels`` of shape ``(N,)``.

    Raises:
        InputError: keypoints out of order; or, when it runs, ``y`` is not of the shape that the likelihood makes.
    """

    def __init__(
        self,
        prior: DiffusionPrior,
        likelihood: Callable[[Tensor], Any],
        keypoints: Sequence[float],
        **condition: Any,
    ) -> None:
        self.prior, self.likelihood, self.condition = prior, likelihood, condition
        self.keypoints = check_keypoints(keypoints)
        self.levels = self._describe_levels()

    @property
    def num_images(self) -> int:
        """N as far as the conditions tell; 1 where there is none."""
        return next((len(v) for v in self.condition.values() if isinstance(v, Tensor) and v.ndim), 1)

    def __call__(self, y: Tensor | None = None, num_images: int | None = None) -> Tensor:
        """Runs the program and returns ``y``."""
        count = num_images or (self.num_images if y is None else len(y))
        with pyro.plate("images", count, dim=-1):
            z = self._sample_latents()
            x = self.reconstruct(z)
            distribution = self.likelihood(x)
            leading = z.ndim - self.prior.event_dim
            if y is not None:
                check_shape(y, distribution, leading - 1)
                y = seen(self.likelihood, y)
            return pyro.sample("y", distribution.to_event(len(distribution.batch_shape) - leading), obs=y)

    def sample_latents(self, num_images: int) -> Tensor:
        """The latent part of the program alone, K - 1 denoiser calls; returns z_Ts."""
        with pyro.plate("images", num_images, dim=-1):
            return self._sample_latents()

    def reconstruct(self, z: Tensor) -> Tensor:
        """The image that z_Ts predicts: decode(E[z_0 given z_Ts]), one denoiser call."""
        return self.prior.decode(self.prior.denoise(z, self.keypoints[-1], **self.condition))

    def _sample_latents(self) -> Tensor:
        top, *below = self.levels
        z = pyro.sample(top.name, self.prior.marginal(top.t, **self.condition))
        t = top.t
        for level in below:
            transition = self.prior.transition(z, t, level.t, **self.condition)
            z = pyro.sample(level.name, transition.to_event(self.prior.event_dim))
            t = level.t
        return z

    def _describe_levels(self) -> tuple[Level, ...]:
        levels, count = [], len(self.keypoints)
        for i, t in enumerate(self.keypoints):
            alpha, sigma = (float(v) for v in self.prior.schedule(as_time(t)))
            step_std = sigma
            if i > 0:
                _, _, variance = bridge_coefficients(self.prior.schedule, self.keypoints[i - 1], t)
                step_std = float(variance.sqrt())
            levels.append(Level(f"z_{count - i}", t, alpha, sigma, step_std))
        return tuple(levels)
