"""Loading restores what was saved, broken files are refused, and a resumed fit equals an uninterrupted one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint import guides
from pyro_vipaint.corrections import MMPS, PiGDM
from pyro_vipaint.guides import HierarchicalGuide, MeanFieldGuide, PriorGuide, TwistedGuide
from pyro_vipaint.models import DiffusionModel, GaussianPrior
from pyro_vipaint.svi import Fit, FitState
from tests.problems import diagonal_problem, perturbed

SETTINGS: dict[str, dict[str, Any]] = {
    "HierarchicalGuide": {"gamma": "level", "tau": "shared", "tau_scale": 0.2, "gamma_logit": 1.0},
    "LowRankGuide": {"rank": 2, "gamma": "shared"},
}


def build(levels: int = 3, images: int = 2) -> tuple[DiffusionModel, Tensor]:
    problem = diagonal_problem((5.0, 3.0, 1.0, 0.3)[-levels:], images)
    return problem.model(), problem.y


@pytest.mark.parametrize(("name", "levels"), [*((name, 3) for name in guides.__all__), ("HierarchicalGuide", 1)])
def test_a_loaded_guide_is_the_saved_one_bit_for_bit(name: str, levels: int, tmp_path: Path) -> None:
    model, y = build(levels)
    guide = perturbed(getattr(guides, name)(model, y, **SETTINGS.get(name, {})))
    guide.save_pretrained(tmp_path / "a" / "folder")
    assert sorted(path.name for path in (tmp_path / "a" / "folder").iterdir()) == ["guide.json", "model.safetensors"]
    loaded = type(guide).load(tmp_path / "a" / "folder", model)
    assert loaded.settings == guide.settings
    saved = guide.state_dict()
    assert loaded.state_dict().keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(vp.sample(guide, y, 4, seed=1), vp.sample(loaded, y, 4, seed=1))


@pytest.mark.parametrize("family", [HierarchicalGuide, TwistedGuide])
def test_a_correction_is_named_and_given_again(family: Any, tmp_path: Path) -> None:
    model, y = build()
    guide = perturbed(family(model, y, correction=MMPS()))
    guide.save_pretrained(tmp_path)
    loaded = family.load(tmp_path, model, MMPS())
    assert torch.equal(vp.sample(guide, y, 4, seed=1), vp.sample(loaded, y, 4, seed=1))
    refused(lambda: family.load(tmp_path, model), "with the correction 'MMPS', load was given None")
    refused(lambda: family.load(tmp_path, model, PiGDM()), "with the correction 'MMPS', load was given PiGDM")


def test_the_dtype_survives(tmp_path: Path) -> None:
    model, y = build()
    PriorGuide(model, y.double()).save_pretrained(tmp_path)
    assert PriorGuide.load(tmp_path, model).mu_3.dtype == torch.float64


def refused(call: Callable[[], Any], match: str) -> None:
    """The message is one line that names the fault."""
    with pytest.raises(vp.InputError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_another_class_another_shape_and_other_levels_are_refused(tmp_path: Path) -> None:
    model, y = build()
    MeanFieldGuide(model, y).save_pretrained(tmp_path)
    refused(lambda: HierarchicalGuide.load(tmp_path, model), "holds class 'MeanFieldGuide', not 'HierarchicalGuide'")
    refused(lambda: MeanFieldGuide.load(tmp_path, build(levels=2)[0]), "the model needs None")
    refused(lambda: MeanFieldGuide.load(tmp_path, build(levels=4)[0]), "holds None for mu_4")
    other = DiffusionModel(model.prior, model.likelihood, [t + 0.01 for t in model.keypoints])
    refused(lambda: MeanFieldGuide.load(tmp_path, other), "for z_1, the model needs")
    small = GaussianPrior.diagonal(torch.zeros(4), torch.ones(4))
    narrow = DiffusionModel(small, vp.Gaussian(vp.Inpainting(torch.ones(4))), model.keypoints)
    refused(lambda: MeanFieldGuide.load(tmp_path, narrow), r"holds \(2, 16\) for mu_1_unconstrained.* needs \(2, 4\)")


BROKEN: dict[str, Callable[[Path], Any]] = {
    "no record": lambda folder: (folder / "guide.json").unlink(),
    "not JSON": lambda folder: (folder / "guide.json").write_text('{"class": '),
    "not an object": lambda folder: (folder / "guide.json").write_text("[1]"),
    "no settings": lambda folder: edit(folder, settings=None),
    "strange levels": lambda folder: edit(folder, levels=[1, 2]),
    "strange number": lambda folder: edit(folder, num_images="two"),
    "a billion images": lambda folder: edit(folder, num_images=10**9),
    "no images": lambda folder: edit(folder, num_images=0),
    "infinite": lambda folder: (folder / "guide.json").write_text('{"num_images": 1e999}'),
    "deep": lambda folder: (folder / "guide.json").write_text('{"a":' * 100_000),
    "pipe": lambda folder: ((folder / "guide.json").unlink(), os.mkfifo(folder / "guide.json")),
    "another version": lambda folder: edit(folder, version=2),
    "NaN": lambda folder: change(folder, lambda value: value / 0 * 0),
    "integers": lambda folder: change(folder, Tensor.int),
    "missing": lambda folder: save_file({}, folder / "model.safetensors"),
    "no tensors": lambda folder: (folder / "model.safetensors").unlink(),
    "no safetensors": lambda folder: (folder / "model.safetensors").write_bytes(b"PK\x03\x04 a pickle, perhaps"),
}


def edit(folder: Path, file: str = "guide.json", **changes: Any) -> None:
    record = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(record | changes))


def change(folder: Path, convert: Callable[[Tensor], Tensor], name: str = "model.safetensors") -> None:
    save_file({key: convert(value) for key, value in load_file(folder / name).items()}, folder / name)


@pytest.mark.parametrize("damage", BROKEN)
def test_broken_files_are_refused(damage: str, tmp_path: Path) -> None:
    model, y = build()
    PriorGuide(model, y).save_pretrained(tmp_path)
    BROKEN[damage](tmp_path)
    message = r"guide\.json|model\.safetensors|version 2|holds None|holds mu_3_unconstrained as torch\.int32"
    refused(lambda: PriorGuide.load(tmp_path, model), message)


@pytest.mark.parametrize("couplings", [10**9, 900])
def test_a_guide_larger_than_its_file_is_refused(couplings: int, tmp_path: Path) -> None:
    """Before it takes memory: by the number, or where its parameters outgrow those in the file."""
    model, y = build()
    guides.FlowGuide(model, y, num_couplings=2, width=2).save_pretrained(tmp_path)
    edit(tmp_path, settings={"num_couplings": couplings, "width": 2})
    refused(lambda: guides.FlowGuide.load(tmp_path, model), "does not describe a FlowGuide")


def test_an_interrupted_save_leaves_the_old_guide_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New tensors beside the old record must be refused."""
    model, y = build()
    PriorGuide(model, y).save_pretrained(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save", None)
        with pytest.raises(TypeError):
            PriorGuide(model, y + 1).save_pretrained(tmp_path)
    assert torch.equal(PriorGuide.load(tmp_path, model).mu_3, y)
    replace, moved = os.replace, []

    def stop_at_the_second(source: Any, target: Any) -> None:
        moved.append(target)
        if len(moved) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            PriorGuide(model, y + 1).save_pretrained(tmp_path)
    refused(lambda: PriorGuide.load(tmp_path, model), "guide.json does not exist")


# fits

HALF = 12  # steps of each of the two parts


def objective() -> vp.BetaELBO:
    """A weight that changes with the steps, so that a fit which loses its step number differs."""
    return vp.BetaELBO(lambda step: 1 + 4 * 0.9**step, num_particles=3)


@pytest.fixture(scope="module")
def unbroken() -> tuple[HierarchicalGuide, Fit]:
    """Both parts in one fit."""
    model, y = build()
    guide = HierarchicalGuide(model, y, gamma_logit=0.5)
    return guide, vp.fit(model, guide, y, objective(), steps=2 * HALF, lr=0.1, seed=4)


def first_half() -> tuple[DiffusionModel, Tensor, HierarchicalGuide, Fit]:
    model, y = build()
    guide = HierarchicalGuide(model, y, gamma_logit=0.5)
    return model, y, guide, vp.fit(model, guide, y, objective(), steps=HALF, lr=0.1, seed=4)


def assert_same(fit: Fit, guide: Any, whole: Fit, whole_guide: Any) -> None:
    assert fit.losses == whole.losses
    assert (fit.calls, fit.nfe) == (whole.calls, whole.nfe)
    assert fit.terms.keys() == whole.terms.keys()
    assert all(torch.equal(fit.terms[name], whole.terms[name]) for name in whole.terms)
    state = whole_guide.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in guide.state_dict().items())
    assert fit.state is not None and whole.state is not None
    assert fit.state.rates == whole.state.rates
    assert all(torch.equal(fit.state.tensors[name], value) for name, value in whole.state.tensors.items())


def test_other_work_between_the_halves_does_not_matter(unbroken: tuple[HierarchicalGuide, Fit]) -> None:
    """More steps of the guide, another objective: a resumed fit starts where the first one stopped, every time."""
    model, y, guide, first = first_half()
    for _ in range(2):
        vp.fit(model, guide, y, vp.BetaELBO(), steps=3)
        state = torch.get_rng_state()
        fit = vp.fit(model, guide, y, objective(), steps=HALF, resume=first)
        assert torch.equal(torch.get_rng_state(), state)
        assert_same(fit, guide, unbroken[1], unbroken[0])


def test_the_files_of_a_fit_resume_it_with_a_fresh_guide(
    unbroken: tuple[HierarchicalGuide, Fit], tmp_path: Path
) -> None:
    model, y, guide, first = first_half()
    guide.save_pretrained(tmp_path)
    first.save_pretrained(tmp_path)
    for fresh in (HierarchicalGuide(model, y), HierarchicalGuide.load(tmp_path, model)):
        fit = vp.fit(model, fresh, y, objective(), steps=HALF, resume=Fit.load(tmp_path))
        assert_same(fit, fresh, unbroken[1], unbroken[0])
    assert Fit.load(tmp_path).seconds == first.seconds
    (tmp_path / "fit.json").write_text('{"class": "Fit", "version": 1}')
    refused(lambda: Fit.load(tmp_path), "fit.json does not describe a fit")


BROKEN_FITS: dict[str, Callable[[Path], Any]] = {
    "losses": lambda folder: edit(folder, "fit.json", losses="abc"),
    "a loss": lambda folder: edit(folder, "fit.json", losses=[None]),
    "terms": lambda folder: edit(folder, "fit.json", terms=["z_9"]),
    "terms as text": lambda folder: edit(folder, "fit.json", terms="z_1"),
    "calls": lambda folder: edit(folder, "fit.json", calls=1.5),
    "negative": lambda folder: edit(folder, "fit.json", nfe=-1),
    "seconds": lambda folder: edit(folder, "fit.json", seconds=[]),
    "rates": lambda folder: edit(folder, "fit.json", rates=[0.1]),
    "a rate": lambda folder: edit(folder, "fit.json", rates={"mu": "fast"}),
    "surplus": lambda folder: edit(folder, "fit.json", terms=[]),
    "random state": lambda folder: change(folder, lambda value: value[:5], "fit.safetensors"),
    "NaN": lambda folder: change(folder, lambda value: value / 0 * 0, "fit.safetensors"),
    "integers": lambda folder: change(folder, lambda value: value.to(torch.uint8), "fit.safetensors"),
    "missing": lambda folder: save_file({}, folder / "fit.safetensors"),
}


@pytest.mark.parametrize("damage", BROKEN_FITS)
def test_broken_fits_are_refused(damage: str, tmp_path: Path) -> None:
    state = FitState({"guide/mu_1": torch.zeros(9), "random/cpu": torch.get_rng_state()}, {"mu": 0.1})
    Fit([1.0], {"z_1": torch.ones(1, 2)}, 1, 1, 0.5, state).save_pretrained(tmp_path)
    assert Fit.load(tmp_path).losses == [1.0]
    BROKEN_FITS[damage](tmp_path)
    refused(lambda: Fit.load(tmp_path), r"fit\.json does not describe a fit|fit\.safetensors: .* NaN or infinite")


def test_without_a_seed_the_global_generator_is_continued() -> None:
    """The state of an unseeded fit is that of the global generator at its end, not at its start."""
    model, y = build()
    losses = []
    for parts in ([6], [3, 3]):
        torch.manual_seed(9)
        guide, fit = HierarchicalGuide(model, y), None
        for steps in parts:
            fit = vp.fit(model, guide, y, vp.BetaELBO(), steps=steps, resume=fit)
            torch.randn(5)
        assert fit is not None
        losses.append(fit.losses)
    assert losses[0] == losses[1]


def test_the_decays_of_resumed_fits_multiply_and_a_new_rate_replaces_the_last_one() -> None:
    """10 steps to a tenth and 10 more to a tenth of that are 20 steps to a hundredth, up to rounding."""
    model, y = build()
    whole, halves = HierarchicalGuide(model, y), HierarchicalGuide(model, y)
    long = vp.fit(model, whole, y, vp.BetaELBO(), steps=20, lr=0.1, lr_decay=0.01, seed=1)
    short = vp.fit(model, halves, y, vp.BetaELBO(), steps=10, lr=0.1, lr_decay=0.1, seed=1)
    both = vp.fit(model, halves, y, vp.BetaELBO(), steps=10, lr_decay=0.1, resume=short)
    other = vp.fit(model, halves, y, vp.BetaELBO(), steps=1, lr=0.02, resume=short)
    assert other.state is not None and set(other.state.rates.values()) == {0.02}
    assert long.state is not None and short.state is not None and both.state is not None
    assert short.state.rates["mu"] == pytest.approx(0.01)
    assert both.state.rates == pytest.approx(long.state.rates)
    assert both.losses == pytest.approx(long.losses, rel=1e-4)


def test_what_cannot_be_resumed_is_refused() -> None:
    model, y, guide, first = first_half()
    refused(lambda: vp.fit(model, guide, y, objective(), seed=1, resume=first), "seed and resume")
    refused(lambda: vp.fit(model, MeanFieldGuide(model, y), y, objective(), resume=first), "agree about gamma_1")
    one = HierarchicalGuide(model, y[:1])
    refused(lambda: vp.fit(model, one, y[:1], objective(), resume=first), "agree about gamma_1")
    stateless = Fit(first.losses, first.terms, first.calls, first.nfe, first.seconds)
    refused(lambda: vp.fit(model, guide, y, objective(), resume=stateless), "holds no state")


def test_objectives_without_terms_resume_as_well() -> None:
    from pyro.infer import Trace_ELBO

    model, y = build()
    guide, elbo = HierarchicalGuide(model, y), Trace_ELBO(2, max_plate_nesting=1, vectorize_particles=True)
    first = vp.fit(model, guide, y, elbo, steps=2, seed=1)
    assert vp.fit(model, guide, y, elbo, steps=2, resume=first).terms == {}
