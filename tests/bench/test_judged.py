"""What bench says of a posterior and of its cost: equal to the diagnostics, calibrated for exact draws, counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from benchmarks import seconds
from pyro_vipaint._torch import DIRECTIONS, child_seed
from pyro_vipaint.bench import SUITE, Cell, Store
from pyro_vipaint.bench.scores import LEVEL, image_scores, rank_counts
from pyro_vipaint.bench.summary import means
from pyro_vipaint.bench.trials import Trial
from pyro_vipaint.bench.work import Record, compute
from pyro_vipaint.diagnostics import energy_score, error_over_spread, interval_coverage, lpips_energy_score
from pyro_vipaint.metrics import lpips_distance
from pyro_vipaint.models import GaussianPrior
from tests.statistics import STANDARD_ERRORS, critical_value

SIDE = 32


def noisy(samples: int, trial: Trial, std: float = 0.3) -> Tensor:
    return trial.truth + std * torch.randn(samples, *trial.truth.shape)


@pytest.mark.parametrize("task", ["rotated-window", "super-resolution"])
def test_the_columns_are_the_diagnostics(task: str) -> None:
    """In the hole, or in the whole image without a mask; the seed of the projections is the image's number."""
    trial = SUITE.trial(Cell("fashion32", task, "", None, 2, 5, 9, 0), "cpu")
    samples = noisy(9, trial)
    hole = torch.ones(3, 1, SIDE, SIDE) if trial.mask is None else 1 - trial.mask
    table = image_scores(samples, trial)
    columns = {
        "energy": energy_score(samples, trial.truth, hole),
        "lpips": lpips_distance(samples, trial.truth).mean(0),
        "lpips_energy": lpips_energy_score(samples, trial.truth),
    }
    for name, values in columns.items():
        assert table[name].tolist() == pytest.approx(values.tolist(), rel=1e-4), name
    for n in range(3):
        one = (samples[:, [n]], trial.truth[[n]])
        expected = interval_coverage(*one, LEVEL, hole[[n]], seed=child_seed(2 + n, DIRECTIONS))["coverage"]
        assert table.loc[n, ["coverage_pixels", "coverage_projections"]].tolist() == expected.tolist()
    rows = table.assign(**dict.fromkeys(("prior", "task", "method"), "x"), budget=1, num_samples=9, images=None)
    summary = means(rows.assign(error=None, seed=0)).iloc[0]
    assert (summary["error_over_spread"], summary["error_over_spread_se"]) == pytest.approx(
        error_over_spread(samples, trial.truth, hole), rel=1e-5
    )
    assert summary["energy_se"] == pytest.approx(float(columns["energy"].std()) / 3**0.5, rel=1e-5)


def test_few_samples_have_no_interval_and_a_single_one_no_spread() -> None:
    trial = SUITE.trial(Cell("fashion32", "box", "", None, 0, 2, 9, 0), "cpu")
    spread = {"energy", "lpips_energy", "squared_error", "variance", "diversity"}
    intervals = {"coverage_pixels", "coverage_projections"}
    for count, missing in ((9, set()), (8, intervals), (1, spread | intervals)):
        table = image_scores(noisy(count, trial), trial)
        assert set(table.columns[table.isna().all()]) == missing
        assert table.drop(columns=list(missing)).notna().all(axis=None)


def exact_draws(images: int, samples: int, std: float) -> tuple[Tensor, Trial]:
    """A Gaussian prior whose lower half is hidden; draws of its posterior with ``std`` of the right std; the trial."""
    prior = GaussianPrior.diagonal(torch.zeros(1, SIDE, SIDE), torch.full((1, SIDE, SIDE), 0.4)).diffusion()
    truth, mask = 0.4 * torch.randn(images, 1, SIDE, SIDE), torch.ones(images, 1, SIDE, SIDE)
    mask[..., SIDE // 2 :, :] = 0
    drawn = 0.4 * std * torch.randn(samples, *truth.shape)
    x = torch.where(mask == 1, truth, drawn)  # the noise of y is small
    return x, Trial(prior, truth, truth * mask, vp.Inpainting(mask), 0.0, {}, 0)


def test_exact_draws_are_calibrated_and_narrow_ones_are_not() -> None:
    """At 80 %, and each rank's share of a tenth, in units of the standard error over images."""
    exact, trial = exact_draws(40, 9, 1.0)
    table = image_scores(exact, trial)
    for name in ("coverage_pixels", "coverage_projections"):
        assert abs(table[name].mean() - LEVEL) < STANDARD_ERRORS * table[name].sem()
    shares = rank_counts(exact, trial).double() / 30
    assert shares.sum(1).allclose(torch.ones(40, dtype=torch.double))
    z = (shares.mean(0) - 0.1) / (shares.std(0) / 40**0.5)
    assert z.abs().max() < critical_value(10)
    assert rank_counts(*exact_draws(40, 9, 0.6))[:, [0, 9]].double().mean() / 30 > 0.15


@pytest.fixture
def record() -> Record:
    cell = Cell("fashion32", "box", "DPS", 4, 0, 2, 3, 0)
    return compute(cell, SUITE, "cpu", 1)


def test_a_row_has_the_gradients_and_the_forward_equivalents(record: Record, tmp_path: Path) -> None:
    """DPS with four steps: three gradients; with r = 2.5 as much as 4 + 1.5 × 3 calls."""
    store, cell = Store(tmp_path), Cell(**record.plain["cell"])
    store.write(cell, Record(record.plain | {"gradient_ratio": 2.5}, record.tensors))
    assert store.gradient_ratios() == {"fashion32": 2.5}
    columns = store.table()[["nfe", "gradients", "gradient_ratio", "forward_equivalents"]]
    assert columns.to_numpy().tolist() == 2 * [[4.0, 3.0, 2.5, 8.5]]
    assert record.tensors["ranks"].sum(1).tolist() == [30, 30]


def test_seconds_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Medians per sample over the rounds after the first, on a clock on which a method takes what it says."""
    now, order = [0.0], []

    def method(name: str, seconds: list[float]) -> Any:
        def run(trial: Trial, num_samples: int) -> None:
            now[0] += seconds[order.count(name)]
            order.append(name)

        return run

    monkeypatch.setattr(seconds.time, "perf_counter", lambda: now[0])
    methods = {seconds.REFERENCE: method("DPS", [90.0, 12.0, 24.0, 18.0]), "other": method("other", [99.0, 6, 36, 9])}
    trial = SUITE.trial(Cell("fashion32", "box", "", None, 0, 2, 3, 0), "cpu")
    table = seconds.interleaved_seconds(methods, trial, 3, repeats=3)
    assert order == 4 * ["DPS", "other"]
    assert table[["seconds", "least", "most", "relative"]].to_numpy().tolist() == [[3, 2, 4, 1], [1.5, 1, 6, 0.5]]
