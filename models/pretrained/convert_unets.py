"""The networks and autoencoders of published checkpoints, as classes that :func:`load_prior` reads.

What names and shapes do not tell is in the :class:`Facts` of a checkpoint: numbers of heads and of groups, the order of
query, key and value. A UNet becomes a ``UNet2DModel`` or ``UNet2DConditionModel`` of diffusers where these can hold it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vipaint._files import no_larger_than
from pyro_vipaint.errors import InputError, in_one_line
from pyro_vipaint.models.pretrained.components import OWN
from pyro_vipaint.models.pretrained.convert_names import Tensors, describe, query_key_value, to_diffusers, unknown

NOTES = ("context", "conv_resampling")  # of describe, which are no arguments of a network


@dataclass(frozen=True)
class Facts:
    """What names and shapes of a UNet do not tell.

    Attributes:
        sample_size: height and width of its images.
        num_heads, attention_head_dim: as for ``ResidualUNet``; the latter wins.
        order: of the rows of qkv (:func:`query_key_value`).
        groups: largest number of groups of a norm.
        min_group_channels: smallest number of channels in a group.
        style: further arguments of ``ResidualUNet``.
    """

    sample_size: int
    num_heads: int = 1
    attention_head_dim: int | None = None
    order: str = "qkv"
    groups: int = 32
    min_group_channels: int = 1
    style: Mapping[str, Any] = field(default_factory=dict)

    def heads(self, channels: int) -> int:
        """The number of heads of an attention.

        Raises:
            InputError: the channels cannot be divided among them.
        """
        size = self.attention_head_dim
        heads = self.num_heads if size is None else channels // size
        if not (heads and channels % heads == 0 and (size is None or channels == heads * size)):
            how = f"{self.num_heads} heads" if size is None else f"heads of {size} channels"
            raise InputError(
                f"an attention has {channels} channels, which {how} cannot share: state num_heads, num_head_channels "
                "or channels_per_head by --config."
            )
        return heads

    def groups_of(self, channels: int) -> int:
        """The number of groups of a norm."""
        return min(self.groups, channels // self.min_group_channels)


@dataclass(frozen=True)
class Part:
    """A network of a prior: its class, the arguments of its constructor, and its weights."""

    kind: str
    config: dict[str, Any]
    tensors: Tensors

    def check(self) -> Part:
        """Refuses weights that are not exactly those of the network, which is built without numbers.

        Raises:
            InputError: the network cannot be built, or the names or shapes of its weights are others.
        """
        model = getattr(import_module(OWN.get(self.kind, "diffusers")), self.kind)
        try:
            with torch.device("meta"), no_larger_than(len(self.tensors)):
                network: nn.Module = model.from_config(self.config)
        except Exception as error:  # a configuration can break a constructor in any way
            raise in_one_line(f"the weights do not describe a {self.kind}", error) from error
        wanted = {name: value.shape for name, value in network.state_dict().items()}
        found = {name: value.shape for name, value in self.tensors.items()}
        if differ := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
            name = differ[0]
            shapes = [tuple(shape) if shape is not None else "missing" for shape in (found.get(name), wanted.get(name))]
            raise InputError(
                f"the weights do not fit a {self.kind}: {name} is {shapes[0]}, needed {shapes[1]}, "
                f"one of {len(differ)} that differ."
            )
        return self


def unet(tensors: Tensors, facts: Facts) -> Part:
    """The UNet of weights under plain names.

    Raises:
        InputError: they are not those of one network, or of none that is supported.
    """
    layout = describe(tensors)
    config = {name: value for name, value in layout.items() if name not in NOTES}
    config |= {"sample_size": facts.sample_size, "num_heads": facts.num_heads, "norm_num_groups": facts.groups}
    config |= {"attention_head_dim": facts.attention_head_dim, "min_group_channels": facts.min_group_channels}
    config |= facts.style
    ordered = {name: _ordered(name, value, facts) for name, value in tensors.items()}
    groups = {facts.groups_of(len(v)) for name, v in tensors.items() if _is_norm(name)}
    if layout["context"] is not None:
        return _labelled(ordered, layout, facts)
    if _fits_diffusers(config, facts, groups):
        return _of_diffusers(ordered, layout, config, facts, groups.pop())
    if layout["conv_resampling"]:
        raise InputError("the UNet resamples by convolutions and has heads of several widths, which is not supported.")
    return Part("ResidualUNet", config, ordered).check()


def _ordered(name: str, value: Tensor, facts: Facts) -> Tensor:
    """A weight as ``ResidualUNet`` has it: the order of query, key, value, and kernels of two dimensions."""
    layer, _, kind = name.rpartition(".")
    if layer.endswith("attention.qkv"):
        value = query_key_value(value, facts.heads(len(value) // 3), facts.order)
    one_dimensional = layer.endswith(("attention.qkv", "attention.out")) and kind == "weight" and value.ndim == 3
    return value.unsqueeze(-1) if one_dimensional else value


def _is_norm(name: str) -> bool:
    layer = name.rpartition(".")[0].rpartition(".")[2]
    return name.endswith(".weight") and layer in ("norm1", "norm2", "norm", "norm_out") and "_blocks." not in name


def _fits_diffusers(config: Mapping[str, Any], facts: Facts, groups: set[int]) -> bool:
    """Whether a ``UNet2DModel`` computes the same: one number of groups, one width of heads, none of the extras."""
    widths = {config["block_out_channels"][level] for level in config["attention_levels"]}
    widths.add(config["block_out_channels"][-1])
    plain = {
        "skip_scale": 1.0, "resample_filter": [1, 1], "skip_kernels": False, "residual_inputs": False,
        "sines_first": False, "endpoint": False, "class_in_noise": False, "noise_embedding": "positional",
        "up_attention": "all", "base_channels": config["block_out_channels"][0],
        "noise_channels": config["block_out_channels"][0],
    }  # fmt: skip
    same = all(config.get(name, value) == value for name, value in plain.items())
    return same and len(groups) == 1 and len({width // facts.heads(width) for width in widths}) == 1


def _shared(layout: Mapping[str, Any], facts: Facts, groups: int) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "block_out_channels", "layers_per_block", "num_class_embeds")
    return {"sample_size": facts.sample_size, "norm_num_groups": groups, **{name: layout[name] for name in names}}


def _kinds(layout: Mapping[str, Any], attending: str) -> dict[str, Any]:
    """The types of the blocks of diffusers: ``attending`` with ``{}`` for Down or Up on levels that attend."""
    conv = layout["conv_resampling"] or len(layout["block_out_channels"]) == 1
    plain = "{}Block2D" if conv else "Resnet{}sampleBlock2D"
    levels = range(len(layout["block_out_channels"]))
    names = [attending if level in layout["attention_levels"] else plain for level in levels]
    down = [name.format("Down") for name in names]
    return {"down_block_types": down, "up_block_types": [name.format("Up") for name in reversed(names)]}


def _of_diffusers(
    tensors: Tensors, layout: Mapping[str, Any], config: Mapping[str, Any], facts: Facts, groups: int
) -> Part:
    """A ``UNet2DModel``; the norms of its attention have groups only if their number is given."""
    width, resampling = layout["block_out_channels"][-1], "conv" if layout["conv_resampling"] else "resnet"
    arguments = {
        **_shared(layout, facts, groups),
        **_kinds(layout, "Attn{}Block2D"),
        "attn_norm_num_groups": groups,
        "attention_head_dim": width // facts.heads(width),
        "downsample_type": resampling,
        "upsample_type": resampling,
        "resnet_time_scale_shift": "scale_shift" if layout["scale_shift"] else "default",
        "norm_eps": config.get("norm_eps", 1e-5),
        "time_embedding_dim": layout["embedding_channels"],
    }
    return Part("UNet2DModel", arguments, to_diffusers(tensors, layout["layers_per_block"])).check()


def _labelled(tensors: Tensors, layout: Mapping[str, Any], facts: Facts) -> Part:
    """A UNet with cross-attention to the embedding of a class; its ``attention_head_dim`` is a number of heads."""
    if not layout["conv_resampling"] or "classes.weight" not in tensors:
        raise InputError("a UNet with cross-attention needs the table of a class embedder, and to resample by layers.")
    widths = layout["block_out_channels"]
    arguments = {
        **_shared(layout, facts, facts.groups),
        **_kinds(layout, "CrossAttn{}Block2D"),
        "attention_head_dim": [facts.heads(width) for width in widths],
        "cross_attention_dim": layout["context"],
    }
    table = tensors["classes.weight"]
    others = {name: value for name, value in tensors.items() if name != "classes.weight"}
    named = to_diffusers(others, layout["layers_per_block"])
    return Part("LabelledUNet", arguments, {**named, "classes.weight": table}).check()


MIDDLE = {"block_1": "resnets.0", "block_2": "resnets.1", "attn_1": "attentions.0"}
IN_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def autoencoder(tensors: Mapping[str, Tensor], groups: int, scale: float, sample_size: int) -> Part:
    """The ``AutoencoderKL`` or ``VQModel`` of diffusers with the weights of latent diffusion's.

    Raises:
        InputError: the weights are not those of such an autoencoder, which attends in its middle only.
    """
    found = [re.match(r"encoder\.down\.(\d{1,4})\.", name) for name in tensors]
    levels = 1 + max((int(match[1]) for match in found if match), default=-1)
    blocks = {name.split(".")[4] for name in tensors if name.startswith("encoder.down.0.block.")}
    named = {_autoencoder_name(name, levels): value for name, value in tensors.items()}
    named = {name: value[..., 0, 0] if _is_attention_matrix(name, value) else value for name, value in named.items()}
    try:
        widths = [len(tensors[f"encoder.down.{level}.block.0.conv1.weight"]) for level in range(levels)]
        config: dict[str, Any] = {
            "in_channels": tensors["encoder.conv_in.weight"].shape[1],
            "out_channels": tensors["decoder.conv_out.weight"].shape[0],
            "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        }
    except KeyError as error:
        raise InputError(f"the autoencoder has no {error}.") from error
    config |= {
        "block_out_channels": widths,
        "layers_per_block": len(blocks),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": groups,
        "scaling_factor": scale,
        "sample_size": sample_size,
    }
    codebook = tensors.get("quantize.embedding.weight")
    if codebook is None:
        return Part("AutoencoderKL", config, named).check()
    sizes = {"num_vq_embeddings": codebook.shape[0], "vq_embed_dim": codebook.shape[1]}
    return Part("VQModel", config | sizes, named).check()


def _is_attention_matrix(name: str, value: Tensor) -> bool:
    return ".attentions." in name and value.ndim == 4


def _autoencoder_name(name: str, levels: int) -> str:
    """The name of a weight of latent diffusion's autoencoder in diffusers.

    Raises:
        InputError: the weight has no place in it.
    """
    new = None
    with suppress(IndexError, ValueError):
        new = _new_name(name.split("."), levels)
    if new is None:
        raise unknown(f"first_stage_model.{name}")
    return new


def _new_name(parts: list[str], levels: int) -> str | None:
    """:func:`_autoencoder_name` of the ``parts`` of a name, of which there may be too few."""
    layer, rest = ".".join(parts[:2]), parts[2:]
    if parts[0] in ("quant_conv", "post_quant_conv", "quantize") or parts[1] in ("conv_in", "conv_out"):
        return ".".join(parts)
    if parts[1] == "norm_out":
        return f"{parts[0]}.conv_norm_out.{parts[2]}"
    if parts[1] == "mid" and rest[0] in MIDDLE:
        inside = IN_ATTENTION.get(rest[1], "") if rest[0] == "attn_1" else rest[1].replace("nin_", "conv_")
        return f"{parts[0]}.mid_block.{MIDDLE[rest[0]]}.{inside}.{rest[2]}"
    if layer in ("encoder.down", "decoder.up"):
        level = int(rest[0]) if layer == "encoder.down" else levels - 1 - int(rest[0])
        home = f"{parts[0]}.{parts[1]}_blocks.{level}"
        if rest[1] == "block":
            return f"{home}.resnets.{rest[2]}.{rest[3].replace('nin_', 'conv_')}.{rest[4]}"
        if rest[1] in ("downsample", "upsample"):
            return f"{home}.{rest[1]}rs.0.conv.{rest[3]}"
    return None
