"""The contact sheet holds the pictures themselves, in their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib import colormaps

import pyro_vipaint as vp
from pyro_vipaint.demo import demo_problem
from pyro_vipaint.plotting import HIDDEN, to_picture


def test_every_picture_stands_in_its_place() -> None:
    images, masks, labels = demo_problem()
    result = vp.inpaint(images[:2], masks[:2], "fashion32", label=labels[:2], levels=2, num_samples=3, steps=1, seed=0)
    figure = result.plot(images[:2])
    axes, bar = figure.axes
    sheet = np.asarray(axes.images[0].get_array())
    step = 32 + 3  # a tenth of the picture between them
    assert sheet.shape == (2 * step - 3, 7 * step - 3, 3)

    def cell(i: int, j: int) -> np.ndarray:
        return sheet[i * step : i * step + 32, j * step : j * step + 32]

    for i in range(2):
        expected = [images[i], None, result.mean[i], None, *result.samples[:, i]]
        for j, x in enumerate(expected):
            if x is not None:
                assert np.array_equal(cell(i, j), to_picture(x))
        hidden = (masks[i, 0] == 0).numpy()
        assert (cell(i, 1)[hidden] == (HIDDEN * 255).astype(np.uint8)).all()
        assert np.array_equal(cell(i, 1)[~hidden], to_picture(images[i])[~hidden])
    assert (sheet[32:step] == 255).all() and (sheet[:, 32:step] == 255).all()
    titles = [label.get_text() for label in axes.get_xticklabels()]
    assert titles == ["truth", "observation", "mean", "std. dev.", "sample 1", "sample 2", "sample 3"]
    centres = torch.tensor(axes.get_xticks())
    assert torch.equal(centres, torch.arange(7) * step + 15.5)

    # the standard deviations are the colours of the bar below them
    largest = float(result.std.max())
    for i in range(2):
        colours = (colormaps["magma"]((result.std[i, 0] / largest).numpy())[..., :3] * 255).round()
        assert np.array_equal(cell(i, 3), colours)
    assert bar.get_xlim() == (0, largest) and bar.images[0].get_cmap().name == "magma"
    assert float(bar.get_xticklabels()[1].get_text()) == pytest.approx(largest, rel=0.06)
    left, right = (axes.get_position().width * pixel / sheet.shape[1] for pixel in (3 * step, 3 * step + 32))
    assert (bar.get_position().x0, bar.get_position().x1) == pytest.approx((left, right))
