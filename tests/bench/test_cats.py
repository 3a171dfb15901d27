"""The benchmark on cats: exact draws score as they should, runs resume, and methods cost what is stated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import cats
from pyro_vipaint.models import GaussianPrior
from pyro_vipaint.settings import default_settings


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cats, one in a run, one mask."""
    monkeypatch.setattr(cats, "CATS", 2)
    monkeypatch.setattr(cats, "CHUNK", 1)
    monkeypatch.setattr(cats, "MASKS", {"lower third": cats.lower_third})
    cats.load_problem.cache_clear()


@pytest.mark.usefixtures("_small")
def test_exact_draws_are_scored_and_runs_resume(tmp_path: Path) -> None:
    path, where = tmp_path / "cats.jsonl", {"only": [cats.EXACT], "masks": ["lower third"]}
    cats.run_all(path, num_samples=3, **where, cats=2)
    rows = cats.read_rows(path)
    assert [(row["start"], len(row["lpips"]), len(row["parts"])) for row in rows] == [(0, 1, 5), (1, 1, 5)]
    first, second = path.read_text().splitlines(keepends=True)
    path.write_text(first + second[:100])  # killed in the second
    cats.run_all(path, num_samples=3, **where, cats=2)
    again = cats.read_rows(path)
    assert [row["parts"] for row in again] == [row["parts"] for row in rows]
    (line,) = cats.summary(again).to_dict("records")
    assert line["agreement"] >= 0.9 and abs(line["total_variation"] - line["total_variation_exact"]) < 0.25
    assert cats.report(again).count("| exact draws |") == 2  # by mask, and over the masks
    with pytest.raises(SystemExit, match="has 3 samples of 1 images: choose another --out"):
        cats.run_all(path, num_samples=4, **where, cats=2)
    other = path.with_name("other.jsonl")
    other.write_text(path.read_text().replace("polyak=1.0", "polyak=None"))
    with pytest.raises(SystemExit, match="has rows of other settings"):
        cats.run_all(other, num_samples=3, **where, cats=2)
    mean, error = cats.paired(cats.per_image(again), "lpips", cats.EXACT, cats.EXACT)
    assert (mean, error) == (0, 0)
    cats.run_all(path, num_samples=3, **where, cats=4)  # two more, and the first as they were
    more = cats.read_rows(path)
    assert [row["start"] for row in more] == [0, 1, 2, 3] and more[:2] == again
    images = torch.cat([cats.load_problem("lower third", start).images for start in range(4)])
    assert torch.cdist(images.flatten(1), images.flatten(1)).fill_diagonal_(1).min() > 0.5


@pytest.mark.usefixtures("_small")
def test_vipaint_and_dps_cost_what_is_stated() -> None:
    """On a Gaussian prior of the same shape, its marginal estimated as with a network."""
    prior = GaussianPrior.diagonal(torch.zeros(3, 64, 64), torch.ones(3, 64, 64)).diffusion()
    problem, settings = cats.load_problem("lower third", 0), replace(default_settings(2), steps=2, refine_steps=3)
    stated = cats.nfe_per_sample(settings, 2)
    assert stated == 8  # (1 + 2 × 3) / 2 of the fit, rounded up, 1 of the chain, 3 of the refinement
    for method in (cats.vipaint(settings), cats.dps_from_noise(stated)):
        samples, nfe = method(prior, problem.y, problem.masks, 2, 0)
        assert samples.shape == (2, 1, 3, 64, 64)
        assert stated - 1 < nfe <= stated


def test_masks_of_one_size_and_the_lower_third() -> None:
    for make in cats.MASKS.values():
        assert make(64, 3, seed=0).shape == (3, 1, 64, 64)
    mask = cats.lower_third(64)
    assert mask.sum() == 21 * 64 and mask[..., -21:, :].all()
