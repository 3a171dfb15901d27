"""Masks: shape, observed share and distribution are those of the paper."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from pyro_vipaint.models.measurements.masks import MASKS, box, random_large, random_small, rotated_window
from tests.statistics import FAILURE_RATE, assert_within

SIZE = 32
each_kind = pytest.mark.parametrize("kind", list(MASKS))
each_random_kind = pytest.mark.parametrize("kind", [kind for kind in MASKS if kind != "box"])


def pixels(size: int) -> np.ndarray:
    """Coordinates of all pixels about the centre, ``(size^2, 2)``, in units of the size, rows last."""
    centre = (np.arange(size) - (size - 1) / 2) / size
    x, y = np.meshgrid(centre, centre)
    return np.stack([x.ravel(), y.ravel()], 1)


@each_kind
def test_masks_are_zeros_and_ones(kind: str) -> None:
    """Floats 0 or 1 of shape (num, 1, size, size), both present in every mask."""
    for size in (16, 32, 33):
        masks = MASKS[kind](size, num=5, seed=3)
        assert masks.shape == (5, 1, size, size)
        assert masks.dtype == torch.float32
        assert set(masks.unique().tolist()) == {0.0, 1.0}
        assert all(0 < share < 1 for share in masks.mean((1, 2, 3)).tolist())


@each_kind
def test_a_seed_fixes_the_masks(kind: str) -> None:
    """The same seed gives the same masks, after other random numbers were drawn."""
    first = MASKS[kind](SIZE, num=4, seed=7)
    torch.manual_seed(11)
    np.random.seed(11)
    assert torch.equal(first, MASKS[kind](SIZE, num=4, seed=7))


@each_random_kind
def test_seeds_and_numbers_differ(kind: str) -> None:
    """Masks of another seed differ, and so do two masks of one seed."""
    first, second = MASKS[kind](SIZE, num=2, seed=0), MASKS[kind](SIZE, num=2, seed=1)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize(("make", "low", "high"), [(random_large, 0.3, 0.7), (random_small, 0.05, 0.3)])
def test_hidden_share_lies_in_its_range(make: Callable[..., Tensor], low: float, high: float) -> None:
    """Every free-form mask hides a share within its range, and the shares fill more than half of that range."""
    for size in (16, 32):
        hidden = 1 - make(size, num=100, seed=5).mean((1, 2, 3))
        assert hidden.min() >= low and hidden.max() <= high
        assert hidden.max() - hidden.min() > (high - low) / 2


def test_free_form_holes_are_not_half_planes() -> None:
    """Over many masks every pixel is sometimes hidden and sometimes observed."""
    share = random_large(SIZE, num=150, seed=2).mean(0)
    assert share.min() > 0 and share.max() < 1


def test_rotated_window_is_a_half_plane() -> None:
    """A line separates observed from hidden: there are w, b with w·p + b >= 1 on one side and <= -1 on the other."""
    points = np.column_stack([pixels(16), np.ones(256)])
    for mask in rotated_window(16, num=40, seed=4):
        sign = np.where(mask.numpy().ravel() > 0, 1, -1)
        separation = linprog(np.zeros(3), A_ub=-sign[:, None] * points, b_ub=-np.ones(256), bounds=(None, None))
        assert separation.status == 0


def test_border_passes_near_the_centre() -> None:
    """The border is within 10 % of the size from the centre: the observed share is near a half, on average equal."""
    share = rotated_window(SIZE, num=2000, seed=6).mean((1, 2, 3)).double()
    assert share.min() > 0.5 - 0.1 * 2**0.5 - 0.02
    assert share.max() < 0.5 + 0.1 * 2**0.5 + 0.02
    assert share.std() > 0.02
    assert_within(share.mean(), 0.5, share.std() / len(share) ** 0.5)


def test_angles_are_uniform() -> None:
    """Rayleigh's test on the direction from hidden to observed: n |mean|^2 is Exp(1) for uniform angles.

    The same holds for twice the angle, which sees an excess along an axis.
    """
    num = 2000
    masks = rotated_window(SIZE, num=num, seed=8).numpy().reshape(num, -1)
    direction = (masks - masks.mean(1, keepdims=True)) @ pixels(SIZE)
    angle = np.arctan2(direction[:, 1], direction[:, 0])
    for multiple in (1, 2):
        assert num * np.abs(np.exp(1j * multiple * angle).mean()) ** 2 < -np.log(FAILURE_RATE / 2)


def test_box_shows_the_central_square() -> None:
    """Exactly the pixels within a quarter of the size from the centre, in both directions, are observed."""
    for size in (8, 32, 64):
        inside = (np.abs(pixels(size)) < 0.25).all(1).reshape(size, size)
        masks = box(size, num=2, seed=1).numpy()
        assert (masks == inside).all()
        assert masks.mean() == 0.25
