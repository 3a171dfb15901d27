r"""The names of published UNets, and what names and shapes say about a network.

The names of EDM, guided-diffusion and latent diffusion are read as those of
:class:`pyro_vipaint.models.pretrained.networks.residual.ResidualUNet`, the *plain* names here:

===================  ==================================================================================
``down.k``           the blocks of the encoder in their order: n for each level, one that halves between levels
``middle.0``, ``1``  the two blocks between
``up.k``             those of the decoder: n + 1 for each level, one that doubles between levels
===================  ==================================================================================

Each has ``norm1``, ``conv1``, ``embedding``, ``norm2``, ``conv2``, ``skip``, and ``attention`` or ``transformer``; a
layer that resamples without being a block has ``conv``. Rows of ``qkv`` are brought into one order: query, key, value,
each by head.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pyro_vipaint.errors import InputError

Tensors = dict[str, Tensor]
ADM = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "embedding", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "skip", "norm": "attention.norm", "qkv": "attention.qkv",
    "proj_out": "attention.out", "op": "conv", "conv": "conv",
}  # fmt: skip
ADM_ENDS = {
    "time_embed.0": "time.0", "time_embed.2": "time.1", "label_emb": "classes", "input_blocks.0.0": "conv_in",
    "out.0": "norm_out", "out.2": "conv_out",
}  # fmt: skip
EDM = {
    "norm0": "norm1", "conv0": "conv1", "affine": "embedding", "norm1": "norm2", "conv1": "conv2", "skip": "skip",
    "norm2": "attention.norm", "qkv": "attention.qkv", "proj": "attention.out",
}  # fmt: skip
EDM_ENDS = {
    "map_layer0": "time.0", "map_layer1": "time.1", "map_label": "map_label", "map_augment": "map_augment",
    "map_noise": "noise", "out_norm": "norm_out", "out_conv": "conv_out",
}  # fmt: skip
EDM_BLOCK = re.compile(r"(enc|dec)\.(\d+)x\d+_(\w+)\.(.+)")
EDM_ORDER = ("conv", "in0", "in1", "down", "up", "aux_residual", "block", "aux_norm", "aux_conv")
ADM_BLOCK = re.compile(r"(input_blocks|output_blocks|middle_block)\.(\d+)(?:\.(\d+))?\.(.+)")
RESAMPLE_FILTER = ".resample_filter"


def unknown(name: str) -> InputError:
    """The error for a weight that has no place in the network."""
    return InputError(f"{name:.120} has no place in a network of this kind: the layout is not supported.")


def from_adm(tensors: Mapping[str, Tensor]) -> Tensors:
    """The weights of guided-diffusion's or latent diffusion's UNet under plain names.

    Raises:
        InputError: a weight has no place in it.
    """
    attends = {name.rpartition(".transformer_blocks.")[0] for name in tensors if ".transformer_blocks." in name}
    parts = {".".join(name.split(".")[:3]) for name in tensors if name.startswith("output_blocks.")}
    residual = {part for part in parts if f"{part}.in_layers.0.weight" in tensors}
    starts: dict[int, int] = {}  # of each output block, among the blocks of the decoder
    count = len({part.split(".")[1] for part in parts})
    taken = 0
    for number in range(count):
        starts[number] = taken
        modules = [f"output_blocks.{number}.{i}" for i in range(1, 3)]
        taken += 1 + any(module in residual or f"{module}.conv.weight" in tensors for module in modules)

    def renamed(name: str) -> str:
        layer, _, kind = name.rpartition(".")
        if layer in ADM_ENDS:
            return f"{ADM_ENDS[layer]}.{kind}"
        found = ADM_BLOCK.fullmatch(layer)
        if found is None:
            raise unknown(name)
        side, block, module, rest = found[1], int(found[2]), found[3], found[4]
        home = f"{side}.{block}" if side == "middle_block" else f"{side}.{block}.{module}"
        if side == "middle_block":
            rest = rest if module is None else f"{module}.{rest}"
            place = f"middle.{block // 2}"
        elif side == "input_blocks":
            place = f"down.{block - 1}"
        else:
            second = module != "0" and (home in residual or rest == "conv")
            place = f"up.{starts.get(block, 0) + second}"
        if home in attends:
            return f"{place}.transformer.{rest}.{kind}"
        if rest not in ADM:
            raise unknown(name)
        return f"{place}.{ADM[rest]}.{kind}"

    return _once(tensors, renamed)


def from_edm(tensors: Mapping[str, Tensor]) -> Tensors:
    """The weights of EDM's UNets under plain names, buffers of filters among them, and ``map_label`` as it is.

    Raises:
        InputError: a weight has no place in it.
    """
    blocks = {(found[1], found[2], found[3]) for name in tensors if (found := EDM_BLOCK.fullmatch(name))}

    def position(block: tuple[str, str, str]) -> tuple[int, int, int]:
        side, resolution, kind = block
        name = kind.rstrip("0123456789") if kind.startswith("block") else kind
        if name not in EDM_ORDER:
            raise unknown(f"{side}.{resolution}x{resolution}_{kind}")
        number = int(kind.removeprefix("block")) if name == "block" else 0
        return (-1 if side == "enc" else 1) * int(resolution), EDM_ORDER.index(name), number

    ordered = sorted(blocks, key=position)
    places: dict[tuple[str, str, str], str] = {}
    counts = {"down": 0, "middle": 0, "up": 0, "inputs": 0}
    ends = {"conv": "conv_in", "aux_norm": "norm_out", "aux_conv": "conv_out"}
    for block in ordered:
        side = {"in0": "middle", "in1": "middle", "aux_residual": "inputs"}.get(block[2])
        side = side or ("down" if block[0] == "enc" else "up")
        if block[2] in ends:
            places[block] = ends[block[2]]
        else:
            places[block] = f"{side}.{counts[side]}"
            counts[side] += 1

    def renamed(name: str) -> str:
        layer, _, kind = name.rpartition(".")
        if layer in EDM_ENDS:
            return "noise.frequencies" if kind == "freqs" else f"{EDM_ENDS[layer]}.{kind}"
        found = EDM_BLOCK.fullmatch(name)
        if found is None:
            raise unknown(name)
        block = (found[1], found[2], found[3])
        if block[2] in ends or block[2] == "aux_residual":
            return f"{places[block]}.{found[4]}"
        layer, _, kind = found[4].rpartition(".")
        if layer not in EDM:
            raise unknown(name)
        return f"{places[block]}.{EDM[layer]}.{kind}"

    return _once(tensors, renamed)


def _once(tensors: Mapping[str, Tensor], renamed: Callable[[str], str]) -> Tensors:
    """``tensors`` under the names that ``renamed`` gives them, each used once."""
    found: Tensors = {}
    for name, value in tensors.items():
        new = renamed(name)
        if new in found:
            raise unknown(name)
        found[new] = value
    return found


def describe(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of ``ResidualUNet`` that plain names and shapes tell; and ``context``, ``conv_resampling``.

    Raises:
        InputError: the weights are not those of such a network.
    """
    try:
        return _described(tensors)
    except (KeyError, ValueError, ZeroDivisionError, IndexError) as error:
        raise InputError(f"the weights are not those of a UNet of this kind: {error} is missing or wrong.") from error


def _described(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = {side: len({n.split(".")[1] for n in tensors if n.startswith(f"{side}.")}) for side in ("down", "up")}
    levels = blocks["up"] - blocks["down"]
    layers, rest = divmod(blocks["down"] - levels + 1, levels)
    if rest or layers < 1:
        raise ValueError("the number of blocks")
    starts = [level * (layers + 1) for level in range(levels)]
    noise, embedding = tensors["time.0.weight"].shape[1], tensors["time.0.weight"].shape[0]
    widths = [tensors[f"down.{start}.conv1.weight"].shape[0] for start in starts]
    attending = {name.rpartition(".norm.")[0] for name in tensors if ".norm." in name}  # attention, or transformer
    attending = {name.rpartition(".")[0] for name in attending}
    attended = [level for level, start in enumerate(starts) if f"down.{start}" in attending]
    bottom = (levels - 1) * (layers + 2)
    first = [f"up.{bottom - level * (layers + 2)}" in attending for level in attended]
    contexts = {v.shape[1] for name, v in tensors.items() if name.endswith(".attn2.to_k.weight")}
    classes = tensors["classes.weight"].shape[0] if "classes.weight" in tensors else None
    return {
        "in_channels": tensors["conv_in.weight"].shape[1],
        "out_channels": tensors["conv_out.weight"].shape[0],
        "base_channels": tensors["conv_in.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "attention_levels": attended,
        "up_attention": "all" if all(first) else "last",
        "scale_shift": tensors["down.0.embedding.weight"].shape[0] == 2 * widths[0],
        "noise_channels": noise,
        "embedding_channels": embedding,
        "noise_embedding": "fourier" if "noise.frequencies" in tensors else "positional",
        "num_class_embeds": classes,
        "residual_inputs": "inputs.0.weight" in tensors,
        "context": contexts.pop() if contexts else None,
        "conv_resampling": f"down.{layers}.conv.weight" in tensors,
    }


def query_key_value(qkv: Tensor, heads: int, order: str) -> Tensor:
    """Rows of ``qkv`` in the order query, key, value, each by head.

    Args:
        qkv: weight ``(3 C, …)`` or bias ``(3 C,)``.
        heads: number of heads.
        order: ``"qkv"``: as wanted; ``"head"``: query, key, value inside each head; ``"channel"``: query, key, value of
            each channel of a head.
    """
    if order == "qkv":
        return qkv
    size = len(qkv) // 3 // heads
    if order == "head":
        return qkv.unflatten(0, (heads, 3, size)).transpose(0, 1).flatten(0, 2)
    return qkv.unflatten(0, (heads, size, 3)).movedim(2, 0).flatten(0, 2)


def to_diffusers(tensors: Mapping[str, Tensor], layers: int) -> Tensors:
    """Plain names and shapes as diffusers has them in ``UNet2DModel`` and ``UNet2DConditionModel``."""
    ends = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out", "classes": "class_embedding"}
    ends |= {"time.0": "time_embedding.linear_1", "time.1": "time_embedding.linear_2"}
    inside = {"embedding": "time_emb_proj", "skip": "conv_shortcut", "attention.norm": "group_norm"}
    found: Tensors = {}
    for name, value in tensors.items():
        layer, _, kind = name.rpartition(".")
        if layer in ends:
            found[f"{ends[layer]}.{kind}"] = value
            continue
        side, number, rest = layer.split(".", 2)
        attends = rest.startswith(("attention.", "transformer."))
        home = _home(side, int(number), layers, attends)
        if rest == "attention.qkv":
            for part, rows in zip(("to_q", "to_k", "to_v"), value.chunk(3), strict=True):
                found[f"{home}.{part}.{kind}"] = rows.flatten(1) if rows.ndim > 1 else rows
        elif rest == "attention.out":
            found[f"{home}.to_out.0.{kind}"] = value.flatten(1) if value.ndim > 1 else value
        else:
            found[f"{home}.{inside.get(rest, rest.removeprefix('transformer.'))}.{kind}"] = value
    return found


def _home(side: str, number: int, layers: int, attends: bool) -> str:
    """The module of diffusers that holds a block, or its attention."""
    kind = "attentions" if attends else "resnets"
    if side == "middle":
        return f"mid_block.{kind}.{number}"
    count = layers if side == "down" else layers + 1
    level, place = divmod(number, count + 1)
    sampler = "downsamplers.0" if side == "down" else "upsamplers.0"
    return f"{side}_blocks.{level}.{f'{kind}.{place}' if place < count else sampler}"
