"""A result as a folder: numbers in safetensors, the rest in JSON, written as a whole or not at all.

``result.json`` says how the parts are made again: settings, likelihood, operator and corrections as nested records of
the classes below and no others, the prior by the name that :func:`pyro_vipaint.models.load_prior` took, with a
fingerprint. ``result.safetensors`` has the samples, their latents, the observation and the tensors of these records;
fit and guide have files of their own. Nothing in them can run code.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vipaint import corrections, guides
from pyro_vipaint._files import FilePair
from pyro_vipaint._folders import RESULT
from pyro_vipaint._torch import dtype_name, resolve_device, tensors_of
from pyro_vipaint.errors import InputError, choice, described, instance, number, numbers, whole
from pyro_vipaint.guides import LatentGuide
from pyro_vipaint.models.measurements.blur import GaussianBlur, MotionBlur
from pyro_vipaint.models.measurements.likelihoods import Gaussian, Laplace, Perceptual, Poisson
from pyro_vipaint.models.measurements.operators import Compose, Inpainting, Matrix
from pyro_vipaint.models.measurements.problem import check_problem
from pyro_vipaint.models.measurements.super_resolution import SuperResolution
from pyro_vipaint.models.pretrained.load import load_prior
from pyro_vipaint.models.priors.covariance import DataCovariance
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.results.approximation import Approximation, model_of, picture_of
from pyro_vipaint.settings import Settings
from pyro_vipaint.svi import Fit

if TYPE_CHECKING:
    from pyro_vipaint.results.result import Result

FILES = FilePair("result.json", "result.safetensors")
OPERATORS = (Inpainting, Matrix, Compose, GaussianBlur, MotionBlur, SuperResolution)
LIKELIHOODS = (Gaussian, Laplace, Perceptual, Poisson)
CORRECTIONS = tuple(
    getattr(corrections, name)
    for name in ("DPS", "PiGDM", "TMPD", "MMPS", "OptimalCovariance", "DDNM", "DiffPIR", "Wiener", "ByLevel")
)
CLASSES: dict[str, type] = {
    kind.__name__: kind for kind in (*OPERATORS, *LIKELIHOODS, *CORRECTIONS, DataCovariance, Settings)
}
FAMILIES = (*guides.__all__, "TwistedGuide")
DTYPES = ("float32", "float64", "bfloat16", "float16")
SAME = 1e-5  # relative, of the fingerprints of one prior on two devices
PARTS = ("prior", "likelihood")


def save(result: Result, folder: Path, without: Collection[str]) -> None:
    """Writes the folder; the arguments and the errors are those of :meth:`Result.save`."""
    instance("without", without, not isinstance(without, str), "a row of names such as ['prior']")
    for name in without:
        choice("part to save without", name, PARTS)
    fitted = result._fitted
    guide: Any = fitted.guide
    instance("The guide to save", guide, isinstance(guide, LatentGuide), "one of pyro_vipaint.guides")
    tensors = {"samples": result.samples, "observation": result.observation}
    tensors |= {f"latents/{name}": value for name, value in (result.latents or {}).items()}
    likelihood: Any = fitted.model.likelihood
    record = {
        "prior": None if "prior" in without else _source(fitted.prior),
        "fingerprint": _fingerprint(fitted.prior),
        "likelihood": None if "likelihood" in without else _record("likelihood", likelihood, tensors),
        "settings": _record("settings", result.settings, tensors),
        "condition": _record("condition", dict(fitted.model.condition), tensors),
        "correction": _record("correction", guide.correction, tensors),
        "latents": list(result.latents or {}),
        **{name: getattr(result, name) for name in ("calls", "nfe", "seconds", "gradients")},
        "guide": type(guide).__name__,
    }
    RESULT.check(folder)
    with RESULT.whole(folder) as new:
        FILES.write(new, "Result", record, {name: value.clone() for name, value in tensors.items()})  # none is shared
        result.fit.save_pretrained(new)
        guide.save_pretrained(new)


def load(
    folder: Path, prior: DiffusionPrior | None, likelihood: Any, guide: type[LatentGuide] | None, device: str
) -> Result:
    """The result in a folder; the arguments and the errors are those of :meth:`Result.load`."""
    from pyro_vipaint.results.result import Result

    record, tensors = FILES.read(folder, "Result")
    place = resolve_device(device, prior)
    fitted = Fit.load(folder)
    try:
        prior = _prior(folder, record, place) if prior is None else prior
        _check_fingerprint(folder, record["fingerprint"], prior)
        read = _Reader(tensors, place)
        settings = read(record["settings"], Settings)
        likelihood = _likelihood(folder, record, read) if likelihood is None else likelihood
        condition = read(record["condition"], dict)
        y = tensors["observation"].to(place)
        with warnings.catch_warnings():  # of images that seem to be on [0, 1], which the run gave
            warnings.simplefilter("ignore", UserWarning)
            check_problem(prior, likelihood, y, condition)
        model = model_of(prior, likelihood, settings, condition)
        family = guide or _family(folder, record)
        correction = read(record["correction"], (type(None), *CORRECTIONS))
        approximation = family.load(folder, model, correction).to(place)
        samples = numbers("samples", tensors["samples"], ("S", len(y), *prior.image_shape), least=1, low=-1, high=1)
        latents = {str(name): tensors[f"latents/{name}"] for name in record["latents"]}
        for name, value in latents.items():
            numbers(name, value, (len(samples), len(y), ...))
        cost = {name: whole(name, record[name], 0) for name in ("calls", "nfe", "gradients")}
        return Result(
            samples, tensors["observation"], likelihood.operator, fitted, settings,
            seconds=number("seconds", record["seconds"]), picture=picture_of(prior, likelihood, y),
            approximation=Approximation(approximation, model, y, prior, settings), latents=latents or None, **cost,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / FILES.record} does not describe a result.") from error


def _source(prior: DiffusionPrior) -> dict[str, str]:
    """The name of a prior and its precision; refuses one that has no name."""
    if type(prior) is not DiffusionPrior or not prior.source:
        todo = "save(folder, without=['prior']), and give it to load(folder, prior=…)"
        raise InputError(f"Only a prior that load_prior made can be saved, by its name; this is your own: {todo}.")
    return {"source": prior.source, "dtype": dtype_name(prior)}


def _prior(folder: Path, record: Mapping[str, Any], device: torch.device) -> DiffusionPrior:
    if record["prior"] is None:
        raise InputError(f"{folder} holds a result without its prior: give load(folder, prior=…).")
    choice("precision of a prior", record["prior"]["dtype"], DTYPES)
    try:
        return load_prior(record["prior"]["source"], device, dtype=getattr(torch, record["prior"]["dtype"]))
    except InputError as error:
        raise InputError(f"{error} The result in {folder} has this prior; or give load(folder, prior=…).") from error


def _likelihood(folder: Path, record: Mapping[str, Any], read: Callable[..., Any]) -> Any:
    if record["likelihood"] is None:
        raise InputError(f"{folder} holds a result without its likelihood: give load(folder, likelihood=…).")
    return read(record["likelihood"], LIKELIHOODS)


def _family(folder: Path, record: Mapping[str, Any]) -> type[LatentGuide]:
    if record["guide"] not in FAMILIES:
        theirs = f"a guide of the class {record['guide']!r:.80}"
        raise InputError(f"{folder} holds {theirs}, not of this library: give load(folder, guide=…).")
    return getattr(guides, record["guide"])


@torch.no_grad()
def _fingerprint(prior: DiffusionPrior) -> dict[str, Any]:
    """What tells two priors apart: shapes, units, and the sums of |weights| of its networks, codec and covariance."""
    size = sum(float(value.float().abs().sum(dtype=torch.float32)) for _, value in tensors_of(prior))
    levels = list(prior.noise_range)
    return {"event_shape": list(prior.event_shape), "sigma_data": prior.sigma_data, "noise": levels, "size": size}


def _check_fingerprint(folder: Path, saved: Mapping[str, Any], prior: Any) -> None:
    """Refuses another prior than that of the result."""
    instance("prior", prior, isinstance(prior, DiffusionPrior), "a DiffusionPrior")
    here = _fingerprint(prior)
    close = all(
        abs(a - b) <= SAME * max(abs(a), abs(b))
        for a, b in zip(
            (saved["sigma_data"], *saved["noise"], saved["size"]),
            (here["sigma_data"], *here["noise"], here["size"]),
            strict=True,
        )
    )
    if list(saved["event_shape"]) != here["event_shape"] or not close:
        raise InputError(f"The prior is not that of the result in {folder}: give load(folder, prior=…) the same one.")


def _record(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """``value`` for JSON; its tensors are added to ``tensors`` by name. Refuses what is not of this library."""
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_record(f"{name}/{i}", each, tensors) for i, each in enumerate(value)]
    if isinstance(value, Mapping):
        return {"entries": {str(key): _record(f"{name}/{key}", each, tensors) for key, each in value.items()}}
    if CLASSES.get(type(value).__name__) is type(value):
        own = {field.name: getattr(value, field.name) for field in fields(value)}
        return {"class": type(value).__name__} | _record(name, own, tensors)
    todo = "operators, likelihoods and corrections are those of this library"
    if name.startswith("likelihood"):
        todo += "; save(folder, without=['likelihood']), and give it to load(folder, likelihood=…)"
    raise InputError(f"The {name.partition('/')[0]} holds {described(value)}, which cannot be saved: {todo}.")


class _Reader:
    """Makes values of the records of :func:`_record`, on a device."""

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.tensors, self.device = tensors, device

    def __call__(self, record: Any, kind: type | tuple[type, ...]) -> Any:
        """The value, of one of these types.

        Raises:
            TypeError: it is something else.
        """
        value = self._value(record)
        if not isinstance(value, kind):
            raise TypeError(f"{type(value).__name__} is not {kind}")
        return value

    def _value(self, record: Any) -> Any:
        if isinstance(record, list):
            return tuple(self._value(each) for each in record)
        if not isinstance(record, dict):
            return record
        if "tensor" in record:
            return self.tensors[record["tensor"]].to(self.device)
        entries = {key: self._value(each) for key, each in record["entries"].items()}
        return CLASSES[record["class"]](**entries) if "class" in record else entries
