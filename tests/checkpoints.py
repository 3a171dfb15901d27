"""Small checkpoints in the published layouts, written without the reader of the library, and the references."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

REFERENCES = Path(__file__).parents[2] / "shared" / "checkpoints"  # beside the checkout, where they are at hand
NAMES = sorted(path.stem for path in REFERENCES.glob("*.json"))
needs_references = pytest.mark.skipif(not NAMES, reason="the reference weights are not at hand")

ADM_WORDS = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "embedding": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "skip": "skip_connection", "attention.norm": "norm", "attention.qkv": "qkv",
    "attention.out": "proj_out",
}  # fmt: skip
ADM_ENDS = {
    "time.0": "time_embed.0", "time.1": "time_embed.2", "classes": "label_emb", "conv_in": "input_blocks.0.0",
    "norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
EDM_WORDS = {
    "norm1": "norm0", "conv1": "conv0", "embedding": "affine", "norm2": "norm1", "conv2": "conv1", "skip": "skip",
    "attention.norm": "norm2", "attention.qkv": "qkv", "attention.out": "proj",
}  # fmt: skip


def network(**settings: Any) -> Any:
    """A random ``ResidualUNet`` on 8×8 with two levels, the second of which attends, with heads of 4 channels."""
    from pyro_vipaint.models.pretrained.networks.residual import ResidualUNet

    module = ResidualUNet(
        **{
            "sample_size": 8, "base_channels": 8, "block_out_channels": (8, 16), "layers_per_block": 1,
            "attention_head_dim": 4, "norm_num_groups": 2, "noise_channels": 8, "embedding_channels": 32,
            "scale_shift": True, **settings,
        }
    )  # fmt: skip
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.25)
    return module.eval()


def _split(name: str) -> tuple[str, str]:
    layer, _, kind = name.rpartition(".")
    return layer, kind


def as_adm(module: Any, order: str = "qkv") -> dict[str, Tensor]:
    """The weights under the names of guided-diffusion; rows of qkv in its new order, or with ``head`` in the old."""
    layers, found = module.config["layers_per_block"], {}
    attends = {name.split(".attention.")[0] for name in module.state_dict() if ".attention." in name}
    for name, value in module.state_dict().items():
        layer, kind = _split(name)
        if layer in ADM_ENDS:
            found[f"{ADM_ENDS[layer]}.{kind}"] = value
            continue
        side, number, rest = layer.split(".", 2)
        k, attention = int(number), rest.startswith("attention.")
        if side == "down":
            place = f"input_blocks.{k + 1}.{int(attention)}"
        elif side == "middle":
            place = f"middle_block.{1 if attention else 2 * k}"
        else:
            level, j = divmod(k, layers + 2)
            last = f"up.{level * (layers + 2) + layers}" in attends
            block = level * (layers + 1) + min(j, layers)
            place = f"output_blocks.{block}.{int(attention) if j <= layers else 1 + last}"
        if rest == "attention.qkv":
            size = module.config["attention_head_dim"]
            value = rows(value, len(value) // 3 // size if size else module.config["num_heads"], order)
        flat = value.squeeze(-1) if attention and kind == "weight" and value.ndim == 4 else value
        found[f"{place}.{ADM_WORDS[rest]}.{kind}"] = flat.contiguous().clone()
    return found


def rows(qkv: Tensor, heads: int, order: str) -> Tensor:
    """Rows (query, key, value; head; channel) written row by row in another order."""
    size = len(qkv) // 3 // heads
    written = torch.empty_like(qkv)
    for part in range(3):
        for head in range(heads):
            for channel in range(size):
                places = {
                    "qkv": (part * heads + head) * size + channel,
                    "head": (head * 3 + part) * size + channel,
                    "channel": (head * size + channel) * 3 + part,
                }
                written[places[order]] = qkv[(part * heads + head) * size + channel]
    return written


def as_edm(module: Any) -> dict[str, Tensor]:
    """The weights under the names of EDM's SongUNet: one head; classes as a linear map, the last row its bias."""
    config, found = module.config, {}
    size, layers = config["sample_size"], config["layers_per_block"]
    levels = len(config["block_out_channels"])
    for name, value in module.state_dict().items():
        layer, kind = _split(name)
        first, _, rest = layer.partition(".")
        ends = {"conv_in": f"enc.{size}x{size}_conv", "norm_out": f"dec.{size}x{size}_aux_norm",
                "conv_out": f"dec.{size}x{size}_aux_conv"}  # fmt: skip
        if layer in ends:
            found[f"{ends[layer]}.{kind}"] = value
        elif first == "time":
            found[f"map_layer{rest}.{kind}"] = value
        elif first == "noise":
            found["map_noise.freqs"] = value
        elif first == "classes":
            scale = (len(value) - 1) ** 0.5
            found["map_label.weight"], found["map_label.bias"] = (value[:-1] - value[-1]).T / scale, value[-1]
        elif first == "inputs":
            side = size >> (int(rest) + 1)
            found[f"enc.{side}x{side}_aux_residual.{kind}"] = value
        else:
            number, _, inner = rest.partition(".")
            place = _edm_place(first, int(number), size, layers, levels)
            value = rows(value, 1, "channel") if inner == "attention.qkv" else value
            found[f"{place}.{EDM_WORDS[inner]}.{kind}"] = value
    row = torch.tensor(config["resample_filter"], dtype=torch.float32)
    kernel = (row[:, None] * row / row.sum() ** 2)[None, None]
    for level in range(1, levels):
        fine, coarse = size >> level - 1, size >> level
        for home in (f"enc.{coarse}x{coarse}_down", f"dec.{fine}x{fine}_up"):
            found |= {f"{home}.conv0.resample_filter": kernel, f"{home}.skip.resample_filter": kernel}
        if "inputs.0.weight" in module.state_dict():
            found[f"enc.{coarse}x{coarse}_aux_residual.resample_filter"] = kernel
    return {f"model.{name}": value.contiguous().clone() for name, value in found.items()}


def _edm_place(side: str, k: int, size: int, layers: int, levels: int) -> str:
    if side == "middle":
        return f"dec.{size >> levels - 1}x{size >> levels - 1}_in{k}"
    if side == "down":
        level, j = divmod(k, layers + 1)
        level, kind = (level, f"block{j}") if j < layers else (level + 1, "down")
        return f"enc.{size >> level}x{size >> level}_{kind}"
    up, j = divmod(k, layers + 2)
    level, kind = (levels - 1 - up, f"block{j}") if j <= layers else (levels - 2 - up, "up")
    return f"dec.{size >> level}x{size >> level}_{kind}"


# pickles


@contextmanager
def _pretended(**functions: Any) -> Iterator[None]:
    """Modules that pickle finds while it writes: dotted names of functions, with ``__`` for dots."""
    made: dict[str, ModuleType | None] = {}
    for name, function in functions.items():
        home, _, word = name.replace("___", "._").replace("__", ".").rpartition(".")
        for i in range(1, home.count(".") + 2):
            module = ".".join(home.split(".")[:i])
            if module not in sys.modules:
                made[module] = sys.modules[module] = ModuleType(module)
        setattr(sys.modules[home], word, function)
        function.__module__, function.__qualname__, function.__name__ = home, word, word
    try:
        yield
    finally:
        for module in made:
            del sys.modules[module]


def _reconstruct(meta: Any) -> None:
    raise AssertionError("the pickle was run")


class Persistent:
    """An object of ``torch_utils.persistence``: its class travels as source code, its state beside it."""

    def __init__(self, name: str, state: dict[str, Any], source: str = "raise SystemExit") -> None:
        self.name, self.state, self.source = name, state, source

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.name, "state": self.state}
        return _reconstruct, (meta,)


def persistent(tensors: Mapping[str, Tensor], name: str = "EDMPrecond", **state: Any) -> Persistent:
    """The modules whose state dict is ``tensors``."""
    children: dict[str, dict[str, Tensor]] = {}
    parameters: dict[str, nn.Parameter] = {}
    buffers: dict[str, Tensor] = {}
    for entry, value in tensors.items():
        first, dot, rest = entry.partition(".")
        if dot:
            children.setdefault(first, {})[rest] = value
        elif entry in ("resample_filter", "freqs"):
            buffers[entry] = value
        else:
            parameters[entry] = nn.Parameter(value, requires_grad=False)
    modules = {child: persistent(inner, "Module") for child, inner in children.items()}
    return Persistent(name, {"_parameters": parameters, "_buffers": buffers, "_modules": modules, **state})


def edm_pickle(root: Any) -> bytes:
    """``root`` as EDM's snapshots are pickled."""
    with _pretended(torch_utils__persistence___reconstruct_persistent_obj=_reconstruct):
        return pickle.dumps(root)


def torch_file(root: Any, legacy: bool = False) -> bytes:
    """``root`` as torch.save writes it, since PyTorch 1.6 or before."""
    buffer = io.BytesIO()
    torch.save(root, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


class Bomb:
    """A pickle that leaves a file when it is run."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)
