"""The folder of results and the table on the terminal."""

from __future__ import annotations

import json
import math
import platform
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.table import Table
from torch import Tensor

from pyro_vipaint._folders import IMAGES, REPORT, SAMPLES, SHEET, sample_names
from pyro_vipaint._torch import dtype_name
from pyro_vipaint.checks import check_truth
from pyro_vipaint.cli.options import console
from pyro_vipaint.corrections import Correction
from pyro_vipaint.models.measurements.masks import composite
from pyro_vipaint.models.measurements.operators import Inpainting, apply
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import progress_bar
from pyro_vipaint.results import Result

BOUND_STEPS = 10  # the last steps of the fit, over which the bound in the report is averaged
PACKAGES = ("pyro-vipaint", "torch", "pyro-ppl", "diffusers", "lpips")


def run_and_write(
    run: Callable[..., Result],
    truth: Any,
    out: Path,
    seed: int,
    prior: DiffusionPrior,
    label: Any,
    entries: dict[str, Any],
    weights: Tensor | None = None,
) -> None:
    """Runs VIPaint with progress bars, writes the folder and prints the table.

    ``run`` takes a ``callback``. The precision of the loaded ``prior`` and ``entries`` are added to the report. With
    ``weights``, the mask, the observed pixels are pasted into the samples, and the report has the seam before, too.

    Raises:
        InputError: the truth has another shape than the images of the prior.
    """
    check_truth(truth, prior.image_shape)
    with progress_bar(console=console) as callback, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Encountered (NaN|[+-]inf)")  # Pyro's; the error that follows says where
        result = run(callback=callback)
    labels = None if label is None else ([label] if isinstance(label, int) else label.tolist())
    with console.status("measuring and writing"):
        seams = None if weights is None else _seams(result, weights)
        if weights is not None:
            result = replace(result, samples=composite(result.samples, result.observation, weights))
        report: dict[str, Any] = (
            build_report(result, truth, seed, prior.name, labels) | entries | {"dtype": dtype_name(prior)}
        )
        if seams is not None:
            for image, before in zip(report["images"], seams.tolist(), strict=True):
                image["seam_uncomposited"] = before
        write_result(out, result, report, truth)
    _print_table(report, out)


def _print_table(report: dict[str, Any], out: Path) -> None:
    import pandas

    frame = pandas.DataFrame(report["images"]).drop(columns="terms")
    table = Table("image", *frame.columns, title=f"{report['num_samples']} samples per image")
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
    """Writes ``contact_sheet.png``, one PNG per sample, ``samples.safetensors`` and ``report.json`` into ``out``.

    The files of an earlier run are replaced, its surplus samples removed; other files stay.
    """
    from safetensors.torch import save

    from pyro_vipaint.plotting import to_picture

    names = sample_names(*result.samples.shape[:2])
    tensors = {"samples": result.samples, "observation": result.observation}
    if result.mask is not None:
        tensors["mask"] = result.mask
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    with IMAGES.whole(out) as folder:
        result.plot(truth).savefig(folder / SHEET, dpi=160)
        for name, image in zip(names, result.samples.flatten(0, 1), strict=True):
            Image.fromarray(to_picture(image)).save(folder / name)
        (folder / SAMPLES).write_bytes(save(tensors))  # save_file would set a mode that others cannot read
        (folder / REPORT).write_text(json.dumps(_plain(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """``value`` for JSON: corrections as their text, ``None`` for numbers that it cannot hold, as an infinite PSNR."""
    if isinstance(value, Correction):
        return repr(value)
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def build_report(
    result: Result, truth: Tensor | None, seed: int, prior: str, labels: list[int] | None
) -> dict[str, Any]:
    """Settings, versions, cost, and one entry per image with the bound and its terms; as :func:`_plain` writes them."""
    steps = min(BOUND_STEPS, len(result.fit.losses))
    return {
        "prior": prior,
        "labels": labels,
        "seed": seed,
        "settings": vars(result.settings),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "num_samples": len(result.samples),
        "network_calls": result.calls,
        "nfe": result.nfe,
        "seconds": round(result.seconds, 3),
        "bound_unit": f"nats on log p(y), beta = 1, mean over the last {steps} steps",
        "images": measure(result, truth),
    }


def _seams(result: Result, mask: Tensor) -> Tensor:
    """The mean over samples of the seam, ``(N,)``."""
    from pyro_vipaint.metrics import seam

    return seam(result.samples, mask.to(result.samples)).mean(0)


def measure(result: Result, truth: Tensor | None) -> list[dict[str, Any]]:
    """One entry per image: bound and terms, error on the observation, diversity, seam, and with a truth PSNR and LPIPS.

    Diversity is that of hidden pixels, or of all pixels for an operator without a mask. LPIPS is omitted for images
    that AlexNet cannot take.
    """
    from pyro_vipaint.metrics import hidden_std, lpips_distance, observed_error, psnr, takes_lpips

    figures: dict[str, Tensor] = {}
    observed = torch.ones(1) if result.mask is None else result.mask
    predicted = apply(result.operator, result.samples)
    figures["observed_error"] = observed_error(predicted, result.observation, observed).mean(0)
    if len(result.samples) > 1:
        whole = result.mask is None or result.mask.shape[-2:] != result.samples.shape[-2:]
        name = "std" if whole else "hidden_std"
        figures[name] = hidden_std(result.samples, torch.zeros(1) if whole else observed)
    if isinstance(result.operator, Inpainting):
        figures["seam"] = _seams(result, observed)
    if truth is not None:
        if takes_lpips(truth.shape):
            figures["lpips"] = lpips_distance(result.samples, truth).mean(0)
        figures["psnr"] = psnr(result.samples, truth).mean(0)
    terms = [
        {name: float(value[n]) for name, value in result.fit.final_terms(BOUND_STEPS).items()}
        for n in range(len(result.observation))
    ]
    return [
        {"bound": -sum(each.values()), "terms": each} | {name: float(value[n]) for name, value in figures.items()}
        for n, each in enumerate(terms)
    ]
