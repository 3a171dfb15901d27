"""The cost of Pyro and of the command line beside the network calls.

    python -m benchmarks.overhead

1. Wall time of an SVI step of VIPaint-4 (batch 4, 5 particles, fashion32) against the same objective written by hand
   in plain torch, the two interleaved in one run: ratio of medians, wanted at most 1.05.
2. Wall time of the whole ``vipaint demo`` (both phases, measuring and writing) against that of its network calls alone,
   repeated at the same batch sizes: ratio of medians of five pairs, wanted at most 1.15.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.demo import held_out_images
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, load_prior
from pyro_vipaint.models.measurements.masks import rotated_window
from pyro_vipaint.models.priors.kernels import bridge_coefficients
from pyro_vipaint.models.priors.schedules import as_time
from pyro_vipaint.settings import default_settings

IMAGES, PARTICLES = 4, 5


def build_model() -> tuple[DiffusionModel, Tensor]:
    """VIPaint-4 on four held-out images."""
    prior, settings = load_prior("fashion32"), default_settings(4, preset="pictures")
    images, labels = held_out_images()
    images, masks = images[:IMAGES], rotated_window(32, IMAGES, seed=0)
    times = vp.keypoints(prior, noise_levels=[level * prior.sigma_data for level in settings.noise_levels])
    likelihood = vp.Laplace(vp.Inpainting(masks), settings.scale)
    return DiffusionModel(prior, likelihood, times, class_labels=labels[:IMAGES]), images * masks


def pyro_step(model: DiffusionModel, y: Tensor) -> Callable[[], None]:
    """One step as :func:`pyro_vipaint.fit` takes it."""
    guide = HierarchicalGuide(model, vp.initial_latent(model.prior, model.likelihood, y))
    elbo = vp.BetaELBO(1.0, PARTICLES)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.1, betas=(0.9, 0.99))

    def step() -> None:
        loss = elbo.differentiable_loss(model, guide, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


class PlainTorch:
    """The objective of VIPaint-K without Pyro: the same terms, parameters and network calls, written out."""

    def __init__(self, model: DiffusionModel, y: Tensor) -> None:
        self.model, self.prior, self.y = model, model.prior, y
        self.labels = model.condition["class_labels"].repeat(PARTICLES)
        likelihood: Any = model.likelihood
        self.mask, self.scale = likelihood.operator.mask, likelihood.scale
        start = vp.initial_latent(model.prior, model.likelihood, y)
        self.mu = [start.clone().requires_grad_() for _ in model.levels]
        self.log_tau = [torch.full_like(start, math.log(level.sigma)).requires_grad_() for level in model.levels]
        self.gamma = [torch.full_like(start, 4.0).requires_grad_() for _ in model.levels[1:]]
        self.optimizer = torch.optim.Adam([*self.mu, *self.log_tau, *self.gamma], lr=0.1, betas=(0.9, 0.99))
        self.marginal = model.prior.marginal(model.keypoints[0])
        self.tables = self.marginal.tables

    def denoise(self, z: Tensor, t: Tensor | float) -> Tensor:
        """The network on all particles and images at once."""
        flat = z.reshape(-1, *z.shape[2:])
        times = torch.as_tensor(t, dtype=torch.float64).expand(z.shape[:2]).reshape(-1)
        return self.prior.denoiser(flat, times, class_labels=self.labels).reshape(z.shape)

    def loss(self) -> Tensor:
        """The negative bound."""
        levels = self.model.levels
        tau = self.log_tau[0].exp()
        z = levels[0].alpha * self.mu[0] + tau * torch.randn(PARTICLES, *self.y.shape)
        entropy = (0.5 * math.log(2 * math.pi * math.e) + self.log_tau[0]).sum()
        total = self.top(z).sum() / PARTICLES - entropy
        for i, level in enumerate(levels[1:]):
            a, b, variance = (float(v) for v in bridge_coefficients(self.prior.schedule, levels[i].t, level.t))
            mean = a * z + b * self.denoise(z, levels[i].t)
            gamma, tau = self.gamma[i].sigmoid(), self.log_tau[i + 1].exp()
            q_mean = gamma * mean + (1 - gamma) * level.alpha * self.mu[i + 1]
            ratio = tau**2 / variance
            kl = 0.5 * (ratio + (q_mean - mean) ** 2 / variance - 1 - ratio.log())
            total = total + kl.sum() / PARTICLES
            z = q_mean + tau * torch.randn_like(q_mean)
        x = self.denoise(z, levels[-1].t)
        error = ((x - self.y).abs() / self.scale + math.log(2 * self.scale)) * self.mask
        return total + error.sum() / PARTICLES

    def top(self, z: Tensor) -> Tensor:
        """Minus the bound on log p(z_Te), by one call."""
        a, s, weights = self.tables
        alpha_e, sigma_e = (float(v) for v in self.prior.schedule(as_time(self.model.keypoints[0])))
        position = (torch.rand(z.shape[:2]).argsort(0) + torch.rand(z.shape[:2], dtype=torch.float64)) / len(z)
        cumulative = weights.cumsum(0)
        j = torch.searchsorted(cumulative, position * cumulative[-1]).clamp(max=len(weights) - 1)
        a_j, s_j = (table[j].float()[..., None, None, None] for table in (a, s))
        noise = torch.randn_like(z)
        x_hat = self.denoise(a_j * z + s_j * noise, self.marginal.grid[1:][j])
        inner = (z - alpha_e * x_hat) ** 2 + 2 * sigma_e**2 * alpha_e * a_j / s_j * noise * x_hat
        final = float(a[-1] / self.prior.schedule(as_time(1.0))[1]) ** 2
        total = 0.5 * float(weights.sum()) * inner.sum((2, 3, 4)) + 0.5 * final * z.square().sum((2, 3, 4))
        return total + z[0, 0].numel() / 2 * math.log(2 * math.pi * sigma_e**2)

    def __call__(self) -> None:
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def svi_ratio(repeats: int) -> tuple[float, float]:
    """Median seconds of a Pyro step and of a plain one, interleaved."""
    model, y = build_model()
    ours, plain = pyro_step(model, y), PlainTorch(model, y)
    ours()
    plain()
    times = [(seconds(ours), seconds(plain)) for _ in range(repeats)]
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


class RecordingDenoiser:
    """A denoiser that records its calls, so that they can be repeated."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.calls = denoiser, []

    def __call__(self, z_t: Tensor, t: Tensor, **condition: Any) -> Tensor:
        self.calls.append((z_t.detach(), t, condition, torch.is_grad_enabled()))
        return self.denoiser(z_t, t, **condition)

    def replay(self) -> None:
        """Repeats all calls, with the gradient to their input where it was taken."""
        for z_t, t, condition, with_gradient in self.calls:
            z_t = z_t.requires_grad_(with_gradient)
            with torch.set_grad_enabled(with_gradient):
                x_hat = self.denoiser(z_t, t, **condition)
            if with_gradient:
                torch.autograd.grad(x_hat.sum(), z_t)


def demo_ratio(repeats: int = 5) -> tuple[float, float]:
    """Median seconds of the demo and of its network calls alone, interleaved; the first pair has all lazy imports."""
    pairs = [demo_seconds() for _ in range(repeats)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def demo_seconds() -> tuple[float, float]:
    """Seconds of one run of the demo, and of its network calls repeated."""
    from pyro_vipaint.cli.main import app

    prior = load_prior("fashion32")
    recorder = RecordingDenoiser(prior.denoiser)
    recorded = replace(prior, denoiser=recorder)
    with tempfile.TemporaryDirectory() as folder, patch("pyro_vipaint.checks.load_prior", lambda *_, **__: recorded):
        arguments = ["demo", "--device", "cpu", "--out", str(Path(folder) / "out")]
        whole = seconds(lambda: app(arguments, standalone_mode=False))
    return whole, seconds(recorder.replay)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", choices=["svi", "demo"])
    arguments = parser.parse_args()
    console = Console(width=120, highlight=False)
    if arguments.only != "demo":
        ours, plain = svi_ratio(arguments.repeats)
        console.print(f"SVI step: {ours:.3f} s, by hand {plain:.3f} s, ratio {ours / plain:.3f} (wanted <= 1.05)")
    if arguments.only != "svi":
        whole, bare = demo_ratio()
        console.print(f"demo: {whole:.1f} s, its network calls {bare:.1f} s, ratio {whole / bare:.3f} (wanted <= 1.15)")
