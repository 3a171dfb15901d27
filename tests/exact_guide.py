"""The exact posterior of the K-level model on a diagonal Gaussian prior as a guide, and guides wrong by known amounts.

Each coordinate is a linear Gaussian chain. With x_hat(z_1) = g z_1 + c the likelihood's message to z_1 is
exp(-Lambda z^2 / 2 + eta z), and a transition z_i ~ N(A z_{i+1} + B, s^2) passes it up as

    Lambda' = A^2 Lambda / (1 + s^2 Lambda),  eta' = A (eta - B Lambda) / (1 + s^2 Lambda),

so that q(z_i | z_{i+1}) is the prior times the message. Its importance weights are all p(y).
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor

from pyro_vipaint.guides.base import LatentGuide
from pyro_vipaint.models import DiffusionModel, GaussianPrior
from tests.problems import Problem


class ExactGuide(LatentGuide):
    """p(z | y); with ``shift`` (in standard deviations) and ``scale`` at z_1, broadcast to the 16 coordinates, wrong.

    A wrong guide misses the posterior by the KL (shift^2 + scale^2 - 1 - 2 log scale) / 2 of each coordinate.
    """

    def __init__(
        self,
        problem: Problem,
        model: DiffusionModel,
        y: Tensor,
        shift: Tensor | float = 0.0,
        scale: Tensor | float = 1.0,
    ) -> None:
        super().__init__(model)
        self.shift, self.scale = shift, scale
        self.top_prior = problem.prior.marginal(model.levels[0].t)
        self.messages = _messages(problem, model, y)

    def get_posterior(self, name: str, prior: Any) -> TorchDistribution:
        if name == self._top:
            prior = self.top_prior
        precision, linear = self.messages[name]
        variance = 1 / (1 / prior.variance + precision)
        mean, std = variance * (prior.mean / prior.variance + linear), variance.sqrt()
        if name == "z_1":
            mean, std = mean + self.shift * std, self.scale * std
        return Normal(mean, std.expand(mean.shape)).to_event(1)


def _messages(problem: Problem, model: DiffusionModel, y: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """(Lambda, eta) at each site, ``(N, 16)``."""
    prior: GaussianPrior = problem.prior
    levels, zeros, ones = model.levels, torch.zeros(1, 16), torch.ones(1, 16)
    c = prior.denoise(zeros, levels[-1].t)
    g = prior.denoise(ones, levels[-1].t) - c
    observed = problem.likelihood.observed(y) / problem.likelihood.sigma**2
    precision, linear = observed * g**2, observed * g * (y - c)
    messages = {levels[-1].name: (precision, linear)}
    for above, below in zip(levels[-2::-1], levels[:0:-1], strict=True):
        b = prior.transition(zeros, above.t, below.t).mean
        a = prior.transition(ones, above.t, below.t).mean - b
        damping = 1 + below.step_std**2 * precision
        precision, linear = a**2 * precision / damping, a * (linear - b * precision) / damping
        messages[above.name] = (precision, linear)
    return messages
