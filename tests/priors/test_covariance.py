"""The covariance of images given a noisy version, at the border where a direction is like the rest."""

from __future__ import annotations

import torch

from pyro_vipaint.models import DataCovariance


def test_directions_no_larger_than_the_rest_stay_so_at_every_noise_level() -> None:
    """Single precision rounds a variance below a rest in double precision; such a covariance was refused."""
    rest = float(torch.tensor(0.01))
    covariance = DataCovariance(torch.eye(6)[:4], torch.tensor([rest, rest, rest, 0.2]), rest)
    for level in torch.linspace(0.01, 26, 500).tolist():
        given = covariance.given(level)
        expected = 1 / (1 / covariance.variances.double() + 1 / level**2)
        torch.testing.assert_close(given.variances.double(), expected, rtol=1e-6, atol=0)
