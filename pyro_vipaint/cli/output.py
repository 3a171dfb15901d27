"""The folder of results, and the table on the terminal."""

from __future__ import annotations

import json
import math
import platform
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.table import Table
from torch import Tensor

from pyro_vipaint._files import REPORT, SAMPLES, SHEET, whole_folder
from pyro_vipaint._torch import dtype_name
from pyro_vipaint.cli.options import console
from pyro_vipaint.models.measurements.operators import apply
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import Callback, progress_bar
from pyro_vipaint.restoration import Result

BOUND_STEPS = 10  # that the bound in the report is the mean of
PACKAGES = ("pyro-vipaint", "torch", "pyro-ppl", "diffusers", "lpips")


def run_and_write(
    run: Callable[[Callback], Result],
    truth: Any,
    out: Path,
    seed: int,
    prior: DiffusionPrior,
    label: Any,
    entries: dict[str, Any],
) -> None:
    """Runs VIPaint with progress bars, prints the table, writes the folder.

    The precision of the ``prior``, a loaded one, and ``entries`` go into the report as well.
    """
    with progress_bar(console=console) as callback, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Encountered (NaN|[+-]inf)")  # Pyro's; the error that follows says where
        result = run(callback)
    labels = None if label is None else ([label] if isinstance(label, int) else label.tolist())
    with console.status("measuring and writing"):
        report = build_report(result, truth, seed, prior.name, labels) | entries | {"dtype": dtype_name(prior)}
        write_result(out, result, report, truth)
    _print_table(report, out)


def _print_table(report: dict[str, Any], out: Path) -> None:
    import pandas

    frame = pandas.DataFrame(report["images"]).drop(columns="terms")
    table = Table("image", *frame.columns, title=f"{report['num_samples']} samples an image")
    for index, row in frame.iterrows():
        table.add_row(str(index), *(f"{value:.4g}" for value in row))
    console.print(table)
    console.print(
        f"{report['network_calls']} network calls on {report['nfe']} images in all, "
        f"{report['seconds']:.1f} s. bound: nats on log p(y), higher is better"
        f"{'; lpips: lower is better' if 'lpips' in frame else ''}."
    )
    written = f"Written to {out}/: contact_sheet.png, the samples, samples.safetensors, report.json"
    console.print(written, soft_wrap=True, markup=False)


def write_result(out: Path, result: Result, report: dict[str, Any], truth: Tensor | None = None) -> None:
    """Writes ``contact_sheet.png``, a PNG a sample, ``samples.safetensors`` and ``report.json`` into ``out``.

    Sample pictures of the run whose report is there go away; other files in ``out`` stay.
    """
    from safetensors.torch import save

    from pyro_vipaint.plotting import to_picture

    names, earlier = _sample_names(*result.samples.shape[:2]), _earlier_samples(out)
    with whole_folder(out) as folder:
        result.plot(truth).savefig(folder / SHEET, dpi=160)
        for name, image in zip(names, result.samples.flatten(0, 1), strict=True):
            Image.fromarray(to_picture(image)).save(folder / name)
        (folder / SAMPLES).write_bytes(save(_tensors(result)))  # not save_file, whose files nobody else may read
        (folder / REPORT).write_text(json.dumps(_plain(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        for name in earlier - set(names):  # while their report is there: afterwards nobody would know them
            (out / name).unlink(missing_ok=True)


def _sample_names(num_samples: int, num_images: int) -> list[str]:
    """Of the sample pictures, sample by sample."""
    if num_images == 1:
        return [f"sample_{s:02d}.png" for s in range(num_samples)]
    return [f"image_{n:02d}_sample_{s:02d}.png" for s in range(num_samples) for n in range(num_images)]


def _earlier_samples(out: Path) -> set[str]:
    """The sample pictures of the run whose report is in ``out``."""
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
        return set(_sample_names(report["num_samples"], len(report["images"])))
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _tensors(result: Result) -> dict[str, Tensor]:
    tensors = {"samples": result.samples, "observation": result.observation}
    if result.mask is not None:
        tensors["mask"] = result.mask
    return {name: value.contiguous() for name, value in tensors.items()}


def _plain(value: Any) -> Any:
    """``value`` with ``None`` for numbers that JSON cannot hold (an infinite PSNR)."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def build_report(
    result: Result,
    truth: Tensor | None,
    seed: int,
    prior: str,
    labels: list[int] | None,
) -> dict[str, Any]:
    """Settings, versions, cost, the bound and its terms, and an entry an image; plain numbers only."""
    steps = min(BOUND_STEPS, len(result.fit.losses))
    return {
        "prior": prior,
        "labels": labels,
        "seed": seed,
        "settings": asdict(result.settings),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "num_samples": len(result.samples),
        "network_calls": result.calls,
        "nfe": result.nfe,
        "seconds": round(result.seconds, 3),
        "bound_unit": f"nats on log p(y), beta = 1, mean over the last {steps} steps",
        "images": measure(result, truth),
    }


def measure(result: Result, truth: Tensor | None) -> list[dict[str, Any]]:
    """An entry an image: bound, its terms, error on the observation, diversity; against the truth PSNR and LPIPS.

    Diversity is that of hidden pixels, or of all pixels for an operator without a mask. LPIPS is left away for images
    that AlexNet cannot take.
    """
    from pyro_vipaint.metrics import hidden_std, lpips_distance, observed_error, psnr, takes_lpips

    terms = result.fit.final_terms(BOUND_STEPS)
    columns: dict[str, Callable[[int], Any]] = {
        "bound": lambda n: -sum(float(value[n]) for value in terms.values()),
        "terms": lambda n: {name: float(value[n]) for name, value in terms.items()},
    }
    observed = torch.ones(1) if result.mask is None else result.mask
    error = observed_error(apply(result.operator, result.samples), result.observation, observed).mean(0)
    columns["observed_error"] = lambda n: float(error[n])
    if len(result.samples) > 1:
        whole = result.mask is None or result.mask.shape[-2:] != result.samples.shape[-2:]
        spread = hidden_std(result.samples, torch.zeros(1) if whole else observed)
        columns["std" if whole else "hidden_std"] = lambda n: float(spread[n])
    if truth is not None:
        if takes_lpips(truth.shape):
            distance = lpips_distance(result.samples, truth).mean(0)
            columns["lpips"] = lambda n: float(distance[n])
        ratio = psnr(result.samples, truth).mean(0)
        columns["psnr"] = lambda n: float(ratio[n])
    return [{name: column(n) for name, column in columns.items()} for n in range(len(result.observation))]
