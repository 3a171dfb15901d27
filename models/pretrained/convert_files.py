"""Single-file checkpoints, read without running anything: safetensors, files of ``torch.save``, pickles of EDM.

A pickle is a program. Here it may call what rebuilds tensors and plain containers, under the exact names of
:data:`ALLOWED`, and nothing else: any other name ends the reading. The networks of EDM are pickled with their source
code (``torch_utils.persistence``); a stub keeps their state and ignores the source. The notes of a training beside the
weights, as PyTorch Lightning leaves them in files of latent diffusion, become stubs too (:data:`STUBS`,
:data:`STUB_PACKAGES`), which nothing imports or reads.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from pyro_vipaint._files import check_file, open_tensors
from pyro_vipaint.errors import InputError, in_one_line

MAGIC = 0x1950A86A20F9469CFC6C  # the first object of a file of torch.save before PyTorch 1.6
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
PRECONDITIONED = "EDMPrecond"  # the class of EDM's pickles with the preconditioning of Karras et al. 2022


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: ``tensors`` by published name, and the ``arguments`` of the constructor where it has them."""

    tensors: dict[str, Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)


class Kept:
    """An object of a pickle whose class is not imported: its state, if any. Nothing of it runs."""

    name = ""
    state: Any = None

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, name: Any, value: Any) -> None:
        """Ignores an entry, of what is a dictionary where the file was written."""

    def append(self, value: Any) -> None:
        """Ignores an element, of what is a list there."""

    add = append

    def part(self, name: str) -> dict[Any, Any]:
        """The dictionary ``name`` of the state; empty if there is none."""
        value = self.state.get(name) if isinstance(self.state, dict) else None
        return value if isinstance(value, dict) else {}


def _persistent(meta: Any, *_: Any) -> Kept:
    """The stub of an object of ``torch_utils.persistence``."""
    kept = Kept()
    kept.name, kept.state = str(meta["class_name"]), meta["state"]
    return kept


def _rebuilt(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """A tensor in a storage, which is at least as large: no few bytes become many numbers."""
    shape = torch.Size(size)
    if not (isinstance(storage, Tensor) and shape.numel() <= storage.numel()):
        raise ValueError("a tensor is larger than its storage")
    return storage.as_strided(shape, tuple(stride), offset)


ALLOWED: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _rebuilt,
    "torch._utils._rebuild_tensor_v2": _rebuilt,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.storage._load_from_bytes": lambda content: read_legacy(io.BytesIO(content), len(content)),
    "torch.Size": tuple,
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
    "dnnlib.util.EasyDict": dict,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
    **{str(dtype): dtype for dtype in STORAGES.values()},
}
STUB_PACKAGES = ("pytorch_lightning.", "lightning.pytorch.", "omegaconf.")
STUBS = (
    "torch.nn.modules.container.ModuleDict",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.container.Sequential",
    "torch.device",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{name}" for name in ("dtype", "ndarray", "float32", "float64", "int64")),
    "_codecs.encode",
    "argparse.Namespace",
    "collections.Counter",
    "collections.defaultdict",
    "pathlib.PosixPath",
    "typing.Any",
    *(f"{home}.{name}" for home in ("builtins", "__builtin__") for name in ("dict", "list", "int", "float", "str")),
)


class Restricted(pickle.Unpickler):
    """An unpickler that knows the names of this module only; ``storage`` gives the numbers of a tensor."""

    def __init__(self, file: IO[bytes], storage: Callable[[torch.dtype, Any, int], Tensor] | None = None) -> None:
        super().__init__(file)
        self._storage = storage

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        if name in STUBS or name.startswith(STUB_PACKAGES):
            return type("Kept", (Kept,), {"name": name})
        if name not in ALLOWED:
            raise InputError(
                f"the pickle asks for {name!r:.120}, which is neither a tensor nor a plain container: it is refused, "
                "and nothing in it was run"
            )
        return ALLOWED[name]

    def persistent_load(self, pid: Any) -> Tensor:
        if self._storage is None or pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise ValueError("it refers to what is not a storage of numbers")
        return self._storage(pid[1], pid[2], pid[4])


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a single-file checkpoint, on the CPU, in the types of the file.

    Raises:
        InputError: the file is missing, broken or of no known kind; a pickle in it asks for anything but tensors, plain
            containers and the stubs.
    """
    try:
        check_file(path)
        with path.open("rb") as file:
            start, size = file.read(9), path.stat().st_size
            file.seek(0)
            if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= size:  # the length of the header
                return Checkpoint(_read_safetensors(path))
            root = _read_zip(path) if start[:4] == b"PK\3\4" else read_legacy(file, size)
        return _opened(root)
    except InputError as error:
        message = str(error).rstrip(".")
        raise InputError(f"{message}." if str(path) in message else f"{path}: {message}.") from error
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except Exception as error:  # the readers of broken files raise anything
        raise in_one_line(f"{path} cannot be read as a checkpoint", error) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def _read_zip(path: Path) -> Any:
    """The object in a file of ``torch.save`` since PyTorch 1.6: a zip of a pickle and one entry for each storage."""
    with zipfile.ZipFile(path) as archive:
        names = {info.filename: info for info in archive.infolist()}
        home = next((name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None)
        if home is None or any(info.compress_type != zipfile.ZIP_STORED for info in names.values()):
            raise ValueError("it is a zip, but not one of torch.save")
        if f"{home}byteorder" in names and archive.read(f"{home}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        storages: dict[str, Tensor] = {}

        def storage(dtype: torch.dtype, key: Any, count: int) -> Tensor:
            if key not in storages:
                if names[f"{home}data/{key}"].file_size != count * dtype.itemsize:
                    raise ValueError(f"storage {key} has another size than the pickle says")
                content = bytearray(archive.read(f"{home}data/{key}"))
                storages[key] = torch.frombuffer(content, dtype=dtype) if count else torch.empty(0, dtype=dtype)
            return storages[key]

        with archive.open(f"{home}data.pkl") as file:
            return Restricted(file, storage).load()


def read_legacy(file: IO[bytes], size: int) -> Any:
    """The object in a plain pickle, or in a file of ``torch.save`` before PyTorch 1.6, of ``size`` bytes.

    The latter is five pickles, a number that marks it, a version, a description of the machine, the object and the
    names of its storages, and after them the numbers.
    """
    root = Restricted(file).load()
    if not (isinstance(root, int) and root == MAGIC):
        return root
    storages: dict[Any, Tensor] = {}
    left = [size]

    def storage(dtype: torch.dtype, key: Any, count: int) -> Tensor:
        if key not in storages:
            left[0] -= count * dtype.itemsize
            if count < 0 or left[0] < 0:
                raise ValueError("a storage is larger than the file")
            storages[key] = torch.empty(count, dtype=dtype)
        return storages[key]

    for _ in range(2):
        Restricted(file).load()
    root = Restricted(file, storage).load()
    for key in Restricted(file).load():
        if int.from_bytes(file.read(8), "little") != len(storages[key]):
            raise ValueError(f"storage {key} has another size than the pickle says")
        content = bytearray(file.read(storages[key].nbytes))
        if content:
            storages[key].copy_(torch.frombuffer(content, dtype=storages[key].dtype))
    return root


def _opened(root: Any) -> Checkpoint:
    """The weights in the object of a pickle."""
    if isinstance(root, Mapping):
        if isinstance(root.get("ema"), Kept):
            return _preconditioned(root["ema"])
        inside = root.get("state_dict")
        weights = inside if isinstance(inside, Mapping) else root
        tensors = {name: v for name, v in weights.items() if isinstance(name, str) and isinstance(v, Tensor)}
        if tensors:
            return Checkpoint(tensors)
    if isinstance(root, Kept):
        return _preconditioned(root)
    raise InputError("it holds no weights: neither tensors by name, nor a state_dict, nor the ema network of EDM")


def _preconditioned(network: Kept) -> Checkpoint:
    """The weights and arguments of a network of EDM."""
    if network.name != PRECONDITIONED:
        raise InputError(f"it holds a {network.name:.80}; of EDM's networks an {PRECONDITIONED} is read")
    given = {**network.part("_init_kwargs"), **network.state}
    arguments = {name: v for name, v in given.items() if isinstance(v, (int, float, str, list, tuple))}
    return Checkpoint(dict(_weights(network, "")), arguments)


def _weights(module: Kept, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The entries of the state dict of a module of which only the state is known."""
    for name, value in {**module.part("_parameters"), **module.part("_buffers")}.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
    for name, child in module.part("_modules").items():
        if isinstance(child, Kept):
            yield from _weights(child, f"{prefix}{name}.")
