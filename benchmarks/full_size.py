"""Memory and time of a step with the published networks at full size, with and without checkpointing.

    python -m benchmarks.full_size              # the tables in docs/priors.md, from benchmarks/results
    python -m benchmarks.full_size --measure    # measure what is missing there; --device cuda, --only NAME
    python -m benchmarks.full_size --tiny       # try the machinery on networks of a few channels

The networks of :mod:`benchmarks.published` have random weights. One image, one particle, K = 2 levels,
``HierarchicalGuide``, a Laplace likelihood on the left half of the image:

- *SVI step*: the loss and its gradient; three graphs of the network (transition, reconstruction, marginal) and one of
  the decoder exist at a time;
- *refinement step*: one step of DPS, with the gradient through denoiser and decoder;
- *decoder, 512* and *768 pixels*: one image by the autoencoder of Stable Diffusion 1.5 and the gradient of its sum,
  as a whole or by tiles of :data:`TILE` latents.

Every row is a process of its own. *Peak* is what it held at most during the step, weights and PyTorch included: on a
CPU the resident set (``VmHWM``, reset before the step), on CUDA ``torch.cuda.max_memory_allocated``, from which PyTorch
itself is missing. ``before`` is what it held before the step. A process that grows beyond ``--most`` GiB ends itself;
its row has the limit for a peak and no seconds. Seconds are of one step, of a second
one where the first took less than ten: on a CPU those of the processor, since other work may run beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from torch import Tensor

import pyro_vipaint as vp
from benchmarks import commit, published
from pyro_vipaint._files import write_whole
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import AutoencoderCodec, DiffusionModel, DiffusionPrior
from pyro_vipaint.progress import Progress

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "full_size.parquet"
SVI, REFINEMENT, DECODER = "SVI step", "refinement step", "decoder, {} pixels"
DECODER_OF = "stable-diffusion-1.5"
TINY_SIDES, TINY_TILE = (64, 96), 5
SIDES, TILE = (512, 768), 40  # pixels; latents, of which two overlap 512 pixels by a quarter
HALF = ("stable-diffusion-1.5", "stable-diffusion-3.5-medium", "guided-diffusion-imagenet256-uncond")  # in bfloat16
GIB = 2**30
SHORT = 10.0  # seconds; a step that took less is measured again, without what a first one prepares
TOO_LARGE = 75  # exit status of a process that ends itself


@dataclass(frozen=True)
class Case:
    """What one process measures; ``tile`` is the side of a tile, 0 for the whole latent."""

    network: str
    work: str
    dtype: str
    checkpointing: bool
    tile: int = 0


def cases(names: Sequence[str], small: bool = False) -> Iterator[Case]:
    """All of them; the autoencoder decodes ``small`` images in a trial."""
    for name in names:
        dtype = "bfloat16" if name in HALF else "float32"
        for work in (REFINEMENT, SVI):
            yield from (Case(name, work, dtype, on) for on in (True, False))
    if DECODER_OF in names:
        tile = TINY_TILE if small else TILE
        for side in TINY_SIDES if small else SIDES:
            work = DECODER.format(side)
            yield from (Case(DECODER_OF, work, "float32", *how) for how in ((True, tile), (True, 0), (False, 0)))


def tiny(name: str) -> None:
    """Replaces a published network by one of a few channels, so that the machinery can be tried."""
    known = published.PUBLISHED[name]
    parts = {part: (kind, {**arguments, **_narrow(kind, arguments)}) for part, (kind, arguments) in known.parts.items()}
    published.PUBLISHED[name] = replace(known, parts=parts)


def _narrow(kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if kind == "SD3Transformer2DModel":
        return {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "caption_projection_dim": 16,
                "sample_size": 8, "dual_attention_layers": [0]}  # fmt: skip
    smaller = {"block_out_channels": [8] * len(arguments["block_out_channels"]), "norm_num_groups": 4}
    smaller |= {name: 4 for name in ("attn_norm_num_groups",) if name in arguments}
    smaller |= {name: 8 for name in ("base_channels", "noise_channels") if name in arguments}
    if kind in ("UNet2DModel", "LabelledUNet", "UNet2DConditionModel"):
        smaller |= {"attention_head_dim": 2}
    sides = {} if "latent_channels" in arguments else {"sample_size": max(16, 2 ** len(smaller["block_out_channels"]))}
    return {**smaller, **sides, "layers_per_block": 1}


def problem(case: Case, prior: DiffusionPrior, device: torch.device) -> tuple[DiffusionModel, Tensor]:
    """VIPaint-2 on the left half of an image."""
    channels, height, width = prior.image_shape
    mask = torch.zeros(height, width, device=device)
    mask[:, : width // 2] = 1
    y = mask * (2 * torch.rand(1, channels, height, width, device=device) - 1)
    given = published.condition(case.network, device)
    return DiffusionModel(prior, vp.Laplace(vp.Inpainting(mask)), vp.keypoints(prior, levels=2), **given), y


def svi_step(case: Case, prior: DiffusionPrior, device: torch.device) -> Callable[[], object]:
    """The loss of one particle and its gradient."""
    model, y = problem(case, prior, device)
    guide = HierarchicalGuide(model, torch.zeros(1, *prior.event_shape, device=device))
    elbo = vp.BetaELBO(1.0, num_particles=1)

    def step() -> None:
        guide.zero_grad()
        elbo.loss_and_grads(model, guide, y)

    return step


class _Enough(Exception):
    """Ends a refinement after its first step."""


def refinement_step(case: Case, prior: DiffusionPrior, device: torch.device) -> Callable[[], object]:
    """The first of the two steps of the shortest refinement that has a correction."""
    model, y = problem(case, prior, device)
    z = model.levels[-1].sigma * torch.randn(1, 1, *prior.event_shape, device=device)

    def after(progress: Progress) -> None:
        raise _Enough

    def step() -> None:
        try:
            vp.refine(model, z, y, 2, callback=after)
        except _Enough:
            pass

    return step


def decoding(case: Case, side: int, device: torch.device) -> tuple[Callable[[], object], int]:
    """One image of this side by the autoencoder, with its gradient; and the number of its parameters."""
    kind, arguments = published.PUBLISHED[DECODER_OF].parts["vae"]
    autoencoder = published.network(kind, arguments, device, getattr(torch, case.dtype))
    if case.checkpointing:
        autoencoder.enable_gradient_checkpointing()
    codec = AutoencoderCodec(autoencoder, arguments["scaling_factor"], tile=case.tile or None)
    places = side // codec.downsampling
    z = torch.randn(1, arguments["latent_channels"], places, places, device=device, requires_grad=True)
    return lambda: torch.autograd.grad(codec.decode(z).sum(), z), sum(p.numel() for p in autoencoder.parameters())


def prepared(case: Case, device: torch.device) -> tuple[Callable[[], object], int]:
    """What is measured, and the number of parameters."""
    torch.manual_seed(0)
    if case.work not in (SVI, REFINEMENT):
        return decoding(case, int(case.work.split()[1]), device)
    prior, count = published.build(case.network, device, getattr(torch, case.dtype), case.checkpointing)
    return (svi_step if case.work == SVI else refinement_step)(case, prior, device), count


def measure(case: Case, device: torch.device) -> dict[str, Any]:
    """The row of a case, measured in this process."""
    step, count = prepared(case, device)
    before = reset_peak(device)
    seconds = timed(step, device)
    peak = peak_bytes(device)
    if seconds < SHORT:
        seconds = timed(step, device)
    found = {"parameters": count, "before": before, "peak": peak, "seconds": round(seconds, 3)}
    return {**asdict(case), **found, "threads": torch.get_num_threads(), "device": named(device)}


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of one step: processor time on a CPU, wall time until CUDA has finished."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    begun = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - begun


def named(device: torch.device) -> str:
    """The name of the device; of a processor what Linux calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "cpu")


def reset_peak(device: torch.device) -> int:
    """Forgets the peak so far; returns the bytes that are held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """The most bytes that were held since :func:`reset_peak`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM")


def resident(entry: str) -> int:
    """Bytes of the resident set of this process, now (``VmRSS``) or at most (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(entry))


def guard(most: float) -> None:
    """Ends this process when it holds more than ``most`` bytes, before the machine runs out."""

    def watch() -> None:
        while resident("VmRSS") <= most:
            time.sleep(0.05)
        os._exit(TOO_LARGE)

    threading.Thread(target=watch, daemon=True).start()


def measure_here(names: Sequence[str], device: torch.device, small: bool) -> Iterator[dict[str, Any]]:
    """The rows of all cases, measured in this process: on CUDA, where peaks are counted anew; a failure is a row."""
    for case in cases(names, small):
        try:
            yield measure(case, device)
        except torch.cuda.OutOfMemoryError:
            yield {**asdict(case), "error": "out of memory"}
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def in_process(case: Case, device: str, most: float, small: bool) -> dict[str, Any]:
    """The row of a case, measured by a process of its own; ``error`` where it failed."""
    command = [sys.executable, "-m", "benchmarks.full_size", "--case", json.dumps(asdict(case)), "--device", device,
               "--most", str(most), *(["--tiny"] if small else [])]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == TOO_LARGE or "out of memory" in done.stderr:
        return {**asdict(case), "peak": int(most * GIB), "seconds": None, "device": device}
    lines = [line for line in (done.stdout if not done.returncode else done.stderr).splitlines() if line.strip()]
    if done.returncode:
        return {**asdict(case), "error": lines[-1][:300] if lines else f"exit status {done.returncode}"}
    return json.loads(lines[-1])


def read_rows(path: Path = RESULTS) -> pd.DataFrame:
    """The rows of a file; none where there is no file."""
    return pd.read_parquet(path) if path.exists() else pd.DataFrame()


def extend(rows: pd.DataFrame, row: dict[str, Any], path: Path) -> pd.DataFrame:
    """The rows with one more, written."""
    rows = pd.DataFrame([*rows.to_dict("records"), row])
    rows["parameters"] = rows["parameters"].astype("Int64")
    write_whole(path, rows.to_parquet(index=False))
    return rows


def measure_missing(names: Sequence[str], device: str, most: float, small: bool, out: Path, console: Console) -> None:
    """Measures the cases of these networks that have no row on this device."""
    rows, here = read_rows(out), named(torch.device(device))
    done = set() if rows.empty else {_key(row) for row in rows.to_dict("records") if row["device"] == here}
    for case in cases(names, small):
        if _key(asdict(case)) in done:
            continue
        row = in_process(case, device, most, small)
        if "error" in row:
            console.print(row, style="red")
            continue
        row = {"parameters": None, "before": None, "threads": None, **row, "device": here, "commit": commit()}
        console.print({key: row[key] for key in ("network", "work", "checkpointing", "tile", "peak", "seconds")})
        rows = extend(rows, row, out)


def _key(row: dict[str, Any]) -> Case:
    return Case(row["network"], row["work"], row["dtype"], bool(row["checkpointing"]), int(row["tile"]))


def report(rows: Any) -> str:
    """The tables in Markdown, one of steps and one of the decoder for each device."""
    tables = []
    for device, here in rows.groupby("device", sort=False):
        steps = here[here["work"].isin((SVI, REFINEMENT))]
        tables.append(f"**{device}**\n\n{step_table(steps)}\n\n{decoder_table(here.drop(steps.index))}")
    return "\n\n".join(tables)


def step_table(rows: Any) -> str:
    """One line per network: peak and seconds of both works, without and with checkpointing."""
    head = "| network | parameters, 10⁶ | dtype | " + " | ".join(
        f"{work}{', checkpointing' if on else ''}" for work in ("SVI", "refinement") for on in (False, True)
    )
    lines = [head + " |", "|---|---:|---|---:|---:|---:|---:|"]
    for (network, dtype), here in sorted(
        rows.groupby(["network", "dtype"]), key=lambda group: list(published.PUBLISHED).index(group[0][0])
    ):
        count = f"{here['parameters'].dropna().iloc[0] / 1e6:.1f}"
        found = [_cell(here, work, on, 0) for work in (SVI, REFINEMENT) for on in (False, True)]
        lines.append(f"| {network} | {count} | {dtype} | {' | '.join(found)} |")
    return "\n".join(lines)


def decoder_table(rows: Any) -> str:
    """One line per size: as a whole, with checkpointing, and by tiles."""
    lines = ["| image | as a whole | checkpointing | by tiles |", "|---|---:|---:|---:|"]
    for work in dict.fromkeys(rows["work"]):
        here = rows[rows["work"] == work]
        found = [_cell(here, work, *how) for how in ((False, 0), (True, 0), (True, TILE))]
        lines.append(f"| {work.removeprefix('decoder, ')} | {' | '.join(found)} |")
    return "\n".join(lines)


def _cell(rows: Any, work: str, checkpointing: bool, tile: int) -> str:
    chosen = rows["work"].eq(work) & rows["checkpointing"].eq(checkpointing) & rows["tile"].eq(tile)
    here = rows[chosen].to_dict("records")
    if not here:
        return "–"
    peak, seconds = here[0]["peak"] / GIB, here[0]["seconds"]
    return f"> {peak:.0f} GiB" if seconds is None or seconds != seconds else f"{peak:.2f} GiB, {seconds:.1f} s"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure what has no row yet")
    parser.add_argument("--only", nargs="+", default=list(published.PUBLISHED), choices=published.PUBLISHED)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--most", type=float, default=14.0, help="GiB that a process may hold, on a CPU")
    parser.add_argument("--tiny", action="store_true", help="networks of a few channels")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--here", action="store_true", help="measure all in this process and print rows of JSON")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    console = Console(width=140, highlight=False)
    if chosen.tiny:
        for name in published.PUBLISHED:
            tiny(name)
    if chosen.case:
        device = torch.device(chosen.device)
        if device.type == "cpu":
            guard(chosen.most * GIB)
        print(json.dumps(measure(Case(**json.loads(chosen.case)), device)))
        return
    if chosen.here:
        for row in measure_here(chosen.only, torch.device(chosen.device), chosen.tiny):
            print(json.dumps(row), flush=True)
        return
    if chosen.tiny and chosen.out == RESULTS:
        parser.error("--tiny measures nothing of worth: name another file by --out.")
    if chosen.measure:
        measure_missing(chosen.only, chosen.device, chosen.most, chosen.tiny, chosen.out, console)
    rows = read_rows(chosen.out)
    console.print("There are no rows." if rows.empty else report(rows), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
