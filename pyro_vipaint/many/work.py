"""One batch of pictures, completed: the unit that every engine runs, and the files and the row of each picture."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._torch import dtype_name
from pyro_vipaint.checks import warm_prior
from pyro_vipaint.errors import InputError, NonFiniteError
from pyro_vipaint.many.pictures import Picture
from pyro_vipaint.many.streams import Streams
from pyro_vipaint.metrics import SMALLEST_SIDE, lpips_distance
from pyro_vipaint.models.measurements.masks import composite
from pyro_vipaint.models.measurements.operators import Inpainting
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.restoration import inpaint
from pyro_vipaint.results import Result
from pyro_vipaint.results.files import build_report, result_files, seams
from pyro_vipaint.settings import Settings

LONGEST = 300  # characters of an error in the manifest
DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class Job:
    """What all pictures of a run share; it travels to the workers.

    Attributes:
        prior: its name, folder or hub id, or the loaded prior where the calling process works itself.
        settings: all numbers of VIPaint.
        num_samples: S.
        preset, prompt, guidance_scale, guide, composite: those of :func:`pyro_vipaint.inpaint`.
        device, half, checkpointing: of the prior.
        threads: CPU threads, or None to leave them as they are.
        batch: the largest number of pictures in one call.
        keep: which files of a result are written; of :data:`pyro_vipaint.results.files.KEEP`.
        described: entries for the reports.
    """

    prior: str | DiffusionPrior
    settings: Settings
    num_samples: int
    preset: str
    prompt: str | None
    guidance_scale: float | None
    guide: str | None
    composite: bool
    device: str
    half: bool
    checkpointing: bool
    threads: int | None
    batch: int
    keep: str
    described: dict[str, Any] = field(default_factory=dict)

    def warm(self) -> DiffusionPrior:
        """The prior, loaded once in each process."""
        if isinstance(self.prior, DiffusionPrior):
            return self.prior
        return warm_prior(self.prior, self.device, self.half, self.checkpointing)


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished picture: its row in the manifest, and the files of its result, none of one that failed."""

    name: str
    row: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)


def compute(batch: Sequence[Picture], job: Job) -> list[Outcome]:
    """The outcomes of a batch; where it fails, those of each picture alone, of which one may have failed."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    try:
        return _compute(batch, job)
    except Exception as error:
        if len(batch) > 1:
            return [outcome for picture in batch for outcome in compute((picture,), job)]
        return [failed(batch[0].name, told(error), seed=batch[0].seed, file=batch[0].file, label=batch[0].label)]


def failed(name: str, error: str, **entries: Any) -> Outcome:
    """The outcome of a picture that failed, with its ``error``, one line."""
    return Outcome(name, {"name": name, **entries, "status": FAILED, "error": error[:LONGEST]})


def told(error: Exception) -> str:
    """An error in one line; of one that is not meant for users, with its kind and its place."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    if isinstance(error, (InputError, NonFiniteError)):
        return text
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text[: LONGEST - 80]} ({Path(last.filename).name}:{last.lineno})"


def _compute(batch: Sequence[Picture], job: Job) -> list[Outcome]:
    prior, begun = job.warm(), time.perf_counter()  # the first call of a process loads it
    masks = torch.stack([picture.mask for picture in batch])
    result = _inpainted(batch, masks, job, prior)
    before = seams(result, masks).tolist() if job.composite else None
    if job.composite:
        result = replace(result, samples=composite(result.samples, result.observation, masks))
    labels = [picture.label for picture in batch]
    report = build_report(result, None, batch[0].seed, prior.name, None if labels[0] is None else labels)  # type: ignore
    seconds = (time.perf_counter() - begun) / len(batch)
    outcomes = []
    for n, picture in enumerate(batch):
        entry = report["images"][n] | ({} if before is None else {"seam_uncomposited": before[n]})
        own = report | {
            "seed": picture.seed, "labels": None if picture.label is None else [picture.label], "images": [entry],
            "nfe": report["nfe"] // len(batch), "seconds": round(seconds, 3), "batch": len(batch),
            "image": picture.file or picture.name, "preset": job.preset, "prompt": job.prompt,
            "guidance_scale": job.guidance_scale, "guide": job.guide, "composite": job.composite,
            "dtype": dtype_name(prior),
        } | job.described  # fmt: skip
        row = {
            "name": picture.name, "file": picture.file, "status": DONE, "error": "", "seed": picture.seed,
            "label": picture.label, "calls": result.calls, "nfe": own["nfe"], "batch": len(batch),
            "seconds": own["seconds"], "bound": entry["bound"], "observed_error": entry["observed_error"],
            "version": version("pyro_vipaint"),
        }  # fmt: skip
        outcomes.append(Outcome(picture.name, row, result_files(_of(result, masks, n), own, keep=job.keep)))
    return outcomes


def _inpainted(batch: Sequence[Picture], masks: Tensor, job: Job, prior: DiffusionPrior) -> Result:
    """The result of the batch; alone a picture has that of :func:`pyro_vipaint.inpaint` with its seed, bit for bit."""
    images = torch.stack([picture.image for picture in batch])
    labels = [picture.label for picture in batch]
    seed, streams = batch[0].seed, nullcontext()
    if job.batch > 1:
        streams = _streams([picture.seed for picture in batch], job, prior)
    with streams:
        return inpaint(
            images, masks, prior, num_samples=job.num_samples, seed=seed, prompt=job.prompt,
            label=None if labels[0] is None else labels,  # pyright: ignore[reportArgumentType]
            guidance_scale=job.guidance_scale, settings=job.settings, guide=job.guide, device=job.device,
        )  # fmt: skip


def _streams(seeds: list[int], job: Job, prior: DiffusionPrior) -> AbstractContextManager[Any]:
    if job.settings.perceptual_weight > 0:
        _make_lpips(job.device)
    return Streams(seeds, prior.event_shape, torch.device(job.device))


@cache
def _make_lpips(device: str) -> None:
    """Once in a process, outside the streams: LPIPS is filled with random numbers when it is made."""
    x = torch.zeros(1, 3, SMALLEST_SIDE, SMALLEST_SIDE, device=device)
    lpips_distance(x, x)


def _of(result: Result, masks: Tensor, n: int) -> Result:
    """The result of picture ``n`` of a batch, as far as its files need it."""
    own, picture = slice(n, n + 1), result.picture
    return replace(
        result, samples=result.samples[:, own].clone(), observation=result.observation[own].clone(),
        operator=Inpainting((masks[own] > 0).float()) if result.mask is None else Inpainting(result.mask[own].clone()),
        picture=None if picture is None else picture[own].clone(), latents=None, approximation=None,
    )  # fmt: skip
