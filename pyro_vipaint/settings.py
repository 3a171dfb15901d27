"""The numbers of one VIPaint run, and the defaults for K levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from pyro_vipaint.errors import InputError
from pyro_vipaint.metrics import takes_lpips
from pyro_vipaint.models.measurements.likelihoods import Laplace, Perceptual
from pyro_vipaint.models.measurements.linalg import operator_norm
from pyro_vipaint.models.measurements.operators import Inpainting, Operator, has_one_per_image
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import keypoints
from pyro_vipaint.refinement import DEFAULT_STEPS, DEFAULT_ZETA, DEFAULT_ZETA_DECAY
from pyro_vipaint.svi import DEFAULT_LR

START, STOP = 3.0, 0.9  # noise levels of T_e and T_s, sigma/alpha over the data's standard deviation
LATENT_START, LATENT_STOP = 12.0, 3.0  # of latent priors
LATENT_FIT_CALLS = 120  # network calls of their fit, at least one step of MAX_LEVELS
KINDS = ("mu", "tau", "gamma")  # the parameters of HierarchicalGuide
FIT_SHARE = 0.4  # of a budget
RESTORATION_SCALE, RESTORATION_STEPS, RESTORATION_REFINE_STEPS, RESTORATION_ZETA = 0.05, 15, 34, 2.0  # docs/tuning.md
MAX_LEVELS = 100  # ten grid steps of a thousand-step chain between neighbouring keypoints at least


@dataclass(frozen=True)
class Settings:
    """What a run of VIPaint is made of. The defaults were tuned on fashion32; ``benchmarks/quality.py`` has the record.

    :func:`default_settings` has others for latent priors, tuned on cats64; ``benchmarks/cats.py`` has the record.

    Attributes:
        noise_levels: sigma/alpha at T_e, …, T_s in units of the prior's ``sigma_data``.
        scale: scale of the Laplace likelihood, images in [-1, 1].
        perceptual_weight: nats per unit of LPIPS in :class:`pyro_vipaint.Perceptual`; 0 leaves the Laplace likelihood.
            2000 for latent priors; the ratio of the paper's code, .64 times the number of values of an image over
            ``scale``, is 39,322 on 64×64 in colour and worse there (``benchmarks/cats.py``).
        beta: weight of the prior side; 1 is the true bound.
        steps: SVI steps, K + 1 network calls each.
        num_particles: draws of the guide in one step.
        lr: Adam's rates by kind of parameter.
        lr_decay: the factor that they have fallen to after the last step.
        average: number of steps, the last ones, whose mean the guide ends with; 0 for the last step's own values. Half
            of the steps raise the bound of a short fit (``docs/tuning.md``).
        gamma_logit: logit of gamma at the start.
        tau_scale: tau below T_e at the start, in units of the prior's step.
        refine_steps: DPS steps from T_s to 0, one network call each.
        zeta: their weight of the observation at the first of them.
        zeta_decay: the factor that it has reached at the last one.
        polyak: longest of their steps of guidance in units of Polyak's (:mod:`pyro_vipaint.refinement`), positive;
            ``None`` for no such limit.
    """

    noise_levels: tuple[float, ...]
    scale: float = 0.2
    perceptual_weight: float = 0.0
    beta: float = 1.0
    steps: int = 30
    num_particles: int = 1
    lr: Mapping[str, float] = field(default_factory=lambda: {kind: DEFAULT_LR[kind] for kind in KINDS})
    lr_decay: float = 1.0
    average: int = 0
    gamma_logit: float = 1.0
    tau_scale: float = 0.7
    refine_steps: int = DEFAULT_STEPS
    zeta: float = DEFAULT_ZETA
    zeta_decay: float = DEFAULT_ZETA_DECAY
    polyak: float | None = None

    def likelihood(self, operator: Operator) -> Laplace:
        """p(y | x) for y = A(x): Laplace, with the perceptual factor where it has a weight."""
        if self.perceptual_weight == 0:
            return Laplace(operator, self.scale)
        return Perceptual(operator, self.scale, self.perceptual_weight)

    def keypoints(self, prior: DiffusionPrior) -> tuple[float, ...]:
        """The times of the noise levels on the schedule of ``prior``."""
        return keypoints(prior, noise_levels=[level * prior.sigma_data for level in self.noise_levels])

    @property
    def fit_arguments(self) -> dict[str, Any]:
        """What :func:`pyro_vipaint.fit` takes of these numbers."""
        rates = {**DEFAULT_LR, **self.lr}
        return {"steps": self.steps, "lr": rates, "lr_decay": self.lr_decay, "average": self.average}

    @property
    def refine_arguments(self) -> dict[str, Any]:
        """What :func:`pyro_vipaint.refine` takes of these numbers."""
        return {"steps": self.refine_steps, "zeta": self.zeta, "zeta_decay": self.zeta_decay, "polyak": self.polyak}


def default_noise_levels(levels: int, start: float = START, stop: float = STOP) -> tuple[float, ...]:
    """``levels`` noise levels from ``start`` down to ``stop``, geometrically spaced.

    Raises:
        InputError: fewer than one or more than ``MAX_LEVELS``.
    """
    if not 1 <= levels <= MAX_LEVELS:
        raise InputError(f"levels must be between 1 and {MAX_LEVELS}, not {levels}.")
    if levels == 1:
        return (stop,)
    return tuple(start * (stop / start) ** (i / (levels - 1)) for i in range(levels))


def default_settings(levels: int = 4, latent: bool = False) -> Settings:
    """The settings of VIPaint-``levels`` for pixel priors, or for latent ones."""
    if latent:
        noise_levels, steps = default_noise_levels(levels, LATENT_START, LATENT_STOP), LATENT_FIT_CALLS // (levels + 1)
        return Settings(
            noise_levels, perceptual_weight=2000.0, steps=steps,
            refine_steps=22, zeta=8.0, zeta_decay=0.0625, polyak=1.0,
        )  # fmt: skip
    return Settings(default_noise_levels(levels))


def budget_settings(levels: int, nfe: int, num_samples: int, latent: bool = False) -> Settings:
    """The settings of inpainting by VIPaint-``levels`` :func:`within` a budget; the noise levels stay.

    Tried on eight images of fashion32, three masks, LPIPS: K = 4, 4 samples: .0175 at 24 NFE, .0159 at 56 (30
    steps of the fit, 15 of the refinement), .0152 at 100 (30, 60). At 100 and 2 samples: K = 2 .0186, with T_s at 3
    and zeta 1 .0173, with T_s at 8 .0188; K = 4 with T_s at 3 .0179; DPS .0158 (zeta 1) and .0162 (2), PiGDM .0191.
    """
    return within(default_settings(levels, latent), nfe, num_samples)


def within(settings: Settings, nfe: int, num_samples: int) -> Settings:
    """``settings`` with the steps that take ``nfe`` NFE per sample, all phases included.

    :data:`FIT_SHARE` of them go to the fit, whose cost the samples share; the rest, but for the K - 1 of the guide's
    own draws and the one call before the fit, to the refinement.

    Raises:
        InputError: fewer NFE than one step of the fit and one of the refinement take.
    """
    levels, whole = len(settings.noise_levels), nfe * num_samples
    step = (levels + 1) * settings.num_particles
    steps = max(1, min(int(FIT_SHARE * whole), whole - 1 - levels * num_samples) // step)
    refine_steps = (whole - steps * step - 1) // num_samples - (levels - 1)
    if refine_steps < 1:
        least = -(-(step + 1) // num_samples) + levels
        raise InputError(f"VIPaint-{levels} needs {least} NFE per sample, the budget is {nfe}.")
    return replace(settings, steps=steps, refine_steps=refine_steps, average=min(settings.average, steps))


def restoration_settings(levels: int = 4, latent: bool = False, norm: float = 1.0) -> Settings:
    """The settings of :func:`pyro_vipaint.restore` for an operator of this ``norm``, its largest singular value.

    The correction of the refinement is a unit vector times A^T: its weight zeta is divided by the norm, so that an
    operator in other units (and super-resolution, whose norm is 1 / factor) is followed as closely. Pixel priors:
    those of inpainting with a sharper likelihood and more refinement, as tuned on fashion32, because here every pixel
    is observed a little (``docs/tuning.md``); latent priors: those of inpainting, not tuned.
    """
    settings = default_settings(levels, latent)
    if latent:
        return replace(settings, zeta=settings.zeta / norm)
    return replace(
        settings, scale=RESTORATION_SCALE, steps=RESTORATION_STEPS, refine_steps=RESTORATION_REFINE_STEPS,
        zeta=RESTORATION_ZETA / norm, zeta_decay=1.0,
    )  # fmt: skip


def settings_for(levels: int, prior: DiffusionPrior, operator: Operator, y: Tensor) -> Settings:
    """The defaults of :func:`pyro_vipaint.restore` for observations ``y`` ``(N, *observation)`` by ``operator``.

    Those of inpainting for a mask, :func:`restoration_settings` for others; without the perceptual term where LPIPS
    cannot take the observations.

    Raises:
        InputError: the operator makes zero of every image.
    """
    if isinstance(operator, Inpainting):
        settings = default_settings(levels, prior.is_latent)
    else:
        count = len(y) if has_one_per_image(operator) else 1
        norm = operator_norm(operator, (count, *prior.image_shape), y.device)
        if norm == 0:
            raise InputError("The operator makes zero of every image: there is nothing to restore from.")
        settings = restoration_settings(levels, prior.is_latent, norm)
    return settings if takes_lpips(y.shape[1:]) else replace(settings, perceptual_weight=0.0)
