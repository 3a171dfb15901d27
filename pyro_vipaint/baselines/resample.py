r"""ReSample, inverse problems with latent diffusion by hard data consistency (Song et al. 2024), Algorithm 1.

A deterministic DDIM chain with a DPS step of weight abar_t / 2 at every time, in variance-preserving coordinates
z / c_t with abar_t = alpha_t^2 / c_t^2 and c_t = sqrt(alpha_t^2 + sigma_t^2):

.. math:: z'_s = ddim(z_t, \hat z) - \zeta \bar\alpha_t c_t c_s \nabla_{z_t} \|y - A D(\hat z)\|,
          \qquad \hat z = E[z_0 \mid z_t].

Steps are numbered downwards; the last one is number 0. In the last two thirds of them every tenth is followed by *hard
data consistency*, which finds a clean latent z* that fits y as well as its noise permits. It starts at z_hat and makes
no further network call:

- second third: the image D(z_hat) is moved to minimise |y - A x|^2 and encoded;
- last third: the latent is moved to minimise |y - A D(z)|^2,

and by *stochastic resampling*, the product of N(z*; ...) carried to time s and of the chain's own N(z'_s, v_t):

.. math:: z_s \sim N\Big(\frac{v_t \sqrt{\bar\alpha_s} z^* + (1 - \bar\alpha_s) z'_s}{v_t + 1 - \bar\alpha_s},
          \frac{v_t (1 - \bar\alpha_s)}{v_t + 1 - \bar\alpha_s}\Big), \qquad
          v_t = 40 \, \frac{1 - \bar\alpha_s}{\bar\alpha_t} \Big(1 - \frac{\bar\alpha_t}{\bar\alpha_s}\Big).

The last clean prediction is moved in latent space once more before it is decoded.

Both inner problems are solved by AdamW (with torch's own weight decay, as theirs), until the root mean square of the
residual over the observed elements is at most the standard deviation of the noise of y; each sample stops by itself.
Iterations of the first kind cost neither network nor decoder, those of the second one pass of the decoder and its
gradient.

Deviations: the authors' norms and stops are of the batch; descent stops at the noise level, where their code has a
residual of 0.001; z_hat is the chain's own prediction, as in Algorithm 1, where their code first runs five more DDIM
steps; v_t is the paper's, their code divides by 1 - abar_t; their latent descent also ends where it has not improved
for 200 iterations.

Bias: z* stands for a draw of z_0 but is made from its expectation, which lacks the spread of z_0 given z_t; the
observed pixels have the spread of the last DPS steps, whose length does not shrink with the residual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import gradients
from pyro_vipaint.baselines.base import BaselineResult, run
from pyro_vipaint.baselines.dps import error_gradient
from pyro_vipaint.corrections import residual_norm
from pyro_vipaint.errors import MOST_RATE, InputError, number, whole
from pyro_vipaint.models.measurements.likelihoods import check_one_noise
from pyro_vipaint.models.priors.codecs import Codec
from pyro_vipaint.models.priors.kernels import coordinate_scale, ddim
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time
from pyro_vipaint.progress import Callback

SEGMENTS = 3
EVERY = 10


@dataclass(frozen=True, eq=False)
class ReSampleResult(BaselineResult):
    """Images and their cost; ``decodings`` counts passes of a batch through the decoder, with or without gradient."""

    decodings: int = 0

    __repr__, _repr_html_ = compact, as_html


@dataclass(frozen=True)
class Descent:
    """An inner problem: its space, AdamW's rate, the most iterations, and the residual at which it stops."""

    in_pixels: bool
    lr: float
    iterations: int
    tolerance: float

    def __post_init__(self) -> None:
        space = "pixel" if self.in_pixels else "latent"
        number(f"{space}_lr", self.lr, most=MOST_RATE)
        whole(f"{space}_iterations", self.iterations, least=0)


@dataclass(eq=False)
class CountedCodec:
    """``codec`` with its decoder's passes counted."""

    codec: Codec
    decodings: int = 0

    def encode(self, x: Tensor) -> Tensor:
        return self.codec.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        self.decodings += 1
        return self.codec.decode(z)

    def image_shape(self, event_shape: Sequence[int]) -> torch.Size:
        return self.codec.image_shape(event_shape)


def resample(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Tensor,
    num_samples: int = 10,
    steps: int = 500,
    *,
    zeta: float = 0.5,
    variance_factor: float = 40.0,
    pixel_lr: float = 1e-2,
    pixel_iterations: int = 2000,
    latent_lr: float = 5e-3,
    latent_iterations: int = 500,
    seed: int | None = None,
    callback: Callback | None = None,
    **condition: Any,
) -> ReSampleResult:
    """Draws by ReSample; the arguments of all baselines are described in :mod:`pyro_vipaint.baselines`.

    All defaults are those of the authors' code.

    Args:
        zeta: weight of the DPS steps in units of abar_t.
        variance_factor: the factor of v_t; towards infinity the resampled latent is z* with fresh noise.
        pixel_lr, pixel_iterations: AdamW's rate in pixels, for images in [-1, 1], and the most iterations each time.
        latent_lr, latent_iterations: AdamW's rate in the prior's latents, and the most iterations each time.
    """
    if not prior.is_latent:
        raise InputError(
            "ReSample needs a latent prior, since it moves pixels and latents in turn; for a pixel prior use dps."
        )
    check_one_noise("ReSample", likelihood)
    number("zeta", zeta)
    number("variance_factor", variance_factor)
    codec = CountedCodec(prior.codec)
    counted = replace(prior, codec=codec)

    def error(z_hat: Tensor) -> Tensor:
        return residual_norm(likelihood, counted.decode(z_hat), y)

    def chain(z: Tensor, times: list[float]) -> Iterator[Tensor]:
        pixel = Descent(True, pixel_lr, pixel_iterations, likelihood.noise_std)
        latent = Descent(False, latent_lr, latent_iterations, likelihood.noise_std)
        for step, (t, s) in enumerate(pairwise(times[:-1])):
            z_hat, _, gradient = error_gradient(counted, z, t, condition, error)
            scale = float(coordinate_scale(prior.schedule, t) * coordinate_scale(prior.schedule, s))
            z = ddim(prior.schedule, z, z_hat, t, s) - zeta * signal_share(prior, t) * scale * gradient
            third = third_of_hard_step(steps, steps - 1 - step)
            if third:
                z_star = consistent(counted, likelihood, z_hat, y, pixel if third == 2 else latent)
                z = stochastic_resample(prior, z, z_star, t, s, variance_factor)
            yield z_hat
        yield consistent(counted, likelihood, prior.denoise(z, times[-2], **condition), y, latent)

    result = run(
        "resample", chain, counted, likelihood, y, num_samples, steps, seed, callback, condition,
        needs=("noise_std", "observed"),
    )  # fmt: skip
    return ReSampleResult(**vars(result), decodings=codec.decodings)


def resample_calls(steps: int = 500) -> int:
    """Network calls of :func:`resample`, one per step; hard data consistency makes none."""
    return steps


def third_of_hard_step(steps: int, index: int) -> int:
    """2 or 3 where hard data consistency follows step ``index`` (counted down to 0), by third; 0 where none does."""
    third = steps // SEGMENTS
    if index % EVERY or not 0 < index <= steps - third:
        return 0
    return 2 if index >= third else 3


def signal_share(prior: DiffusionPrior, t: float) -> float:
    """abar_t, the share of the signal in variance-preserving coordinates."""
    alpha, sigma = prior.schedule(as_time(t))
    return float(alpha**2 / (alpha**2 + sigma**2))


def consistent(prior: DiffusionPrior, likelihood: Any, z_hat: Tensor, y: Tensor, descent: Descent) -> Tensor:
    """z*: the latent near ``z_hat`` whose image fits ``y``, of the shape of ``z_hat``."""
    if descent.in_pixels:
        return prior.encode(descend(lambda x: x, prior, likelihood, prior.decode(z_hat), y, descent))
    return descend(prior.decode, prior, likelihood, z_hat, y, descent)


def descend(
    image: Callable[[Tensor], Tensor],
    prior: DiffusionPrior,
    likelihood: Any,
    start: Tensor,
    y: Tensor,
    descent: Descent,
) -> Tensor:
    """The end of AdamW on the mean squared residual of each sample's ``image``.

    A sample whose residual is small enough rests from then on, and its image is not made again.
    """
    leading = start.shape[: start.ndim - prior.event_dim]
    value = start.detach().clone().requires_grad_()
    optimizer = torch.optim.AdamW([value], lr=descent.lr)
    moving = torch.ones(leading, dtype=torch.bool, device=start.device)
    blank = start.new_zeros(*leading, *prior.image_shape)
    for _ in range(descent.iterations):
        with gradients():
            difference = likelihood.residual(blank.index_put((moving,), image(value[moving])), y)
            observed = likelihood.observed(difference).flatten(len(leading)).sum(-1).clamp(min=1)
            error = difference.flatten(len(leading)).square().sum(-1) / observed
            total = error[moving].sum()
        moving = moving & (error.detach() > descent.tolerance**2)
        if not moving.any():
            break
        (value.grad,) = torch.autograd.grad(total, value)
        before = value.detach().clone()
        optimizer.step()
        with torch.no_grad():
            value[~moving] = before[~moving]
    return value.detach()


def stochastic_resample(
    prior: DiffusionPrior, z: Tensor, z_star: Tensor, t: float, s: float, variance_factor: float
) -> Tensor:
    """A draw of z_s, of the shape of ``z`` = z'_s, given the consistent clean latent ``z_star``."""
    scale = float(coordinate_scale(prior.schedule, s))
    signal_t, signal_s = signal_share(prior, t), signal_share(prior, s)
    noise = 1 - signal_s
    variance = variance_factor * noise / signal_t * (1 - signal_t / signal_s)
    total = variance + noise
    mean = (variance * signal_s**0.5 * z_star + noise * z / scale) / total
    return scale * (mean + (variance * noise / total) ** 0.5 * torch.randn_like(z))
