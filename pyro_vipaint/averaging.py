r"""The mean of the last iterates of a stochastic optimiser (Polyak & Juditsky 1992).

With gradients as noisy as those of one draw of the guide, and rates that bring it close in thirty steps, an optimiser
ends by circling around the minimum. The mean of its last n positions,

.. math:: \bar\theta = \frac1n \sum_{k = K - n + 1}^{K} \theta_k,

is nearer to it than any of them, for no further gradient. Parameters are averaged where the optimiser moves them,
unconstrained: tau by its geometric mean, gamma by its logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ParameterAverage:
    """The mean over the calls of :meth:`add` of the unconstrained parameters of ``guide``."""

    def __init__(self, guide: nn.Module) -> None:
        self.guide = guide
        self.count = 0
        self.means: list[Tensor] = []

    @torch.no_grad()
    def add(self) -> None:
        """Takes the parameters as they are now into the mean."""
        self.count += 1
        if self.count == 1:
            self.means = [parameter.clone() for parameter in self.guide.parameters()]
        for mean, parameter in zip(self.means, self.guide.parameters(), strict=True):
            mean += (parameter - mean) / self.count

    @torch.no_grad()
    def apply(self) -> None:
        """Gives the guide the mean; without any :meth:`add` it stays as it is."""
        for mean, parameter in zip(self.means, self.guide.parameters(), strict=False):
            parameter.copy_(mean)
