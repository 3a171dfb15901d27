"""What is measured of the samples of one cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vipaint.bench.problems import Problem
from pyro_vipaint.metrics import hidden_std, lpips_distance, observed_error, psnr
from pyro_vipaint.models.measurements.operators import apply

RANGE = 2.0  # of images in [-1, 1]
SCORES_VERSION = 2  # to be raised when one of them is defined anew: a folder keeps to one version


def score(samples: Tensor, problem: Problem) -> list[dict[str, Any]]:
    """A row an image, numbers alone; samples ``(S, N, C, H, W)`` in [-1, 1].

    - ``lpips``: mean over samples; ``lpips_best``: the smallest one.
    - ``psnr``: of each sample, mean over samples, in decibels with the range 2; ``ssim`` likewise.
    - ``observation_error``: mean absolute difference of A(sample) and y, where y is seen.
    - ``diversity``: standard deviation over samples, mean over hidden pixels (over all without a mask); NaN for a
      single sample.
    """
    truth = problem.truth.cpu()
    lpips = lpips_distance(samples, truth)
    columns = {
        "lpips": lpips.mean(0),
        "lpips_best": lpips.amin(0),
        "psnr": psnr(samples, truth).mean(0),
        "ssim": ssim(samples, truth).mean(0),
        "observation_error": _observation_error(samples, problem),
        "diversity": _diversity(samples, problem.mask),
    }
    return [{name: float(values[i]) for name, values in columns.items()} for i in range(len(truth))]


def ssim(samples: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity ``(S, N)`` of ``(S, N, C, H, W)`` and ``(N, C, H, W)``, windows as in Wang et al. 2004.

    Of images shifted to [0, 2], which has the value of images in [0, 1]: the term of luminance, (2 mu nu + c) / (mu^2 +
    nu^2 + c) of the windows' means, is made for intensities that start at zero.
    """
    from skimage.metrics import structural_similarity

    def one(x: Tensor, y: Tensor) -> float:
        pair = (x.numpy().astype(np.float64) + 1, y.numpy().astype(np.float64) + 1)
        value: Any = structural_similarity(
            *pair, data_range=RANGE, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        return float(value)

    return torch.tensor([[one(x, y) for x, y in zip(images, truth, strict=True)] for images in samples])


def _observation_error(samples: Tensor, problem: Problem) -> Tensor:
    """``(N,)``"""
    if problem.mask is not None:
        return observed_error(samples, problem.y.cpu(), problem.mask.cpu()).mean(0)
    predicted = apply(problem.operator, samples.to(problem.y.device))
    return (predicted - problem.y).abs().flatten(2).mean((0, 2)).cpu()


def _diversity(samples: Tensor, mask: Tensor | None) -> Tensor:
    """``(N,)``; NaN for a single sample."""
    if len(samples) == 1:
        return torch.full((samples.shape[1],), torch.nan)
    return hidden_std(samples, torch.zeros(1) if mask is None else mask.cpu())
