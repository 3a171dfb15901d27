"""Every kind of schedule and of prior: the lists over which tests/priors/test_laws.py runs. Add a new one here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vipaint.models import DiffusionPrior, EmpiricalPrior, GaussianMixturePrior, GaussianPrior
from pyro_vipaint.models.priors.classifier_free import GuidedNetwork
from pyro_vipaint.models.priors.denoisers import (
    EDMDenoiser,
    EpsilonDenoiser,
    FlowDenoiser,
    NetworkDenoiser,
    SampleDenoiser,
    VDenoiser,
    integer_timestep,
)
from pyro_vipaint.models.priors.schedules import (
    EDM,
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    ScaledLinearVP,
    Schedule,
    TableVP,
)

TABLE = TableVP(torch.cumprod(1 - torch.linspace(1e-3, 0.2, 100, dtype=torch.float64), 0).tolist())
PRESERVING: list[Schedule] = [LinearVP(), LinearVP(0.2, 12.0), ScaledLinearVP(), CosineVP(), TABLE]
EXPLODING: list[Schedule] = [EDM(), EDM(0.01, 20.0, 3.0), GeometricVE()]
SCHEDULES: list[Schedule] = [*PRESERVING, *EXPLODING, RectifiedFlow(), RectifiedFlow(3.0)]
ONE_OF_EACH: list[Schedule] = [LinearVP(), CosineVP(), TABLE, EDM(), RectifiedFlow(3.0)]

DEFAULT = EDM()
D, M = 5, 3
SHAPE, IMAGES = (1, 2, 3), 7
LABELS = torch.tensor([4, 0, 4, 1, 0, 4, 1])
NETWORK_SHAPE = (2, 4, 4)

Build = Callable[..., Any]


@dataclass(frozen=True)
class Kind:
    """One kind of prior.

    Attributes:
        build: ``(schedule, dtype)`` -> the prior; the same numbers on every call, rounded to float32.
        exact: marginal, evidence and posterior are closed forms.
        portable: the denoiser is the same function of z / alpha and sigma / alpha on every schedule.
        condition: of two images.
        passes: how many images the network sees for each one.
        rounding: relative error of the denoiser in float32.
    """

    build: Build
    exact: bool = False
    portable: bool = False
    condition: dict[str, Any] = field(default_factory=dict)
    passes: int = 1
    rounding: float = 1e-3

    def of(self, image: int) -> dict[str, Any]:
        """The condition of one of the two images."""
        return {k: v[image : image + 1] if isinstance(v, Tensor) else v for k, v in self.condition.items()}


def _numbers(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def covariances(normal: Callable[..., Tensor], *leading: int) -> Tensor:
    """Correlated covariances ``(*leading, D, D)`` with condition numbers below a hundred."""
    factor = normal(*leading, D, D)
    return factor @ factor.mT / D + 0.1 * torch.eye(D).to(factor)


def diagonal_gaussian(schedule: Schedule = DEFAULT, dtype: torch.dtype = torch.float64) -> GaussianPrior:
    normal = _numbers(1)
    return GaussianPrior.diagonal(normal(D).to(dtype), 0.3 + normal(D).abs().to(dtype), schedule)


def full_gaussian(schedule: Schedule = DEFAULT, dtype: torch.dtype = torch.float64) -> GaussianPrior:
    normal = _numbers(2)
    return GaussianPrior.full(normal(D).to(dtype), covariances(normal).to(dtype), schedule)


def mixture(kind: str) -> Build:
    """Three components: ``one std``, ``std each``, ``full`` or ``full for all``."""

    def build(schedule: Schedule = DEFAULT, dtype: torch.dtype = torch.float64) -> GaussianMixturePrior:
        normal = _numbers(3)
        weights, means = (0.2 + normal(M).abs()).to(dtype), 2 * normal(M, D).to(dtype)
        if kind.startswith("full"):
            spread = covariances(normal) if kind == "full for all" else covariances(normal, M)
            return GaussianMixturePrior.full(weights, means, spread.to(dtype), schedule)
        std = 0.7 if kind == "one std" else 0.3 + normal(M, D).abs().to(dtype)
        return GaussianMixturePrior.diagonal(weights, means, std, schedule)

    return build


def empirical(
    schedule: Schedule = DEFAULT, dtype: torch.dtype = torch.float64, labels: Tensor | None = LABELS, **options: Any
) -> EmpiricalPrior:
    """Seven images of 1 × 2 × 3 pixels with unequal weights, in batches of three."""
    normal = _numbers(4)
    images, weights = normal(IMAGES, *SHAPE).tanh().to(dtype), 0.2 + normal(IMAGES).abs().double()
    return EmpiricalPrior(images, weights, labels=labels, schedule=schedule, **{"batch_size": 3, **options})


class SmallNetwork(nn.Module):
    """A convolution whose output depends on the image, on its time and on its label, never on other images."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 2, 3, padding=1).double()
        self.dropout = nn.Dropout(0.5)

    def forward(self, z: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        shift = timestep if class_labels is None else timestep + class_labels
        return self.dropout(torch.tanh(self.convolution(z) + shift.reshape(-1, 1, 1, 1)))


def network(adapter: type[NetworkDenoiser], guided: bool = False, **options: Any) -> Build:
    """A small network in one parametrisation, with or without classifier-free guidance."""

    def build(schedule: Schedule = DEFAULT, dtype: torch.dtype = torch.float64) -> DiffusionPrior:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            module: Any = SmallNetwork().to(dtype).requires_grad_(False).eval()
        function = GuidedNetwork(module, {"class_labels": torch.tensor(2)}) if guided else module
        return DiffusionPrior(schedule, adapter(function, schedule, **options), NETWORK_SHAPE)

    return build


LABELLED = {"class_labels": torch.tensor([4, 1])}
PRIORS: dict[str, Kind] = {
    "gaussian, diagonal": Kind(diagonal_gaussian, exact=True, portable=True),
    "gaussian, full": Kind(full_gaussian, exact=True, portable=True),
    **{f"mixture, {name}": Kind(mixture(name), exact=True, portable=True) for name in ("std each", "full")},
    "mixture, full for all": Kind(mixture("full for all"), exact=True, portable=True),
    "empirical": Kind(empirical, exact=True, portable=True, rounding=1e-5),
    "empirical, classes": Kind(empirical, exact=True, portable=True, condition=LABELLED, rounding=1e-5),
    "epsilon": Kind(network(EpsilonDenoiser, timestep=integer_timestep(1000)), condition=LABELLED),
    "v": Kind(network(VDenoiser)),
    "x_0": Kind(network(SampleDenoiser)),
    "velocity": Kind(network(FlowDenoiser)),
    "EDM": Kind(network(EDMDenoiser, sigma_data=0.6), portable=True, condition=LABELLED),
    "guided": Kind(network(EpsilonDenoiser, guided=True), condition={**LABELLED, "guidance_scale": 2.5}, passes=2),
}
EXACT = {name: kind for name, kind in PRIORS.items() if kind.exact}
