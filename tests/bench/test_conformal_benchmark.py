"""The benchmark of conformal intervals: its functionals by hand, and its table on problems made for it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from benchmarks import conformal
from pyro_vipaint.bench.trials import Trial
from pyro_vipaint.models.measurements.masks import rotated_window

bare: Any = None  # the functionals use no prior


def trial(block: int, truth: Tensor) -> Trial:
    mask = rotated_window(32, len(truth), seed=block)
    return Trial(bare, truth, truth * mask, vp.Inpainting(mask), 0.0, {}, 0, block * len(truth))


def test_halves_are_means_of_the_hole_on_either_side_of_its_middle() -> None:
    """By loops: the extent of the hole from its first to its last column, and likewise rows."""
    hidden = rotated_window(32, 3, seed=1) == 0
    weights = conformal.halves(hidden)
    x = torch.randn(3, 1, 32, 32)
    for n in range(3):
        for dim, numbers in ((1, (0, 1)), (0, (2, 3))):
            places = hidden[n, 0].nonzero()
            middle = (places[:, dim].min() + places[:, dim].max()) / 2
            for number, side in zip(numbers, (places[:, dim] <= middle, places[:, dim] >= middle), strict=True):
                mean = torch.stack([x[n, 0, row, column] for row, column in places[side]]).mean()
                torch.testing.assert_close((weights[number, n] * x[n]).sum(), mean, rtol=1e-4, atol=1e-5)


def test_the_rows_are_moments_and_the_table_their_coverage() -> None:
    """Draws around a mean that is right, with a third of the spread: plain intervals cover too little, conformal .9."""
    torch.manual_seed(0)
    tables = []
    for block in range(8):
        truth = torch.randn(16, 1, 32, 32)
        draws = truth - 0.1 * torch.randn_like(truth) + 0.03 * torch.randn(conformal.NUM_SAMPLES, *truth.shape)
        table = conformal.functionals(draws, trial(block, truth))
        weights = conformal.halves(trial(block, truth).operator.mask == 0)  # type: ignore[attr-defined]
        values = (draws[:, 3] * weights[2, 3]).sum((1, 2, 3))
        row: Any = table[(table["image"] == 3) & (table["kind"] == "half") & (table["number"] == 2)].iloc[0]
        assert row["truth"] == pytest.approx(float((truth[3] * weights[2, 3]).sum()), abs=1e-6)
        assert (row["mean"], row["std"]) == pytest.approx((float(values.mean()), float(values.std())), abs=1e-6)
        tables.append(table.assign(image=table["image"] + 16 * block, method="made"))
    lines = list(conformal.lines(pd.concat(tables)))
    assert [line["functional"] for line in lines] == list(conformal.KINDS)
    for line in lines:
        plain, calibrated = (float(line[name].split()[0]) for name in ("plain", "conformal"))
        assert plain < 0.6 and 0.8 < calibrated < 1.0 and float(line["scale"]) > 2 * conformal.STUDENT
    assert conformal.report(pd.concat(tables)).count("| made") == 2


def test_calibration_by_moments_is_that_of_the_draws() -> None:
    """The scale from mean and deviation is that of :func:`conformalize` on draws that have them."""
    torch.manual_seed(0)
    draws, truth = torch.randn(conformal.NUM_SAMPLES, conformal.CALIBRATION, 4), torch.randn(conformal.CALIBRATION, 4)
    columns = {"truth": truth, "mean": draws.mean(0), "std": draws.std(0)}
    rows = pd.DataFrame({name: value.flatten().tolist() for name, value in columns.items()})
    expected = conformal.conformalize(draws, truth, conformal.LEVEL).scale
    assert conformal.calibrate(rows).scale == pytest.approx(expected, rel=1e-5)
