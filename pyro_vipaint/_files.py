"""Files: objects saved in a folder, and pictures.

An object is saved as numbers in safetensors and the rest in JSON: nothing in these files can run code when opened.
Every file is written whole or not at all. Files are read with bounds, whoever wrote them: regular files only, JSON of
at most ``MAX_JSON`` bytes, numbers that are finite.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import max_pool2d
from torch.nn.modules.module import register_module_parameter_registration_hook

from pyro_vipaint.errors import InputError

VERSION = 1  # of the layout of a saved object; a file of another version is refused
MAX_JSON = 2**24  # bytes of a JSON file, or of the header of a safetensors file; the record of 10^5 steps has 2 MB
PART = ".part"  # ends the names of what is not whole yet: .NAME.PROCESS-RUN.part
RUN = token_hex(4)  # tells this process from an ended one with its number, which containers use again
TEMPORARY = re.compile(rf"\..+\.(\d+)(?:-([0-9a-f]{{8}}))?{re.escape(PART)}")  # version 0.1 had the process alone
GREY = 0.01  # largest share of grey areas in a mask; smoothed and JPEG masks have up to .007, pictures .012 and more
FLAT = 8 / 255  # of a soft mask, this close to black or white counts as that: JPEG leaves such traces beside an edge
GREY_MODES = ("1", "L", "LA", "La", "F")  # of Pillow, besides those of deep whole numbers
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
Content = TypeVar("Content")


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that appears whole or not at all, even if the process is killed.

    What killed processes left half-written in its folder is removed.
    """
    sweep(path.parent)
    temporary = path.with_name(f".{path.name}.{own_ending()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(file: Path, shown: Path) -> Iterator[None]:
    """Keeps other runs out while the block runs, and removes what killed ones left half-written beside ``file``.

    The lock ends with the process.

    Raises:
        InputError: another run has it; the message names the folder ``shown``.
    """
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(file).acquire(blocking=False)
    except Timeout:
        wanted = "wait for it, or choose another folder"
        raise InputError(f"Another run writes into {shown}: {wanted}. (If there is none, remove {file}.)") from None
    with lock:
        sweep(file.parent)
        yield


def own_ending() -> str:
    """The end of the names of temporary files and folders of this process."""
    return f"{os.getpid()}-{RUN}{PART}"


def sweep(folder: Path) -> None:
    """Removes the temporary files and folders in ``folder`` of processes that have ended."""
    for path in folder.glob(f".*{PART}"):
        found = TEMPORARY.fullmatch(path.name)
        if found is None or _is_alive(int(found[1]), found[2]):
            continue
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_alive(process: int, run: str | None) -> bool:
    """Whether the process runs here; one with the number of this one has ended unless it is this one."""
    if process == os.getpid():
        return run == RUN
    try:
        if os.name == "posix":  # elsewhere the signal 0 is not a question
            os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


@dataclass(frozen=True)
class FilePair:
    """The two files of one object in a folder: ``record``, a JSON object, and ``tensors``, a safetensors file."""

    record: str
    tensors: str

    def write(self, folder: str | Path, kind: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Writes both files. An interrupted call leaves the old pair, or no record, which :meth:`read` refuses.

        Other files in ``folder`` stay. Tensors are written from the CPU.
        """
        from safetensors.torch import save

        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"{folder} is not a folder: name another one.") from error
        text = json.dumps({"class": kind, "version": VERSION, **record}, indent=2, allow_nan=False) + "\n"
        content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
        (folder / self.record).unlink(missing_ok=True)  # an old record must not vouch for new tensors
        write_whole(folder / self.tensors, content)
        write_whole(folder / self.record, text.encode())

    def read(self, folder: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The record and the tensors, on the CPU.

        Raises:
            InputError: a file is missing or broken, or the folder holds something else than a ``kind``.
        """
        folder = Path(folder)
        record = read_json(folder / self.record)
        for entry, wanted in {"class": kind, "version": VERSION}.items():
            if record.get(entry) != wanted:
                raise InputError(f"{folder} holds {entry} {record.get(entry)!r:.80}, not {wanted!r}.")
        return record, read_tensors(folder / self.tensors)[0]


def read_json(path: Path, constants: Mapping[str, float] | None = None, most: int = MAX_JSON) -> dict[str, Any]:
    """The object in a JSON file of at most ``most`` bytes.

    Args:
        path: the file, in an encoding of Unicode.
        constants: values of ``NaN``, ``Infinity`` and ``-Infinity``, which JSON does not have; none by default.
        most: the largest size in bytes.

    Raises:
        InputError: the file is missing, too large or not regular; it holds no object, an entry twice, or a number that
            no float holds.
    """

    def parse(path: Path) -> dict[str, Any]:
        hooks: dict[str, Any] = {"parse_float": _finite, "parse_int": _finite_int, "object_pairs_hook": _once}
        value = json.loads(path.read_bytes(), parse_constant=(constants or {}).__getitem__, **hooks)
        if not isinstance(value, dict):
            raise TypeError("not an object")
        return value

    return _read(path, "JSON object", parse, most)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, on the CPU, and the texts in its header.

    Raises:
        InputError: the file is missing, broken or not regular; a number in it is NaN or infinite.
    """
    with open_tensors(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        texts = dict(file.metadata() or {})
    for name, value in tensors.items():
        check_finite(path, name, value)
    return tensors, texts


def open_tensors(path: Path) -> Any:
    """A safetensors file, opened; its numbers are read on demand.

    Raises:
        InputError: the file is missing, broken or not regular, or its header is longer than ``MAX_JSON``.
    """

    def parse(path: Path) -> Any:
        from safetensors import safe_open

        with path.open("rb") as file:
            if int.from_bytes(file.read(8), "little") > MAX_JSON:
                raise ValueError("the header is too long")
        return safe_open(path, framework="pt")

    return _read(path, "safetensors file", parse)


@contextmanager
def no_larger_than(tensors: int, elements: float = math.inf) -> Iterator[None]:
    """Stops the construction of a module inside the block soon after it outgrows the file that it will be read from.

    Parameters may be registered twice as often as the file has ``tensors``, with twice its ``elements``, and some more.

    Raises:
        ValueError: the module has more.
    """
    left = [2 * tensors + 100, 2 * elements + 2**20]

    def count(module: Any, name: str, parameter: Tensor | None) -> None:
        left[0] -= 1
        left[1] -= 0 if parameter is None else parameter.numel()
        if min(left) < 0:
            raise ValueError(f"it has far more parameters than the {tensors} in the file.")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def check_finite(path: Path, name: str, value: Tensor) -> None:
    """Refuses a tensor of a file that holds NaN or infinite numbers."""
    if not value.is_floating_point() or not value.numel():
        return
    extremes = (value.float() if value.dtype.itemsize == 1 else value).aminmax()  # NaN if there is one; one fast pass
    if not (extremes.min.isfinite() and extremes.max.isfinite()):
        raise InputError(f"{path}: {name} holds numbers that are NaN or infinite; the file is damaged.")


def check_file(path: Path, most: int | None = None) -> None:
    """Refuses what is not a regular file (a pipe would block, a device has no end) or has more than ``most`` bytes."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a file.")
    if most is not None and status.st_size > most:
        raise InputError(f"{path} has {status.st_size} bytes; at most {most} are read.")


def _finite(text: str) -> float:
    """A number of a JSON file."""
    value = float(text)
    if not math.isfinite(value):
        raise OverflowError(text)
    return value


def _finite_int(text: str) -> int:
    """A whole number of a JSON file, of at most 309 digits."""
    _finite(text)
    return int(text)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The entries of a JSON object, each of which is given once."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise KeyError("an entry is given twice")
    return entries


def _read(path: Path, kind: str, parse: Callable[[Path], Content], most: int | None = None) -> Content:
    """What ``parse`` makes of the file, a regular one of at most ``most`` bytes."""
    try:
        check_file(path, most)
        return parse(path)
    except InputError:
        raise
    except Exception as error:  # parsers of broken files raise anything
        problem = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read as a {kind}"
        raise InputError(f"{path} {problem}.") from error


def read_image(path: Path, channels: int, size: tuple[int, int] | None = None, grey: bool = True) -> Tensor:
    """A picture as ``(channels, H, W)`` in [-1, 1], grey or RGB; pixels that are NaN stay so, they may mark the hole.

    With ``size`` (H, W) it is resized, each new pixel being the mean of the old ones that it covers: no other filter
    keeps hidden pixels out of observed ones. Without ``grey`` a picture in colour is refused for one channel, and a
    grey one for three; one in colour whose channels are equal is either.

    Raises:
        InputError: not a picture, or one whose numbers have no clear meaning.
    """
    original = _open(path)
    if not grey:
        _check_colour(path, original, channels)
    picture, white = _with_white(original, "L" if channels == 1 else "RGB", path)
    if size is not None:
        picture = picture.resize((size[1], size[0]), Image.Resampling.BOX)
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32)) * (2 / white) - 1
    return pixels.permute(2, 0, 1).contiguous() if pixels.ndim == 3 else pixels.repeat(channels, 1, 1)


def _check_colour(path: Path, picture: Image.Image, channels: int) -> None:
    """Refuses a picture in colour for one channel and a grey one for three."""
    grey = picture.mode in GREY_MODES or picture.mode.startswith("I")
    if grey and channels == 3:
        raise InputError(f"{path} is grey, the prior is in colour: --grey gives it three equal channels.")
    if channels == 1 and not grey:
        red, green, blue = picture.convert("RGB").split()
        if not red.tobytes() == green.tobytes() == blue.tobytes():
            raise InputError(f"{path} is in colour, the prior is grey: --grey makes it grey.")


def read_mask(path: Path, invert: bool = False, size: tuple[int, int] | None = None, soft: bool = False) -> Tensor:
    """A mask file as ``(1, H, W)``, 1 where it is white (observed); ``invert`` for files in which white is the hole.

    White is more than half of the scale, or 1 in a picture that holds only 0 and 1. With ``size`` (H, W) a new pixel
    is observed where all old ones that it covers are observed. A ``soft`` mask keeps its grey, from 0 to 1, but for the
    last :data:`FLAT` before black and white, which JPEG blurs; a new pixel is the mean of the old ones.

    Raises:
        InputError: not a picture, one with pixels that are transparent, NaN or infinite, or one with grey areas, which
            are neither white nor black; grey along edges, of smoothing or JPEG, is neither.
    """
    original = _open(path)
    opaque = not original.has_transparency_data or original.convert("RGBA").getchannel("A").getextrema() == (255, 255)
    picture, white = _with_white(original, "L", path)
    values = np.asarray(picture, dtype=np.float32)
    if not (opaque and np.isfinite(values).all()):
        raise InputError(f"{path} is transparent, NaN or infinite in places: save the mask in black and white.")
    values = values / (1 if values.max() <= 1 else white)
    if soft:
        return _soft(1 - values if invert else values, size)
    if _share_of_grey_areas(values) > GREY:
        todo = "save the mask in black and white, or let grey mean noise with vipaint inpaint --soft-mask"
        raise InputError(f"{path} has grey areas, as a photograph has: {todo}.")
    observed = values > 1 / 2
    if invert:
        observed = ~observed
    if size is not None:
        shares = Image.fromarray(observed.astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BOX)
        observed = np.asarray(shares) > 1 - 1e-4
    return torch.from_numpy(observed.astype(np.float32)).unsqueeze(0)


def _soft(values: np.ndarray, size: tuple[int, int] | None) -> Tensor:
    """The weights of a soft mask, ``(1, H, W)`` in [0, 1]."""
    values = np.where(values < FLAT, 0.0, np.where(values > 1 - FLAT, 1.0, values)).astype(np.float32)
    if size is not None:
        values = np.asarray(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BOX))
    return torch.from_numpy(values.clip(0, 1)).unsqueeze(0)


def _share_of_grey_areas(values: np.ndarray) -> float:
    """The share of pixels in the middle half of [0, 1] that have no black or no white one within two pixels."""
    x = torch.from_numpy(values)[None, None]
    highest, lowest = max_pool2d(x, 5, 1, 2), -max_pool2d(-x, 5, 1, 2)
    grey = (x > 1 / 4) & (x < 3 / 4) & ((highest < 3 / 4) | (lowest > 1 / 4))
    return float(grey.float().mean())


def _with_white(picture: Image.Image, mode: str, path: Path) -> tuple[Image.Image, float]:
    """The picture in ``mode`` and its white, 255; deeper grey pictures as floats, with what is white in them.

    Their formats do not say what is white: it is the first of 1 (floats only), 255 and 65535 that no pixel exceeds.
    """
    if picture.mode != "F" and not picture.mode.startswith("I"):
        picture = picture.convert("RGB") if picture.mode == "LAB" else picture  # Pillow converts it to RGB alone
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

    def parse(path: Path) -> Image.Image:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture)

    return _read(path, "picture", parse)
