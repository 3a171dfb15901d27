"""Hostile folders of saved guides, fits and results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide, MeanFieldGuide
from tests.hostile import prior_folders as p
from tests.hostile.harness import Case
from tests.hostile.world import MODEL, PLAIN, SHAPE, fit, guide, inpaint, model

GUIDE, PARAMETERS = "guide.json", "model.safetensors"
FIT, TERMS = "fit.json", "fit.safetensors"
RESULT, SAMPLES = "result.json", "result.safetensors"


@cache
def template() -> Path:
    """A saved guide and a saved fit."""
    folder = Path(mkdtemp(prefix="hostile-guide-"))
    torch.manual_seed(0)
    guide().save_pretrained(folder)
    fit(seed=0).save_pretrained(folder)
    return folder


@cache
def result_template() -> Path:
    """A saved result, without its prior."""
    folder = Path(mkdtemp(prefix="hostile-result-"))
    inpaint().save(folder, without=["prior"])
    return folder


def load_guide(folder: Path) -> HierarchicalGuide:
    return HierarchicalGuide.load(folder / "prior", MODEL)


def load_fit(folder: Path) -> vp.Fit:
    return vp.Fit.load(folder / "prior")


def load_result(folder: Path) -> vp.Result:
    return vp.Result.load(folder / "prior", prior=PLAIN, device="cpu")


def case(name: str, change: p.Change, says: str = "", load: Callable[[Path], Any] = load_guide) -> Case:
    return Case(name, load, says, lambda folder: change(p.good(folder, template)))


RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "no class": ({"class": ...}, "class"),
    "another class": ({"class": "MixtureGuide"}, "class"),
    "a class that is a list": ({"class": ["HierarchicalGuide"]}, "class"),
    "version 99": ({"version": 99}, "version"),
    "version a string": ({"version": "1"}, "version"),
    "no images": ({"num_images": ...}, "guide.json"),
    "images 0": ({"num_images": 0}, "guide.json|num_images"),
    "images -1": ({"num_images": -1}, "guide.json|num_images"),
    "images 10^9": ({"num_images": 10**9}, "guide.json|num_images"),
    "images 10^30": ({"num_images": 10**30}, "guide.json|num_images"),
    "images a string": ({"num_images": "1"}, "guide.json|num_images"),
    "images 1.5": ({"num_images": 1.5}, "guide.json|num_images"),
    "images a list": ({"num_images": [1]}, "guide.json|num_images"),
    "images NaN": ({"num_images": float("nan")}, "guide.json|num_images"),
    "settings a list": ({"settings": []}, "guide.json"),
    "settings of another guide": ({"settings": {"rank": 8}}, "guide.json"),
    "settings that call": ({"settings": {"model": "os.system"}}, "guide.json"),
    "a granularity that is none": ({"settings": {"gamma": "pixel", "tau": "element"}}, "element|guide.json"),
    "levels a list": ({"levels": [1, 2]}, "guide.json"),
    "levels of strings": ({"levels": {"z_2": ["a", "b"], "z_1": [1, 1]}}, "guide.json|z_2"),
    "levels NaN": ({"levels": {"z_2": [float("nan"), 1], "z_1": [1, 1]}}, "z_2|z_1|guide.json"),
    "levels of another model": ({"levels": {"z_2": [1.0, 9.0], "z_1": [1.0, 0.5]}}, "z_2"),
    "levels that are more": ({"levels": {"z_3": [1.0, 9.0]}}, "z_"),
}
FITS: dict[str, tuple[dict[str, Any], str]] = {
    "no losses": ({"losses": ...}, "fit.json"),
    "losses strings": ({"losses": ["a", "b"]}, "fit.json|losses"),
    "losses a number": ({"losses": 3}, "fit.json|losses"),
    "losses NaN": ({"losses": [float("nan"), 1.0]}, "fit.json|losses"),
    "terms that are not there": ({"terms": ["z_9"]}, "fit.json|z_9"),
    "terms a number": ({"terms": 3}, "fit.json|terms"),
    "rates a list": ({"rates": [0.1]}, "fit.json|rates"),
    "rates negative": ({"rates": {"mu": -0.1, "tau": 0.1, "gamma": 0.1}}, "fit.json|rate"),
    "rates NaN": ({"rates": {"mu": float("nan"), "tau": 0.1, "gamma": 0.1}}, "fit.json|rate"),
    "calls a string": ({"calls": "12"}, "fit.json|calls"),
    "calls negative": ({"calls": -1}, "fit.json|calls"),
    "seconds None": ({"seconds": None}, "fit.json|seconds"),
    "a guide in its place": ({"class": "HierarchicalGuide"}, "class"),
}


def cases() -> Iterator[Case]:
    for file, load in ((GUIDE, load_guide), (FIT, load_fit)):
        for name, content in p.JSONS.items():
            yield case(f"{file}: {name}", p.written(file, content), f"{file}|holds class None", load)
        yield case(f"{file}: missing", p.removed(file), file, load)
        yield case(f"{file}: a FIFO", p.fifo(file), file, load)
        yield case(f"{file}: a folder", p.as_folder(file), file, load)
        yield case(f"{file}: a link to /dev/zero", p.linked(file, "/dev/zero"), file, load)
    for file, load in ((PARAMETERS, load_guide), (TERMS, load_fit)):
        for name, content in p.BYTES.items():
            yield case(f"{file}: {name}", p.written(file, content), "", load)
        yield case(f"{file}: missing", p.removed(file), file, load)
        yield case(f"{file}: a FIFO", p.fifo(file), file, load)
        yield case(f"{file}: a pickle that runs code", lambda f, file=file: p.pickled(f, file), file, load)
    for name, (changes, says) in RECORDS.items():
        yield case(f"guide: {name}", p.edited(GUIDE, **changes), says)
    for name, (changes, says) in FITS.items():
        yield case(f"fit: {name}", p.edited(FIT, **changes), says, load_fit)


def of_result(name: str, change: p.Change, says: str = "") -> Case:
    return Case(name, load_result, says, lambda folder: change(p.good(folder, result_template)))


def result_cases() -> Iterator[Case]:
    for name, content in p.JSONS.items():
        yield of_result(f"{RESULT}: {name}", p.written(RESULT, content), f"{RESULT}|holds class None")
    for name, content in p.BYTES.items():
        yield of_result(f"{SAMPLES}: {name}", p.written(SAMPLES, content))
    for file in (RESULT, SAMPLES):
        yield of_result(f"{file}: a FIFO", p.fifo(file), file)
        yield of_result(f"{file}: a pickle that runs code", lambda f, file=file: p.pickled(f, file), file)
    yield Case(
        "result: loaded (works)", load_result, arrange=lambda f: p.good(f, result_template),
        works=lambda f, r: torch.equal(r.sample(2, seed=1).samples, inpaint().sample(2, seed=1).samples),
    )  # fmt: skip


def parameters(change: Callable[[dict[str, torch.Tensor]], Any]) -> p.Change:
    return p.tensors(change, PARAMETERS)


def first(weights: dict[str, torch.Tensor]) -> str:
    return sorted(weights)[0]


CASES = [
    *cases(),
    *result_cases(),
    case("parameters: one missing", parameters(lambda w: {n: v for n, v in w.items() if n != first(w)}), "needs|holds"),
    case("parameters: a surplus one", parameters(lambda w: w | {"nu_1": torch.zeros(1)}), "nu_1"),
    case("parameters: NaN", parameters(lambda w: w | {first(w): w[first(w)] * float("nan")}), "finite|NaN"),
    case("parameters: infinite", parameters(lambda w: w | {first(w): w[first(w)] + float("inf")}), "finite"),
    case("parameters: whole numbers", parameters(lambda w: {n: v.long() for n, v in w.items()}), "int|float"),
    case("parameters: complex", parameters(lambda w: {n: v.to(torch.complex64) for n, v in w.items()}),
         "complex|float"),
    case("parameters: of another shape", parameters(lambda w: w | {first(w): torch.zeros(3)}), "holds|needs"),
    case("fit: tensors missing", p.tensors(lambda w: {"a": torch.zeros(1)}, TERMS), "fit", load_fit),
    Case("guide: of another class", lambda f: MeanFieldGuide.load(f / "prior", MODEL), "class",
         lambda f: p.good(f, template)),
    Case("guide: for no model", lambda f: HierarchicalGuide.load(f / "prior", None), "model|describe",  # type: ignore[arg-type]
         lambda f: p.good(f, template)),
    Case("guide: a folder that is not there", load_guide, "guide.json"),
    Case("fit: a folder that is not there", load_fit, "fit.json"),
    Case("guide: saved into a file", lambda f: guide().save_pretrained(f / "prior"), "folder|writ",
         lambda f: (f / "prior").write_text("mine")),
    Case("guide: saved below a file", lambda f: guide().save_pretrained(f / "prior" / "x"), "folder|writ",
         lambda f: (f / "prior").write_text("mine")),
    Case("guide: saved into a folder with other files (works)", lambda f: guide().save_pretrained(f),
         arrange=lambda f: (f / "mine.txt").write_text("mine"),
         works=lambda f, _: (f / "mine.txt").read_text() == "mine" and HierarchicalGuide.load(f,
          MODEL).num_images == 1),
    Case("guide: loaded (works)", load_guide, arrange=lambda f: p.good(f, template),
         works=lambda f, g: all(torch.equal(a, b) for a, b in zip(g.parameters(), guide().parameters(), strict=True))),
    Case("fit: loaded and resumed (works)", load_fit, arrange=lambda f: p.good(f, template),
         works=lambda f, r: len(fit(resume=r).losses) == 4),
    Case("guide: on an equal model (works)", lambda f: HierarchicalGuide.load(f / "prior", model()),
         arrange=lambda f: p.good(f, template), works=lambda f, g: g.mu_1.shape == (1, *SHAPE)),
]  # fmt: skip
