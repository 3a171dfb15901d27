r"""Sequential Monte Carlo on the K-level model, from T_e to T_s (Wu et al. 2023): alone, and with a fitted guide.

At each level t the twisting function is the density of y that the denoiser gives,

.. math:: \psi_t(z_t) = N(y; A \hat x(z_t), \sigma_y^2 + A c_t A^T), \qquad \psi_{T_s} = p(y \mid z_1),

and the weight of a particle that moves from t to s by a proposal q is multiplied by

.. math:: \frac{\psi_s(z_s)\, p(z_s \mid z_t)}{\psi_t(z_t)\, q(z_s \mid z_t, \ldots)} .

All particles resample when the effective sample size falls below a share, the ``threshold``. At the last level psi is
the model's own likelihood, so that the target is the posterior of the K-level model.

The control's proposal is the transition with x_hat, c_t conditioned on y. The other proposal is a fitted
:class:`MixtureGuide` with the component summed out: log r, the guide's responsibilities given the levels above, goes
with the particle. Without resampling (``threshold`` = 0) the psi cancel, and the last weights are those of importance
sampling.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from pyro.distributions import Categorical, Normal
from torch import Tensor

from benchmarks.gmm_model import DiagonalProblem
from pyro_vipaint.diagnostics import effective_sample_size
from pyro_vipaint.diagnostics.importance import systematic_indices
from pyro_vipaint.guides import MixtureGuide
from pyro_vipaint.models.priors.matched import matched_bridge


@torch.no_grad()
def twisted_smc(problem: DiagonalProblem, num_particles: int, threshold: float = 0.5) -> Tensor:
    """Draws of z_Ts, ``(num_particles, d_x)``, equally weighted: num_particles × K NFE."""
    prior, times = problem.prior, problem.model.keypoints
    z = prior.marginal(times[0]).sample(torch.Size([num_particles]))
    x = prior.denoise(z, times[0])
    twist = problem.log_likelihood(x, problem.variance(times[0]))
    log_weights = twist
    for t, s in pairwise(times):
        z, x, twist, log_weights = resampled(threshold, z, x, twist, log_weights)
        z, correction = _move(problem, z, x, t, s)
        x, before = prior.denoise(z, s), twist
        twist = problem.log_likelihood(x, problem.variance(s))
        log_weights = log_weights + correction + twist - before
    return z[systematic_indices(log_weights[:, None], num_particles)[:, 0]]


def _move(problem: DiagonalProblem, z: Tensor, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
    """z_s from the proposal, and log p(z_s | z_t) - log q(z_s | z_t)."""
    schedule, c = problem.prior.schedule, problem.variance(t)
    proposal = matched_bridge(schedule, z, *problem.condition(x, c), t, s)
    transition = matched_bridge(schedule, z, x, c, t, s)
    z_s = proposal.sample()
    return z_s, (transition.log_prob(z_s) - proposal.log_prob(z_s)).sum(-1)


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
    twist = problem.log_likelihood(x, problem.variance(times[0]))
    log_weights = prior_top.log_prob(z) - log_q + twist
    for (t, s), level in zip(pairwise(times), levels[1:], strict=True):
        z, x, twist, responsibilities, log_weights = resampled(threshold, z, x, twist, responsibilities, log_weights)
        transition = matched_bridge(prior.schedule, z, x, problem.variance(t), t, s)
        z, responsibilities, log_q = _propose(guide, level.name, transition.mean, responsibilities)
        x, before = prior.denoise(z, s), twist
        twist = problem.log_likelihood(x, problem.variance(s))
        log_weights = log_weights + transition.log_prob(z).sum(-1) - log_q + twist - before
    ess = float(effective_sample_size(log_weights[:, None])[0])
    return z[systematic_indices(log_weights[:, None], num_samples)[:, 0]], ess


def _propose(guide: MixtureGuide, name: str, prior_mean: Tensor | None, log_r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z at one site, the responsibilities after it, and log q(z | above): ``(n, d)``, ``(n, M)``, ``(n,)``.

    The component is drawn at every site from its law given the levels above, which gives z the same law as carrying it.
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


def resampled(threshold: float, *state: Tensor) -> tuple[Tensor, ...]:
    """``state``, whose last entry is the log weights, resampled if its effective size is below ``threshold`` of it."""
    *values, log_weights = state
    if float(effective_sample_size(log_weights[:, None])[0]) >= threshold * len(log_weights):
        return state
    chosen = systematic_indices(log_weights[:, None], len(log_weights))[:, 0]
    return *(value[chosen] for value in values), torch.zeros_like(log_weights)
