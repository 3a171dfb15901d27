"""Completions of many pictures: what is missing is computed, in batches, and every result is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyro_vipaint._folders import MANY
from pyro_vipaint._torch import SEEDS, fingerprint, resolve_device
from pyro_vipaint.checks import check_guide, check_prior, checked, checked_settings, warm_prior
from pyro_vipaint.engines import Engine
from pyro_vipaint.engines import engine as engine_of
from pyro_vipaint.errors import InputError, choice, instance, one_warning_each, whole
from pyro_vipaint.many.pictures import Picture, Pictures, Reading, pictures_of, seed_of
from pyro_vipaint.many.store import Store
from pyro_vipaint.many.work import DONE, Job, Outcome, compute, failed, told
from pyro_vipaint.models.measurements.masks import is_soft
from pyro_vipaint.models.measurements.operators import Inpainting
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback, Progress
from pyro_vipaint.results.files import KEEP
from pyro_vipaint.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

CPU = torch.device("cpu")
MOST = 4096  # pictures in one batch; more is taken for a slip
BY_IMAGE = ("DeltaGuide", "FeatureGuide", "HierarchicalGuide", "LowRankGuide", "MeanFieldGuide", "PriorGuide")
ABRUPT = "the worker ended abruptly, perhaps for lack of memory: try --retry with a smaller --batch"


@one_warning_each()
def inpaint_many(
    images: Any,
    mask: Any = None,
    *,
    out: str | Path,
    prior: str | Path | DiffusionPrior = "fashion32",
    levels: int = 4,
    num_samples: int = 10,
    label: int | str | None = None,
    labels: str | Path | Mapping[str, int | str] | None = None,
    prompt: str | None = None,
    guidance_scale: float | None = None,
    preset: str | None = None,
    guide: str | None = None,
    steps: int | None = None,
    beta: float | None = None,
    refine_steps: int | None = None,
    device: str = "auto",
    half: bool = False,
    checkpointing: bool = False,
    seed: int = 0,
    resize: bool = False,
    invert_mask: bool = False,
    soft_mask: bool = False,
    grey: bool = False,
    composite: bool = False,
    keep: str = "all",
    batch: int = 1,
    engine: str = "local",
    workers: int = 1,
    threads: int | None = None,
    address: str | None = None,
    retry: bool = False,
    overwrite: bool = False,
    callback: Callback | None = None,
) -> pd.DataFrame:
    """Completions of a folder of pictures, or of a data set, written to ``out``; a killed run goes on.

    The arguments that are not listed are those of :func:`pyro_vipaint.inpaint` and of the command ``vipaint inpaint``.

    The seed of a picture is a hash of the run's ``seed`` and the picture's name. So its result is the same in another
    order, beside other pictures, with other workers, and after a kill: bit for bit with ``batch=1``, where it is that
    of :func:`pyro_vipaint.inpaint` with this seed, and to the last digits with another ``batch``, which changes how the
    networks round.

    Args:
        images: a folder, with all pictures below it, whose names are their paths in it without the suffix; or a
            sequence or data set with a length, of rows ``(name, image)``, ``(name, image, mask)`` or ``(name, image,
            mask, label)``: a text, floats ``(C, H, W)`` in [-1, 1], ``(1, H, W)`` with 1 = observed, a class or None.
            A data set with ``names``, a list, is read where something is missing; another one is read for the names
            first.
        mask: of all pictures, an array or a file (white = observed); or a folder of files with the names of the
            pictures; or a name, ``rotated-window``, ``random-large``, ``random-small`` or ``box``, of masks that are
            drawn for each. A row's own mask counts instead.
        out: new, empty, or with earlier results of the same run. ``images/NAME`` has the files that ``vipaint inpaint``
            writes for one picture, ``manifest.csv`` a row per picture, ``run.json`` what was asked.
        label: one class for all.
        labels: the class of each, by name: a mapping, or a CSV file with the columns ``file`` and ``label``.
        resize, invert_mask, soft_mask, grey: of files, as for the command.
        keep: ``all`` files of a result, or ``samples``: ``samples.safetensors`` and ``report.json``, without pictures.
        batch: the largest number of pictures in one call of the network. With more than one, the guide of the preset
            ``inference`` for pixels takes no step: w and tau, which its pictures would share, stay 1.
        engine: ``local`` or ``ray``.
        workers: processes, each with a prior of its own; with one of ``local`` the calling process works itself.
        threads: CPU threads of each; ``None`` leaves them as they are. The last digits depend on it.
        address: of a Ray cluster; ``None`` starts one on this machine. Workers need the package and the prior, no
            files: pictures are read and results are written by the calling process.
        retry: whether pictures that failed are tried again.
        overwrite: whether ``out`` may hold other files.
        callback: called with the :class:`pyro_vipaint.progress.Progress` of the pictures, first with the finished ones.

    Returns:
        The manifest: ``name``, ``file``, ``status`` (``done`` or ``failed``), ``error``, ``seed``, ``label``, a
        fingerprint of the ``settings``, network ``calls`` of the batch, ``nfe`` and ``seconds`` of the picture, the
        size of the ``batch``, the ``bound`` on log p(y) in nats, ``observed_error``, the folder of the ``outputs``,
        and the ``version``. A picture that cannot be read or computed is a row that says why, and the others go on.

    Raises:
        InputError: an argument cannot be used, or ``out`` has results of other settings; nothing was computed then.
            Or a result cannot be written: the run goes on when it is started again.
    """
    out, reading = Path(out), Reading(resize, invert_mask, soft_mask, grey)
    _check_numbers(seed, batch, num_samples, keep, guide)
    chosen = _engine(engine, workers, device, threads, address, prior)
    MANY.check(out, overwrite)
    _check_apart(out, images, mask)
    with _threads(threads):
        loaded = _loaded(prior, chosen, half, checkpointing)
        pictures = pictures_of(images, mask, loaded, reading, seed, label, labels)
        preset = preset or ("inference" if guide is None else "pictures")
        changes = {"steps": steps, "beta": beta, "refine_steps": refine_steps}
        settings = _settings(
            loaded, pictures, levels, num_samples, prompt, guidance_scale, preset, guide, changes, batch
        )
        name = loaded if isinstance(prior, DiffusionPrior) else str(prior)
        job = Job(
            name, settings, num_samples, preset, prompt, guidance_scale, guide, composite, chosen.device, half,
            checkpointing, threads, batch, keep, {**vars(reading), "mask": pictures.described["mask"]},
        )  # fmt: skip
        asked = _asked(job, loaded, pictures, seed)
        MANY.claim(out)
        store = Store(out, hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16])
        with store.locked():
            store.check_asked(asked)
            _compute_missing(store, pictures, job, chosen, retry, seed, callback or (lambda progress: None))
            return store.table()


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    """So many CPU threads inside, as in the workers: the last digits of what a prior computes depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_numbers(seed: Any, batch: Any, num_samples: Any, keep: Any, guide: Any) -> None:
    whole("seed", seed, *SEEDS)
    whole("batch", batch, most=MOST)
    whole("samples", num_samples)
    choice("keep", keep, KEEP)
    instance("guide", guide, guide is None or isinstance(guide, str), "the name of a family of guides")
    if guide is not None:
        check_guide(guide)
        if batch > 1 and guide not in BY_IMAGE:
            todo = f"use --batch 1, or one of {', '.join(BY_IMAGE)}"
            raise InputError(f"A {guide} may learn from the other pictures of its batch: {todo}.")


def _engine(name: str, workers: int, device: str, threads: int | None, address: str | None, prior: Any) -> Engine:
    """The engine; on a cluster a device that is named is that of the workers, which this machine may lack."""
    elsewhere = name == "ray" and address is not None and str(device).startswith("cuda")
    target = str(device) if elsewhere else str(resolve_device(device, prior))
    chosen = engine_of(name, workers, target, threads, address)
    if isinstance(prior, DiffusionPrior) and not chosen.is_here:
        raise InputError("Workers load the prior themselves: give its name, folder or hub id, or one local worker.")
    return chosen


def _loaded(prior: Any, chosen: Engine, half: bool, checkpointing: bool) -> DiffusionPrior:
    """The prior as this process needs it: to work with, or, beside workers, to check what they will be given."""
    if isinstance(prior, (str, Path)) and chosen.is_here:
        return warm_prior(str(prior), chosen.device, half, checkpointing)
    return check_prior(prior, CPU)


def _check_apart(out: Path, images: Any, mask: Any) -> None:
    """Refuses results among the pictures or the masks, where the next run would take them for such."""
    for place in (images, mask):
        if not isinstance(place, (str, Path)) or not Path(place).exists():
            continue
        folder, target = Path(place).resolve(), out.resolve()
        if folder == target or folder in target.parents or target in folder.parents:
            raise InputError(f"{out} and {place} lie in each other: name another folder with --out.")


def _settings(
    prior: DiffusionPrior, pictures: Pictures, levels: int, num_samples: int, prompt: Any, guidance_scale: Any,
    preset: str, guide: str | None, changes: dict[str, Any], batch: int,
) -> Settings:  # fmt: skip
    """The numbers of the run, after a check of what all pictures share on a picture without a face."""
    mask = torch.ones(1, 1, *prior.image_shape[1:])
    mask[..., 0] = 0
    y = torch.linspace(-1, 1, mask.numel()).reshape(mask.shape).expand(1, *prior.image_shape)
    weighed = guidance_scale if prompt is not None or pictures.label is not None else None
    problem = checked(y, Inpainting(mask), prior, pictures.label, prompt, weighed)
    settings = checked_settings(problem, levels, num_samples, None, None, changes, preset)
    if batch == 1 or guide is not None or settings.twist is None:
        return settings
    if settings.steps > 1:
        raise InputError("The guide of this preset shares what it learns over a batch: use --steps 1, or --batch 1.")
    return replace(settings, lr=dict.fromkeys(settings.lr, 0.0))


def _asked(job: Job, prior: DiffusionPrior, pictures: Pictures, seed: int) -> dict[str, Any]:
    """What the results depend on; a rerun with anything else is refused."""
    same = ("num_samples", "preset", "prompt", "guidance_scale", "guide", "composite", "half", "keep")
    return {
        "prior": prior.name, "weights": _weights(job, prior), "seed": seed, "levels": job.settings.levels,
        **{name: getattr(job, name) for name in same}, **pictures.described,
        "numbers": {name: value if isinstance(value, (int, float)) else repr(value)
                    for name, value in vars(job.settings).items()},
        "batches": job.batch > 1,
    }  # fmt: skip


def _weights(job: Job, prior: DiffusionPrior) -> str:
    """The fingerprint of the weights, the same whether this process works itself, in half precision, or not."""
    whole_precision = prior if isinstance(job.prior, DiffusionPrior) or not job.half else check_prior(job.prior, CPU)
    return fingerprint(whole_precision)


def _compute_missing(
    store: Store, pictures: Pictures, job: Job, chosen: Engine, retry: bool, seed: int, report: Callback
) -> None:
    found = store.rows().items()
    rows = {name: row for name, row in found if store.is_done(row) or (row["status"] != DONE and not retry)}
    missing = [index for index, name in enumerate(pictures.names) if name not in rows]
    store.rewrite(rows.values())
    total, finished = len(pictures.names), len(pictures.names) - len(missing)
    report(Progress("many", finished, total))

    def write(outcome: Outcome) -> None:
        nonlocal finished
        rows[outcome.name] = store.write(outcome)
        finished += 1
        report(Progress("many", finished, total, note=outcome.name))

    batches = _batches(pictures, missing, job.batch, seed, write)
    with closing(chosen.run(partial(compute, job=job), batches, _lost)) as answers:  # an interrupt ends the workers
        for _, outcomes in answers:
            for outcome in outcomes:
                write(outcome)
    known = set(pictures.names)
    store.rewrite([rows[name] for name in pictures.names] + [row for name, row in rows.items() if name not in known])


def _lost(batch: Sequence[Picture]) -> list[Outcome]:
    return [failed(each.name, ABRUPT, seed=each.seed, file=each.file, label=each.label) for each in batch]


def _batches(
    pictures: Pictures, missing: Sequence[int], size: int, seed: int, write: Callable[[Outcome], None]
) -> Iterator[tuple[Picture, ...]]:
    """The missing pictures in batches, read as they are drawn; one that cannot be read is written as failed."""
    waiting: list[Picture] = []  # with a label or all without, with soft masks or all without
    for index in missing:
        name = pictures.names[index]
        try:
            picture = pictures.read(index)
        except Exception as error:  # data sets, and broken files, raise anything
            write(failed(name, told(error), seed=seed_of(seed, name), file=pictures.file(index)))
            continue
        if waiting and _kind(waiting[0]) != _kind(picture):
            yield tuple(waiting)
            waiting = []
        waiting.append(picture)
        if len(waiting) == size:
            yield tuple(waiting)
            waiting = []
    if waiting:
        yield tuple(waiting)


def _kind(picture: Picture) -> tuple[bool, bool]:
    return picture.label is None, is_soft(picture.mask)
