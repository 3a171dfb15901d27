"""The few times T_e > … > T_s at which the posterior lives (section 4.1 of the paper).

Two ways to say them: times on the schedule's own clock, as the paper does for latent priors, or noise levels
sigma/alpha, which mean the same on every schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from pyro_vipaint.errors import InputError
from pyro_vipaint.schedules import Schedule, time_of


class HasSchedule(Protocol):
    """Anything with a noise schedule: a prior."""

    @property
    def schedule(self) -> Schedule: ...


def keypoints(
    prior: HasSchedule,
    start: float = 0.55,
    stop: float = 0.40,
    levels: int = 4,
    noise_levels: Sequence[float] | None = None,
) -> tuple[float, ...]:
    """``levels`` times from T_e = ``start`` down to T_s = ``stop``, evenly spaced, or the times of ``noise_levels``.

    The defaults 0.55, 0.40 and 4 are the paper's VIPaint-4 on latent ImageNet (550, 500, 450, 400 of 1000). For pixel
    priors name the noise levels.

    Args:
        prior: anything with a ``schedule``.
        start, stop: times in (0, 1), ``start > stop``.
        levels: K >= 1; one level is a posterior at T_s = T_e = ``start`` alone.
        noise_levels: K decreasing values of sigma/alpha; the three arguments above are then ignored.

    Raises:
        InputError: times out of order or outside (0, 1), or a level that the schedule does not reach.
    """
    if noise_levels is not None:
        return check_keypoints([time_of(prior.schedule, level) for level in noise_levels])
    if levels < 1:
        raise InputError(f"levels must be at least 1, not {levels}.")
    step = (start - stop) / (levels - 1) if levels > 1 else 0.0
    return check_keypoints([start - i * step for i in range(levels)])


def check_keypoints(times: Sequence[float]) -> tuple[float, ...]:
    """``times`` as a tuple, refused unless they decrease strictly inside (0, 1)."""
    checked = tuple(float(t) for t in times)
    if not checked:
        raise InputError("keypoints must name at least one time.")
    if not all(0 < t < 1 for t in checked):
        raise InputError(f"keypoints must lie strictly between 0 and 1, not {_shown(checked)}.")
    if any(later >= earlier for earlier, later in pairwise(checked)):
        raise InputError(f"keypoints must decrease from T_e to T_s, not {_shown(checked)}.")
    return checked


def _shown(times: tuple[float, ...]) -> str:
    return ", ".join(f"{t:g}" for t in times)
