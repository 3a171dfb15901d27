"""The benchmarks that are plans of bench: their trials, what their methods cost, how exact draws score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pyro_vipaint as vp
from benchmarks import cats, quality
from benchmarks.parts import summary
from benchmarks.plans import Held, compute, nfe_per_sample
from pyro_vipaint import InputError
from pyro_vipaint.bench import Cell
from pyro_vipaint.bench.methods import VIPaint
from pyro_vipaint.cats.parts import draw_parts, shipped_layers
from pyro_vipaint.demo import held_out_images
from pyro_vipaint.models.measurements.masks import rotated_window
from pyro_vipaint.settings import LATENT, default_settings

CELL = Cell("fashion32", "rotated-window", "", None, 8, 16, 1, 0)


def test_quality_has_the_masks_of_the_whole_block_and_a_seed_per_chunk() -> None:
    trial = quality.suite(10).trial(CELL, "cpu")
    images, labels = held_out_images()
    mask = rotated_window(32, 64, seed=0)[8:16]
    assert trial.mask is not None and trial.seed == 8
    assert torch.equal(trial.mask, mask) and torch.equal(trial.truth, images[8:16])
    assert torch.equal(trial.y, images[8:16] * mask) and torch.equal(trial.condition["class_labels"], labels[8:16])
    with pytest.raises(InputError, match="There are 64 held-out images"):
        quality.suite(10).trial(replace(CELL, start=64, stop=65), "cpu")


@pytest.mark.parametrize("task", cats.TASKS)
def test_cats_come_in_blocks_with_one_seed_for_images_noise_and_masks(task: str) -> None:
    """The second half of the second block, against a block that is drawn here."""
    trial = cats.suite(8).trial(Cell("cats64", task, "", None, 24, 32, 1, 0), "cpu")
    layers, generator = shipped_layers(), torch.Generator().manual_seed(1)
    images = layers.compose(draw_parts(layers, 16, held_out=True, generator=generator))
    noisy = images + 0.05 * torch.randn(images.shape, generator=generator)
    assert trial.mask is not None and (trial.noise, trial.seed) == (0.05, 24)
    assert torch.equal(trial.truth, images[8:]) and torch.equal(trial.y, noisy[8:] * trial.mask)
    other = cats.suite(8).trial(Cell("cats64", task, "", None, 8, 16, 1, 0), "cpu")
    assert not torch.equal(trial.truth, other.truth)
    if task == "lower third":
        assert trial.mask.sum() == 8 * 21 * 64 and trial.mask[..., -21:, :].all()
    if task == "rotated window":
        assert torch.equal(trial.mask, rotated_window(64, 16, seed=1)[8:])


def test_the_cost_of_vipaint_is_stated_and_other_methods_are_held_to_it() -> None:
    """(1 + 2 × 3) / 2 of the fit, rounded up with 1 of the chain and 3 of the refinement."""
    assert nfe_per_sample(replace(default_settings(2, preset="pictures"), steps=2, refine_steps=3), 2) == 8
    held = {name: method.budget for name, method in quality.methods(10).items() if isinstance(method, Held)}
    two, four = (nfe_per_sample(default_settings(levels, preset="pictures"), 10) for levels in (2, 4))
    assert held == {
        quality.FOUR_AS_TWO: two,
        **{quality.dps_name(2, zeta): two for zeta in (1.0, 2.5)},
        **{quality.dps_name(4, zeta): four for zeta in (1.0, 2.5)},
        "DPS, 250 steps": 250,
    }
    dps = cats.methods(8)["DPS"]
    assert isinstance(dps, Held) and dps.budget == nfe_per_sample(default_settings(4, latent=True), 8)


def test_variants_of_vipaint_differ_in_what_they_say() -> None:
    """No perceptual term; four components with as many particles and a quarter of the steps."""
    plain, table = default_settings(2, latent=True), cats.methods(8)
    l1, mixture = table["VIPaint-2, L1"], table["VIPaint-4, mixture"]
    assert isinstance(l1, VIPaint) and l1.settings == replace(plain, perceptual_weight=0.0)
    assert isinstance(mixture, VIPaint) and mixture.settings is not None
    four = default_settings(4, latent=True)
    assert mixture.settings == replace(four, steps=four.steps // 4, num_particles=4)
    assert len({method.numbers() for method in table.values()}) == len(table)


@pytest.mark.slow
def test_exact_draws_score_as_expected_and_make_long_rows(tmp_path: Path) -> None:
    """Two cats and five slots: ten rows; total variation near its expectation, and no network call."""
    plan = replace(cats.PLAN, tasks=("lower third",), methods=(cats.EXACT,), num_images=2, num_samples=3)
    rows = compute(plan, cats.suite(3), tmp_path)
    assert rows["error"].isna().all() and len(rows) == 10 and (rows["nfe"] == 0).all()
    assert rows.groupby("image")["lpips"].nunique().tolist() == [1, 1]
    (line,) = summary(rows, ["method"], cats.PLAN.methods).to_dict("records")
    assert line["agreement"] >= 0.9 and abs(line["excess"]) < 0.25 and line["nfe"] == 0
    assert cats.report(rows).count("exact draws") == 2  # by mask, and over the masks


@pytest.mark.slow
def test_particles_of_cats_start_from_the_fitted_guide_and_count_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guide on the Gaussian model draws what the fitted one draws; fit, K + 1 calls of 4 particles, refinement."""
    monkeypatch.setitem(LATENT, "inference", (24.0, 8.0, 20, 2, 0.25))
    trial = cats.suite(1).trial(Cell("cats64", "box", "", None, 0, 1, 1, 0), "cpu")
    method = cats.Particles(4)
    fitted = method.fit(trial)
    model, guide = cats.gaussian(fitted, trial)
    ours, theirs = (vp.sample(each, trial.y, 2, seed=1) for each in (guide, fitted.guide))
    assert torch.equal(ours, theirs)
    assert guide.model is model and isinstance(model.likelihood, vp.Gaussian)
    assert model.likelihood.noise_std == trial.noise
    fit = 1 + 4 * (4 + 1) + 3 + 1  # the start, four steps, one draw in a single step
    assert method(trial, 2, None).nfe == fit + 4 * 2 * (4 + 1) + 2 * 2
