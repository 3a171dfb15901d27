r"""Twisted sequential Monte Carlo on the K-level model, without a guide: the control (Wu et al. 2023).

Particles go from T_e to T_s. At each level t the twisting function is what the denoiser already says of y,

.. math:: \psi_t(z_t) = N(y; A \hat x(z_t), \sigma_y^2 + A c_t A^T), \qquad \psi_{T_s} = p(y \mid z_1),

a particle moves by the transition with x_hat, c_t conditioned on y, and its weight is multiplied by
psi_s(z_s) p(z_s | z_t) / (psi_t(z_t) q(z_s | z_t)). All resample when the effective sample size falls below a half.
At the last level every psi is the model's own likelihood: the target is the posterior of the K-level model.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.gmm_model import DiagonalProblem
from pyro_vipaint.diagnostics import effective_sample_size
from pyro_vipaint.diagnostics.importance import systematic_indices


@torch.no_grad()
def twisted_smc(problem: DiagonalProblem, num_particles: int, threshold: float = 0.5) -> Tensor:
    """Draws of z_Ts, ``(num_particles, d_x)``, equally weighted: num_particles × K NFE."""
    prior, times = problem.prior, problem.model.keypoints
    z = prior.marginal(times[0]).sample(torch.Size([num_particles]))
    x = prior.denoise(z, times[0])
    twist = problem.log_likelihood(x, prior.errors[times[0]])
    log_weights = twist
    for t, s in pairwise(times):
        z, x, twist, log_weights = resampled(threshold, z, x, twist, log_weights)
        z, correction = _move(problem, z, x, t, s)
        x, before = prior.denoise(z, s), twist
        twist = problem.log_likelihood(x, prior.errors[s])
        log_weights = log_weights + correction + twist - before
    return z[systematic_indices(log_weights[:, None], num_particles)[:, 0]]


def _move(problem: DiagonalProblem, z: Tensor, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
    """z_s from the proposal, and log p(z_s | z_t) - log q(z_s | z_t)."""
    c = problem.prior.errors[t]
    proposal = problem.prior.matched(z, *problem.condition(x, c), t, s)
    transition = problem.prior.matched(z, x, c, t, s)
    z_s = proposal.sample()
    return z_s, (transition.log_prob(z_s) - proposal.log_prob(z_s)).sum(-1)


def resampled(threshold: float, *state: Tensor) -> tuple[Tensor, ...]:
    """``state``, whose last entry is the log weights, resampled if these are worth less than ``threshold`` of it."""
    *values, log_weights = state
    if float(effective_sample_size(log_weights[:, None])[0]) >= threshold * len(log_weights):
        return state
    chosen = systematic_indices(log_weights[:, None], len(log_weights))[:, 0]
    return *(value[chosen] for value in values), torch.zeros_like(log_weights)
