"""The one-call facade: an image with a hole and a prior in, posterior samples out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vipaint.calls import count_calls
from pyro_vipaint.devices import resolve_device
from pyro_vipaint.elbos import BetaELBO
from pyro_vipaint.errors import InputError
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.keypoints import keypoints
from pyro_vipaint.likelihoods import Laplace
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, load_prior
from pyro_vipaint.operators import Inpainting
from pyro_vipaint.refinement import refine
from pyro_vipaint.sampling import initial_latent, sample
from pyro_vipaint.seeding import seeded
from pyro_vipaint.settings import Settings, default_settings
from pyro_vipaint.svi import Fit, fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[str, int, int, float | None], None]


@dataclass(frozen=True, eq=False)
class InpaintingResult:
    """What :func:`inpaint` returns; images in [-1, 1], on the CPU.

    Attributes:
        samples: posterior samples, ``(S, N, C, H, W)``, as refined: observed pixels are not pasted in.
        observation: y = m ⊙ image, ``(N, C, H, W)``.
        mask: 1 = observed, ``(N, 1, H, W)``.
        fit: losses, terms and cost of phase 1.
        settings: the numbers of this run.
        calls: network calls of both phases.
        evaluations: images passed through the network in them.
        seconds: wall time.
    """

    samples: Tensor
    observation: Tensor
    mask: Tensor
    fit: Fit
    settings: Settings
    calls: int
    evaluations: int
    seconds: float

    @property
    def mean(self) -> Tensor:
        """Mean over samples, ``(N, C, H, W)``."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation over samples, ``(N, C, H, W)``; zero for a single sample."""
        return self.samples.std(0, correction=1 if len(self.samples) > 1 else 0)

    def plot(self, truth: Tensor | None = None) -> Figure:
        """The contact sheet: truth where known, observation, mean, standard deviation, samples; a row an image."""
        from pyro_vipaint.plotting import contact_sheet

        return contact_sheet(self, truth)


def inpaint(
    image: Tensor,
    mask: Tensor,
    prior: str | Path | DiffusionPrior = "fashion32",
    levels: int = 4,
    num_samples: int = 10,
    *,
    label: int | Tensor | None = None,
    settings: Settings | None = None,
    steps: int | None = None,
    beta: float | None = None,
    refine_steps: int | None = None,
    device: str = "auto",
    seed: int | None = None,
    progress: Progress | None = None,
) -> InpaintingResult:
    """``num_samples`` completions of each image, by VIPaint-``levels``.

    Args:
        image: ``(C, H, W)`` or ``(N, C, H, W)`` in [-1, 1]; what it holds at hidden pixels is not looked at.
        mask: 1 = observed, 0 = hidden; ``(1, H, W)``, ``(H, W)`` or ``(N, 1, H, W)``.
        prior: a shipped name, a folder, a hub id, or a prior.
        levels: K, the number of keypoints.
        num_samples: S.
        label: class of the images for class-conditional priors, one or ``(N,)``; ``None`` leaves it open.
        settings: all numbers of the run; :func:`default_settings` of ``levels`` if not given.
        steps, beta, refine_steps: single numbers to change in the settings.
        device: ``auto`` (CUDA, then MPS, then CPU) or a name.
        seed: makes the result reproducible on one machine.
        progress: called as ``progress(phase, step, total, bound)`` with phase ``fit`` (and the bound on -log p(y),
            summed over images, in nats) or ``refine`` (and ``None``).

    Raises:
        InputError: anything about the input that cannot be used, in one line.
    """
    if num_samples < 1:
        raise InputError(f"samples must be at least 1, not {num_samples}.")
    target = resolve_device(device)
    settings = _override(settings or default_settings(levels), steps=steps, beta=beta, refine_steps=refine_steps)
    prior = prior if isinstance(prior, DiffusionPrior) else load_prior(prior, target)
    image, mask = check_image(image, prior), check_mask(mask, prior)
    count = max(len(image), len(mask))
    condition = check_label(label, count, prior)
    y = (torch.where(mask != 0, image, 0.0).expand(count, -1, -1, -1)).to(target)
    mask = mask.expand(count, -1, -1, -1).to(target)
    begun = time.perf_counter()
    with seeded(seed), count_calls() as calls:
        fitted, samples = _run(prior, y, mask, num_samples, settings, condition, progress)
    seconds = time.perf_counter() - begun
    return InpaintingResult(
        samples.cpu(), y.cpu(), mask.cpu(), fitted, settings, calls.calls, calls.evaluations, seconds
    )


def _run(
    prior: DiffusionPrior,
    y: Tensor,
    mask: Tensor,
    num_samples: int,
    settings: Settings,
    condition: dict[str, Tensor],
    progress: Progress | None,
) -> tuple[Fit, Tensor]:
    """Both phases."""
    report = progress or (lambda phase, step, total, bound: None)
    condition = {name: value.to(y.device) for name, value in condition.items()}
    likelihood = Laplace(Inpainting(mask), settings.scale)
    times = keypoints(prior, noise_levels=[level * prior.data_std for level in settings.noise_levels])
    model = DiffusionModel(prior, likelihood, times, **condition)
    start = initial_latent(prior, likelihood, y)
    guide = HierarchicalGuide(model, start, gamma_logit=settings.gamma_logit)
    elbo = BetaELBO(settings.beta, settings.num_particles)
    fitted = fit(
        model, guide, y, elbo, settings.steps, settings.lr, final_lr=settings.final_lr,
        callback=lambda step, loss: report("fit", step + 1, settings.steps, float(sum(elbo.terms.values()).sum())),
    )  # fmt: skip
    z = sample(guide, y, num_samples)
    samples = refine(
        model, z, y, settings.refine_steps, zeta=settings.zeta,
        callback=lambda step: report("refine", step + 1, settings.refine_steps, None),
    )  # fmt: skip
    return fitted, samples


def check_image(image: Tensor, prior: DiffusionPrior) -> Tensor:
    """``image`` as ``(N, C, H, W)``, refused unless it fits the prior and is finite."""
    image = image.unsqueeze(0) if image.ndim == 3 else image
    expected = _image_shape(prior)
    if image.ndim != 4 or image.shape[1:] != expected:
        raise InputError(
            f"The image is {_shown(image.shape[-2:])} with {image.shape[-3] if image.ndim > 2 else 1} channels, the prior "
            f"wants {_shown(expected[1:])} with {expected[0]}: resize it (command line: --resize)."
        )
    if not image.isfinite().all():
        raise InputError("The image has pixels that are NaN or infinite: replace them before inpainting.")
    return image.float()


def check_mask(mask: Tensor, prior: DiffusionPrior) -> Tensor:
    """``mask`` as ``(N, 1, H, W)``, refused unless it is 0/1, of the prior's size, and neither all 0 nor all 1."""
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape) if mask.ndim < 4 else mask
    expected = _image_shape(prior)
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[2:] != expected[1:]:
        raise InputError(
            f"The mask is {_shown(mask.shape[-2:])}, the prior wants one channel of {_shown(expected[1:])}: "
            "resize it (command line: --resize)."
        )
    mask = mask.float()
    if not ((mask == 0) | (mask == 1)).all():
        raise InputError("The mask must hold 0 (hidden) and 1 (observed) only.")
    share = mask.flatten(1).mean(1)
    if (share == 1).any():
        raise InputError("The mask marks every pixel as observed: there is nothing to inpaint (white means observed).")
    if (share == 0).any():
        raise InputError("The mask hides every pixel: nothing is observed (white means observed; --invert-mask swaps).")
    return mask


def check_label(label: int | Tensor | None, count: int, prior: DiffusionPrior) -> dict[str, Tensor]:
    """The denoiser's condition for a label, refused where the prior has no such class."""
    if label is None:
        return {}
    classes = len(prior.class_names)
    if not classes:
        raise InputError(f"The prior {prior.name} has no classes: leave the label away.")
    labels = torch.as_tensor(label, dtype=torch.long).expand(count).contiguous()
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"Label {label} is out of range: the prior has classes 0 to {classes - 1}.")
    return {"class_labels": labels}


def check_truth(truth: Tensor | None, image: Tensor) -> None:
    """Refuses a true image of another shape than the damaged one."""
    if truth is not None and truth.shape[-3:] != image.shape[-3:]:
        raise InputError(f"The true image is {_shown(truth.shape[-2:])}, the other one {_shown(image.shape[-2:])}.")


def _image_shape(prior: DiffusionPrior) -> torch.Size:
    return torch.Size(prior.event_shape)


def _override(settings: Settings, **changes: Any) -> Settings:
    settings = replace(settings, **{name: value for name, value in changes.items() if value is not None})
    for name in ("steps", "refine_steps"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name.replace('_', '-')} must be at least 1, not {getattr(settings, name)}.")
    if not settings.beta > 0:
        raise InputError(f"beta must be positive, not {settings.beta:g}.")
    return settings


def _shown(size: torch.Size) -> str:
    return "×".join(str(side) for side in reversed(size))
