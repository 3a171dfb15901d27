r"""Sequential Monte Carlo through the levels of a model, with a guide as proposal.

Particles move from T_e to T_s by the guide's q. The target at level t is the prior of the levels so far times a *twist*
psi_t(z_t), the density of y that the prediction at z_t gives; at T_s it is the model's own likelihood. A move from t to
s multiplies a particle's weight by

.. math:: \frac{\psi_s(z_s)\, p(z_s \mid z_t)}{\psi_t(z_t)\, q(z_s \mid z_t, y)}, \qquad
          \psi_t(z_t) = N(y; A \hat x_t, \sigma_y^2 + r_t^2 |A|^2).

On a :class:`pyro_vipaint.models.MatchedPrior` the variance of psi is :math:`\sigma_y^2 + A c_t A^\top`.

The particles of an image are resampled where their effective sample size falls below a share of their number. The
product of the mean weights between resamplings is an *unbiased* estimate of the evidence p(y) for any guide and any
psi (Del Moral 2004) where p(z_Te) is exact, as on models that begin at t = 1, and the particles tend to the posterior
of the K-level model as their number grows. With the guide :class:`pyro_vipaint.guides.TwistedGuide` and Pi-GDM's
correction this is the twisted diffusion sampler (Wu et al. 2023). Without resampling (``threshold`` = 0) it is
importance sampling with the guide.

The prediction that the twist needs is that of the next move: K network calls for K levels, as many as without twists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions import Independent, Normal
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import seeded, widest
from pyro_vipaint.calls import count_calls
from pyro_vipaint.corrections import pixel_variance
from pyro_vipaint.diagnostics.importance import effective_sample_size, systematic_indices
from pyro_vipaint.distributions import ReshapedLowRank
from pyro_vipaint.errors import InputError, number, whole
from pyro_vipaint.models.diffusion import DiffusionModel, Level
from pyro_vipaint.models.measurements.likelihoods import seen
from pyro_vipaint.models.measurements.linalg import operator_norm
from pyro_vipaint.models.measurements.operators import Inpainting
from pyro_vipaint.models.measurements.predictive import predictive
from pyro_vipaint.models.measurements.problem import FOLLOWED, check_problem
from pyro_vipaint.models.priors.kernels import bridge_coefficients
from pyro_vipaint.progress import Callback, Progress, showing


@dataclass(frozen=True, eq=False)
class SMC:
    """The result of :func:`smc`.

    Attributes:
        z: equally weighted draws of z_Ts, ``(S, N, *event)``; copies are neighbours.
        log_evidence: log of the unbiased estimate of p(y), ``(N,)``, in nats.
        effective_sample_size: of the weights at T_s, before the last resampling, ``(N,)``.
        resampled: how often the particles of each image were resampled on the way, ``(N,)``.
        calls, nfe, gradients: network calls, images passed through the network, and images whose gradient was taken.
    """

    z: Tensor
    log_evidence: Tensor
    effective_sample_size: Tensor
    resampled: Tensor
    calls: int
    nfe: int
    gradients: int = 0

    __repr__, _repr_html_ = compact, as_html


@torch.no_grad()
def smc(
    model: DiffusionModel,
    guide: Any,
    y: Tensor,
    num_samples: int = 10,
    *,
    num_particles: int | None = None,
    threshold: float = 0.5,
    seed: int | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> SMC:
    """``num_samples`` draws of z_Ts for each image by sequential Monte Carlo: num_particles × N × K NFE.

    One call more for each particle where T_e is below t = 1: that of the marginal of z_Te, which is an approximation.

    Args:
        model: with a likelihood that has ``operator``, ``residual`` and ``noise_std``; the unscaled model is the
            target.
        guide: a guide of this library built on the model; below T_e its sites must be Gaussian given the level above,
            which those of :class:`MixtureGuide` are not.
        y: observations ``(N, *observation)``.
        num_samples: S, draws that are returned, by systematic resampling of the particles.
        num_particles: of each image; ``num_samples`` if not given.
        threshold: resample where the effective sample size is below this share of the particles, in [0, 1]; 0 never
            does, .5 is common practice (Doucet & Johansen 2009).
        seed: of the draws; ``None`` continues the global generator.
        callback: called after each level with its :class:`pyro_vipaint.progress.Progress`, phase ``smc``.
        progress: draw a bar, on a terminal or in a notebook.

    Raises:
        InputError: the guide was built on another model or is not Gaussian below T_e, the likelihood is a function
            alone, ``y`` is no observation of the model, or a number cannot be used.
    """
    count = whole("num_particles", num_samples if num_particles is None else num_particles)
    number("threshold", threshold)
    if getattr(guide, "model", None) is not model:
        raise InputError("smc needs a guide that was built on the model.")
    check_problem(model.prior, model.likelihood, y, model.condition, needs=(*FOLLOWED, "noise_std"))
    with seeded(seed), count_calls() as calls, showing(progress, callback) as callback:
        particles = _Particles(model, y, count, threshold, callback)
        with pyro.plate("particles", count, dim=-2), particles:
            guide(y)
        particles.observe(guide.trace.nodes["y"]["fn"].log_prob(y))
        index = systematic_indices(particles.log_weights, whole("num_samples", num_samples))
    z = particles.z[index, torch.arange(index.shape[1], device=index.device)]
    size = effective_sample_size(particles.log_weights)
    return SMC(z, particles.evidence(), size, particles.resampled, calls.calls, calls.nfe, calls.gradients)


class _Particles(Messenger):
    """Weights and resampling, around a run of guide and model on ``(particles, N)`` copies."""

    def __init__(
        self, model: DiffusionModel, y: Tensor, count: int, threshold: float, callback: Callback | None = None
    ) -> None:
        super().__init__()
        self.callback = callback
        self.levels = {level.name: level for level in model.levels}
        self.above: Level | None = None
        self.threshold, self.twist = threshold, _Twist(model, y)
        self.log_weights = torch.zeros(count, len(y), dtype=widest(y.device), device=y.device)
        self.log_twist, self.log_evidence = torch.zeros_like(self.log_weights), torch.zeros_like(self.log_weights[0])
        self.resampled = torch.zeros(len(y), dtype=torch.long, device=y.device)

    def _pyro_sample(self, msg: Message) -> None:
        """Below T_e: weighs the particles by what the prediction at z_t says of y, and resamples them."""
        if msg["name"] in self.levels and self.above is not None:
            infer: Any = msg["infer"]
            self.observe(self.twist(self.z, infer["prior"].mean, self.above, self.levels[msg["name"]]))
            index = self._ancestors()
            msg["fn"], infer["prior"] = (_at(index, fn) for fn in (msg["fn"], infer["prior"]))
            self.log_twist = self.log_twist.gather(0, index)

    def _pyro_post_sample(self, msg: Message) -> None:
        if msg["name"] in self.levels:
            infer: Any = msg["infer"]
            self.z: Any = msg["value"]
            q: Any = msg["fn"]
            ratio = infer["prior"].log_prob(self.z) - q.log_prob(self.z)
            self.log_weights = self.log_weights + ratio.to(self.log_weights)
            self.above = self.levels[msg["name"]]
            if self.callback is not None:
                done = list(self.levels).index(self.above.name) + 1
                self.callback(Progress("smc", done, len(self.levels), note=self.above.name))

    def observe(self, log_twist: Tensor) -> None:
        """Replaces the last twist in the weights by this one, ``(particles, N)``."""
        log_twist = log_twist.to(self.log_weights)
        self.log_weights = self.log_weights + log_twist - self.log_twist
        self.log_twist = log_twist

    def evidence(self) -> Tensor:
        """The estimate of log p(y) at this point."""
        return self.log_evidence + self.log_weights.logsumexp(0) - math.log(len(self.log_weights))

    def _ancestors(self) -> Tensor:
        """The particle that each one continues, ``(particles, N)``: itself for images that are not resampled."""
        count = len(self.log_weights)
        itself = torch.arange(count, device=self.log_weights.device)[:, None].expand_as(self.log_weights)
        poor = effective_sample_size(self.log_weights) < self.threshold * count
        if not bool(poor.any()):
            return itself
        self.log_evidence = torch.where(poor, self.evidence(), self.log_evidence)
        index = torch.where(poor, systematic_indices(self.log_weights, count), itself)
        self.log_weights = torch.where(poor, 0.0, self.log_weights)
        self.resampled = self.resampled + poor
        return index


class _Twist:
    """log psi_t(z_t), ``(particles, N)``, read off the mean a z_t + b x_hat of the prior's next transition."""

    def __init__(self, model: DiffusionModel, y: Tensor) -> None:
        self.model, self.y = model, y
        self.likelihood: Any = model.likelihood
        operator, shape = self.likelihood.operator, (len(y), *model.prior.image_shape)
        self.norm = 1.0 if isinstance(operator, Inpainting) else operator_norm(operator, shape, y.device)

    def __call__(self, z: Tensor, mean: Tensor, above: Level, level: Level) -> Tensor:
        prior = self.model.prior
        a, b, _ = (float(value) for value in bridge_coefficients(prior.schedule, above.t, level.t))
        image, c = prior.decode((mean - a * z) / b), above.variance
        psi = None if c is None else predictive(self.likelihood, c)
        if psi is not None:
            of_y = psi(image)
            return of_y.to_event(len(of_y.batch_shape) - 2).log_prob(seen(self.likelihood, self.y))
        residual = self.likelihood.residual(image, self.y)
        variance = pixel_variance(prior.sigma_data, above.alpha, above.sigma) if c is None else c.mean().to(residual)
        std = (torch.as_tensor(self.likelihood.noise_std) ** 2 + self.norm**2 * variance).sqrt().to(residual)
        density = Normal(torch.zeros_like(residual), std.expand(residual.shape), validate_args=False).log_prob(residual)
        return seen(self.likelihood, density).flatten(2).sum(-1)


def _at(index: Tensor, distribution: Any) -> Any:
    """A Gaussian over events whose particles are those at ``index``, ``(particles, N)``."""
    base = getattr(distribution, "base_dist", None)
    if isinstance(distribution, ReshapedLowRank):
        return distribution.moved(index)
    if not (isinstance(distribution, Independent) and isinstance(base, Normal)):
        raise InputError(f"smc needs a guide that is Gaussian below T_e, not a {type(distribution).__name__}.")
    images = torch.arange(index.shape[1], device=index.device)
    moments = (value.expand(distribution.batch_shape + distribution.event_shape) for value in (base.loc, base.scale))
    loc, scale = (value[index, images] for value in moments)
    return Normal(loc, scale, validate_args=False).to_event(distribution.event_dim)
