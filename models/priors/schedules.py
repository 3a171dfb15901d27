r"""Noise schedules: ``schedule(t) -> (alpha_t, sigma_t)`` for ``t`` in [0, 1] (Eq. 1).

.. math:: q(z_t \mid x) = N(z_t \mid \alpha_t x, \sigma_t^2 I)

``t = 0`` is the cleanest and ``t = 1`` the noisiest end; sigma/alpha, the *noise level*, grows with ``t``.
:class:`TableVP` maps a table of ``N`` integer timesteps onto ``t = (n + 1) / N``.

*Keypoints* are the times T_e > … > T_s of the model's latent sites (section 4.1 of the paper). They are given as times
of the schedule, as the paper does for latent priors, or as noise levels, which mean the same on every schedule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from pyro_vipaint._torch import cached, moved, widest
from pyro_vipaint.errors import MOST_STEPS, InputError, instance, number, plain, row, whole

if TYPE_CHECKING:
    from pyro_vipaint.models.priors.prior import DiffusionPrior


class Schedule(Protocol):
    """A pure function of ``t``, of any shape, to two tensors of that shape."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``(alpha_t, sigma_t)`` for times ``t`` in [0, 1]; float64 in, float64 out."""
        ...


class _Numbers:
    """Refuses the numbers of a schedule, its fields, that are negative, infinite, NaN or no numbers."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number(name, value, positive=name in ("rho", "shift"))
            if name.endswith("_max"):
                least = name.replace("_max", "_min")
                number(f"{name} - {least}", value - getattr(self, least))


def _vp(log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma = sqrt(1 - alpha^2) from log alpha <= 0, without cancellation near alpha = 1."""
    return log_alpha.exp(), torch.expm1(2 * log_alpha).abs().sqrt()


@dataclass(frozen=True)
class LinearVP(_Numbers):
    """Variance preserving, ``beta(t) = beta_min + t (beta_max - beta_min)``: Song et al. 2021, Eq. 33.

    The defaults 0.1 and 20 are the continuous limit of Ho et al. 2020 (1e-4 to 0.02 in 1000 steps).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return _vp(-0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min)


@dataclass(frozen=True)
class ScaledLinearVP(_Numbers):
    """Variance preserving, sqrt(beta) linear in ``t``: the schedule of latent diffusion.

    Defaults as Rombach et al. 2022 for ImageNet-256: 0.0015 to 0.0195 in 1000 steps, times 1000.
    """

    beta_min: float = 1.5
    beta_max: float = 19.5

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        start, slope = math.sqrt(self.beta_min), math.sqrt(self.beta_max) - math.sqrt(self.beta_min)
        integral = t * (start**2 + start * slope * t + slope**2 * t**2 / 3)
        return _vp(-0.5 * integral)


@dataclass(frozen=True)
class CosineVP(_Numbers):
    """Variance preserving, ``alpha_t`` a quarter of a cosine: Nichol & Dhariwal 2021, Eq. 17 (offset 0.008).

    ``alpha`` is kept above ``alpha_min``, so that sigma/alpha stays finite at ``t = 1``.
    """

    offset: float = 0.008
    alpha_min: float = 1e-3

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        quarter = math.pi / 2 / (1 + self.offset)
        alpha = torch.cos((t + self.offset) * quarter) / math.cos(self.offset * quarter)
        return _vp(alpha.clamp(min=self.alpha_min, max=1.0).log())


@dataclass(frozen=True)
class EDM(_Numbers):
    """Variance exploding with the spacing of Karras et al. 2022, Eq. 5: ``alpha = 1`` and

    ``sigma_t = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho``.

    The defaults 0.002, 80 and 7 are those of Table 1 there.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return torch.ones_like(t), (low + t * (high - low)) ** self.rho


@dataclass(frozen=True)
class GeometricVE(_Numbers):
    """Variance exploding, ``sigma_t = sigma_min^(1-t) sigma_max^t``: Song et al. 2021, Eq. 30, defaults for CIFAR."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min ** (1 - t) * self.sigma_max**t


@dataclass(frozen=True)
class RectifiedFlow(_Numbers):
    """Straight paths, ``alpha = 1 - sigma``, ``sigma_t = shift t / (1 + (shift - 1) t)``: Esser et al. 2024, Eq. 23.

    ``shift = 1`` is Liu et al. 2023; Stable Diffusion 3 uses 3. The shift moves noise levels to other times and changes
    nothing else: it affects evenly spaced times but not keypoints that are given as noise levels. ``alpha`` is kept
    above ``alpha_min``.
    """

    shift: float = 1.0
    alpha_min: float = 1e-5

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.shift * t / (1 + (self.shift - 1) * t)
        return (1 - sigma).clamp(min=self.alpha_min), sigma


@dataclass(frozen=True)
class TableVP:
    """Variance preserving, from a decreasing table of ``alphas_cumprod`` in [0, 1], as in the schedulers of diffusers.

    Entry ``n`` of ``N`` is at ``t = (n + 1) / N`` and ``t = 0`` is clean; log alpha is linear in between. Zeros (zero
    terminal signal-to-noise) become 1e-8, or a quarter of the smallest other entry if that is less.

    Raises:
        InputError: the table is empty, increases, or leaves [0, 1].
    """

    alphas_cumprod: Sequence[float] = field(repr=False)

    def __post_init__(self) -> None:
        given: Any = self.alphas_cumprod
        values = given.tolist() if hasattr(given, "tolist") else given
        instance("alphas_cumprod", values, isinstance(values, (list, tuple)), "a row of numbers")
        whole("the length of alphas_cumprod", len(values), least=0, most=MOST_STEPS)
        table = torch.tensor([number("alphas_cumprod", value) for value in values], dtype=torch.float64)
        falls = len(table) and (table.diff() <= 0).all()
        if not falls or not 0 <= table[-1] <= table[0] <= 1:
            raise InputError("alphas_cumprod must be one decreasing row of numbers in [0, 1].")
        floor = min([1e-8, *(table[table > 0] / 4).tolist()])  # below every other entry, so that the noise level grows
        object.__setattr__(self, "alphas_cumprod", tuple(torch.where(table > 0, table, floor).tolist()))

    @property
    def num_steps(self) -> int:
        """``N``, the number of training timesteps."""
        return len(self.alphas_cumprod)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table = _log_alphas(self.alphas_cumprod, t.dtype, t.device)
        position = (t * self.num_steps).clamp(0, self.num_steps)
        below = position.floor().long().clamp(max=self.num_steps - 1)
        return _vp(torch.lerp(table.take(below), table.take(below + 1), position - below))


@cached
def _log_alphas(alphas_cumprod: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """log alpha at t = 0, 1/N, … 1."""
    return (torch.tensor((1.0, *alphas_cumprod), dtype=dtype).log() / 2).to(device)


def noise_level(schedule: Schedule, t: Tensor | float) -> Tensor:
    """sigma_t / alpha_t, the noise of ``z_t`` in units of the clean data."""
    alpha, sigma = schedule(as_time(t))
    return sigma / alpha


def lowest_level(schedule: Schedule) -> float:
    """The lowest noise level that a network was trained at: that of the first entry of a table, or of ``t = 0``."""
    first = 1 / schedule.num_steps if isinstance(schedule, TableVP) else 0.0
    return noise_level(schedule, first).item()


def time_of(schedule: Schedule, level: float, iterations: int = 100) -> float:
    """The time at which sigma/alpha equals ``level``, by bisection (the ratio grows with ``t``).

    Raises:
        InputError: the schedule does not reach that level.
    """
    first, last = noise_level(schedule, 0.0).item(), noise_level(schedule, 1.0).item()
    if not first <= level <= last:
        raise InputError(f"Noise level {level:g} is outside the schedule's range {first:g} to {last:g}.")
    return times_of(schedule, torch.tensor(level, dtype=torch.float64), iterations).item()


def times_of(schedule: Schedule, levels: Tensor, iterations: int = 100) -> Tensor:
    """:func:`time_of` of each of the ``levels``, float64, all at once; 0 or 1 outside the schedule's range."""
    low, high = torch.zeros_like(levels), torch.ones_like(levels)
    for _ in range(iterations):
        middle = (low + high) / 2
        below = noise_level(schedule, middle) < levels
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def as_time(t: Tensor | float, device: torch.device | None = None) -> Tensor:
    """``t`` as a float64 tensor, the dtype of all schedule arithmetic (float32 on MPS, which has no float64)."""
    t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
    target = device or t.device
    return moved(t, target, widest(target))


def keypoints(
    prior: DiffusionPrior,
    start: float = 0.55,
    stop: float = 0.40,
    levels: int = 4,
    noise_levels: Sequence[float] | None = None,
) -> tuple[float, ...]:
    """``levels`` times from T_e = ``start`` down to T_s = ``stop``, evenly spaced, or the times of ``noise_levels``.

    The defaults 0.55, 0.40 and 4 are the paper's VIPaint-4 on latent ImageNet (550, 500, 450, 400 of 1000). Use
    ``noise_levels`` for pixel priors.

    Args:
        prior: the prior, whose ``schedule`` is used.
        start, stop: times in (0, 1], ``start > stop``.
        levels: K >= 1; one level is T_s = T_e = ``start``.
        noise_levels: K decreasing values of sigma/alpha; ``start``, ``stop`` and ``levels`` are then ignored.

    Raises:
        InputError: times are out of order or outside (0, 1], or the schedule does not reach a noise level.
    """
    instance("prior", prior, hasattr(prior, "schedule"), "a prior")
    if noise_levels is not None:
        numbers = [number("a noise level", level) for level in row("noise_levels", noise_levels)]
        return check_keypoints([time_of(prior.schedule, level) for level in numbers])
    start, stop, levels = number("start", plain(start)), number("stop", plain(stop)), whole("levels", levels)
    step = (start - stop) / (levels - 1) if levels > 1 else 0.0
    return check_keypoints([start - i * step for i in range(levels)])


def check_keypoints(times: Sequence[float]) -> tuple[float, ...]:
    """``times`` as a tuple, refused unless there is one and they decrease strictly inside (0, 1]."""
    checked = tuple(number("keypoints", t, signed=True) for t in row("keypoints", times))
    bounded = (math.inf, *checked, 0.0)
    if not checked or checked[0] > 1 or not all(later < earlier for earlier, later in pairwise(bounded)):
        shown = ", ".join(f"{t:g}" for t in checked) or "none"
        raise InputError(f"keypoints must decrease from T_e to T_s and lie in (0, 1], not {shown}.")
    return checked
