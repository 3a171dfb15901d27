"""One seed, and the caller's generators are left as they were."""

from __future__ import annotations

import pytest
import torch

from pyro_vipaint._torch import seeded


def test_the_generators_are_restored_also_after_an_error() -> None:
    state = torch.get_rng_state()
    with pytest.raises(ValueError), seeded(3):
        first = torch.rand(2)
        raise ValueError
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)


def test_the_generator_of_apple_gpus_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's fork does not know it; the device is imitated by a number."""
    states = [7]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: states[-1])
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
    monkeypatch.setattr(torch, "manual_seed", states.append)
    with pytest.raises(ValueError), seeded(3):
        assert states[-1] == 3
        raise ValueError
    assert states[-1] == 7
