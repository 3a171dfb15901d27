"""The loop that the recipes share: Adam, a warm-up and a cosine, a moving average, checkpoints that resume.

A recipe gives a network and a function from the network to the loss of a fresh batch; everything random comes from
torch's global generator, whose state is part of the checkpoint, so an interrupted run goes on as if it had not been.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: ``iterations`` batches, the peak learning rate, the length of the warm-up in batches."""

    iterations: int
    learning_rate: float = 1e-3
    warm_up: int = 100

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.iterations))
        return self.learning_rate * min(1.0, (step + 1) / self.warm_up) * cosine


def channels_last(network: Network) -> Network:
    """``network`` with its weights in the memory layout that convolutions are fastest in."""
    nn.Module.to(network, memory_format=torch.channels_last)
    return network


def update_average(average: nn.Module, network: nn.Module, step: int, decay: float) -> None:
    """One step of the moving average, faster at the beginning."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


def save_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Writes a checkpoint that is whole or not there at all."""
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def train(
    network: nn.Module,
    batch_loss: Callable[[], Tensor],
    work: Path,
    schedule: Schedule,
    *,
    decay: float = 0.999,
    every: int = 50,
) -> None:
    """Trains ``network`` on ``batch_loss()``, from ``checkpoint.pt`` in ``work`` where there is one.

    Args:
        network: its parameters are trained in place.
        batch_loss: draws a batch and returns its loss.
        work: folder of the checkpoint, with entries ``step``, ``network``, ``average``, ``optimizer``, ``rng``.
        schedule: length and rates.
        decay: of the moving average.
        every: batches between two checkpoints, each with a line of JSON: step, mean loss, seconds.
    """
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "checkpoint.pt"
    average = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99))
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        first = state["step"]
    begun, losses = time.perf_counter(), []
    for step in range(first, schedule.iterations):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        loss = batch_loss()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        update_average(average, network, step, decay)
        losses.append(loss.item())
        if (step + 1) % every == 0 or step + 1 == schedule.iterations:
            record = {"step": step + 1, "loss": sum(losses) / len(losses), "seconds": time.perf_counter() - begun}
            print(json.dumps(record), flush=True)
            losses = []
            save_checkpoint(
                checkpoint,
                {
                    "step": step + 1,
                    "network": network.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "rng": torch.get_rng_state(),
                },
            )


def load_average(network: nn.Module, checkpoint: Path) -> int:
    """Loads the averaged weights of a checkpoint into ``network``, frozen; the number of training steps behind them."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    network.load_state_dict(state["average"])
    network.eval().requires_grad_(False)
    return state["step"]


def plan(run: Sequence[tuple[int, int]]) -> str:
    """For a model card: a run given as pairs (b, n), which until batch b was planned to be n batches long."""
    return ", ".join(f"{length:,} until batch {batch:,}" for batch, length in run)
