"""A folder that holds an object: numbers as safetensors, the rest as JSON. Nothing in it can run code when opened."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
