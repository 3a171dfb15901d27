r"""Whether a prior and pictures go together, by the error of its denoiser against its schedule.

A picture x is noised to a level u = sigma/alpha and denoised. The error is compared with that of the best scalar gain,
which knows nothing of pictures but their variance s^2,

.. math:: e(u) = \mathrm{rms}(\hat x(z_t) - x), \qquad e_{lin}(u) = \frac{s\, u}{\sqrt{s^2 + u^2}},

and which no sound prior of such pictures exceeds. What is wrong is found by trying: the pictures in another range, with
other channels or another scale, at the same ratio u / s; the output of the network read in another parametrisation,

.. math:: f = (z - \alpha \hat x) / \sigma \;\text{(epsilon)}, \qquad \hat x' = (\alpha z - \sigma f) /
          (\alpha^2 + \sigma^2) \;\text{(v)}, \;\dots

and the network asked at another noise level than that of z. If one of these denoises better, it is named.
:func:`unfamiliar` does the least of it, one network call per image, on the visible pixels of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vipaint._repr import LONGEST, Word, brief
from pyro_vipaint._torch import NOISE, SEEDS, child_seed, device_of
from pyro_vipaint.checks import check_image, check_label
from pyro_vipaint.checks import check_prior as loaded_prior
from pyro_vipaint.errors import InputError, warn_once, was_said, whole
from pyro_vipaint.models.measurements.problem import ON_0_1
from pyro_vipaint.models.priors.denoisers import (
    EpsilonDenoiser,
    FlowDenoiser,
    SampleDenoiser,
    VDenoiser,
)
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time, time_of

if TYPE_CHECKING:
    import pandas as pd

RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)  # noise levels in units of the standard deviation of the pictures
TRIED = (0.5, 1.0, 2.0)  # those of them at which other readings are tried
CLOCKS = (0.35, 0.7, 1.4, 2.8)  # times the noise level, at which a network is asked too
SCALES = (0.35, 2.8)  # times the clean latents
WORSE = 1.05  # times the error of the best scalar gain that a sound prior may have
BETTER = 1.1  # times that an error is lower where another reading is right; of sound priors it is at most 1.04
SPREAD = 2.0  # factor by which the standard deviation of the latents may miss sigma_data
MOST = 64  # pictures that are used
PARAMETRISATIONS: dict[str, Callable[..., tuple[float, float]]] = {  # x = a z - b f: (a, b) from (alpha, sigma)
    "epsilon": lambda alpha, sigma: (1 / alpha, sigma / alpha),
    "v": lambda alpha, sigma: (alpha / (alpha**2 + sigma**2), sigma / (alpha**2 + sigma**2)),
    "x_0": lambda alpha, sigma: (0.0, -1.0),
    "flow": lambda alpha, sigma: (1 / (alpha + sigma), sigma / (alpha + sigma)),
}
DENOISERS = {EpsilonDenoiser: "epsilon", VDenoiser: "v", SampleDenoiser: "x_0", FlowDenoiser: "flow"}


@dataclass(frozen=True, eq=False)
class PriorCheck:
    """The result of :func:`check_prior`.

    Attributes:
        prior: name of the prior.
        images: number of pictures.
        table: a DataFrame with one row per noise level: ``noise_level`` (sigma/alpha), ``t``, ``error`` (rms of the
            prediction, in the units of clean latents), ``linear`` (that of the best scalar gain), ``ratio`` of the two.
        alternatives: the error of the prior over that of each other reading that was tried, the mean over levels of
            the logarithms, by description; above 1 the other reading is better.
        faults: one line for each fault.
    """

    prior: str
    images: int
    table: pd.DataFrame
    alternatives: Mapping[str, float]
    faults: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    @property
    def verdict(self) -> str:
        """One line."""
        if self.faults:
            return f"{self.prior or 'The prior'} does not fit these {self.images} pictures: {' '.join(self.faults)}"
        worst, name = float(self.table["ratio"].max()), self.prior or "The prior"
        return (
            f"{name} fits these {self.images} pictures: its error is at most {worst:.2f} times that of the best scalar "
            "gain, and no other reading is better."
        )

    def __repr__(self) -> str:
        return brief(Word(f"<PriorCheck: {self.verdict}>"), LONGEST)


@torch.no_grad()
def check_prior(
    prior: str | Path | DiffusionPrior, images: Any, *, label: Any = None, seed: int = 0, device: str = "cpu"
) -> PriorCheck:
    """Denoises pictures at five noise levels, and looks for what is wrong with the prior or with them.

    It finds a wrong parametrisation, a wrong schedule, a wrong scale of the latents, pictures on [0, 1] or in another
    range, inverted ones, and swapped channels; in this order of the tests, the reading that denoises best is named. The
    thresholds are those of this module, which the shipped priors pass with the pictures that were held out from them.

    Args:
        prior: a name, a folder, a hub id, or a prior.
        images: ``(N, C, H, W)`` floats in [-1, 1] of the kind that the prior was trained on, 8 or more; the first 64
            are used.
        label: their classes, as for :func:`pyro_vipaint.restore`, if the prior should be asked with them.
        seed: of the noise.
        device: where a prior that is loaded here computes.

    Returns:
        The table and the verdict; at most 35 network calls on as many images as there are pictures.

    Raises:
        InputError: the pictures do not have the shape of the prior, or there are none.
    """
    loaded = loaded_prior(prior, torch.device(device) if isinstance(prior, (str, Path)) else torch.device("cpu"))
    place = device_of(loaded) or torch.device("cpu")
    x = check_image(images, loaded)[:MOST].to(place)
    condition = {} if label is None else {"class_labels": check_label(label, len(x), loaded).to(place)}
    z = loaded.encode(x)
    trial = _Trial(loaded, whole("seed", seed, *SEEDS), condition)
    base = trial.errors(z)
    alternatives = dict(trial.readings(z, base)) | dict(trial.pictures(x, z))
    ours = base.error[base.tried].log()
    gains = {what: float((ours - error.log()).mean().exp()) for what, error in alternatives.items()}
    return PriorCheck(loaded.name, len(x), base.table(), gains, tuple(_faults(loaded, x, z, base, gains)))


@torch.no_grad()
def familiar_error(
    prior: DiffusionPrior, images: Tensor, mask: Tensor | None = None, *, seed: int = 0, **condition: Any
) -> Tensor:
    """The rms error of the denoiser at the noise level ``sigma_data``, over the visible pixels of each picture.

    Args:
        prior: the prior.
        images: ``(N, C, H, W)`` in [-1, 1], whole: with a hole, completed by a sample.
        mask: weights in [0, 1], 1 = observed, ``(N, 1, H, W)`` or one that broadcasts, also with more dimensions in
            front; all pixels by default.
        seed: of the noise.
        condition: of the denoiser.

    Returns:
        ``(N,)``, or the leading shape of the masks, in the units of images; one network call on N images.
    """
    x = images.to(device_of(prior) or images.device)
    low, high = prior.noise_range
    level = min(max(prior.sigma_data, low), high)
    x_hat = prior.decode(_Trial(prior, seed, condition).predicted(prior.encode(x), level))
    square, weight = torch.broadcast_tensors((x_hat - x).square(), x.new_ones(()) if mask is None else mask.to(x))
    return ((square * weight).flatten(-3).sum(-1) / weight.flatten(-3).sum(-1)).sqrt()


def unfamiliar(
    prior: DiffusionPrior, images: Tensor, mask: Tensor | None = None, *, seed: int = 0, **condition: Any
) -> Tensor:
    """Whether the prior was not made for pictures like these, ``(N,)``: :func:`familiar_error` above the prior's own.

    The limit ``prior.familiar_error`` of a shipped prior is the 99.5 % quantile over pictures that were held out from
    its training, under that of the masks of the paper which makes it largest (docs/priors.md has false and true
    alarms). Arguments as there; one network call on N images.

    Raises:
        InputError: the limit of the prior is not known.
    """
    if prior.familiar_error is None:
        todo = "replace(prior, familiar_error=…), from the errors of held-out pictures"
        raise InputError(f"The prior {prior.name} states no familiar_error: measure it, {todo}.")
    return familiar_error(prior, images, mask, seed=seed, **condition) > prior.familiar_error


def warn_of_unfamiliar(prior: DiffusionPrior, images: Tensor, mask: Tensor) -> None:
    """One line of warning, where the limit is known; none after that of images on [0, 1], which says more.

    Without labels: a wrong one is no fault of the picture, and the limit was measured without.
    """
    if prior.familiar_error is None or was_said(ON_0_1):
        return
    found = unfamiliar(prior, images, mask)
    if found.any():
        which = "this one" if len(found) == 1 else f"{int(found.sum())} of these {len(found)}"
        warn_once(
            f"The prior {prior.name} was not made for pictures like {which}: its error on the visible pixels is above "
            "that of held-out pictures of its kind, so that the samples may mean little."
        )


@dataclass(frozen=True)
class _Errors:
    """By level: noise, time, predictions, and errors over the standard deviation of the clean latents."""

    levels: Tensor
    times: Tensor
    error: Tensor
    linear: Tensor
    std: float
    predictions: list[Tensor]

    @property
    def tried(self) -> list[int]:
        """Where other readings are tried."""
        return [RATIOS.index(ratio) for ratio in TRIED]

    def table(self) -> pd.DataFrame:
        import pandas as pd

        columns = {"noise_level": self.levels, "t": self.times, "error": self.std * self.error}
        columns |= {"linear": self.std * self.linear, "ratio": self.error / self.linear}
        return pd.DataFrame({name: value.tolist() for name, value in columns.items()})


@dataclass(frozen=True, eq=False)
class _Trial:
    """The denoiser of a prior on noised latents; the noise is the same for every reading."""

    prior: DiffusionPrior
    seed: int
    condition: Mapping[str, Any]

    def errors(self, z: Tensor, ratios: Sequence[float] = RATIOS) -> _Errors:
        """Those of the prior as it stands."""
        levels = self._levels(z, ratios)
        predictions = [self.predicted(z, u) for u in levels]
        error = torch.stack([self._rms(x_hat, z) for x_hat in predictions])
        u = torch.tensor(levels, dtype=torch.float64)
        ratio = u / self._std(z)
        times = torch.tensor([time_of(self.prior.schedule, level) for level in levels], dtype=torch.float64)
        return _Errors(u, times, error, ratio / (1 + ratio**2).sqrt(), self._std(z), predictions)

    def readings(self, z: Tensor, base: _Errors) -> Iterator[tuple[str, Tensor]]:
        """The errors of the same network in other parametrisations, and of one that is asked at other levels."""
        claimed = next((name for kind, name in DENOISERS.items() if isinstance(self.prior.denoiser, kind)), None)
        levels, made = self._levels(z, TRIED), [base.predictions[i] for i in base.tried]
        for true in PARAMETRISATIONS if claimed else ():
            if true != claimed:
                read = [self._read(z, u, x_hat, claimed or "", true) for u, x_hat in zip(levels, made, strict=True)]
                yield f"the network predicts {true}, not {claimed}", torch.stack([self._rms(x, z) for x in read])
        best = [
            min([base.error[i], *self._at_clocks(z, u, claimed or "x_0")], key=float)
            for i, u in zip(base.tried, levels, strict=True)
        ]
        yield "the network was trained with another schedule", torch.stack(best)

    def pictures(self, x: Tensor, z: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The errors for other pictures or latents, each over its own standard deviation."""
        others = {
            "the pictures are on [0, 1]: 2 * x - 1 puts them on [-1, 1]": 2 * x - 1,
            "the prior was trained on [0, 1], not on [-1, 1]": (x + 1) / 2,
            "the pictures are inverted": -x,
        }
        if x.shape[1] == 3:
            others["red and blue are swapped, x.flip(1)"] = x.flip(1)
        for what, image in others.items():
            yield what, self.errors(self.prior.encode(image), TRIED).error
        for scale in SCALES:
            yield (
                f"the clean latents have the wrong scale: {scale:g} times is better",
                self.errors(scale * z, TRIED).error,
            )

    def _levels(self, z: Tensor, ratios: Sequence[float]) -> list[float]:
        low, high = self.prior.noise_range
        return [min(max(ratio * self._std(z), low), high) for ratio in ratios]

    def _at_clocks(self, z: Tensor, level: float, claimed: str) -> Iterator[Tensor]:
        low, high = self.prior.noise_range
        for clock in CLOCKS:
            if low <= clock * level <= high:
                yield self._rms(self._asked(z, level, clock * level, claimed), z)

    def predicted(self, z: Tensor, level: float) -> Tensor:
        """The prediction at a noise level."""
        return self.prior.denoise(self._noised(z, level), self._at(level)[2], **self.condition)

    def _noised(self, z: Tensor, level: float) -> Tensor:
        alpha, sigma, _ = self._at(level)
        generator = torch.Generator().manual_seed(child_seed(self.seed, NOISE))  # pictures may be draws of the seed
        return alpha * z + sigma * torch.randn(z.shape, generator=generator).to(z)

    def _read(self, z: Tensor, level: float, x_hat: Tensor, claimed: str, true: str) -> Tensor:
        """The prediction from the output of the same network in its ``true`` parametrisation."""
        (alpha, sigma, _), z_t = self._at(level), self._noised(z, level)
        a, b = PARAMETRISATIONS[claimed](alpha, sigma)
        output = (a * z_t - x_hat) / b
        a, b = PARAMETRISATIONS[true](alpha, sigma)
        return a * z_t - b * output

    def _asked(self, z: Tensor, level: float, asked: float, claimed: str) -> Tensor:
        """The prediction at a noise level of a network that is ``asked`` at another one.

        A network that predicts x sees the same z, another one the same variance-preserving coordinates.
        """
        (alpha, sigma, _), (alpha_asked, sigma_asked, t) = self._at(level), self._at(asked)
        scale = 1.0 if claimed == "x_0" else math.hypot(alpha_asked, sigma_asked) / math.hypot(alpha, sigma)
        z_t = self._noised(z, level)
        x_hat = self.prior.denoise(scale * z_t, t, **self.condition)
        a, b = PARAMETRISATIONS[claimed](alpha_asked, sigma_asked)
        output = (a * scale * z_t - x_hat) / b
        a, b = PARAMETRISATIONS[claimed](alpha, sigma)
        return a * z_t - b * output

    def _at(self, level: float) -> tuple[float, float, float]:
        t = time_of(self.prior.schedule, level)
        alpha, sigma = (float(value) for value in self.prior.schedule(as_time(t)))
        return alpha, sigma, t

    def _rms(self, x_hat: Tensor, z: Tensor) -> Tensor:
        """The error over the standard deviation of ``z``, float64; infinite where it is not finite."""
        error = (x_hat.double() - z.double()).square().mean().sqrt().cpu() / self._std(z)
        return error if error.isfinite() else torch.tensor(math.inf, dtype=torch.float64)

    def _std(self, z: Tensor) -> float:
        return max(float(z.double().std()), 1e-6)


def _faults(prior: DiffusionPrior, x: Tensor, z: Tensor, base: _Errors, gains: Mapping[str, float]) -> Iterator[str]:
    """One line for each fault; of the other readings the best alone."""
    low, high = (float(value) for value in x.aminmax())
    if not -1.05 <= low <= high <= 1.05:
        yield f"the pictures range from {low:g} to {high:g}, not within [-1, 1]."
    best = max(gains, key=lambda what: gains[what])
    if gains[best] > BETTER:
        yield f"{best} (its error is {gains[best]:.2f} times lower)."
    ratio, worst = (base.error / base.linear).max(0)
    if ratio > WORSE:
        level = float(base.levels[worst])
        yield f"at noise level {level:.3g} its error is {float(ratio):.2f} times that of the best scalar gain."
    spread = float(z.double().std()) / prior.sigma_data
    if not 1 / SPREAD <= spread <= SPREAD:
        yield f"the clean latents have a standard deviation of {spread:.2g} times sigma_data = {prior.sigma_data:g}."
