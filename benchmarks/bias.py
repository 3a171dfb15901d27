"""How far each baseline is from the exact posterior of a Gaussian problem, with its authors' defaults.

    python -m benchmarks.bias   # prints the table of docs/bias_table.md

The prior has one channel of 4 × 4 correlated pixels, so that the hidden half depends on the observed one; the noise of
y is 0.1. Standard deviations are near 0.3, so that clamping to [-1, 1] does not matter. The methods that need a latent
prior see the same problem through an orthogonal codec: isotropic noise is the same in every rotation of the pixels, so
the exact denoiser of the latents is that of the pixels, rotated, and the posterior of the image is unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import takewhile
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.baselines import BaselineResult
from pyro_vipaint.bench import METHODS
from pyro_vipaint.bench.methods import Baseline
from pyro_vipaint.models import DiffusionPrior, GaussianPrior
from pyro_vipaint.models.priors.schedules import Schedule

TABLE = Path(__file__).parent.parent / "docs" / "bias_table.md"
HEAD = "| method | shift, observed | shift, hidden | spread, observed | spread, hidden |"
SIDE, SIGMA, SAMPLES = 4, 0.1, 1000

BASELINES = {name: method for name, method in METHODS.items() if isinstance(method, Baseline)}
OTHER_SETTINGS = {
    "PSLD, omega 0.1, gamma 0.01": ("PSLD", {"omega": 0.1, "gamma": 0.01}),
    "RED-Diff, lr 0.01": ("RED-Diff", {"lr": 0.01}),
}
ROWS = {name: (name, {}) for name in BASELINES} | OTHER_SETTINGS


@dataclass(frozen=True, eq=False)
class GaussianTruth:
    """Prior, likelihood, one observation, and the exact moments of x given it."""

    prior: DiffusionPrior
    likelihood: vp.Gaussian
    y: Tensor
    mean: Tensor
    std: Tensor

    @property
    def observed(self) -> Tensor:
        """``(1, 4, 4)``, True where a pixel is seen."""
        return self.likelihood.operator.mask.bool()  # pyright: ignore[reportAttributeAccessIssue]


def gaussian_truth(schedule: Schedule | None = None) -> GaussianTruth:
    """A smooth prior (correlation 0.8 between neighbours), the left half observed."""
    place = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
    covariance = 0.09 * 0.8 ** torch.cdist(place, place, p=1).float()
    vector = GaussianPrior.full(torch.full((SIDE**2,), 0.1), covariance, schedule)
    prior = DiffusionPrior(vector.schedule, Flattened(vector), (1, SIDE, SIDE), sigma_data=vector.sigma_data)
    mask = torch.zeros(1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    generator = torch.Generator().manual_seed(0)
    x = 0.1 + torch.linalg.cholesky(covariance) @ torch.randn(SIDE**2, generator=generator)
    y = mask * (x.reshape(1, 1, SIDE, SIDE) + SIGMA * torch.randn(1, 1, SIDE, SIDE, generator=generator))
    vector_likelihood = vp.Gaussian(vp.Inpainting(mask.flatten()), SIGMA)
    exact = vector.posterior(vector_likelihood, y.flatten(1))
    shape = (1, SIDE, SIDE)
    likelihood = replace(vector_likelihood, operator=vp.Inpainting(mask))
    return GaussianTruth(prior, likelihood, y, exact.mean[0].reshape(shape), exact.stddev[0].reshape(shape))


def latent_truth(schedule: Schedule | None = None) -> GaussianTruth:
    """:func:`gaussian_truth` with its prior moved to latents."""
    truth = gaussian_truth(schedule)
    noise = torch.randn(SIDE**2, SIDE**2, generator=torch.Generator().manual_seed(7))
    codec = Rotation(torch.linalg.qr(noise)[0])
    return replace(truth, prior=replace(truth.prior, denoiser=Rotated(truth.prior, codec), codec=codec))


@dataclass(frozen=True)
class Flattened:
    """The denoiser of a vector prior for images ``(1, 4, 4)``."""

    vector: GaussianPrior

    def __call__(self, z_t: Tensor, t: Tensor, **condition: object) -> Tensor:
        return self.vector.denoiser(z_t.flatten(-3), t).reshape(z_t.shape)


@dataclass(frozen=True, eq=False)
class Rotation:
    """A codec that is linear and orthogonal: latent = ``matrix`` · pixels, on flattened images."""

    matrix: Tensor

    def encode(self, x: Tensor) -> Tensor:
        return (x.flatten(-3) @ self.matrix.T).reshape(x.shape)

    def decode(self, z: Tensor) -> Tensor:
        return (z.flatten(-3) @ self.matrix).reshape(z.shape)

    def image_shape(self, event_shape: Sequence[int]) -> torch.Size:
        return torch.Size(event_shape)


@dataclass(frozen=True)
class Rotated:
    """The denoiser of a pixel prior for the latents of ``codec``."""

    pixels: DiffusionPrior
    codec: Rotation

    def __call__(self, z_t: Tensor, t: Tensor, **condition: object) -> Tensor:
        return self.codec.encode(self.pixels.denoiser(self.codec.decode(z_t), t))


@dataclass(frozen=True)
class Bias:
    """The bias of one method, over observed and over hidden pixels.

    Attributes:
        mean_observed, mean_hidden: root mean square of (sample mean - exact mean) / exact standard deviation.
        std_observed, std_hidden: mean of the sample standard deviation over the exact one.
    """

    mean_observed: float
    mean_hidden: float
    std_observed: float
    std_hidden: float


def truth_for(method: Baseline) -> GaussianTruth:
    """The problem in pixels, or in latents for a method that is not made for pixels."""
    return gaussian_truth() if method.pixels else latent_truth()


def measure_bias(truth: GaussianTruth, method: Callable[[GaussianTruth], BaselineResult]) -> Bias:
    """The bias of ``method(truth)``, whose samples are ``(S, 1, 1, 4, 4)``; Monte-Carlo error about 1 / sqrt(S)."""
    samples = method(truth).samples[:, 0]
    shift = ((samples.mean(0) - truth.mean) / truth.std).square()
    ratio = samples.std(0) / truth.std
    seen = truth.observed
    return Bias(
        float(shift[seen].mean().sqrt()), float(shift[~seen].mean().sqrt()),
        float(ratio[seen].mean()), float(ratio[~seen].mean()),
    )  # fmt: skip


def row(name: str) -> Bias:
    """The bias in one row of the table, of :data:`SAMPLES` draws."""
    of, options = ROWS[name]
    method = BASELINES[of]
    return measure_bias(
        truth_for(method),
        lambda truth: method.run(truth.prior, truth.likelihood, truth.y, SAMPLES, seed=0, **options),
    )


def table(biases: dict[str, Bias]) -> str:
    """The Markdown table."""
    lines = [HEAD, "|:--" + "|--:" * 4 + "|"]
    lines += ["| " + " | ".join([name, *(f"{v:.2f}" for v in astuple(bias))]) + " |" for name, bias in biases.items()]
    return "\n".join(lines)


def read_table(path: Path = TABLE) -> dict[str, Bias]:
    """The rows of the table that ships."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = takewhile(lambda line: line.startswith("|"), lines[lines.index(HEAD) + 2 :])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]
    return {name: Bias(*map(float, values)) for name, *values in cells}


if __name__ == "__main__":
    print(table({name: row(name) for name in track(ROWS, "Measuring")}))
