"""What a figure draws is what the record says, and one failure does not hide the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Annotation

import pyro_vipaint as vp
from pyro_vipaint.plotting import comparison_figure
from pyro_vipaint.plotting.figures import robust_limits
from tests.plotting.results import fitted, result_of


def test_the_course_of_a_fit_has_its_bound_its_terms_and_its_average() -> None:
    fit = fitted(steps=9, average=4)
    left, right = fit.plot().axes
    lines = {line.get_label(): line.get_ydata() for axes in (left, right) for line in axes.lines}
    assert np.allclose(lines["bound, mean over images"], fit.bounds.mean(1))
    assert lines.keys() >= fit.terms.keys()
    for name, values in fit.terms.items():
        assert np.allclose(lines[name], values.mean(1))
    shade: Any
    (shade,) = (patch for patch in left.patches if patch.get_label() == "guide averaged")
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (5.5, 9.5), "steps 6 to 9"
    assert not fitted().plot().axes[0].patches


def test_a_fit_without_terms_shows_its_objective() -> None:
    (axes,) = vp.Fit([3.0, 2.0, 1.0], {}, 1, 1, 0.1).plot().axes
    assert np.asarray(axes.lines[0].get_ydata()).tolist() == [-3.0, -2.0, -1.0]


def test_one_bad_step_does_not_flatten_the_course() -> None:
    terms = {"y": torch.cat([torch.tensor([1e6]), torch.linspace(50, 40, 30)])[:, None]}
    left, right = vp.Fit([0.0] * 31, terms, 1, 1, 0.1).plot().axes
    assert -51 < left.get_ylim()[0] < left.get_ylim()[1] < -39 and right.get_ylim()[1] < 51
    assert [text.get_text() for text in left.texts] == ["lowest -1e+06"]


def test_the_limits_ignore_up_to_half_of_the_values() -> None:
    values = np.linspace(-101.0, -99.0, 11)
    assert robust_limits(values) == (-101.0, -99.0)
    for wild in (-1e9, 1e9, np.nan, -np.inf):
        assert robust_limits(np.append(values, [wild] * 9)) == (-101.0, -99.0)
    assert robust_limits(np.array([5.0, 5.0])) == (5.0, 5.0) and robust_limits(np.array([])) == (0.0, 1.0)


def _table(bounds: dict[str, float], reliable: bool = True) -> pd.DataFrame:
    row = {"objective": "beta", "seed": 0, "image": 0, "gap": np.nan, "reliable": float(reliable)}
    return pd.DataFrame([{"guide": guide, "bound": bound, **row} for guide, bound in bounds.items()])


def test_a_failure_is_a_triangle_at_the_edge_with_its_bound() -> None:
    good = {"a": -100.0, "b": -101.0, "c": -99.0}
    (axes,) = comparison_figure(_table(good | {"lost": -54321.0})).axes
    low, high = axes.get_xlim()
    assert -102 < low < -101 and -99 < high < -98
    triangle: Any
    (triangle,) = (line for line in axes.lines if line.get_marker() == "<")
    assert low <= triangle.get_xdata()[0] <= low + 0.2 and triangle.get_ydata()[0] == 3
    (text,) = (child for child in axes.get_children() if isinstance(child, Annotation))
    assert float(text.get_text()) == pytest.approx(-54321, rel=1e-2)
    (axes,) = comparison_figure(_table(good)).axes
    assert not [line for line in axes.lines if line.get_marker() == "<"]


def test_a_run_whose_k_hat_is_too_large_is_hollow() -> None:
    table = pd.concat([_table({"a": -1.0}), _table({"b": -2.0}, reliable=False)])
    (axes,) = comparison_figure(table).axes
    hollow = [line.get_markerfacecolor() == "none" for line in axes.lines if np.size(line.get_xdata())]
    assert hollow == [False, True]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_contact_sheet_keeps_square_pixels_and_its_scale(channels: int) -> None:
    """Also of colour and of wide pictures; constant samples have no spread, on the scale from 0 to 1."""
    samples = torch.zeros(2, 2, channels, 6, 8)
    samples[0, 1] = 0.5
    for drawn, largest in ((samples, 0.5 / 2**0.5), (samples[:, :1], 1.0)):
        axes, bar = result_of(drawn).plot().axes
        sheet = np.asarray(axes.images[0].get_array())
        size = axes.get_window_extent()
        assert size.width / sheet.shape[1] == pytest.approx(size.height / sheet.shape[0], rel=1e-3)
        assert bar.get_xlim() == pytest.approx((0, largest))
