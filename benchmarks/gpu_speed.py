"""How fast is a step on this device: compiled networks, CUDA graphs, batches of 1 to 256, waits, seconds of a picture.

    python -m benchmarks.gpu_speed                       # on CUDA; rows of JSON, part of make gpu-check
    python -m benchmarks.gpu_speed --device cpu --tiny   # tries every path that a CPU has

- ``step``: median seconds of an SVI step of VIPaint-4 on ``fashion32``, one particle an image, and of its network calls
  alone, repeated at the same batch; the ratio is wanted at most 1.10 at batch 64. The network runs as it is
  (*eager*), by ``torch.compile`` (*compiled*), or by it with ``mode="reduce-overhead"`` (*CUDA graphs*).
- ``waits``: the loop of an SVI step with its optimiser under ``torch.cuda.set_sync_debug_mode("error")``; ``vp.fit``
  reads its loss once a step beside this loop. The tests marked ``cuda`` count the waits of every other part.
- ``picture``: seconds of ``vp.inpaint``, VIPaint-4 with ten samples of one picture of 32 pixels, wanted below 1.

On a CPU the network is compiled without code generation (``aot_eager``); CUDA graphs and waits are skipped, by a row
that says so. No row has been measured on CUDA yet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import pyro_vipaint as vp
from benchmarks.overhead import RecordingDenoiser
from pyro_vipaint.demo import demo_problem
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, load_prior
from pyro_vipaint.settings import default_settings

MODES: dict[str, dict[str, Any] | None] = {
    "eager": None,
    "compiled": {"dynamic": False},
    "CUDA graphs": {"dynamic": False, "mode": "reduce-overhead"},
}
BATCHES, TINY_BATCHES = (1, 4, 16, 64, 256), (1, 2)
REPEATS = 10
ONLY_CUDA = "only CUDA has this"


def prior_of(mode: str, device: torch.device) -> DiffusionPrior:
    """``fashion32``, whose network runs in one of the modes."""
    prior = load_prior("fashion32", device)
    options = MODES[mode]
    if options is not None:
        network: Any = prior.denoiser
        network.network.network.module.compile(**(options if device.type == "cuda" else {"backend": "aot_eager"}))
    return prior


def problem(prior: DiffusionPrior, batch: int, device: torch.device) -> tuple[DiffusionModel, Tensor]:
    """VIPaint-4 on as many pictures of the demonstration, which are repeated."""
    images, masks, labels = (value.to(device) for value in demo_problem())
    chosen = torch.arange(batch, device=device) % len(images)
    images, masks, labels = images[chosen], masks[chosen], labels[chosen]
    settings = default_settings(4, preset="pictures")
    likelihood = settings.likelihood(vp.Inpainting(masks))
    return DiffusionModel(prior, likelihood, settings.keypoints(prior), class_labels=labels), images * masks


def svi_loop(model: DiffusionModel, y: Tensor) -> Callable[[], None]:
    """An SVI step with its optimiser, which does not read the loss."""
    guide = HierarchicalGuide(model, vp.initial_latent(model.prior, model.likelihood, y, **model.condition))
    elbo = vp.BetaELBO(1.0, num_particles=1)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05, betas=(0.9, 0.99))

    def step() -> None:
        if y.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad()
        elbo.differentiable_loss(model, guide, y).backward()
        optimizer.step()

    return step


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, until the device has finished."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    begun = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - begun


def step_row(mode: str, batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Median seconds of a step and of its network calls, in turn, after three that are not counted."""
    prior = prior_of(mode, device)
    recorder = RecordingDenoiser(prior.denoiser)
    step = svi_loop(*problem(replace(prior, denoiser=recorder), batch, device))
    pairs = []
    for _ in range(repeats + 3):
        recorder.calls.clear()
        pairs.append((seconds(step, device), seconds(recorder.replay, device)))
    whole, bare = (statistics.median(column) for column in zip(*pairs[3:], strict=True))
    return {"seconds": whole, "network": bare, "ratio": whole / bare}


def step_rows(device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    """Every mode at every batch."""
    for mode in MODES:
        for batch in TINY_BATCHES if tiny else BATCHES:
            row: dict[str, Any] = {"work": "step", "mode": mode, "batch": batch}
            if mode == "CUDA graphs" and device.type != "cuda":
                yield {**row, "skipped": ONLY_CUDA}
                continue
            yield row | attempted(lambda: step_row(mode, batch, 1 if tiny else REPEATS, device))  # noqa: B023


def attempted(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is measured, or the first line of the error, since a compiler can fail in any way."""
    try:
        return measure()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def waits(device: torch.device) -> dict[str, Any]:
    """Whether a step waits for the device; the first, in which values are checked and tables made, is not counted."""
    model, y = problem(load_prior("fashion32", device), 4, device)
    loop = svi_loop(model, y)
    loop()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"waits": 0}


def picture(mode: str, device: torch.device, tiny: bool) -> dict[str, Any]:
    """Seconds of the second of two runs."""
    prior = prior_of(mode, device)
    images, masks, labels = (value[:1] for value in demo_problem())
    numbers: dict[str, Any] = {"levels": 4, "num_samples": 10, "label": labels, "device": str(device), "seed": 0}
    if tiny:
        numbers |= {"num_samples": 1, "steps": 1, "refine_steps": 1}
    taken = [seconds(lambda: vp.inpaint(images, masks, prior, **numbers), device) for _ in range(2)]
    return {"seconds": taken[1], "first": taken[0]}


def rows(device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    """All rows, the short ones first."""
    row: dict[str, Any] = {"work": "waits", "loop": "SVI step"}
    yield row | (attempted(lambda: waits(device)) if device.type == "cuda" else {"skipped": ONLY_CUDA})
    for mode in MODES:
        row = {"work": "picture", "mode": mode}
        skip = mode == "CUDA graphs" and device.type != "cuda"
        yield row | ({"skipped": ONLY_CUDA} if skip else attempted(lambda: picture(mode, device, tiny)))  # noqa: B023
    yield from step_rows(device, tiny)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="two small batches, one repeat")
    arguments = parser.parse_args()
    for row in rows(torch.device(arguments.device), arguments.tiny):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
