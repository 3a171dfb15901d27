"""Files in and out: pictures and masks read with one-line errors, results written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyro_vipaint.errors import InputError
from pyro_vipaint.inpainting import InpaintingResult

PACKAGES = ("pyro-vipaint", "torch", "pyro-ppl", "diffusers", "lpips")


def read_image(path: Path, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """A picture as ``(channels, H, W)`` in [-1, 1], grey or RGB; resized to ``size`` (H, W) if one is given.

    Raises:
        InputError: not a picture, or one with NaN pixels.
    """
    picture = _open(path)
    if picture.mode == "F" and not np.isfinite(np.asarray(picture)).all():
        raise InputError(f"{path} has pixels that are NaN or infinite: replace them before inpainting.")
    picture = picture.convert("L" if channels == 1 else "RGB")
    if size is not None:
        picture = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32)) / 127.5 - 1
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1)


def read_mask(path: Path, invert: bool = False, size: tuple[int, int] | None = None) -> Tensor:
    """A mask file as ``(1, H, W)``, 1 where it is white (observed); ``invert`` for files in which white is the hole."""
    picture = _open(path).convert("L")
    if size is not None:
        picture = picture.resize((size[1], size[0]), Image.Resampling.NEAREST)
    observed = torch.from_numpy(np.array(picture) > 127).unsqueeze(0)
    return (~observed if invert else observed).float()


def _open(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
        return picture
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a picture that can be read.") from error


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` whose files are moved there when the block ends well, and vanish otherwise."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if not out.exists():
            temporary.rename(out)
            return
        for path in temporary.iterdir():
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_out(out: Path) -> None:
    """Refuses an output path that is a file, before anything is computed."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: name a folder with --out.")


def write_result(out: Path, result: InpaintingResult, report: dict[str, Any], truth: Tensor | None = None) -> None:
    """Writes ``contact_sheet.png``, a PNG a sample, ``samples.safetensors`` and ``report.json`` into ``out``."""
    from safetensors.torch import save_file

    from pyro_vipaint.plotting import to_picture

    with whole_folder(out) as folder:
        result.plot(truth).savefig(folder / "contact_sheet.png", dpi=160)
        for s, images in enumerate(result.samples):
            for n, image in enumerate(images):
                name = f"sample_{s:02d}.png" if len(images) == 1 else f"image_{n:02d}_sample_{s:02d}.png"
                Image.fromarray(to_picture(image)).save(folder / name)
        tensors = {"samples": result.samples, "observation": result.observation, "mask": result.mask}
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "samples.safetensors")
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def build_report(
    result: InpaintingResult,
    truth: Tensor | None,
    seed: int,
    prior: str,
    labels: list[int] | None,
) -> dict[str, Any]:
    """Settings, versions, cost, the bound and its terms, and an entry an image; plain numbers only."""
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
        "bound_unit": "nats on log p(y), beta = 1, mean over the last ten steps",
        "images": measure(result, truth),
    }


def measure(result: InpaintingResult, truth: Tensor | None) -> list[dict[str, Any]]:
    """An entry an image: bound, its terms, error on observed pixels, diversity, and LPIPS and PSNR against the truth."""
    from pyro_vipaint.metrics import hidden_std, lpips_distance, observed_error, psnr

    terms = result.fit.final_terms()
    columns: dict[str, Callable[[int], Any]] = {
        "bound": lambda n: -sum(float(value[n]) for value in terms.values()),
        "terms": lambda n: {name: float(value[n]) for name, value in terms.items()},
    }
    error = observed_error(result.samples, result.observation, result.mask).mean(0)
    columns["observed_error"] = lambda n: float(error[n])
    if len(result.samples) > 1:
        spread = hidden_std(result.samples, result.mask)
        columns["hidden_std"] = lambda n: float(spread[n])
    if truth is not None:
        distance, ratio = lpips_distance(result.samples, truth).mean(0), psnr(result.samples, truth).mean(0)
        columns["lpips"] = lambda n: float(distance[n])
        columns["psnr"] = lambda n: float(ratio[n])
    return [{name: column(n) for name, column in columns.items()} for n in range(len(result.observation))]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
