"""The weights of a network: which files are opened, and that they and the configuration describe one network.

Nothing is allocated before the headers of the safetensors files agree with the network that the configuration asks for,
which is first built on the meta device, without numbers. So no configuration costs more than the weights beside it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pyro_vipaint._files import check_finite, no_larger_than, open_tensors, read_json
from pyro_vipaint.errors import InputError, in_one_line

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}  # as safetensors names them
IGNORED = "position_ids"  # 0, 1, 2, … in text encoders of older versions of transformers
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # in diffusers since 0.15
OLD_NAME = re.compile(rf"\.({'|'.join(RENAMED)})\.(?=weight$|bias$)")
SPARE = 2**24  # elements of buffers that a network may compute for itself, such as embeddings of positions; 64 MiB


@dataclass(frozen=True)
class Weights:
    """The tensors of a network in safetensors files of one folder, not read yet.

    Attributes:
        root: the folder.
        kind: the class of the network, for messages.
        files: file by name of a tensor.
        shapes: shape by name of a tensor.
    """

    root: Path
    kind: str
    files: Mapping[str, Path]
    shapes: Mapping[str, torch.Size]

    @classmethod
    def find(cls, root: Path, kind: str, stem: str) -> Weights:
        """Those that ``root`` holds in ``stem.safetensors``, or in the parts that its index lists.

        Raises:
            InputError: there are none; the index names something else than safetensors files in ``root``; a file is
                broken; a tensor is not of floating-point numbers, or stands in two files.
        """
        files: dict[str, Path] = {}
        shapes: dict[str, torch.Size] = {}
        for path in _files(root, stem):
            with open_tensors(path) as file:
                for name in sorted(file.keys()):
                    header = file.get_slice(name)
                    if name.endswith(IGNORED):
                        continue
                    if (kept := header.get_dtype()) not in FLOATS or name in files:
                        how = "twice" if name in files else f"as {kept}, not as floating-point numbers"
                        raise InputError(f"{path} holds {name} {how}: save the model again.")
                    files[name], shapes[name] = path, torch.Size(header.get_shape())
        return cls(root, kind, files, shapes)

    def outline(self, build: Callable[[], nn.Module]) -> nn.Module:
        """The network that ``build`` makes, on the meta device.

        Raises:
            InputError: it cannot be built, or has more than twice the parameters that there are.
        """
        try:
            with torch.device("meta"), no_larger_than(len(self.shapes)):
                return build()
        except Exception as error:  # a configuration can break a constructor in any way
            path = self.root / "config.json"
            raise in_one_line(f"{path} does not describe a {self.kind}", error) from error

    def check_cost(self, outline: nn.Module) -> None:
        """Refuses a network that takes far more memory than its weights."""
        needed = sum(value.numel() for value in (*outline.parameters(), *outline.buffers()))
        there = sum(map(math.prod, self.shapes.values()))
        if needed > 2 * there + SPARE:
            raise InputError(f"{self.root}: the {self.kind} of config.json has {needed} numbers, not {there}.")

    def check_names(self, wanted: Mapping[str, torch.Size]) -> None:
        """Refuses weights that are not exactly the ``wanted`` ones, and names the first."""
        found = {_new_name(name): shape for name, shape in self.shapes.items()}
        differ = {name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)}
        self.check_none({name: f"{shown(found.get(name))}, needed {shown(wanted.get(name))}" for name in differ})

    def check_none(self, differ: Mapping[str, str]) -> None:
        """Refuses weights that ``differ`` from those of the network: name -> how."""
        if differ:
            name = min(differ)
            others = f", and {len(differ) - 1} others differ" if len(differ) > 1 else ""
            raise InputError(
                f"{self.root}: the weights do not fit the {self.kind} of config.json: {name} is {differ[name]}{others}."
            )

    def read(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """The tensors, of ``dtype`` if given, else as they are.

        Raises:
            InputError: a number is NaN or infinite, also for being too large for ``dtype``.
        """
        tensors: dict[str, Tensor] = {}
        for path in dict.fromkeys(self.files.values()):
            with open_tensors(path) as file:
                for name in (name for name, home in self.files.items() if home == path):
                    tensors[_new_name(name)] = value = file.get_tensor(name).to(dtype=dtype)
                    check_finite(path, name, value)
        return tensors


class Uninitialised(TorchFunctionMode):
    """Skips the functions of ``torch.nn.init``: the random numbers would be overwritten."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def _files(root: Path, stem: str) -> list[Path]:
    """The safetensors files of the network in ``root``."""
    index, whole = root / f"{stem}.safetensors.index.json", root / f"{stem}.safetensors"
    if os.path.lexists(index):
        listed = read_json(index).get("weight_map")
        names = set(map(str, listed.values())) if isinstance(listed, dict) else {""}
        foreign = [name for name in names if Path(name).name != name or Path(name).suffix != ".safetensors"]
        if foreign or not names:
            raise InputError(f"{index} names {min(foreign or ['nothing'])!r:.80}, not safetensors files beside it.")
        return [root / name for name in sorted(names)]
    if not os.path.lexists(whole):
        names = sorted(path.name for path in root.iterdir())
        pickles = [name for name in names if Path(name).suffix in PICKLES]
        variants = [name for name in names if name.startswith(f"{stem}.") and ".safetensors" in name]
        found = f"only {pickles[0]}, a pickle, which is not opened" if pickles else "no weights that can be read"
        found = f"only {variants[0]}, a variant, which is not looked for" if variants else found
        raise InputError(f"{root} has {found}: save the model as {whole.name}.")
    return [whole]


def _new_name(name: str) -> str:
    """The name that the present version of diffusers gives a weight."""
    return OLD_NAME.sub(lambda match: f".{RENAMED[match[1]]}.", name)


def shown(shape: torch.Size | None) -> str:
    """A shape in a message."""
    return "missing" if shape is None else f"of shape {tuple(shape)}"
