r"""The distribution of z_Te under the prior: sampled by the chain, its log density bounded by one network call.

Write w for z_Te, e for T_e, and a_t = alpha_t / alpha_e, s_t^2 = sigma_t^2 - a_t^2 sigma_e^2 for the diffusion that
starts at w: q(z_t | w) = N(a_t w, s_t^2). On a grid e = t_0 < t_1 < … < t_M = 1 the model is
p(z_1) = N(0, sigma_1^2) followed by the transitions of Eq. 3, and Eq. 4-5 with w as the data read

.. math::
    -\log p(w) \le KL(q(z_{t_M} | w) \| p(z_{t_M}))
        + \sum_{j \ge 2} E\, KL(q(z_{t_{j-1}} | z_{t_j}, w) \| p_\theta(z_{t_{j-1}} | z_{t_j}))
        - E \log p_\theta(w | z_{t_1}).

Each transition mean differs from its target by the error of the Tweedie estimate of w, hence by
w - alpha_e x_hat and the noise eps of z_t = a_t w + s_t eps. Two things then happen in closed form. The log
variances and the traces of all terms telescope to (D/2) log(2 pi sigma_e^2) on every grid. And the weights of the
squares telescope to differences of the signal-to-noise ratio r_t = a_t^2 / sigma_t^2, as in Kingma et al. 2021:

.. math::
    -\log p(w) \le \frac{D}{2} \log 2 \pi \sigma_e^2 + \frac{r_1}{2} |w|^2
        + \sum_j \frac{r_{j-1} - r_j}{2} E\Big[ |w - \alpha_e \hat x_j|^2
        + \frac{2 a_j \sigma_e^2 \alpha_e}{s_j} \epsilon_j \cdot \hat x_j \Big].

The terms in |eps|^2 and eps·w are integrated analytically. Drawing j with probability proportional to
r_{j-1} - r_j gives every draw the same weight, so the rare and large last step is no special case. Draws are
stratified over particles for each image. With the exact denoiser of a single point the bound is tight on any grid;
this is why the transitions keep the variance of Eq. 3 (sigma_ts^2 sigma_s^2 / sigma_t^2) instead of that of the
bridge between z_t and w, which would be loose on coarse grids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vipaint._torch import device_of, widest
from pyro_vipaint.models.priors.kernels import expand_event, relative
from pyro_vipaint.models.priors.schedules import as_time

if TYPE_CHECKING:
    from pyro_vipaint.models.priors.prior import DiffusionPrior

DEFAULT_STEPS = 250  # close to the continuous limit; sampling costs one network call per step, log_prob one in all


class Unconstrained(TorchDistribution):
    """The base of distributions over all real tensors of the event shape, without reparameterised draws."""

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = False

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))


class DiffusionMarginal(Unconstrained):
    """p(z_t) of a diffusion prior, for t < 1.

    ``sample()`` runs the chain of Eq. 3 from N(0, sigma_1^2) at time 1 down to ``t`` (``steps`` network calls).
    ``log_prob(z)`` is an unbiased *estimate* of a lower bound on log p(z), of the leading shape of ``z`` and
    differentiable in ``z``. It costs one network call and is random: two calls differ, and their mean is the bound.

    Args:
        prior: the prior.
        t: the time in (0, 1).
        batch_shape: shape of the images plate; ``expand`` broadcasts it.
        steps: number of grid steps between ``t`` and 1, evenly spaced in time; part of the model's definition.
        condition: tensors passed on to the denoiser.
    """

    def __init__(
        self,
        prior: DiffusionPrior,
        t: float,
        batch_shape: torch.Size | tuple[int, ...] = (),
        steps: int = DEFAULT_STEPS,
        **condition: Any,
    ) -> None:
        self.prior, self.t, self.steps, self.condition = prior, float(t), steps, condition
        self.grid = torch.linspace(self.t, 1.0, steps + 1, dtype=torch.float64)  # t_0 = t < … < t_M = 1
        super().__init__(torch.Size(batch_shape), torch.Size(prior.event_shape), validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> DiffusionMarginal:
        """The same distribution with another batch shape."""
        return DiffusionMarginal(self.prior, self.t, torch.Size(batch_shape), self.steps, **self.condition)

    @cached_property
    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """For j = 1 … M: (a_j, s_j) and r_{j-1} - r_j."""
        alpha_e, _ = self.prior.schedule(self.grid[0])
        alpha, sigma = self.prior.schedule(self.grid)
        a, variance = relative(self.prior.schedule, self.grid[0], self.grid[1:])
        ratio = (alpha / alpha_e / sigma) ** 2
        return a, variance.sqrt(), ratio[:-1] - ratio[1:]

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape + event_shape`` by the prior's chain."""
        given = (v.device for v in self.condition.values() if isinstance(v, Tensor))
        device = device_of(self.prior) or next(given, None)
        _, sigma = self.prior.schedule(as_time(1.0))
        z = sigma.item() * torch.randn(self._extended_shape(torch.Size(sample_shape)), device=device)
        for t, s in pairwise(self.grid.flip(0).tolist()):
            z = self.prior.transition(z, t, s, **self.condition).sample()
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """An unbiased estimate of the lower bound, of the leading shape of ``value``, in nats."""
        schedule, leading = self.prior.schedule, value.shape[: value.ndim - len(self.event_shape)]
        step = self._draw_steps(leading, value.device)
        a, _, weights = self.tables
        alpha_e, sigma_e = (float(v) for v in schedule(self.grid[0]))
        times, a_t, s_t, _ = self._tables_on(value.device)
        a_j, s_j = expand_event(a_t[step], value), expand_event(s_t[step], value)
        noise = torch.randn_like(value)
        x_hat = self.prior.denoise(a_j * value + s_j * noise, times[step], **self.condition)
        trace = (2 * sigma_e**2 * alpha_e) * a_j / s_j * noise * x_hat
        error, norm = (v.flatten(len(leading)).sum(-1) for v in ((value - alpha_e * x_hat) ** 2 + trace, value**2))
        final = float(a[-1] / schedule(self.grid[-1])[1]) ** 2
        constant = self.event_shape.numel() / 2 * math.log(2 * math.pi * sigma_e**2)
        return -(constant + 0.5 * final * norm + 0.5 * float(weights.sum()) * error)

    def _tables_on(self, device: torch.device) -> tuple[Tensor, ...]:
        """t_j, a_j, s_j and the cumulated weights, computed on the CPU and copied to a device once for each prior."""
        kept, key = self.prior.marginal_tables, (self.t, self.steps, device)
        if key not in kept:
            a, s, weights = self.tables
            tables = (self.grid[1:], a, s, weights.cumsum(0))
            kept[key] = tuple(table.to(device, widest(device)) for table in tables)
        return kept[key]

    def _draw_steps(self, leading: torch.Size, device: torch.device) -> Tensor:
        """Indices j - 1 of the leading shape, drawn by weight and stratified over particles for each image."""
        *particles, images = leading if leading else (1,)
        count = math.prod(particles)
        order = torch.rand(count, images, device=device).argsort(0)
        position = (order + torch.rand(count, images, dtype=widest(device), device=device)) / count
        *_, cumulative = self._tables_on(device)
        step = torch.searchsorted(cumulative, (position * cumulative[-1]).contiguous())
        return step.clamp(max=self.steps - 1).reshape(leading)
