"""Memory of one SVI step at the size of Stable Diffusion, with and without checkpointing.

    python -m benchmarks.memory             # the table in docs/priors.md
    python -m benchmarks.memory --measure   # measure again into benchmarks/results/memory.parquet, minutes on a CPU

The networks have Stable Diffusion 1.5's layout with random weights and a fraction of its channels: latents 4×64×64,
images 3×512×512, one image, one particle, K = 2 levels, HierarchicalGuide, a Laplace likelihood behind the decoder. A
step holds the graphs of three UNet calls (transition, reconstruction, marginal) and of one decoder call.

*Peak* is the largest sum of live bytes that PyTorch allocated during the step, forward and backward, beyond those
before it (weights, guide, observation): on a CPU from the allocations that ``torch.profiler`` records, on CUDA from
``torch.cuda.max_memory_allocated``. The process takes more: PyTorch itself, and memory kept by the allocator.

Activations and their gradients grow linearly with the number of channels, the rest does not grow: a line through the
two narrower widths is held against a third and read off at the full width. The bytes of the weights at full width are
counted, not extrapolated.

Times are medians of steps with and without checkpointing in turn. The floating-point operations of a step (a product
and its sum are two; forward, and backward to the latents) are counted by ``torch.utils.flop_counter`` at every width,
the full one included. The time of the full width is its operations divided by the rate of the widest network that was
measured; wide networks reach a higher rate than narrow ones, so that this time is an upper estimate.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import torch
from pyarrow import parquet
from rich.console import Console
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, from_diffusers

RESULTS = Path(__file__).parent / "results" / "memory.parquet"
UNET, DECODER = (320, 640, 1280, 1280), (128, 256, 512, 512)  # channels of Stable Diffusion 1.5
FITTED, HELD_OUT = (1 / 16, 3 / 32), 1 / 8  # fractions of them
LATENT, IMAGE, TOKENS, TEXT_WIDTH = (4, 64, 64), (3, 512, 512), 77, 768
LEVELS = 2
MIB = 2**20


def channels(full: tuple[int, ...], fraction: float) -> tuple[int, ...]:
    """That fraction of the channels of each level."""
    return tuple(round(fraction * width) for width in full)


def networks(fraction: float) -> tuple[Any, Any]:
    """``(unet, vae)`` with random weights; five heads and two groups, since they divide all widths."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=LATENT[1],
        block_out_channels=channels(UNET, fraction),  # pyright: ignore[reportArgumentType]
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=5,  # diffusers' name for the number of heads
        norm_num_groups=2,
    )
    vae = AutoencoderKL(
        sample_size=IMAGE[1],
        block_out_channels=channels(DECODER, fraction),  # pyright: ignore[reportArgumentType]
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        layers_per_block=2,
        latent_channels=LATENT[0],
        norm_num_groups=2,
    )
    return unet, vae


def weight_bytes(modules: Iterable[Any]) -> int:
    """Bytes of all parameters."""
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def build_prior(modules: tuple[Any, Any]) -> DiffusionPrior:
    """The latent prior of the two networks."""
    from diffusers import DDIMScheduler

    unet, vae = modules
    scheduler = DDIMScheduler(beta_schedule="scaled_linear")
    return from_diffusers(SimpleNamespace(unet=unet, vae=vae, scheduler=scheduler))


def svi_step(prior: DiffusionPrior, device: str) -> Callable[[], None]:
    """One step of VIPaint-2 on the left half of an image: the loss and its gradient."""
    mask = torch.zeros(IMAGE[1:], device=device)
    mask[:, : IMAGE[2] // 2] = 1
    y = mask * (2 * torch.rand(1, *IMAGE, device=device) - 1)
    likelihood = vp.Laplace(vp.Inpainting(mask))
    text = torch.randn(1, TOKENS, TEXT_WIDTH, device=device)
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, levels=LEVELS), encoder_hidden_states=text)
    guide = HierarchicalGuide(model, torch.zeros(1, *LATENT, device=device))
    elbo = vp.BetaELBO(1.0, num_particles=1)

    def step() -> None:
        guide.zero_grad()
        loss: Tensor = elbo.differentiable_loss(model, guide, y)
        loss.backward()

    return step


def checkpoint(modules: Iterable[Any], on: bool) -> None:
    """Switches the recomputation of activations."""
    for module in modules:
        (module.enable_gradient_checkpointing if on else module.disable_gradient_checkpointing)()


def peak_bytes(step: Callable[[], None], device: str) -> int:
    """The largest number of bytes allocated at one time during ``step``, beyond those before it."""
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    return _largest_sum(_allocations(profile))


def _allocations(profile: Any) -> list[int]:
    """Bytes allocated (positive) and freed (negative), in the order of time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    memory = [event for event in events if event.get("name") == "[memory]"]
    return [event["args"]["Bytes"] for event in sorted(memory, key=lambda event: event["ts"])]


def _largest_sum(changes: list[int]) -> int:
    live = largest = 0
    for change in changes:
        live += change
        largest = max(largest, live)
    return largest


def seconds(step: Callable[[], None], device: str) -> float:
    """Wall time of one step."""
    begun = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def measure(fraction: float, device: str, repeats: int) -> dict[str, Any]:
    """Peaks and times of a step at one width; index 0 keeps activations, 1 recomputes them."""
    torch.manual_seed(0)
    unet, vae = (module.to(device) for module in networks(fraction))
    step = svi_step(build_prior((unet, vae)), device)
    peaks, times = [0, 0], ([], [])
    for on in (False, True):
        checkpoint((unet, vae), on)
        peaks[on] = peak_bytes(step, device)
    for _ in range(repeats):
        for on in (False, True):
            checkpoint((unet, vae), on)
            times[on].append(seconds(step, device))
    medians = [round(statistics.median(values), 2) for values in times]
    return {"fraction": fraction, "device": device, "weights": weight_bytes((unet, vae)), "peak": peaks} | (
        {"seconds": medians, "threads": torch.get_num_threads()} if repeats else {}
    )


def line(rows: list[dict[str, Any]], on: bool, at: float) -> float:
    """Peak at the fraction ``at``, on the line through the fitted widths."""
    (x, low), (x_high, high) = ((row["fraction"], row["peak"][on]) for row in rows if row["fraction"] in FITTED)
    return low + (high - low) * (at - x) / (x_high - x)


def full_weights() -> int:
    """Bytes of the weights at full width, on a device that allocates nothing."""
    with torch.device("meta"):
        return weight_bytes(networks(1.0))


@lru_cache
def operations(fraction: float, on: bool) -> int:
    """Floating-point operations of a step: three passes of the UNet and one of the decoder, each with its gradient.

    On the device ``meta``, where nothing is computed; on a CPU the counter knows no attention.
    """
    with torch.device("meta"):
        unet, vae = networks(fraction)
        z, text = torch.empty(1, *LATENT, requires_grad=True), torch.empty(1, TOKENS, TEXT_WIDTH)
        time_step = torch.zeros(1)
    for module in (unet, vae):
        module.requires_grad_(False)
    checkpoint((unet, vae), on)
    once = _operations(lambda: unet(z, time_step, encoder_hidden_states=text).sample)
    return (LEVELS + 1) * once + _operations(lambda: vae.decode(z).sample)


def _operations(output: Callable[[], Tensor]) -> int:
    """Those of a function and of the gradient of its sum."""
    with FlopCounterMode(display=False) as counter:
        output().sum().backward()
    return counter.get_total_flops()


def table(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown, in MiB, seconds and 10^12 operations, and the check of the line."""
    head = [
        "| channels of UNet; decoder | weights | peak | operations | time | peak, checkpointing | operations | time |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines = [*head, *(_row(r["fraction"], r["weights"], r["peak"], r["seconds"]) for r in rows)]
    widest = rows[-1]
    peaks = [line(rows, on, 1.0) for on in (False, True)]
    rates = [operations(widest["fraction"], on) / widest["seconds"][on] for on in (False, True)]
    times = [operations(1.0, on) / rate for on, rate in zip((False, True), rates, strict=True)]
    lines.append(_row(1.0, full_weights(), peaks, times, ", extrapolated"))
    (check,) = (row for row in rows if row["fraction"] == HELD_OUT)
    errors = (f"{line(rows, on, HELD_OUT) / check['peak'][on] - 1:+.1%}" for on in (False, True))
    return "\n".join(
        [
            *lines,
            "",
            f"Line against the held-out width: {', '.join(errors)} with checkpointing.",
            f"Rates of the last row: {', '.join(f'{rate / 1e9:.1f}' for rate in rates)} · 10^9 operations a second.",
        ]
    )


def _row(fraction: float, weights: float, peaks: Sequence[float], times: Sequence[float], note: str = "") -> str:
    widths = "; ".join(", ".join(map(str, channels(full, fraction))) for full in (UNET, DECODER))
    cells = [
        f"{peaks[on] / MIB:.0f} | {operations(fraction, on) / 1e12:.2f} | {times[on]:.0f} s" for on in (False, True)
    ]
    return f"| {widths}{note} | {weights / MIB:.0f} | {' | '.join(cells)} |"


def read_rows(path: Path = RESULTS) -> list[dict[str, Any]]:
    """The measurements in a file, narrowest first."""
    return sorted(parquet.read_table(path).to_pylist(), key=lambda row: row["fraction"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    console = Console(width=120, highlight=False)
    if arguments.measure:
        measured = []
        for width in (*FITTED, HELD_OUT):
            measured.append(measure(width, arguments.device, arguments.repeats))
            console.print(measured[-1])
        pandas.DataFrame(measured).to_parquet(RESULTS, index=False)
    console.print(table(read_rows()), markup=False)
