r"""The model as a Pyro program: z_Te, …, z_Ts from the prior, y from one denoising step at T_s.

.. math::
    z_K \sim p(z_{T_e}), \quad z_i \sim p_\theta(z_{s(i)} \mid z_{s(i+1)}), \quad
    y \sim p(y \mid \mathrm{decode}(E[z_0 \mid z_1]))

On a :class:`MatchedPrior` the law of y has the variance of x given z_1 in it
(:mod:`pyro_vipaint.models.measurements.predictive`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, NamedTuple

import pyro
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import device_of
from pyro_vipaint.errors import instance, whole
from pyro_vipaint.models.measurements.likelihoods import check_shape, seen
from pyro_vipaint.models.measurements.predictive import predictive
from pyro_vipaint.models.measurements.problem import check_likelihood, check_observation, check_problem
from pyro_vipaint.models.priors.conditions import check_condition, check_count, check_place, with_class_numbers
from pyro_vipaint.models.priors.covariance import DataCovariance
from pyro_vipaint.models.priors.kernels import bridge_coefficients
from pyro_vipaint.models.priors.matched import matched_variance
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time, check_keypoints

_SHOWN: ContextVar[list[Tensor] | None] = ContextVar("predicted_images", default=None)


@contextmanager
def predicted_images() -> Iterator[list[Tensor]]:
    """A list that holds, inside the block, the image that the last run of a model predicted, its mean over particles.

    The shape is ``(N, *image)``; without a graph.
    """
    shown: list[Tensor] = []
    token = _SHOWN.set(shown)
    try:
        yield shown
    finally:
        _SHOWN.reset(token)


class Level(NamedTuple):
    """One latent site: name, time, alpha and sigma at that time, standard deviation of the prior's transition.

    ``step_std`` is that of z_s given the level above by the bridge; at T_e, which has no level above, it is ``sigma``.
    ``variance`` is c_t of a :class:`MatchedPrior`, the variance or covariance of x given z at this level.
    """

    name: str
    t: float
    alpha: float
    sigma: float
    step_std: float
    variance: Tensor | DataCovariance | None = None

    __repr__, _repr_html_ = compact, as_html


class DiffusionModel:
    """p(z_K, …, z_1, y) as a Pyro program with sites ``z_K`` (at T_e) … ``z_1`` (at T_s) and ``y``.

    ``model(y)`` is conditioned on ``y`` of shape ``(N, *observation)``. ``model(num_images=N)`` draws from the prior
    predictive; by default N is the number of conditions or masks. All N images are in one plate, ``images``. A run
    costs K denoiser calls: one more if the log density of ``z_K`` is estimated, and those of
    :meth:`DiffusionMarginal.sample` if ``z_K`` is drawn from a network.

    Args:
        prior: a :class:`DiffusionPrior` or one of the exact priors.
        likelihood: image -> distribution of the observation, element by element; a function, or a
            :class:`pyro_vipaint.models.Likelihood`, of which the refinement uses more members. It is called once here,
            on a blank image.
        keypoints: times T_e > … > T_s; see :func:`pyro_vipaint.models.priors.schedules`.
        condition: passed to the denoiser, e.g. ``class_labels``: whole numbers ``(N,)`` on the device of y, a
            name, or a list of names.

    Raises:
        InputError: keypoints are out of order; the likelihood cannot take the images of the prior; the prior does not
            take the condition; or, on a call, ``y`` is not a tensor of float32 or float64 of the shape of the
            observations on the device of the latents, or conditions and masks are for another number of images.
    """

    __repr__, _repr_html_ = compact, as_html

    def __init__(
        self,
        prior: DiffusionPrior,
        likelihood: Callable[[Tensor], Any],
        keypoints: Sequence[float],
        **condition: Any,
    ) -> None:
        instance("prior", prior, hasattr(prior, "transition"), "a DiffusionPrior")
        condition = with_class_numbers(condition, prior)
        check_condition(prior, condition, device=device_of(prior))
        self.prior, self.likelihood, self.condition = prior, likelihood, condition
        self._made = check_likelihood(prior, likelihood)
        self.keypoints = check_keypoints(keypoints)
        levels: list[Level] = []
        for i, t in enumerate(self.keypoints):
            alpha, sigma = (float(v) for v in prior.schedule(as_time(t)))
            step_std = float(bridge_coefficients(prior.schedule, levels[-1].t, t)[2].sqrt()) if levels else sigma
            c_t = matched_variance(prior, t)
            levels.append(Level(f"z_{len(self.keypoints) - i}", t, alpha, sigma, step_std, c_t))
        self.levels = tuple(levels)
        c_t = self.levels[-1].variance
        self._observed_from = (None if c_t is None else predictive(likelihood, c_t)) or likelihood

    def _facts(self) -> dict[str, Any]:
        """What the model prints; a level with its noise level sigma/alpha."""
        levels = {f"{level.name} at sigma/alpha {level.sigma / level.alpha:.3g}": level for level in self.levels}
        prior = self.prior.name or type(self.prior).__name__
        said = {"prior": prior, "event_shape": tuple(self.prior.event_shape), "likelihood": self.likelihood}
        return said | {"levels": levels, "num_images": self.num_images} | self.condition

    @property
    def num_images(self) -> int:
        """The number of images that the conditions and the masks describe; 1 without any."""
        counts = [len(v) for v in self.condition.values() if isinstance(v, Tensor) and v.ndim]
        return max([1 if self._made is None else self._made.images, *counts])

    def check(self, y: Any) -> None:
        """Refuses observations and conditions that do not fit, values included: once at the door of a fit."""
        check_problem(self.prior, self.likelihood, y, self.condition, needs=())

    def __call__(self, y: Tensor | None = None, num_images: int | None = None) -> Tensor:
        """Runs the program and returns ``y``."""
        if y is not None:
            check_observation(y, self._made)
        count = self.num_images if y is None else len(y)
        count = count if num_images is None else whole("num_images", num_images)
        check_count("conditions or masks", self.num_images, count)
        with pyro.plate("images", count, dim=-1):
            z = self._sample_latents()
            x = self.reconstruct(z)
            if (shown := _SHOWN.get()) is not None:
                shown[:] = [x.detach().reshape(-1, count, *self.prior.image_shape).mean(0)]
            distribution = self._observed_from(x)
            leading = z.ndim - self.prior.event_dim
            if y is not None:
                check_place("y", y.device, "latents", x.device)
                check_shape(y, distribution.shape()[leading - 1 :])
                y = seen(self.likelihood, y)
            return pyro.sample("y", distribution.to_event(len(distribution.batch_shape) - leading), obs=y)

    def sample_latents(self, num_images: int) -> Tensor:
        """Runs the latent part of the program, K - 1 denoiser calls, and returns z_Ts."""
        with pyro.plate("images", num_images, dim=-1):
            return self._sample_latents()

    def reconstruct(self, z: Tensor) -> Tensor:
        """The image predicted from z_Ts, decode(E[z_0 given z_Ts]): one denoiser call."""
        return self.prior.decode(self.prior.denoise(z, self.keypoints[-1], **self.condition))

    def _sample_latents(self) -> Tensor:
        top = self.levels[0]
        z = pyro.sample(top.name, self.prior.marginal(top.t, **self.condition))
        for above, level in pairwise(self.levels):
            transition = self.prior.transition(z, above.t, level.t, **self.condition)
            z = pyro.sample(level.name, transition.to_event(self.prior.event_dim - len(transition.event_shape)))
        return z
