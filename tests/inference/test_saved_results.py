"""A result that was saved is the same result: its samples, its answers, and the samples that it draws later."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint import _files, guides
from pyro_vipaint.corrections import DDNM, DPS, MMPS, TMPD, ByLevel, DiffPIR, OptimalCovariance, PiGDM, Wiener
from pyro_vipaint.guides import HierarchicalGuide, TwistedGuide
from pyro_vipaint.models import DataCovariance, GaussianPrior, Matrix, load_prior
from pyro_vipaint.models.measurements.operators import apply
from pyro_vipaint.models.pretrained.load import weights_folder
from pyro_vipaint.results import saving
from pyro_vipaint.settings import Settings, inference_settings

QUICK: dict[str, Any] = {"levels": 2, "num_samples": 3, "steps": 2, "refine_steps": 2, "seed": 0, "device": "cpu"}
SHAPE = (1, 8, 8)
PLAIN = GaussianPrior.diagonal(torch.zeros(SHAPE), torch.full(SHAPE, 0.5)).diffusion()
COVARIANCE = DataCovariance(torch.eye(64)[:3].reshape(3, *SHAPE), torch.full((3,), 0.4), 0.2)
PRIOR = replace(PLAIN, data_covariance=COVARIANCE)
IMAGES = torch.linspace(-0.8, 0.8, 128).reshape(2, *SHAPE)
MASK = (torch.arange(64).reshape(SHAPE) % 8 < 4).float()
MASKS = torch.stack([MASK, 1 - MASK])
HOLE = vp.Inpainting(MASK)
WITHOUT = {"without": ["prior"]}  # the priors here are objects of Python
FILES = [
    ".vipaint.json", "fit.json", "fit.safetensors", "guide.json", "model.safetensors",
    "result.json", "result.safetensors",
]  # fmt: skip


def result(**changes: Any) -> vp.Result:
    return vp.inpaint(IMAGES, MASK, PRIOR, **{**QUICK, **changes})


def record_of(of: vp.Result) -> tuple[Any, dict[str, Tensor]]:
    """The settings as they are saved."""
    tensors: dict[str, Tensor] = {}
    return saving._record("settings", of.settings, tensors), tensors


def same(first: vp.Result, loaded: vp.Result) -> None:
    """All that a result is and answers, bit for bit."""
    for name in ("samples", "observation", "picture", "mean", "std"):
        assert torch.equal(getattr(first, name), getattr(loaded, name)), name
    assert (first.mask is None) == (loaded.mask is None)
    assert first.mask is None or loaded.mask is None or torch.equal(first.mask, loaded.mask)
    for name in ("calls", "nfe", "gradients", "seconds"):
        assert getattr(first, name) == getattr(loaded, name)
    assert first.fit.losses == loaded.fit.losses
    (ours, numbers), (theirs, loaded_numbers) = record_of(first), record_of(loaded)
    assert ours == theirs and all(torch.equal(value, loaded_numbers[name]) for name, value in numbers.items())
    assert torch.equal(first.quantile(0.5), loaded.quantile(0.5))
    assert all(map(torch.equal, first.interval(0.5), loaded.interval(0.5)))
    again, new = first.sample(5, seed=3), loaded.sample(5, seed=3)
    assert torch.equal(again.samples, new.samples) and again.calls == new.calls
    assert torch.equal(again.samples, loaded.sample(5, seed=3).samples)
    assert (first.latents is None) == (loaded.latents is None)
    if first.latents is not None and loaded.latents is not None:
        assert all(torch.equal(value, loaded.latents[name]) for name, value in first.latents.items())


def round_trip(first: vp.Result, folder: Path, **given: Any) -> vp.Result:
    first.save(folder, **WITHOUT)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    loaded = vp.Result.load(folder, prior=PRIOR, **given)
    same(first, loaded)
    return loaded


# the round trip


def test_a_shipped_prior_is_loaded_by_its_name(tmp_path: Path) -> None:
    """With a label, and the weights of the draws."""
    image, mask = torch.linspace(-0.9, 0.2, 1024).reshape(1, 32, 32), torch.ones(1, 32, 32)
    mask[:, 8:24, 8:24] = 0
    first = vp.inpaint(image, mask, "fashion32", **QUICK, label=1)
    first.save(tmp_path / "out")
    loaded = vp.Result.load(tmp_path / "out", device="cpu")
    same(first, loaded)
    assert torch.equal(first.log_weights(seed=1), loaded.log_weights(seed=1))
    assert torch.equal(loaded.model.condition["class_labels"], torch.tensor([1]))


def test_a_prior_in_a_folder_is_loaded_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from elsewhere, since its path is absolute; one that is gone or is another one is refused."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(weights_folder() / "fashion32", tmp_path / "mine")
    first = vp.inpaint(torch.zeros(1, 32, 32) - 0.5, torch.eye(32)[None], "mine", **QUICK)
    first.save("out")
    monkeypatch.chdir("/")
    assert torch.equal(vp.Result.load(tmp_path / "out").samples, first.samples)
    (tmp_path / "mine").rename(tmp_path / "moved")
    with pytest.raises(vp.InputError, match=r"or give load\(folder, prior=…\)"):
        vp.Result.load(tmp_path / "out")
    assert torch.equal(vp.Result.load(tmp_path / "out", prior=load_prior(tmp_path / "moved")).samples, first.samples)
    with pytest.raises(vp.InputError, match="is not that of the result"):
        vp.Result.load(tmp_path / "out", prior=replace(load_prior("fashion32"), data_covariance=None))


LIKELIHOODS: dict[str, Callable[[], Any]] = {
    "mask": lambda: vp.Gaussian(HOLE, 0.1),
    "one mask each": lambda: vp.Gaussian(vp.Inpainting(MASKS), 0.1),
    "a mask of booleans": lambda: vp.Gaussian(vp.Inpainting(MASK.bool()), 0.1),
    "noise map": lambda: vp.Gaussian(vp.Inpainting(torch.ones(SHAPE)), sigma=0.05 + 0.1 * MASK),
    "laplace": lambda: vp.Laplace(vp.GaussianBlur(0.7), 0.1),
    "poisson": lambda: vp.Poisson(vp.SuperResolution(2), gain=50.0),
    "motion": lambda: vp.Gaussian(vp.MotionBlur(3, 45.0), 0.1),
    "bicubic": lambda: vp.Gaussian(vp.SuperResolution(2, "bicubic"), 0.1),
    "composed": lambda: vp.Gaussian(vp.Compose(HOLE, vp.GaussianBlur(0.7, 5)), 0.1),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_operator_and_likelihood(name: str, tmp_path: Path) -> None:
    likelihood = LIKELIHOODS[name]()
    y = apply(likelihood.operator, IMAGES)
    y = ((y + 1) * 25).round() if name == "poisson" else y
    first = vp.restore(y, likelihood.operator, PRIOR, **QUICK, likelihood=likelihood)
    loaded = round_trip(first, tmp_path / "out")
    assert type(loaded.model.likelihood) is type(likelihood) and type(loaded.operator) is type(likelihood.operator)


def test_everything_public_can_be_saved() -> None:
    """The operators, likelihoods and corrections that there are; a new one is added to the list."""
    from pyro_vipaint import corrections, models
    from pyro_vipaint.models.measurements.likelihoods import _Additive
    from pyro_vipaint.models.measurements.operators import Broadcasting

    public = [getattr(vp, name) for name in vp.__all__] + [getattr(models, name) for name in models.__all__]
    bases = (_Additive, Broadcasting)
    found = {kind for kind in public if isinstance(kind, type) and issubclass(kind, bases)}
    found |= {
        kind for kind in vars(corrections).values()
        if isinstance(kind, type) and issubclass(kind, corrections.Correction) and kind is not corrections.Correction
    }  # fmt: skip
    assert found - {Broadcasting} == {*saving.CLASSES.values()} - {
        DataCovariance,
        Settings,
    }


@pytest.mark.parametrize("name", [name for name in guides.__all__ if name != "DeltaGuide"])
def test_every_guide(name: str, tmp_path: Path) -> None:
    first = result(guide=getattr(guides, name))
    loaded = round_trip(first, tmp_path / "out")
    assert type(loaded.guide) is type(first.guide) and loaded.guide.settings == first.guide.settings


@pytest.mark.parametrize(
    "correction",
    [DPS(0.3), PiGDM(0.5), TMPD(), MMPS(2), DDNM(0.5), DiffPIR(0.7), OptimalCovariance(), Wiener(COVARIANCE)],
    ids=lambda correction: type(correction).__name__,
)
def test_every_correction_of_refinement_and_guide(correction: Any, tmp_path: Path) -> None:
    """In the settings, alone and by level, and in a guide that the user made."""
    known = {**inference_settings(2).__dict__, "correction": ByLevel(correction, PiGDM(), 2.0), "order": 1}
    settings = type(inference_settings(2))(**{**known, "refine_steps": 2})
    round_trip(result(settings=settings), tmp_path / "a")
    twisted = isinstance(correction, OptimalCovariance)
    family = HierarchicalGuide if twisted else TwistedGuide
    round_trip(result(guide=lambda model, start: family(model, start, correction=correction)), tmp_path / "b")


class Own(HierarchicalGuide):
    """A guide of the user."""


def test_a_guide_of_one_s_own_is_loaded_by_its_class(tmp_path: Path) -> None:
    first = result(guide=Own)
    first.save(tmp_path / "out", **WITHOUT)
    with pytest.raises(vp.InputError, match=r"class 'Own', not of this library: give load\(folder, guide=…\)"):
        vp.Result.load(tmp_path / "out", prior=PRIOR)
    same(first, vp.Result.load(tmp_path / "out", prior=PRIOR, guide=Own))


def test_new_samples_can_be_saved_over_the_first(tmp_path: Path) -> None:
    first = result()
    first.save(tmp_path / "out", **WITHOUT)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    new = first.sample(7, seed=1)
    new.save(tmp_path / "out", **WITHOUT)
    same(new, vp.Result.load(tmp_path / "out", prior=PRIOR))
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


# what cannot be saved


@dataclass(frozen=True)
class Negative:
    """An operator of the user."""

    def A(self, x: Tensor) -> Tensor:
        return -x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return -y


def test_objects_of_the_user_are_refused_before_anything_is_written_or_given_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = vp.restore(-IMAGES, Negative(), PRIOR, **QUICK)
    with pytest.raises(vp.InputError, match=r"this is your own: save\(folder, without=\['prior'\]\)"):
        first.save(out)
    with pytest.raises(vp.InputError, match=r"holds Negative, which cannot be saved: .*without=\['likelihood'\]"):
        first.save(out, without=["prior"])
    assert not out.exists()
    first.save(out, without=["prior", "likelihood"])
    with pytest.raises(vp.InputError, match=r"without its prior: give load"):
        vp.Result.load(out)
    with pytest.raises(vp.InputError, match=r"without its likelihood: give load"):
        vp.Result.load(out, prior=PRIOR)
    same(first, vp.Result.load(out, prior=PRIOR, likelihood=first.model.likelihood))


REFUSED: dict[str, tuple[Callable[[vp.Result, Path], Any], str]] = {
    "a text": (lambda r, out: r.save(out, without="prior"), "without must be a row of names"),
    "no such part": (lambda r, out: r.save(out, without=["guide"]), "no part to save without"),
    "no guide": (lambda r, out: replace(r, approximation=None).save(out), "run inpaint or restore again"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_else_is_refused(name: str, tmp_path: Path) -> None:
    ask, message = REFUSED[name]
    with pytest.raises(vp.InputError, match=message):
        ask(result(), tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_guide_of_pyro_is_refused(tmp_path: Path) -> None:
    from pyro.infer.autoguide import AutoNormal

    first = result(guide=lambda model, start: AutoNormal(model, init_loc_fn=guides.init_to_start(model, start)))
    with pytest.raises(vp.InputError, match=r"must be one of pyro_vipaint\.guides"):
        first.save(tmp_path / "out", **WITHOUT)
    assert os.listdir(tmp_path) == []


def test_nothing_of_the_user_is_overwritten(tmp_path: Path) -> None:
    """A folder with files of others, a file, a folder of pictures."""
    first = result()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "result.json").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in ("mine", "file"):
        with pytest.raises(vp.InputError, match="give save another folder"):
            first.save(tmp_path / out, **WITHOUT)
    assert (tmp_path / "mine" / "result.json").read_text() == (tmp_path / "file").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["file", "mine"]


@pytest.mark.parametrize("moment", range(6))
def test_a_failure_leaves_the_old_result(moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each file that is written: no space left."""
    first, second = result(), result(seed=1)
    first.save(tmp_path / "out", **WITHOUT)
    written, whole = iter(range(100)), _files.write_whole

    def full(path: Path, content: bytes) -> None:
        if next(written) == moment:
            raise OSError(28, "No space left on device")
        whole(path, content)

    monkeypatch.setattr("pyro_vipaint._files.write_whole", full)
    with pytest.raises(OSError, match="No space"):
        second.save(tmp_path / "out", **WITHOUT)
    monkeypatch.undo()
    same(first, vp.Result.load(tmp_path / "out", prior=PRIOR))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


# broken and hostile folders

SAVED = result()


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    path = folder / "result.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: value.clone() for name, value in tensors.items()}, path)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


BROKEN: dict[str, Callable[[Path], Any]] = {
    "no record": lambda f: (f / "result.json").unlink(),
    "no tensors": lambda f: (f / "result.safetensors").unlink(),
    "no guide": lambda f: (f / "guide.json").unlink(),
    "no fit": lambda f: (f / "fit.json").unlink(),
    "cut record": lambda f: (f / "result.json").write_text((f / "result.json").read_text()[:-40]),
    "cut tensors": lambda f: (f / "result.safetensors").write_bytes((f / "result.safetensors").read_bytes()[:-40]),
    "a pickle": lambda f: (f / "result.safetensors").write_bytes(pickle.dumps(Evil())),
    "another object": lambda f: shutil.copy(f / "fit.json", f / "result.json"),
    "another version": lambda f: edit(f / "result.json", lambda r: r.update(version=99)),
    "no settings": lambda f: edit(f / "result.json", lambda r: r.pop("settings")),
    "settings of another class": lambda f: edit(f / "result.json", lambda r: r["settings"].update({"class": "DPS"})),
    "a class of torch": lambda f: edit(f / "result.json", lambda r: r["settings"].update({"class": "Linear"})),
    "settings that are no record": lambda f: edit(f / "result.json", lambda r: r.update(settings=[1, 2])),
    "a negative number": lambda f: edit(f / "result.json", lambda r: r["settings"]["entries"].update(scale=-1)),
    "an unknown entry": lambda f: edit(f / "result.json", lambda r: r["settings"]["entries"].update(mode="x")),
    "a missing tensor": lambda f: edit_tensors(f, lambda t: t.pop("likelihood/operator/mask")),
    "a mask of halves": lambda f: edit_tensors(
        f, lambda t: t.update({"likelihood/operator/mask": t["likelihood/operator/mask"] / 2})
    ),
    "no samples": lambda f: edit_tensors(f, lambda t: t.pop("samples")),
    "samples of others": lambda f: edit_tensors(f, lambda t: t.update(samples=t["samples"][:, :1])),
    "samples outside": lambda f: edit_tensors(f, lambda t: t.update(samples=9 * t["samples"])),
    "whole numbers": lambda f: edit_tensors(f, lambda t: t.update(samples=t["samples"].int())),
    "latents of others": lambda f: edit_tensors(f, lambda t: t.update({"latents/z_1": t["samples"][0]})),
    "one image": lambda f: edit_tensors(f, lambda t: t.update(observation=t["observation"][:1])),
    "a number for a name": lambda f: edit(f / "result.json", lambda r: r.update(guide=7)),
    "another guide": lambda f: edit(f / "result.json", lambda r: r.update(guide="MeanFieldGuide")),
    "the folder's own function": lambda f: edit(f / "result.json", lambda r: r.update(guide="init_to_start")),
    "negative calls": lambda f: edit(f / "result.json", lambda r: r.update(calls=-1)),
    "no fingerprint": lambda f: edit(f / "result.json", lambda r: r.update(fingerprint={})),
    "a deep record": lambda f: (f / "result.json").write_text('{"a":' * 100000 + "1" + "}" * 100000),
    "a condition": lambda f: edit(f / "result.json", lambda r: r["condition"]["entries"].update(text={"tensor": "no"})),
    "a prior by number": lambda f: edit(f / "result.json", lambda r: r.update(prior={"source": 7, "dtype": "float32"})),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_refused_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    SAVED.save(tmp_path / "out", **WITHOUT)
    BROKEN[name](tmp_path / "out")
    prior = None if name == "a prior by number" else PRIOR
    with pytest.raises(vp.InputError) as error:
        vp.Result.load(tmp_path / "out", prior=prior)
    assert "\n" not in str(error.value) and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_a_result_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(vp.InputError, match="does not exist"):
        vp.Result.load(tmp_path / name)


def test_matrices_can_be_saved_too() -> None:
    """An operator on vectors, which no prior of images has."""
    tensors: dict[str, Tensor] = {}
    record = saving._record("likelihood", vp.Gaussian(Matrix(torch.eye(3)), 0.1), tensors)
    read: Any = saving._Reader(tensors, torch.device("cpu"))(record, saving.LIKELIHOODS)
    assert torch.equal(read.operator.matrix, torch.eye(3)) and read.sigma == 0.1
