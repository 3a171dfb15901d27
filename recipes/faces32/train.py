"""Trains ``faces32``: a class-conditional EDM prior on DiceBear's pixel faces at 32×32.

Faces are composed of their parts on the device as they are needed, uniform among the combinations that are not held
out; their label is the style of the hair. The loss is that of :mod:`recipes.edm`, with a wide range of noise levels:
hair is decided around sigma 10, eyes and mouth around 1, and what was decided must be drawn at low noise.

A run has a number of seconds and not of batches: the rate is constant for the first part of them and falls to zero
along a cosine by their end. What ships is an exponential moving average. Operations run in bfloat16 where PyTorch's
autocast holds that safe, parameters in single precision. On CUDA a whole batch is one graph, of a compiled network
where that works. Interrupted, the same command goes on from the last checkpoint, with the seconds that are left::

    python -m recipes.faces32.train --work WORKDIR --seconds 515
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from pyro_vipaint.cats.parts import Layers, is_held_out, load_layers
from recipes.edm import DenoisingLoss, starting_network
from recipes.faces32.parts import HAIR_STYLES, TARGET, labels_of
from recipes.training import channels_last, save_checkpoint, update_average

SIGMA_DATA = 0.67  # standard deviation of the faces
P_MEAN, P_STD = -0.4, 1.6
NUM_CLASSES = len(HAIR_STYLES)  # and one more embedding, index 12, for "no label"
LABEL_DROPOUT = 0.1
BATCH_SIZE = 512
LEARNING_RATE = 2e-3
WARM_UP = 300  # batches
CONSTANT = 0.3  # share of the time before the rate begins to fall
EMA_DECAY = 0.999
CANDIDATES = 4  # combinations of which the first that is not held out is taken
SHIPPED_SECONDS = (385, 515)  # the cosine's end, moved from the first to the second once it had been reached
EVERY = 100  # batches between two lines of the log
CHECKPOINT_SECONDS = 60.0
LOSS = DenoisingLoss(SIGMA_DATA, P_MEAN, P_STD, NUM_CLASSES, LABEL_DROPOUT)


def build_network() -> UNet2DModel:
    """The 4.2 M-parameter UNet, ``(B, 3, 32, 32) -> (B, 3, 32, 32)``."""
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 72, 128, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=8,
        num_class_embeds=NUM_CLASSES + 1,
    )


def layers_on(device: str) -> Layers:
    """The shipped parts on a device."""
    return Layers({slot: part.to(device) for slot, part in load_layers(TARGET).parts.items()})


def draw_training_parts(layers: Layers, num: int) -> Tensor:
    """``num`` combinations ``(num, 6)`` that are not held out, drawn on the layers' device without a look at them.

    Uniform but for one combination in ten thousand: where all candidates are held out, the last one's mouth changes.
    """
    device = next(iter(layers.parts.values())).device
    index = torch.stack([torch.randint(size, (CANDIDATES, num), device=device) for size in layers.sizes], -1)
    chosen = index[-1]
    slot = list(layers.parts).index("mouth")
    shifted = chosen.clone()
    shifted[:, slot] = (shifted[:, slot] + 1) % layers.sizes[slot]
    chosen = torch.where(is_held_out(chosen)[:, None], shifted, chosen)
    for candidate in reversed(index[:-1]):
        chosen = torch.where(is_held_out(candidate)[:, None], chosen, candidate)
    return chosen


@dataclass(frozen=True)
class Clock:
    """The learning rate as a function of the share of the time that has gone."""

    learning_rate: float = LEARNING_RATE
    warm_up: int = WARM_UP
    constant: float = CONSTANT

    def rate(self, step: int, share: float) -> float:
        """A linear warm-up in batches; constant, then a cosine to zero, in time."""
        falling = min(1.0, max(0.0, (share - self.constant) / (1 - self.constant)))
        return self.learning_rate * min(1.0, (step + 1) / self.warm_up) * 0.5 * (1 + math.cos(math.pi * falling))


class Trainer:
    """Network, moving average and optimiser on one device, and one batch as a callable without arguments.

    Args:
        network: trained in place.
        batch_loss: from a function of the network's signature to the loss of a fresh batch.
        device: "cpu", or "cuda", where a batch is captured once as a graph and then replayed.
        compiled: whether the network is compiled first; where that fails it is not.
    """

    def __init__(
        self, network: nn.Module, batch_loss: Callable[[Callable[..., Any]], Tensor], device: str, compiled: bool
    ) -> None:
        self.network = channels_last(network.to(device))
        self.average = copy.deepcopy(self.network)
        self.batch_loss, self.cuda = batch_loss, device.startswith("cuda")
        self.rate = torch.tensor(LEARNING_RATE, device=device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.rate, betas=(0.9, 0.99), fused=self.cuda, capturable=self.cuda
        )
        self.loss = torch.zeros((), device=device)  # summed up
        self.compiled = compiled

    def prepare(self) -> None:
        """Makes ``self.batch``: on CUDA a graph, captured after a few batches at rate zero."""
        self.batch: Callable[[], object] = self._eager(self.network)
        if self.cuda:
            self.batch = self._graph()

    def _eager(self, forward: Callable[..., Any]) -> Callable[[], object]:
        parameters = list(self.network.parameters())

        def batch() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.rate.device.type, torch.bfloat16, cache_enabled=False):
                loss = self.batch_loss(forward)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            self.optimizer.step()
            self.loss.add_(loss.detach())

        return batch

    def _graph(self) -> Callable[[], object]:
        for compiled in (True, False) if self.compiled else (False,):
            state = copy.deepcopy((self.network.state_dict(), self.optimizer.state_dict()))
            begun = time.perf_counter()
            try:
                replay = self._captured(torch.compile(self.network) if compiled else self.network)
            except Exception as error:
                if not compiled:
                    raise
                print(f"not compiled: {type(error).__name__}: {str(error)[:2000]}", flush=True)
                self.network.load_state_dict(state[0])
                self.optimizer.load_state_dict(state[1])
                continue
            print(json.dumps({"compiled": compiled, "capture seconds": time.perf_counter() - begun}), flush=True)
            return replay
        raise AssertionError

    def _captured(self, forward: Callable[..., Any]) -> Callable[[], object]:
        batch = self._eager(forward)
        self.rate.zero_()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(4):
                batch()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            batch()
        self.loss.zero_()
        return graph.replay

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the progress."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint's state; before :meth:`prepare`."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate


def train(trainer: Trainer, work: Path, seconds: float, clock: Clock, decay: float = EMA_DECAY) -> int:
    """Trains for ``seconds`` in all, those before an interruption counted in; the number of batches.

    Every :data:`EVERY` batches a line of JSON, every minute and at the end ``checkpoint.pt`` in ``work``.
    """
    work.mkdir(parents=True, exist_ok=True)
    checkpoint, step, before = work / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        trainer.load(state)
        step, before = state["step"], state["seconds"]
        torch.manual_seed(step)
    begun = saved = time.perf_counter()
    trainer.prepare()
    last = step
    while True:
        now = time.perf_counter()
        elapsed = before + now - begun
        done = elapsed >= seconds
        if done or now - saved > CHECKPOINT_SECONDS:
            save_checkpoint(checkpoint, trainer.state() | {"step": step, "seconds": elapsed})
            saved = now
        if done:
            return step
        trainer.rate.fill_(clock.rate(step, elapsed / seconds))
        trainer.batch()
        update_average(trainer.average, trainer.network, step, decay)
        step += 1
        if step % EVERY == 0:
            loss = trainer.loss.item() / (step - last)
            trainer.loss.zero_()
            print(json.dumps({"step": step, "loss": round(loss, 6), "seconds": round(elapsed, 1)}), flush=True)
            last = step


def run(
    work: Path,
    seconds: float,
    device: str,
    batch_size: int = BATCH_SIZE,
    start: Path | None = None,
    compiled: bool = True,
) -> int:
    """Trains from the checkpoint in ``work``, from exported weights, or from nothing; the number of batches."""
    layers = layers_on(device)
    torch.manual_seed(0)

    def batch_loss(forward: Callable[..., Any]) -> Tensor:
        index = draw_training_parts(layers, batch_size)
        return LOSS(forward, layers.compose(index), labels_of(index))

    trainer = Trainer(starting_network(build_network, start), batch_loss, device, compiled)
    return train(trainer, work, seconds, Clock())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=SHIPPED_SECONDS[-1])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=BATCH_SIZE)
    parser.add_argument("--start", type=Path, help="an exported prior to go on from, with a new optimiser")
    arguments = parser.parse_args()
    run(arguments.work, arguments.seconds, arguments.device, arguments.batch, arguments.start)
