"""What bench says of a posterior and of its cost: equal to the diagnostics, calibrated for exact draws, counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from benchmarks import seconds
from pyro_vipaint._torch import DIRECTIONS, child_seed
from pyro_vipaint.bench import SUITE, TASKS, Cell, Plan, Store, Suite, draws, engine, run
from pyro_vipaint.bench.draws import PriorDraws
from pyro_vipaint.bench.report import against, posterior_table
from pyro_vipaint.bench.scores import LEVEL, image_scores, rank_counts
from pyro_vipaint.bench.summary import means
from pyro_vipaint.bench.tasks import Task
from pyro_vipaint.bench.trials import Trial
from pyro_vipaint.bench.work import Record, compute
from pyro_vipaint.diagnostics import energy_score, error_over_spread, interval_coverage, lpips_energy_score
from pyro_vipaint.metrics import lpips_distance
from pyro_vipaint.models import GaussianPrior, load_prior
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


SHORT = replace(TASKS["prior-draws"], draws=PriorDraws(steps=2))


def drawn(task: Task, start: int, stop: int, seed: int = 0) -> Trial:
    return Suite(tasks={"draws": task}).trial(Cell("fashion32", "draws", "", None, start, stop, 1, seed), "cpu")


def test_draws_of_the_prior_depend_on_their_numbers_alone(tmp_path: Path) -> None:
    """Not on the cell, nor on whether they are drawn or read; masks and noise depend on the seed."""
    whole, part, other = drawn(SHORT, 0, 20), drawn(SHORT, 14, 18), drawn(SHORT, 14, 18, seed=1)
    assert torch.equal(whole.truth[14:18], part.truth) and torch.equal(whole.y[14:18], part.y)
    assert torch.equal(other.truth, part.truth) and not torch.equal(other.y, part.y)
    assert part.condition["class_labels"].tolist() == [4, 5, 6, 7]
    assert part.mask is not None and part.noise == 0.05
    hidden, noise = part.mask == 0, (part.y - part.truth)[part.mask == 1]
    assert not part.y[hidden].any() and abs(float(noise.std()) - 0.05) < STANDARD_ERRORS * 0.05 / noise.numel() ** 0.5
    kept = SHORT.keeping(tmp_path)
    draws._DRAWN.clear()
    assert torch.equal(drawn(kept, 14, 18).truth, part.truth) and not draws._DRAWN
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PriorDraws, "_draw", lambda *arguments: pytest.fail("drawn again"))
        assert torch.equal(drawn(kept, 0, 20).truth, whole.truth)


def test_draws_of_the_prior_are_its_chain() -> None:
    """By hand, from the seed of the second block."""
    prior, labels, t = load_prior("fashion32"), torch.arange(16, 32) % 10, 0.5
    torch.manual_seed(1 ^ 2**29)
    z = float(prior.schedule(torch.ones((), dtype=torch.double))[1]) * torch.randn(16, 1, SIDE, SIDE)
    with torch.no_grad():
        z = prior.transition(z, 1.0, t, class_labels=labels).sample()
        expected = prior.denoise(z, t, class_labels=labels).clamp(-1, 1)
    assert torch.allclose(drawn(SHORT, 16, 32).truth, expected, atol=1e-5)


def test_a_run_draws_once_and_another_number_of_images_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawings: list[int] = []
    draw = PriorDraws._draw
    monkeypatch.setattr(PriorDraws, "_draw", lambda self, prior, number, device: drawings.append(number) or draw(
        self, prior, number, device))  # fmt: skip
    suite = Suite(tasks={"draws": SHORT, "box": TASKS["box"]})
    plan = Plan(("fashion32",), ("draws",), ("DPS", "DDNM"), (1, 2), num_images=2, num_samples=1, chunk=1)
    run(plan, tmp_path, engine("local", 1, "cpu", None), "cpu", suite=suite)
    both = replace(plan, tasks=("box", "draws"), num_images=3)
    frame = run(both, tmp_path, engine("local", 1, "cpu", None), "cpu", suite=suite)
    assert drawings == [0] and frame["error"].isna().all() and len(frame) == 2 * 3 * 2 * 2
    for change, message in (({"num_images": 257}, "at most 256"), ({"images": str(tmp_path)}, "takes no pictures")):
        with pytest.raises(vp.InputError, match=message):
            run(replace(plan, **change), tmp_path / "new", engine("local", 1, "cpu", None), "cpu", suite=suite)
    assert drawings == [0]


def test_the_posterior_table_has_each_score_with_its_error() -> None:
    """Two images by hand: the ratio of sums, (1 + 9) / (2 + 3), and its jackknife, of 9/3 and 1/2."""
    rows = pd.DataFrame(
        {"method": ["DPS"] * 2 + ["VIPaint-4"] * 2, "image": [0, 1] * 2, "energy": [3.0, 5.0, 2.0, 3.0]}
    )
    rows = rows.assign(squared_error=[1.0, 9.0] * 2, variance=[2.0, 3.0] * 2, lpips=0.5, error=None, images=None)
    rows = rows.assign(prior="p", task="box", budget=1, seed=0, num_samples=4)
    table = posterior_table(rows).set_index("method")
    assert list(table["energy"]) == ["2.5000 ± 0.5000", "4.0000 ± 1.0000"]
    assert table.loc["DPS", "error_over_spread"] == "2.0000 ± 1.2500"
    assert "coverage_pixels" not in table
    assert against(rows, column="energy") == (
        "In energy score, VIPaint-4 minus, paired over images: DPS -1.5000 ± 0.5000."
    )
