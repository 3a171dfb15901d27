"""What is measured of the samples of one cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_vipaint._torch import DIRECTIONS, child_seed, kept, seeded
from pyro_vipaint.bench.trials import Trial
from pyro_vipaint.diagnostics import coverage, energy_score, rank_statistics
from pyro_vipaint.diagnostics.scores import error_and_spread, smooth_projections
from pyro_vipaint.metrics import CHUNK, hidden_std, observed_error, perceptual_features, psnr
from pyro_vipaint.models.measurements.operators import apply

SCORES_VERSION = 3  # to be raised when a score is redefined; a folder keeps to one version
LEVEL = 0.8  # of the intervals whose coverage is measured

Score = Callable[[Tensor, Trial], pd.DataFrame]
"""``(samples (S, N, C, H, W) in [-1, 1], trial) -> table``: numbers, names and truth values. The column ``image``
counts from 0; a table with several rows per image has a column that tells them apart."""


def image_scores(samples: Tensor, trial: Trial) -> pd.DataFrame:
    """One row per image.

    - ``lpips``: mean over samples; ``lpips_best``: the smallest one.
    - ``psnr``: of each sample, mean over samples, in decibels with the range 2; ``ssim`` likewise.
    - ``observation_error``: mean absolute difference of A(sample) and y, where y is observed.
    - ``diversity``: standard deviation over samples, mean over hidden pixels (over all without a mask).
    - ``energy``: the energy score in the hidden pixels (in all without a mask), and ``lpips_energy`` that of
      sqrt(LPIPS); proper scores, smaller is better (:mod:`pyro_vipaint.diagnostics.scores`).
    - ``squared_error``, ``variance``: of the mean of the samples, and (1 + 1/S) times their variance, summed over the
      hidden pixels; the ratio of their sums over images is :func:`pyro_vipaint.diagnostics.error_over_spread`.
    - ``coverage_pixels``, ``coverage_projections``: the share of hidden pixels, and of thirty smooth random projections
      of them, whose truth lies in the central interval of :data:`LEVEL`; NaN for fewer samples than 9, which do not
      resolve it. The seed of the projections is the number of the image. A pixel that is clamped to -1 or 1 in the
      truth and the samples counts as covered, so that exact draws may cover more than .8 of the pixels.

    What follows from differences between samples is NaN for a single one.
    """
    truth, seen, mask = trial.truth.cpu(), perceptual(samples, trial), trial.mask
    if mask is None:
        error = (apply(trial.operator, samples.to(trial.y.device)) - trial.y).abs().flatten(2).mean((0, 2)).cpu()
    else:
        error = observed_error(samples, trial.y.cpu(), mask.cpu()).mean(0)
    columns = {
        "lpips": seen.lpips.mean(0),
        "lpips_best": seen.lpips.amin(0),
        "psnr": psnr(samples, truth).mean(0),
        "ssim": ssim(samples, truth).mean(0),
        "observation_error": error,
        "lpips_energy": seen.lpips_energy,
        **_posterior_columns(samples, trial),
    }
    images = {"image": list(range(len(truth)))}
    return pd.DataFrame(images | {name: values.tolist() for name, values in columns.items()})


class Perceptual(NamedTuple):
    """What one pass through AlexNet says of S samples and the truth of N images.

    Attributes:
        lpips: ``(S, N)``.
        lpips_energy: ``(N,)``, NaN for a single sample.
        features, true_features: for kernel distances, ``(S, N, 256)`` and ``(N, 256)``.
    """

    lpips: Tensor
    lpips_energy: Tensor
    features: Tensor
    true_features: Tensor


def perceptual(samples: Tensor, trial: Trial) -> Perceptual:
    """LPIPS and features, computed once for the same samples."""
    return kept(samples, _perceptual, trial)


def _perceptual(samples: Tensor, trial: Trial) -> Perceptual:
    """A few images at a time: LPIPS' features of large images are large."""
    few = max(1, CHUNK // (len(samples) + 1))
    images = torch.cat([samples, trial.truth.cpu().unsqueeze(0)])
    parts = [_perceptual_of(some) for some in images.split(few, 1)]
    return Perceptual(
        *(torch.cat(values, dim) for values, dim in zip(zip(*parts, strict=True), (1, 0, 1, 0), strict=True))
    )


def _perceptual_of(images: Tensor) -> Perceptual:
    """Of ``(S + 1, n, C, H, W)``, the truth last."""
    phi, last = perceptual_features(images)
    samples, truth = phi[:-1], phi[-1]
    energy = energy_score(samples, truth) if len(samples) > 1 else torch.full(truth.shape[:1], torch.nan)
    return Perceptual((samples - truth).square().sum(-1), energy, last[:-1], last[-1])


def _posterior_columns(samples: Tensor, trial: Trial) -> dict[str, Tensor]:
    """The columns that compare samples with each other, in hidden pixels."""
    truth, where = trial.truth.cpu(), _hidden(trial)
    unknown = torch.full((len(truth),), torch.nan)
    names = ("diversity", "energy", "squared_error", "variance", "coverage_pixels", "coverage_projections")
    columns: dict[str, Tensor] = dict.fromkeys(names, unknown)
    if len(samples) > 1:
        errors, spreads = error_and_spread(samples, truth, where)
        energy, diversity = energy_score(samples, truth, where), hidden_std(samples, (~where).float())
        columns |= {"diversity": diversity, "energy": energy, "squared_error": errors, "variance": spreads}
    if (len(samples) + 1) * (1 - LEVEL) >= 2 - 1e-9:
        pixels = [(samples[:, [n]], truth[[n]], (LEVEL,), where[[n]]) for n in range(len(truth))]
        columns["coverage_pixels"] = _shares(pixels)
        columns["coverage_projections"] = _shares([(*along, (LEVEL,)) for along in projections(samples, trial)])
    return columns


def _shares(images: list[tuple[Any, ...]]) -> Tensor:
    """The coverage of each image, ``(N,)``."""
    return torch.tensor([coverage(*arguments)["coverage"].item() for arguments in images], dtype=torch.float64)


def _hidden(trial: Trial) -> Tensor:
    """True where an image is hidden, everywhere without a mask, ``(N, 1, H, W)``."""
    shape = (len(trial.truth), 1, *trial.truth.shape[2:])
    return torch.ones(shape, dtype=torch.bool) if trial.mask is None else (trial.mask.cpu() == 0).expand(shape)


def projections(samples: Tensor, trial: Trial) -> list[tuple[Tensor, Tensor]]:
    """Samples ``(S, 1, P)`` and truth ``(1, P)`` of each image along smooth directions, which its number decides."""
    return kept(samples, _projections, trial)


def _projections(samples: Tensor, trial: Trial) -> list[tuple[Tensor, Tensor]]:
    truth, where = trial.truth.cpu(), _hidden(trial)

    def of(n: int) -> tuple[Tensor, Tensor]:
        seed = child_seed(trial.start + n, DIRECTIONS)
        return smooth_projections(samples[:, [n]], truth[[n]], where[[n]], seed=seed)

    return [of(n) for n in range(len(truth))]


def rank_counts(samples: Tensor, trial: Trial) -> Tensor:
    """How many of an image's projections have 0 … S samples below the truth, ``(N, S + 1)``."""
    with seeded(trial.start):  # of ties
        ranks = [rank_statistics(truth, along).flatten() for along, truth in projections(samples, trial)]
    return torch.stack([each.bincount(minlength=len(samples) + 1) for each in ranks])


def ssim(samples: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity ``(S, N)`` of ``(S, N, C, H, W)`` and ``(N, C, H, W)``, windows as in Wang et al. 2004.

    Images are shifted to [0, 2], which gives the value of images in [0, 1]: the term of luminance, (2 mu nu + c) /
    (mu^2 + nu^2 + c) of the windows' means, is made for intensities that start at zero.
    """
    from skimage.metrics import structural_similarity

    def one(x: Tensor, y: Tensor) -> float:
        pair = (x.numpy().astype(np.float64) + 1, y.numpy().astype(np.float64) + 1)
        value: Any = structural_similarity(
            *pair, data_range=2.0, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        return float(value)

    return torch.tensor([[one(x, y) for x, y in zip(images, truth, strict=True)] for images in samples])
