r"""Sequential Monte Carlo on the K-level model with a fitted :class:`MixtureGuide` as its proposal.

Particles are drawn from the guide level by level, as importance sampling would, but are resampled on the way. With
the twisting functions psi of :mod:`benchmarks.gmm_smc` the weight of a particle is multiplied, at level s, by

.. math:: \frac{\psi_s(z_s)\, p(z_s \mid z_t)}{\psi_t(z_t)\, q(z_s \mid z_t, \ldots)},

q with the component summed out: log r, the guide's responsibilities given the levels above, goes with the particle.
Without resampling (``threshold`` = 0) the psi cancel and the last weights are those of importance sampling.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from pyro.distributions import Categorical, Normal
from torch import Tensor

from benchmarks.gmm_model import DiagonalProblem
from benchmarks.gmm_smc import resampled
from pyro_vipaint.diagnostics import effective_sample_size
from pyro_vipaint.diagnostics.importance import systematic_indices
from pyro_vipaint.guides import MixtureGuide


@torch.no_grad()
def guided_smc(
    problem: DiagonalProblem, guide: MixtureGuide, num_particles: int, num_samples: int, threshold: float = 0.5
) -> tuple[Tensor, float]:
    """Draws of z_Ts, ``(num_samples, d_x)``, and the last effective sample size: num_particles × K NFE."""
    prior, times, levels = problem.prior, problem.model.keypoints, problem.model.levels
    prior_top = prior.marginal(times[0])
    responsibilities = guide.weights.log().expand(num_particles, -1)
    z, responsibilities, log_q = _propose(guide, levels[0].name, None, responsibilities)
    x = prior.denoise(z, times[0])
    twist = problem.log_likelihood(x, prior.errors[times[0]])
    log_weights = prior_top.log_prob(z) - log_q + twist
    for (t, s), level in zip(pairwise(times), levels[1:], strict=True):
        z, x, twist, responsibilities, log_weights = resampled(threshold, z, x, twist, responsibilities, log_weights)
        transition = prior.matched(z, x, prior.errors[t], t, s)
        z, responsibilities, log_q = _propose(guide, level.name, transition.mean, responsibilities)
        x, before = prior.denoise(z, s), twist
        twist = problem.log_likelihood(x, prior.errors[s])
        log_weights = log_weights + transition.log_prob(z).sum(-1) - log_q + twist - before
    ess = float(effective_sample_size(log_weights[:, None])[0])
    return z[systematic_indices(log_weights[:, None], num_samples)[:, 0]], ess


def _propose(guide: MixtureGuide, name: str, prior_mean: Tensor | None, log_r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z at one site, the responsibilities after it, and log q(z | above): ``(n, d)``, ``(n, M)``, ``(n,)``.

    The component is drawn anew at every site from what the levels above say of it: the same law of z as carrying it.
    """
    index = name.removeprefix("z_")
    mean, std = getattr(guide, f"mu_{index}"), getattr(guide, f"tau_{index}")
    if prior_mean is not None:
        mean = mean + getattr(guide, f"gamma_{index}") * (prior_mean[:, None] - mean)
    chosen, rows = Categorical(logits=log_r).sample(), torch.arange(len(log_r))
    z = Normal(mean.expand(len(rows), -1, -1)[rows, chosen], std[0, chosen]).sample()
    joint = log_r.log_softmax(-1) + _log_normal(z[:, None], mean, std)
    return z, joint.log_softmax(-1), joint.logsumexp(-1)


def _log_normal(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normal(mean, std).log_prob(z).sum(-1), without spreading ``std`` over the particles."""
    return -0.5 * ((z - mean) / std).square().sum(-1) - (std.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
