"""One seed, and the caller's generators are left as they were."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from pyro_vipaint._torch import DIRECTIONS, JUDGING, NOISE, child_seed, seeded


def test_the_generators_are_restored_also_after_an_error() -> None:
    state = torch.get_rng_state()
    first = torch.zeros(2)
    with pytest.raises(ValueError), seeded(3):
        first = torch.rand(2)
        raise ValueError
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)
    with seeded(None):  # goes on with the caller's
        torch.rand(2)
    assert not torch.equal(torch.get_rng_state(), state)


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


@pytest.mark.parametrize("seed", [0, 2**64 - 1, -(2**63)])
def test_child_seeds_are_seeds_of_other_numbers(seed: int) -> None:
    """Every child is a seed of 64 bits, and none draws what its parent or a sibling draws."""
    seeds = [seed, child_seed(seed, JUDGING), child_seed(seed, DIRECTIONS)]
    draws = [torch.randn(50, generator=torch.Generator().manual_seed(each)) for each in seeds]
    assert all(not torch.equal(a, b) for a, b in combinations(draws, 2))


def test_the_noise_of_a_benchmark_is_that_of_its_rows() -> None:
    """Numbers that were published depend on it."""
    assert [child_seed(seed, NOISE) for seed in (0, 5, 300_007)] == [2**31, 2**31 + 5, 2**31 + 300_007]
