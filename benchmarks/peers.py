"""The cost of a step here and in the neighbouring libraries, on the network of fashion32, batch 8.

    python -m benchmarks.peers
    python -m benchmarks.peers --busy   # processor time, which other work on the machine does not lengthen

DPS is compared with DeepInverse's ``deepinv.sampling.DPS``, wanted ratio at most 0.95; RePaint with diffusers'
``RePaintPipeline``, wanted ratio at most 1.0. The chains run in turn, in another order each round, in one process and
on one set of weights. A step is the median time from one network call to the next, so that starts and ends do not
count (nine of ten steps of RePaint have a jump). The figures are medians over rounds. The memory layout of the weights
(``channels_last``) is this library's choice, so that the peers run in both layouts: as diffusers loads the weights,
which gives the wanted ratio, and in ours, which gives the cost of the code around the network.

The network takes nearly all of the time, in a DPS step twice, forward and backward. The rest is within the noise of the
measurement there (2 %) and 0.2 of 55 ms in a step of RePaint: one draw of noise and some passes over eight small images
in float32; DeepInverse carries its state in float64. A jump of RePaint is one draw here and stride × length draws in
diffusers, 40 with the defaults. The schedule of the pipeline has as many timesteps as give it the stride of the
paper's 250 levels on 1000.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor, nn

import pyro_vipaint as vp
from pyro_vipaint.baselines import dps, repaint
from pyro_vipaint.demo import held_out_images
from pyro_vipaint.models import DiffusionPrior, load_prior
from pyro_vipaint.models.measurements.masks import rotated_window

BATCH = 8
DPS_STEPS = 8
LEVELS, STRIDE = 12, 4  # with jumps of the default length and number: 102 calls, 90 of them after a jump's step


class Clock:
    """When the network was called, in wall time or, if ``busy``, in processor time."""

    busy = False

    def __init__(self) -> None:
        self.calls: list[float] = []

    def tick(self) -> None:
        self.calls.append(time.process_time() if Clock.busy else time.perf_counter())

    def seconds_a_step(self) -> float:
        """Median time from one call to the next."""
        return statistics.median(after - before for before, after in pairwise(self.calls))


@dataclass(frozen=True)
class Problem:
    """The prior, its bare network, and eight observations."""

    prior: DiffusionPrior
    network: Any
    labels: Tensor
    masks: Tensor
    y: Tensor


def load_problem() -> Problem:
    """Eight held-out images, a rotated window each."""
    prior = load_prior("fashion32")
    denoiser: Any = prior.denoiser
    images, labels = (value[:BATCH] for value in held_out_images())
    masks = rotated_window(32, BATCH, seed=0)
    return Problem(prior, denoiser.network.network.module, labels, masks, images * masks)


class Ticking:
    """A denoiser of ours that ticks."""

    def __init__(self, denoiser: Any, clock: Clock) -> None:
        self.denoiser, self.clock = denoiser, clock

    def __call__(self, z_t: Tensor, t: Tensor, **condition: Any) -> Tensor:
        self.clock.tick()
        return self.denoiser(z_t, t, **condition)


class ForDeepInverse(nn.Module):
    """The network with its preconditioning (Karras et al. 2022, Eq. 7) as DeepInverse calls a denoiser."""

    def __init__(self, problem: Problem, clock: Clock) -> None:
        super().__init__()
        self.network, self.labels, self.sigma_data = problem.network, problem.labels, problem.prior.sigma_data
        self.clock = clock

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.clock.tick()
        square, data = sigma**2, self.sigma_data**2
        norm = (square + data).sqrt()
        timestep = (sigma.log() / 4).expand(len(x))
        output = self.network(x / norm, timestep, class_labels=self.labels, return_dict=False)[0]
        return data / norm**2 * x + sigma * self.sigma_data / norm * output


class ForPipeline(nn.Module):
    """The network with the labels that ``RePaintPipeline`` does not pass."""

    def __init__(self, problem: Problem, clock: Clock) -> None:
        super().__init__()
        self.network, self.labels, self.clock = problem.network, problem.labels, clock
        self.dtype, self.device = torch.float32, problem.y.device  # what a pipeline asks of its networks

    def forward(self, z: Tensor, timestep: Tensor) -> SimpleNamespace:
        self.clock.tick()
        output = self.network(z, timestep.float().expand(len(z)), class_labels=self.labels, return_dict=False)[0]
        return SimpleNamespace(sample=output)


def our_chain(problem: Problem, method: Callable[..., Any], steps: int) -> float:
    """Seconds a step of a method of ours, one sample for each image."""
    clock = Clock()
    prior = replace(problem.prior, denoiser=Ticking(problem.prior.denoiser, clock))
    likelihood = vp.Gaussian(vp.Inpainting(problem.masks), 0.1)
    method(prior, likelihood, problem.y, 1, steps, class_labels=problem.labels)
    return clock.seconds_a_step()


def deepinv_chain(problem: Problem) -> float:
    """Seconds a step of DeepInverse's DPS on the variance exploding schedule."""
    import deepinv

    clock, library = Clock(), cast(Any, deepinv)
    physics = library.physics.Inpainting(img_size=(1, 32, 32), mask=problem.masks)
    sampler = library.sampling.DPS(
        ForDeepInverse(problem, clock), schedule="ve", num_steps=DPS_STEPS + 1, minus_one_one=False
    )  # fmt: skip
    sampler(problem.y, physics)
    return clock.seconds_a_step()


def diffusers_chain(problem: Problem) -> float:
    """Seconds a step of diffusers' RePaint, eta 1."""
    from diffusers import RePaintPipeline, RePaintScheduler

    clock = Clock()
    pipeline: Any = RePaintPipeline(ForPipeline(problem, clock), RePaintScheduler(STRIDE * LEVELS))  # type: ignore
    pipeline.set_progress_bar_config(disable=True)
    pipeline(problem.y, problem.masks, num_inference_steps=LEVELS, eta=1.0, output_type="np")
    return clock.seconds_a_step()


def compare(problem: Problem, ours: Callable[[], float], theirs: Callable[[], float], repeats: int) -> list[float]:
    """Medians over rounds: ours, theirs as diffusers loads the network, theirs in our memory layout."""
    runs = [(ours, torch.channels_last), (theirs, torch.contiguous_format), (theirs, torch.channels_last)]
    seconds: list[list[float]] = [[], [], []]
    for turn in range(repeats + 1):
        for i in sorted(range(3), key=lambda i: (i + turn) % 3):
            chain, layout = runs[i]
            problem.network.to(memory_format=layout)
            seconds[i].append(chain())
    return [statistics.median(column[1:]) for column in seconds]  # the first round has all lazy imports


def report(console: Console, name: str, wanted: float, seconds: list[float]) -> None:
    """One line of figures."""
    ours, loaded, same = seconds
    console.print(
        f"{name}: {ours:.4f} s a step, theirs {loaded:.4f} s, ratio {ours / loaded:.3f} (wanted <= {wanted}); "
        f"theirs in our memory layout {same:.4f} s, ratio {ours / same:.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", choices=["dps", "repaint"])
    parser.add_argument("--busy", action="store_true", help="count the process's own processor time, not wall time")
    arguments = parser.parse_args()
    Clock.busy = arguments.busy
    console, problem = Console(width=160, highlight=False), load_problem()
    if arguments.only != "repaint":
        pair = (lambda: our_chain(problem, dps, DPS_STEPS), lambda: deepinv_chain(problem))
        report(console, "DPS, DeepInverse", 0.95, compare(problem, *pair, arguments.repeats))
    if arguments.only != "dps":
        pair = (lambda: our_chain(problem, repaint, LEVELS), lambda: diffusers_chain(problem))
        report(console, "RePaint, diffusers", 1.0, compare(problem, *pair, arguments.repeats))
