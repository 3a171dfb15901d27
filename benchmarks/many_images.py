"""What many images cost: throughput of one worker and of two, bytes, the caller's own time, and 10^6 images from these.

    python -m benchmarks.many_images                 # measures on a machine that does nothing else: about 15 minutes
    python -m benchmarks.many_images --report        # prints the tables from the rows

A round completes the same held-out images of fashion32 with the defaults, one thread per worker, by one Ray worker and
by two, in an order that turns from round to round. The rate of a run is that between the first images, one for each
worker, twice, and the last: it leaves out the start of the workers, which a second column has. The caller reads and
writes alone: its time is measured without a network, by workers of no work.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

import pyro_vipaint as vp
from benchmarks import commit
from pyro_vipaint.demo import held_out_images
from pyro_vipaint.plotting import to_picture
from pyro_vipaint.progress import Progress

ROWS = Path(__file__).parent / "results" / "many_images.parquet"
MILLION = 10**6


def paint(folder: Path, count: int) -> Path:
    """The first held-out images as files."""
    images, _ = held_out_images()
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(to_picture(images[number % len(images)])).save(folder / f"{number:03d}.png")
    return folder


def run(pictures: Path, workers: int, engine: str, keep: str, **numbers: Any) -> dict[str, Any]:
    """One run: images per second once all workers are warm, over all, and bytes per image."""
    times: list[float] = []

    def note(progress: Progress) -> None:
        times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        begun, out = time.perf_counter(), Path(folder) / "out"
        frame = vp.inpaint_many(
            pictures, "rotated-window", out=out, engine=engine, workers=workers, threads=1, keep=keep, callback=note,
            device="cpu", **numbers,
        )  # fmt: skip
        if not (frame["status"] == "done").all():
            raise RuntimeError(f"failed: {frame['error'].tolist()}")
        size = sum(path.stat().st_size for path in (out / "images").rglob("*") if path.is_file())
        manifest = (out / "manifest.csv").stat().st_size
    warm, count = 2 * workers, len(frame)
    return {
        "engine": engine, "workers": workers, "keep": keep, "images": count, "samples": numbers.get("num_samples", 10),
        "rate": (count - warm) / (times[-1] - times[warm]), "rate_with_start": count / (times[-1] - begun),
        "bytes": size / count, "manifest_bytes": manifest / count,
    }  # fmt: skip


def own_time(pictures: Path) -> float:
    """Seconds per image that the caller spends on reading, seeds, masks, files and rows: its bound on the rate."""
    from unittest.mock import patch

    from pyro_vipaint.many import run as module
    from pyro_vipaint.many.work import compute

    kept: dict[str, Any] = {}

    def remembered(batch: Any, job: Any) -> Any:
        """The outcome of the first image for all."""
        if not kept:
            kept["outcome"] = compute(batch, job)[0]
        one = kept["outcome"]
        return [type(one)(each.name, {**one.row, "name": each.name}, one.files) for each in batch]

    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder, patch.object(module, "compute", remembered):
        vp.inpaint_many(
            pictures, "rotated-window", out=Path(folder) / "out", device="cpu", refine_steps=1,
            callback=lambda progress: times.append(time.perf_counter()),
        )  # fmt: skip
    return (times[-1] - times[1]) / (len(times) - 2)


def measure(images: int, rounds: int, engine: str, samples: int, refine_steps: int | None) -> pd.DataFrame:
    """The rows of all rounds."""
    rows = []
    numbers: dict[str, Any] = {"num_samples": samples, "refine_steps": refine_steps}
    here = commit()
    with tempfile.TemporaryDirectory() as folder:
        pictures = paint(Path(folder) / "pictures", images)
        own = own_time(pictures)
        for number in range(rounds):
            for workers in (1, 2) if number % 2 == 0 else (2, 1):
                row = run(pictures, workers, engine, "all", **numbers)
                rows.append(row | {"round": number, "own_seconds": own, "commit": here})
                print(pd.DataFrame(rows[-1:]).to_string(header=len(rows) == 1, index=False), flush=True)
        few = paint(Path(folder) / "few", 4)
        row = run(few, 1, "local", "samples", **numbers)
        rows.append(row | {"round": -1, "own_seconds": own, "commit": here})
    return pd.DataFrame(rows)


def report(frame: Any) -> str:
    """The tables in Markdown, and the arithmetic of 10^6 images."""
    runs = frame[frame["keep"] == "all"]
    rate = runs.groupby("workers")["rate"].median()
    paired = runs.pivot_table(index="round", columns="workers", values="rate")
    ratios = paired[2] / paired[1]
    core, own = 1 / rate[1], float(frame["own_seconds"].iloc[0])
    days, most = core * MILLION / 86400, 1 / own
    sizes = frame.groupby("keep")["bytes"].mean()
    samples = int(runs["samples"].iloc[0])
    lines = [
        "| workers | images per second | seconds per image and worker |", "|---:|---:|---:|",
        *(f"| {workers} | {value:.3f} | {workers / value:.2f} |" for workers, value in rate.items()), "",
        f"Two workers over one, paired by round: {ratios.median():.2f} ({ratios.min():.2f} to {ratios.max():.2f}, "
        f"{len(ratios)} rounds of {int(runs['images'].iloc[0])} images, {samples} samples each).", "",
        "| 10^6 images | |", "|---|---:|",
        f"| one worker | {core:.2f} s × 10^6 = {days:.1f} days |",
        f"| 100 workers | {days * 24 / 100:.1f} hours |", f"| 1000 workers | {days * 24 / 1000:.2f} hours |",
        f"| files, `--keep all` | {sizes['all'] * MILLION / 1e9:.0f} GB |",
        f"| files, `--keep samples` | {sizes['samples'] * MILLION / 1e9:.0f} GB |",
        f"| manifest | {runs['manifest_bytes'].mean() * MILLION / 1e6:.0f} MB |",
        f"| the caller reads and writes {1000 * own:.1f} ms per image | at most {most:.0f} images per second, "
        f"{most * core:.0f} workers |",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="print the tables from the rows, measure nothing")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--refine-steps", type=int, help="by default those of the preset")
    parser.add_argument("--engine", default="ray", choices=("ray", "local"))
    options = parser.parse_args()
    if not options.report:
        frame = measure(options.images, options.rounds, options.engine, options.samples, options.refine_steps)
        options.rows.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(options.rows, index=False)
    print(report(pd.read_parquet(options.rows)))


if __name__ == "__main__":
    main()
