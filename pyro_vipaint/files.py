"""Files in and out: pictures and masks read with one-line errors, results written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pyro_vipaint.errors import InputError
from pyro_vipaint.inpainting import InpaintingResult
from pyro_vipaint.operators import apply
from pyro_vipaint.restoring import RestorationResult

REPORT, SHEET, SAMPLES = "report.json", "contact_sheet.png", "samples.safetensors"
SAMPLE = re.compile(r"(image_\d+_)?sample_\d+\.png")
BOUND_STEPS = 10  # that the bound in the report is the mean of
Result = InpaintingResult | RestorationResult
PACKAGES = ("pyro-vipaint", "torch", "pyro-ppl", "diffusers", "lpips")


def read_image(path: Path, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """A picture as ``(channels, H, W)`` in [-1, 1], grey or RGB; pixels that are NaN stay so, they may mark the hole.

    With ``size`` (H, W) it is resized, each new pixel being the mean of the old ones that it covers: no other filter
    keeps hidden pixels out of observed ones.

    Raises:
        InputError: not a picture, or one whose numbers have no clear meaning.
    """
    picture, white = _with_white(_open(path), "L" if channels == 1 else "RGB", path)
    if size is not None:
        picture = picture.resize((size[1], size[0]), Image.Resampling.BOX)
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32)) * (2 / white) - 1
    return pixels.permute(2, 0, 1).contiguous() if pixels.ndim == 3 else pixels.repeat(channels, 1, 1)


def read_mask(path: Path, invert: bool = False, size: tuple[int, int] | None = None) -> Tensor:
    """A mask file as ``(1, H, W)``, 1 where it is white (observed); ``invert`` for files in which white is the hole.

    White is more than half of the scale, or 1 in a picture that holds nothing else than 0 and 1. With ``size``
    (H, W) a new pixel is observed where all old ones that it covers are.

    Raises:
        InputError: not a picture, or one with pixels that are transparent, NaN or infinite: neither white nor black.
    """
    original = _open(path)
    if original.has_transparency_data and original.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise InputError(f"{path} is transparent in places: save the mask in black and white, without transparency.")
    picture, white = _with_white(original, "L", path)
    values = np.asarray(picture, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{path} has pixels that are NaN or infinite: a mask is black and white.")
    observed = values > (1 if values.max() <= 1 else white) / 2
    if invert:
        observed = ~observed
    if size is not None:
        shares = Image.fromarray(observed.astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BOX)
        observed = np.asarray(shares) > 1 - 1e-4
    return torch.from_numpy(observed.astype(np.float32)).unsqueeze(0)


def _with_white(picture: Image.Image, mode: str, path: Path) -> tuple[Image.Image, float]:
    """The picture in ``mode`` and its white, 255; deeper grey pictures as floats, with what is white in them.

    Their formats do not say what is white: it is the first of 1 (floats only), 255 and 65535 that no pixel exceeds.
    """
    if picture.mode != "F" and not picture.mode.startswith("I"):
        return picture.convert(mode), 255.0
    values = np.array(picture, dtype=np.float32)
    finite = values[np.isfinite(values)]
    low, high = finite.min(initial=0), finite.max(initial=0)
    white = next((w for w in (1.0, 255.0, 65535.0) if high <= w and (w > 1 or picture.mode == "F")), None)
    if low < 0 or white is None:
        raise InputError(f"{path} has pixels from {low:g} to {high:g}: save it on [0, 1], [0, 255] or [0, 65535].")
    return Image.fromarray(values), white


def _open(path: Path) -> Image.Image:
    """The picture, turned as its EXIF entry says."""
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except Exception as error:  # decoders of broken files raise anything
        raise InputError(f"{path} is not a picture that can be read.") from error


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder whose files are moved to ``out`` when the block ends well, and vanish otherwise.

    It lies beside ``out``, or in it if that exists: on the same disk, and where one may write.
    """
    created = [parent for parent in out.parents if not parent.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out if out.exists() else out.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if not out.exists():
            temporary.rename(out)
            return
        if (temporary / REPORT).exists():
            (out / REPORT).unlink(missing_ok=True)  # an old one must not vouch for new files
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == REPORT):  # last: it vouches for the rest
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in created:
            with suppress(OSError):
                parent.rmdir()  # stays where it is not empty


def check_out(out: Path, *pictures: Path | None) -> None:
    """Refuses an output path that cannot become a folder of results, before anything is computed.

    Also one in which the results would replace one of the ``pictures`` that they are made from.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: name a folder with --out.")
    for folder in (out, *out.parents):
        if folder.is_symlink() and not folder.exists():
            raise InputError(f"{folder} is a link to nothing: name another folder with --out.")
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{out} cannot be written: {nearest} is not a folder to write to ({reason}).") from error
    for name in (REPORT, SHEET, SAMPLES):
        if (out / name).is_dir():
            raise InputError(f"{out / name} is a folder where a result belongs: choose another --out.")
    for path in (picture.resolve() for picture in pictures if picture is not None):
        if path.parent == out.resolve() and _is_result(path.name):
            raise InputError(f"{path} would be replaced by the results: choose another --out.")


def _is_result(name: str) -> bool:
    return name in (REPORT, SHEET, SAMPLES) or SAMPLE.fullmatch(name) is not None


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
        "network_evaluations": result.evaluations,
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
