"""What is measured of the samples of one cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_vipaint.bench.trials import Trial
from pyro_vipaint.metrics import hidden_std, lpips_distance, observed_error, psnr
from pyro_vipaint.models.measurements.operators import apply

SCORES_VERSION = 2  # to be raised when a score is redefined; a folder keeps to one version

Score = Callable[[Tensor, Trial], pd.DataFrame]
"""``(samples (S, N, C, H, W) in [-1, 1], trial) -> table``: numbers, names and truth values. The column ``image``
counts from 0; a table with several rows per image has a column that tells them apart."""


def image_scores(samples: Tensor, trial: Trial) -> pd.DataFrame:
    """One row per image.

    - ``lpips``: mean over samples; ``lpips_best``: the smallest one.
    - ``psnr``: of each sample, mean over samples, in decibels with the range 2; ``ssim`` likewise.
    - ``observation_error``: mean absolute difference of A(sample) and y, where y is observed.
    - ``diversity``: standard deviation over samples, mean over hidden pixels (over all without a mask); NaN for a
      single sample.
    """
    truth = trial.truth.cpu()
    lpips, mask = lpips_distance(samples, truth), trial.mask
    if mask is None:
        error = (apply(trial.operator, samples.to(trial.y.device)) - trial.y).abs().flatten(2).mean((0, 2)).cpu()
    else:
        error = observed_error(samples, trial.y.cpu(), mask.cpu()).mean(0)
    hidden = torch.zeros(1) if mask is None else mask.cpu()
    columns = {
        "lpips": lpips.mean(0),
        "lpips_best": lpips.amin(0),
        "psnr": psnr(samples, truth).mean(0),
        "ssim": ssim(samples, truth).mean(0),
        "observation_error": error,
        "diversity": hidden_std(samples, hidden) if len(samples) > 1 else torch.full((len(truth),), torch.nan),
    }
    images = {"image": list(range(len(truth)))}
    return pd.DataFrame(images | {name: values.tolist() for name, values in columns.items()})


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
