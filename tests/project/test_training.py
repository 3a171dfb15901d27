"""The loop of the recipes: an interrupted training goes on as if it had not been, and the moving average is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recipes.training import Schedule, load_average, train, update_average

SCHEDULE = Schedule(iterations=8, learning_rate=0.05, warm_up=2)


class Interrupted(Exception):
    """What ends a training in the middle."""


def trained(work: Path, interrupt_at: int | None = None, seed: int = 5) -> nn.Linear:
    """A regression on random batches; with a number, its loss raises in that batch of this call."""
    torch.manual_seed(seed)
    network, batches = nn.Linear(3, 2), 0

    def batch_loss() -> Tensor:
        nonlocal batches
        batches += 1
        if batches == interrupt_at:
            raise Interrupted
        x = torch.randn(4, 3)
        return (network(x) - x[:, :2].sin()).square().mean()

    train(network, batch_loss, work, SCHEDULE, decay=0.9, every=2)
    return network


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Stopped in its sixth batch, after the checkpoint of the fourth: weights, average and Adam's state are equal."""
    whole = trained(tmp_path / "whole")
    with pytest.raises(Interrupted):
        trained(tmp_path / "parts", interrupt_at=6)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 4
    resumed = trained(tmp_path / "parts", seed=99)  # what went before decides, not the seed of the day
    assert torch.equal(resumed.weight, whole.weight) and torch.equal(resumed.bias, whole.bias)
    ours, theirs = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("parts", "whole"))
    assert ours["step"] == theirs["step"] == SCHEDULE.iterations
    assert torch.equal(ours["average"]["weight"], theirs["average"]["weight"])
    for mine, other in zip(ours["optimizer"]["state"].values(), theirs["optimizer"]["state"].values(), strict=True):
        assert torch.equal(mine["exp_avg_sq"], other["exp_avg_sq"])


def test_a_finished_training_is_left_alone(tmp_path: Path) -> None:
    whole = trained(tmp_path)
    assert torch.equal(trained(tmp_path, interrupt_at=1).weight, whole.weight)


def test_what_ships_is_the_average(tmp_path: Path) -> None:
    """By hand: the decay is (1 + n) / (10 + n) until that exceeds the decay asked for."""
    average, network = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(average.weight, 1.0)
    nn.init.constant_(network.weight, 3.0)
    update_average(average, network, 0, 0.999)
    assert average.weight.item() == pytest.approx(0.1 * 1 + 0.9 * 3)
    update_average(average, network, 10**6, 0.75)
    assert average.weight.item() == pytest.approx(0.75 * 2.8 + 0.25 * 3)
    trained(tmp_path)
    shipped = nn.Linear(3, 2)
    assert load_average(shipped, tmp_path / "checkpoint.pt") == SCHEDULE.iterations
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert torch.equal(shipped.weight, state["average"]["weight"])
    assert not torch.equal(shipped.weight, state["network"]["weight"]) and not shipped.weight.requires_grad


def test_the_rate_rises_and_falls_to_zero() -> None:
    rates = [Schedule(1000, 2.0, warm_up=10).rate(step) for step in (0, 4, 500, 1000)]
    assert rates == pytest.approx([0.2, 1.0, 1.0, 0.0], rel=1e-3, abs=1e-9)
