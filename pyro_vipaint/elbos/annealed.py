r"""beta from a high value to 1: the fit starts near the prior and lets the observation in slowly.

.. math::
    \beta_k = \beta_0 (\beta_{stop} / \beta_0)^{\min(k / (n - 1), 1)}, \quad k = 0, 1, \ldots

While beta is high the optimum (:mod:`.beta`) is smoother than the posterior and closer to the prior.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyro_vipaint.elbos.beta import BetaELBO
from pyro_vipaint.errors import number, whole


@dataclass(frozen=True)
class GeometricSchedule:
    """A schedule for beta: ``start`` at step 0, ``stop`` from step ``steps - 1`` on, geometric in between.

    Any objective with a beta takes it: ``SampledELBO(GeometricSchedule(20.0, 1.0, 50))``.

    Fewer than 2 steps, or a weight that is not positive and finite, raise ``InputError``.
    """

    start: float
    stop: float
    steps: int

    def __post_init__(self) -> None:
        whole("steps", self.steps, least=2)
        number("start", self.start, positive=True)
        number("stop", self.stop, positive=True)

    def __call__(self, step: int) -> float:
        share = min(step / (self.steps - 1), 1.0)
        return self.start ** (1 - share) * self.stop**share


class AnnealedELBO(BetaELBO):
    """:class:`BetaELBO` whose beta goes geometrically from ``start`` to ``stop`` within the first ``steps`` steps.

    After these steps, with ``stop`` = 1, it is the true bound on -log p(y): continue the fit beyond them. Costs,
    ``terms`` and ``num_particles`` are those of :class:`BetaELBO`, errors those of :class:`GeometricSchedule`.

    ``start`` > 1 begins near the prior; about half of the fit's steps leave the other half to the true bound.
    """

    def __init__(self, start: float, stop: float = 1.0, *, steps: int, num_particles: int = 5) -> None:
        super().__init__(GeometricSchedule(start, stop, steps), num_particles)
