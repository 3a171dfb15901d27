"""The numbers of one VIPaint run, and the defaults for K levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor

from pyro_vipaint.corrections import MMPS, ByLevel, Correction, Wiener
from pyro_vipaint.errors import InputError, brief, choice, instance, number, row, whole
from pyro_vipaint.metrics import takes_lpips
from pyro_vipaint.models.measurements.likelihoods import Gaussian, Laplace, Perceptual
from pyro_vipaint.models.measurements.linalg import operator_norm
from pyro_vipaint.models.measurements.operators import Inpainting, Operator, has_one_per_image
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import keypoints
from pyro_vipaint.refinement import DEFAULT_STEPS, DEFAULT_ZETA, DEFAULT_ZETA_DECAY
from pyro_vipaint.svi import DEFAULT_LR, check_fit_numbers

PRESETS = ("inference", "pictures")
TOP, BOTTOM = 36.0, 7.5  # noise levels of inference below t = 1, sigma/alpha over the data's standard deviation
GRADIENTS_BELOW = 2.25  # noise level below which its corrections take gradients
SIGMA = 0.05  # of the noise of y, at least: the paper's value
INFERENCE_STEPS, INFERENCE_STEPS_FROM_NOISE = 19, 25  # of the refinement
START, STOP = 3.0, 0.9  # noise levels of T_e and T_s, sigma/alpha over the data's standard deviation
LATENT = {  # of latent priors: noise levels of T_e and T_s, network calls of the fit, refinement steps, spare
    "inference": (24.0, 8.0, 240, 48, 0.25),
    "pictures": (12.0, 3.0, 120, 22, 0.0),
}
KINDS = ("mu", "tau", "gamma")  # the parameters of HierarchicalGuide
FIT_SHARE = 0.4  # of a budget
RESTORATION_SCALE, RESTORATION_STEPS, RESTORATION_REFINE_STEPS, RESTORATION_ZETA = 0.05, 15, 34, 2.0  # docs/tuning.md
MAX_LEVELS = 100  # ten grid steps of a thousand-step chain between neighbouring keypoints at least

_positive = partial(number, positive=True)
RULES: dict[str, Callable[[str, Any], object]] = {  # of the single numbers of the settings
    **dict.fromkeys(("num_particles", "refine_steps"), whole),
    **dict.fromkeys(("scale", "beta", "tau_scale"), _positive),
    **dict.fromkeys(("perceptual_weight", "zeta", "zeta_decay", "spare"), number),
    "gamma_logit": partial(number, signed=True),
    **dict.fromkeys(("polyak", "sigma"), lambda name, value: None if value is None else _positive(name, value)),
    **dict.fromkeys(("twist", "correction"), lambda name, value: _correction(name, value)),
}


def _correction(name: str, value: Any) -> None:
    instance(name, value, value is None or isinstance(value, Correction), "a Correction such as PiGDM(), or None")


@dataclass(frozen=True)
class Settings:
    """The numbers of one run of VIPaint.

    The defaults were tuned on fashion32, those of :func:`default_settings` for latent priors on cats64: the records
    are in ``docs/tuning.md``.

    Attributes:
        noise_levels: sigma/alpha at T_e, …, T_s in units of the prior's ``sigma_data``; any row of numbers, kept as a
            tuple. With ``twist`` T_e is t = 1 and not named here.
        scale: scale of the Laplace likelihood, images in [-1, 1].
        perceptual_weight: nats per unit of LPIPS in :class:`pyro_vipaint.Perceptual`; 0 leaves the Laplace likelihood.
            2000 for latent priors; the paper's code has .64 times the number of values of an image over ``scale``.
        beta: weight of the prior side; 1 is the true bound.
        steps: SVI steps, K + 1 network calls each; K with ``twist``.
        num_particles: draws of the guide in one step.
        lr: Adam's rates by kind of parameter.
        lr_decay: the rates fall to this factor of themselves until the last step.
        average: number of last steps whose mean the guide ends with; 0 keeps the last step's own values. Half of the
            steps raise the bound of a short fit (``docs/tuning.md``).
        gamma_logit: logit of gamma at the start.
        tau_scale: tau below T_e at the start, in units of the prior's step.
        refine_steps: DPS steps from T_s to 0, one network call each.
        zeta: weight of the observation at the first of them.
        zeta_decay: the weight at the last of them is this factor times ``zeta``.
        polyak: longest correction in units of Polyak's step (:mod:`pyro_vipaint.refinement`), positive; ``None`` sets
            no such limit.
        sigma: standard deviation of the noise of y, in the place of the Laplace likelihood of ``scale``.
        twist: correction of a :class:`pyro_vipaint.guides.TwistedGuide` on the model whose first keypoint is t = 1, in
            the place of the hierarchical guide. The transitions have the covariance of the prior's images.
        correction: of the refinement; ``None`` is DPS with ``zeta``.
        order: of the refinement with a ``correction``.
        spare: further draws, as a share of those that are asked for; the draws that explain y worst make room for them
            (:func:`pyro_vipaint.results.approximation.explaining`).

    Raises:
        InputError: a number cannot be used, or the noise levels do not fall.
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
    sigma: float | None = None
    twist: Correction | None = None
    correction: Correction | None = None
    order: int = 1
    spare: float = 0.0

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            rule(name.replace("_", "-"), getattr(self, name))
        whole("order", self.order, most=1 if self.correction is None else 2)
        instance("lr", self.lr, isinstance(self.lr, Mapping), "a mapping from kinds of parameters to rates")
        check_fit_numbers(self.steps, self.average, self.lr, self.lr_decay)
        levels = [_positive("noise-levels", level) for level in row("noise-levels", self.noise_levels)]
        if not (levels or self.twist) or not all(low < high for high, low in pairwise(levels)):
            raise InputError(f"noise-levels must decrease from T_e to T_s, not {brief(levels)}.")
        object.__setattr__(self, "noise_levels", tuple(levels))

    @property
    def levels(self) -> int:
        """K."""
        return len(self.noise_levels) + (self.twist is not None)

    def drawn(self, num_samples: int) -> int:
        """How many samples are drawn where ``num_samples`` are asked for."""
        return num_samples + math.ceil(self.spare * num_samples)

    def likelihood(self, operator: Operator) -> Gaussian | Laplace:
        """p(y | x) for y = A(x): Gaussian with ``sigma``, or Laplace, with the perceptual factor if it has a weight."""
        if self.sigma is not None:
            return Gaussian(operator, self.sigma)
        if self.perceptual_weight == 0:
            return Laplace(operator, self.scale)
        return Perceptual(operator, self.scale, self.perceptual_weight)

    def keypoints(self, prior: DiffusionPrior) -> tuple[float, ...]:
        """The times of the noise levels on the schedule of ``prior``, after t = 1 with ``twist``."""
        levels = [level * prior.sigma_data for level in self.noise_levels]
        below = keypoints(prior, noise_levels=levels) if levels else ()
        return below if self.twist is None else (1.0, *below)


def default_settings(levels: int = 4, latent: bool = False, preset: str = "inference") -> Settings:
    """The settings of VIPaint-``levels`` for pixel priors, or for latent ones; noise levels spaced geometrically.

    ``inference`` was tuned by proper scores, calibration and exact posteriors, ``pictures`` by the mean LPIPS to the
    truth, which rewards draws that are too alike (docs/truth.md).

    Raises:
        InputError: fewer than one level or more than ``MAX_LEVELS``, or no such preset.
    """
    choice("preset", preset, PRESETS)
    if latent:
        return latent_settings(levels, preset)
    return inference_settings(levels) if preset == "inference" else Settings(_geometric(levels, START, STOP))


def latent_settings(levels: int = 4, preset: str = "inference") -> Settings:
    """The presets for latent priors, whose guide is fitted in both.

    That for inference takes more than twice as many network calls: its fit ends early, so that the refinement decides
    on parts that cover many latents; both are longer, so that fewer draws lose what is visible, and those that do make
    room for others.
    """
    choice("preset", preset, PRESETS)
    start, stop, calls, refine_steps, spare = LATENT[preset]
    return Settings(
        _geometric(levels, start, stop), perceptual_weight=2000.0, steps=max(1, calls // (levels + 1)),
        refine_steps=refine_steps, zeta=8.0, zeta_decay=0.0625, polyak=1.0, spare=spare,
    )  # fmt: skip


def _geometric(levels: int, start: float, stop: float) -> tuple[float, ...]:
    """As many noise levels from ``start`` to ``stop``; ``stop`` alone for one."""
    gaps = whole("levels", levels, most=MAX_LEVELS) - 1
    return (*(start * (stop / start) ** (i / gaps) for i in range(levels)),) if gaps else (stop,)


def inference_settings(levels: int = 4) -> Settings:
    """The preset for inference with pixel priors that have a covariance.

    The guide needs no fit: its one step measures the bound. With more ``steps`` w and tau of its levels are learnt.
    """
    below = whole("levels", levels, most=MAX_LEVELS) - 1
    ratio = BOTTOM / TOP
    noise_levels = (*(TOP * ratio ** (i / (below - 1)) for i in range(below)),) if below > 1 else (BOTTOM,) * below
    return Settings(
        noise_levels, sigma=SIGMA, steps=1, lr={"tau": 0.01, "other": 0.01}, twist=Wiener(), order=2,
        correction=ByLevel(Wiener(), MMPS(2), GRADIENTS_BELOW),
        refine_steps=INFERENCE_STEPS if below else INFERENCE_STEPS_FROM_NOISE,
    )  # fmt: skip


def budget_settings(
    levels: int, nfe: int, num_samples: int, latent: bool = False, preset: str = "inference"
) -> Settings:
    """The settings of inpainting by VIPaint-``levels`` :func:`within` a budget; the noise levels stay."""
    return within(default_settings(levels, latent, preset), nfe, num_samples)


def within(settings: Settings, nfe: int, num_samples: int) -> Settings:
    """``settings`` with as many steps as ``nfe`` NFE per sample allow, all phases included.

    The share :data:`FIT_SHARE` goes to the fit, whose cost the samples share; a guide that needs none keeps its steps.
    The K - 1 calls of the guide's own draws and one call before the fit are subtracted; the rest goes to the
    refinement. A guide from t = 1 saves the call before the fit, and in each step that for the marginal of T_e.

    Raises:
        InputError: fewer NFE than one step of the fit and one of the refinement take.
    """
    levels, fits, drawn, total = settings.levels, settings.twist is None, settings.drawn(num_samples), nfe * num_samples
    step, start = (levels + fits) * settings.num_particles, int(fits)
    most = max(1, min(int(FIT_SHARE * total), total - start - levels * drawn) // step)
    steps = most if fits else min(most, settings.steps)
    refine_steps = (total - steps * step - start) // drawn - (levels - 1)
    if refine_steps < 1:
        least = math.ceil((step + start + levels * drawn) / num_samples)
        raise InputError(f"VIPaint-{levels} needs {least} NFE per sample, the budget is {nfe}.")
    return replace(settings, steps=steps, refine_steps=refine_steps, average=min(settings.average, steps))


def restoration_settings(levels: int = 4, latent: bool = False, norm: float = 1.0) -> Settings:
    """The settings of :func:`pyro_vipaint.restore` for an operator of this ``norm``, its largest singular value.

    The correction of the refinement is a unit vector times A^T. Its weight zeta is divided by the norm, so that an
    operator in other units (and super-resolution, whose norm is 1 / factor) is followed as closely. For pixel priors
    the likelihood is sharper and the refinement longer than for inpainting, because every pixel is observed a little;
    they were tuned on fashion32 (``docs/tuning.md``). For latent priors they are those of inpainting with the preset
    for pictures, not tuned.
    """
    settings = default_settings(levels, latent, "pictures")
    if latent:
        return replace(settings, zeta=settings.zeta / norm)
    return replace(
        settings, scale=RESTORATION_SCALE, steps=RESTORATION_STEPS, refine_steps=RESTORATION_REFINE_STEPS,
        zeta=RESTORATION_ZETA / norm, zeta_decay=1.0,
    )  # fmt: skip


def settings_for(
    levels: int, prior: DiffusionPrior, operator: Operator, y: Tensor, preset: str = "inference"
) -> Settings:
    """The defaults of :func:`pyro_vipaint.restore` for observations ``y`` ``(N, *observation)`` by ``operator``.

    For inference with pixels they are those of inpainting. Without a covariance of the prior, and for other operators
    than masks, K is 1 and the refinement starts from noise; without a covariance its corrections take gradients at
    every level. Otherwise a mask has those of inpainting, another operator :func:`restoration_settings`. The perceptual
    term is omitted where LPIPS cannot take the observations.

    Raises:
        InputError: the operator maps every image to zero.
    """
    choice("preset", preset, PRESETS)
    whole("levels", levels, most=MAX_LEVELS)
    masks = isinstance(operator, Inpainting)
    norm = 1.0 if masks else _norm(operator, prior, y)
    if preset == "inference" and not prior.is_latent:
        known = prior.data_covariance is not None
        chosen = inference_settings(levels if known and masks else 1)
        return chosen if known else replace(chosen, correction=MMPS(2))
    if masks:
        settings = default_settings(levels, prior.is_latent, preset)
    else:
        settings = restoration_settings(levels, prior.is_latent, norm)
    return settings if takes_lpips(y.shape[1:]) else replace(settings, perceptual_weight=0.0)


def _norm(operator: Operator, prior: DiffusionPrior, y: Tensor) -> float:
    """The largest singular value of an operator; zero is refused."""
    count = len(y) if has_one_per_image(operator) else 1
    norm = operator_norm(operator, (count, *prior.image_shape), y.device)
    if norm == 0:
        raise InputError("The operator maps every image to zero: there is nothing to restore from.")
    return norm
