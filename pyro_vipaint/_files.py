"""A folder that holds an object: numbers as safetensors, the rest as JSON. Nothing in it can run code when opened."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pyro_vipaint.errors import InputError

VERSION = 1  # of the layout; a file of another version is refused


@dataclass(frozen=True)
class FilePair:
    """The two files of one object in a folder: ``record``, a JSON object, and ``tensors``, a safetensors file."""

    record: str
    tensors: str

    def write(self, folder: str | Path, kind: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Writes both files, or leaves no record behind: what was interrupted is refused by :meth:`read`.

        Other files in ``folder`` stay. Tensors are written from the CPU.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        text = json.dumps({"class": kind, "version": VERSION, **record}, indent=2, allow_nan=False) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as name:  # on the same disk, so that moving is atomic
            temporary = Path(name)
            save_file(
                {key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary / self.tensors
            )
            (temporary / self.record).write_text(text, encoding="utf-8")
            (folder / self.record).unlink(missing_ok=True)  # an old record must not vouch for new tensors
            os.replace(temporary / self.tensors, folder / self.tensors)
            os.replace(temporary / self.record, folder / self.record)

    def read(self, folder: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The record and the tensors, on the CPU.

        Raises:
            InputError: a file is missing or broken, or the folder holds something else than a ``kind``.
        """
        folder = Path(folder)
        record = _read_record(folder / self.record)
        if record.get("class") != kind:
            raise InputError(f"{folder} holds {record.get('class')!r}, not a {kind}.")
        if record.get("version") != VERSION:
            raise InputError(f"{folder} has version {record.get('version')!r}; this library reads version {VERSION}.")
        return record, _read_tensors(folder / self.tensors)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON.") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} does not hold a JSON object.")
    return record


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except Exception as error:  # safetensors raises its own class, and several of Python's
        raise InputError(f"{path} cannot be read as safetensors.") from error


REPORT, SHEET, SAMPLES = "report.json", "contact_sheet.png", "samples.safetensors"
SAMPLE = re.compile(r"(image_\d+_)?sample_\d+\.png")


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
