"""The files of a result, as ``vipaint inpaint`` writes them: pictures, samples, and a report of what was done.

Beside them :meth:`pyro_vipaint.Result.save` writes a result whole, so that it can be asked more.
"""

from __future__ import annotations

import json
import math
import platform
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pyro_vipaint._folders import IMAGES, REPORT, SAMPLES, SHEET, sample_names
from pyro_vipaint.corrections import Correction
from pyro_vipaint.models.measurements.operators import Inpainting, apply
from pyro_vipaint.results.result import Result

BOUND_STEPS = 10  # the last steps of the fit, over which the bound in the report is averaged
PACKAGES = ("pyro-vipaint", "torch", "pyro-ppl", "diffusers", "lpips")
KEEP = ("all", "samples")  # of the files of a result


def write_result(out: Path, result: Result, report: dict[str, Any], truth: Tensor | None = None) -> None:
    """Writes ``contact_sheet.png``, one PNG per sample, ``samples.safetensors`` and ``report.json`` into ``out``.

    The files of an earlier run are replaced, its surplus samples removed; other files stay.
    """
    with IMAGES.whole(out) as folder:
        for name, content in result_files(result, report, truth).items():
            (folder / name).write_bytes(content)


def result_files(
    result: Result, report: dict[str, Any], truth: Tensor | None = None, keep: str = KEEP[0]
) -> dict[str, bytes]:
    """The files of a result by name: with ``keep`` ``samples`` no pictures, ``samples.safetensors`` and the report."""
    from safetensors.torch import save

    from pyro_vipaint.plotting import to_picture

    tensors = {"samples": result.samples, "observation": result.observation}
    if result.mask is not None:
        tensors["mask"] = result.mask
    files: dict[str, bytes] = {}
    if keep == KEEP[0]:
        files[SHEET] = _png(result.plot(truth).savefig, dpi=160)
        names = sample_names(*result.samples.shape[:2])
        for name, image in zip(names, result.samples.flatten(0, 1), strict=True):
            files[name] = _png(Image.fromarray(to_picture(image)).save)
    files[SAMPLES] = save({name: value.contiguous() for name, value in tensors.items()})
    text = json.dumps(_plain(report), indent=2, allow_nan=False) + "\n"
    return files | {REPORT: text.encode("utf-8")}


def _png(write: Any, **options: Any) -> bytes:
    buffer = BytesIO()
    write(buffer, format="png", **options)
    return buffer.getvalue()


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


def seams(result: Result, mask: Tensor) -> Tensor:
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
        figures["seam"] = seams(result, observed)
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
