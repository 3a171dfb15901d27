"""How many nats a sampler loses: an evidence bound for samplers that were published without one.

    python -m benchmarks.bounds                # fashion32, 32 held-out images × 4 draws, 50 steps; prints the table
    python -m benchmarks.bounds --images 4     # fewer images

Each sampler is a :class:`pyro_vipaint.guides.TwistedGuide` on the model whose keypoints are its steps, with rotated
windows, the label given, and y = m ⊙ (x + v), v ~ N(0, .05^2). The mean of log p(y, z) - log q(z) over its own draws is
a lower bound on log p(y). VIPaint-K has the model of its K levels and the same likelihood. With the preset for pictures
its guide is fitted to each image; with that for inference it is not fitted, and the transitions of its model have the
covariance of the prior's images, so that its p(y) is another one, as is that of each grid. Columns: the bound on
log p(y), mean over images in nats, and its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.corrections import DDNM, DPS, MMPS, ByLevel, Correction, DiffPIR, PiGDM, Wiener
from pyro_vipaint.demo import held_out_images
from pyro_vipaint.diagnostics import log_weights
from pyro_vipaint.guides import HierarchicalGuide, TwistedGuide
from pyro_vipaint.models import DiffusionModel, MatchedPrior, load_prior
from pyro_vipaint.models.measurements.masks import rotated_window
from pyro_vipaint.settings import GRADIENTS_BELOW, default_settings, inference_settings

SIGMA, STEPS, IMAGES, DRAWS = 0.05, 50, 32, 4
CORRECTIONS: dict[str, Correction] = {
    "the prior's chain": DPS(0.0),
    "DPS, ζ 1": DPS(1.0),
    "DPS, ζ 2": DPS(2.0),
    "ΠGDM": PiGDM(),
    "MMPS": MMPS(),
    "DDNM": DDNM(),
    "DiffPIR": DiffPIR(),
    "Wiener": Wiener(),
    "Wiener, MMPS below": ByLevel(Wiener(), MMPS(2), GRADIENTS_BELOW),
}


def problem(images: int) -> tuple[vp.Gaussian, Tensor, Tensor]:
    """Likelihood, observations and labels of the first held-out images, one rotated window each."""
    truth, labels = (values[:images] for values in held_out_images())
    mask = torch.cat([rotated_window(truth.shape[-1], 1, seed=number) for number in range(images)])
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    return vp.Gaussian(vp.Inpainting(mask), SIGMA), mask * (truth + SIGMA * noise), labels


def sampler_bound(prior: Any, correction: Correction, images: int) -> Tensor:
    """The bound of each image, ``(N,)``."""
    return chain_bound(prior, correction, [1 - step / STEPS for step in range(STEPS)], images)


def chain_bound(prior: Any, correction: Correction, times: Sequence[float], images: int, draws: int = DRAWS) -> Tensor:
    """The bound of each image, ``(N,)``, on the model with these keypoints, without a fit."""
    likelihood, y, labels = problem(images)
    model = DiffusionModel(prior, likelihood, times, class_labels=labels)
    guide = TwistedGuide(model, correction=correction)
    return log_weights(model, guide, y, draws, seed=0, batch_size=1).mean(0)


def inference_bound(prior: Any, levels: int, images: int) -> Tensor:
    """The bound of each image, ``(N,)``, of the preset for inference, without a fit."""
    matched, times = MatchedPrior(prior, prior.data_covariance), inference_settings(levels).keypoints(prior)
    return chain_bound(matched, Wiener(), times, images, 10 * DRAWS)


def vipaint_bound(prior: Any, levels: int, images: int) -> Tensor:
    """The bound of each image, ``(N,)``, after the fit of the preset for pictures."""
    likelihood, y, labels = problem(images)
    settings = default_settings(levels, preset="pictures")
    model = DiffusionModel(prior, likelihood, settings.keypoints(prior), class_labels=labels)
    start = vp.initial_latent(prior, likelihood, y, class_labels=labels)
    guide = HierarchicalGuide(model, start, gamma_logit=settings.gamma_logit, tau_scale=settings.tau_scale)
    vp.fit(model, guide, y, vp.BetaELBO(settings.beta, settings.num_particles), settings.steps, settings.lr, seed=0)
    return log_weights(model, guide, y, 10 * DRAWS, seed=1, batch_size=DRAWS).mean(0)


def main(images: Annotated[int, typer.Option(help="Held-out images.", min=2, max=64)] = IMAGES) -> None:
    """Prints the table of bounds."""
    prior = load_prior("fashion32")
    rows: dict[str, Callable[[], Tensor]] = {
        name: lambda correction=correction: sampler_bound(prior, correction, images)
        for name, correction in CORRECTIONS.items()
    }
    for preset, bound in {"inference": inference_bound, "pictures": vipaint_bound}.items():
        rows |= {f"VIPaint-{k}, {preset}": partial(bound, prior, k, images) for k in (2, 4)}
    print("| method | bound | standard error |\n|:--|--:|--:|")
    for name, bound in rows.items():
        values = bound()
        print(f"| {name} | {float(values.mean()):,.0f} | {float(values.std()) / math.sqrt(images):,.0f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
