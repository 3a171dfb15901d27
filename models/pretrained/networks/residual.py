r"""The residual UNet of score-based models, in all the forms of its published checkpoints.

It has the blocks of DDPM++ and NCSN++ (Song et al. 2021), ADM (Dhariwal & Nichol 2021), EDM (Karras et al. 2022) and
latent diffusion (Rombach et al. 2022). With a = silu(norm(x)) resampled, h = conv(a), and the embedding e of noise
level and class:

.. math:: y = s \, (\mathrm{skip}(x) + \mathrm{conv}(\mathrm{silu}(n))), \qquad
          n = \mathrm{norm}(h) (1 + e_1) + e_2 \quad \text{or} \quad \mathrm{norm}(h + e)

s is 1 or the square root of 1/2; attention adds to y in the same way. ``UNet2DModel`` of diffusers has these blocks
where s = 1, all norms have one number of groups and all heads one width; other networks are held here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Style:
    """What all blocks of a network share."""

    embedding: int
    groups: Callable[[int], int]
    heads: Callable[[int], int]
    eps: float
    scale_shift: bool
    skip_scale: float
    resample_filter: Sequence[float]

    def norm(self, channels: int) -> nn.GroupNorm:
        """The group norm of a layer with ``channels``."""
        return nn.GroupNorm(self.groups(channels), channels, self.eps)


class Resampling(nn.Module):
    """Half or twice the height and width, by a separable filter; (1, 1) takes means, or repeats pixels."""

    def __init__(self, weights: Sequence[float], up: bool) -> None:
        super().__init__()
        row = torch.tensor([float(weight) for weight in weights])
        kernel = row[:, None] * row / row.sum().square()
        self.register_buffer("kernel", 4 * kernel if up else kernel, persistent=False)
        self.up, self.padding = up, (len(row) - 1) // 2

    def forward(self, x: Tensor, padding: int | None = None) -> Tensor:
        kernel = self.get_buffer("kernel").to(x.dtype).expand(x.shape[1], 1, -1, -1)
        resample = F.conv_transpose2d if self.up else F.conv2d
        return resample(x, kernel, stride=2, padding=self.padding if padding is None else padding, groups=x.shape[1])


class Attention(nn.Module):
    """Self-attention over pixels; the rows of ``qkv`` are query, key, value, each by head."""

    def __init__(self, style: Style, channels: int) -> None:
        super().__init__()
        self.heads = style.heads(channels)
        self.norm = style.norm(channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).unflatten(1, (3, self.heads, -1)).flatten(4).transpose(3, 4)
        attended = F.scaled_dot_product_attention(*qkv.unbind(1))
        return self.out(attended.transpose(2, 3).reshape(x.shape))


class Block(nn.Module):
    """A residual block, which may resample first and attend last."""

    def __init__(
        self, style: Style, channels: int, out_channels: int, attention: bool = False, up: bool | None = None,
        skip: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scale_shift, self.skip_scale = style.scale_shift, style.skip_scale
        self.resampling = nn.Identity() if up is None else Resampling(style.resample_filter, up)
        self.norm1, self.conv1 = style.norm(channels), nn.Conv2d(channels, out_channels, 3, padding=1)
        self.embedding = nn.Linear(style.embedding, out_channels * (2 if style.scale_shift else 1))
        self.norm2, self.conv2 = style.norm(out_channels), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(channels, out_channels, 1) if skip or channels != out_channels else nn.Identity()
        self.attention = Attention(style, out_channels) if attention else None
        self.out_channels = out_channels

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(self.resampling(F.silu(self.norm1(x))))
        e = self.embedding(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + e)
        h = (self.skip(self.resampling(x)) + self.conv2(F.silu(h))) * self.skip_scale
        return h if self.attention is None else (h + self.attention(h)) * self.skip_scale


class ResidualUNet(ModelMixin, ConfigMixin):
    """The network of a published checkpoint, called as ``UNet2DModel`` of diffusers is.

    Args:
        sample_size: height and width of the images it was trained on.
        in_channels, out_channels: channels of its argument and of its prediction.
        base_channels: width of the first convolution.
        block_out_channels: width of each level, the finest first.
        layers_per_block: residual blocks on each level of the encoder; the decoder has one more.
        attention_levels: levels whose blocks attend.
        up_attention: ``"all"`` blocks of such a level attend in the decoder, or the ``"last"`` one.
        num_heads: of each attention, unless ``attention_head_dim``, the channels of a head, is given.
        norm_num_groups: groups of a norm, at most one for each ``min_group_channels`` channels.
        norm_eps: added to the variances of norms.
        scale_shift: whether the embedding scales and shifts, or is added.
        skip_scale: s, the factor of sums.
        resample_filter: a row of the separable filter.
        skip_kernels: whether the skips of resampling blocks have a kernel.
        residual_inputs: whether each level of the encoder adds the resampled input (the residual encoder of NCSN++).
        noise_channels: size of the embedding of the noise level.
        embedding_channels: size of the embedding that blocks take.
        noise_embedding: ``"positional"``, or ``"fourier"`` with frequencies among the weights.
        sines_first: whether the sines of the embedding precede its cosines.
        endpoint: whether its lowest frequency is 1e-4 exactly.
        num_class_embeds: number of classes, one for no label among them; ``None`` for no classes.
        class_in_noise: whether the embedding of the class is added to that of the noise level before its layers.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int = 3,
        out_channels: int = 3,
        base_channels: int = 128,
        block_out_channels: Sequence[int] = (256, 256, 256),
        layers_per_block: int = 4,
        attention_levels: Sequence[int] = (1,),
        up_attention: str = "all",
        num_heads: int = 1,
        attention_head_dim: int | None = None,
        norm_num_groups: int = 32,
        min_group_channels: int = 1,
        norm_eps: float = 1e-5,
        scale_shift: bool = False,
        skip_scale: float = 1.0,
        resample_filter: Sequence[float] = (1, 1),
        skip_kernels: bool = False,
        residual_inputs: bool = False,
        noise_channels: int = 128,
        embedding_channels: int = 512,
        noise_embedding: str = "positional",
        sines_first: bool = False,
        endpoint: bool = False,
        num_class_embeds: int | None = None,
        class_in_noise: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        style = Style(
            embedding_channels,
            lambda channels: min(norm_num_groups, channels // min_group_channels),
            lambda channels: num_heads if attention_head_dim is None else channels // attention_head_dim,
            norm_eps, scale_shift, skip_scale, resample_filter,
        )  # fmt: skip
        self.noise = nn.ParameterDict()
        if noise_embedding == "fourier":
            self.noise["frequencies"] = nn.Parameter(torch.empty(noise_channels // 2))
        self.time = nn.ModuleList(
            [nn.Linear(noise_channels, embedding_channels), nn.Linear(embedding_channels, embedding_channels)]
        )
        label = noise_channels if class_in_noise else embedding_channels
        self.classes = nn.Embedding(num_class_embeds, label) if num_class_embeds else None
        self.conv_in = nn.Conv2d(in_channels, base_channels, 3, padding=1)
        self.down, self.inputs, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.shrink = Resampling(resample_filter, up=False)
        width, skips, source = base_channels, [base_channels], in_channels
        for level, wanted in enumerate(block_out_channels):
            if level:
                self.down.append(Block(style, width, width, up=False, skip=skip_kernels))
                skips.append(width)
                if residual_inputs:
                    self.inputs.append(nn.Conv2d(source, width, 3, padding=1 + self.shrink.padding))
                    source = width
            for _ in range(layers_per_block):
                self.down.append(Block(style, width, wanted, level in attention_levels))
                width = wanted
                skips.append(width)
        self.middle = nn.ModuleList([Block(style, width, width, attention=True), Block(style, width, width)])
        for level, wanted in reversed(list(enumerate(block_out_channels))):
            if level < len(block_out_channels) - 1:
                self.up.append(Block(style, width, width, up=True, skip=skip_kernels))
            for i in range(layers_per_block + 1):
                attend = level in attention_levels and (up_attention == "all" or i == layers_per_block)
                self.up.append(Block(style, width + skips.pop(), wanted, attend))
                width = wanted
        self.norm_out, self.conv_out = style.norm(width), nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(
        self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> Any:
        """The prediction ``(N, C', H, W)`` for ``sample`` ``(N, C, H, W)`` at ``timestep`` ``(N,)``: ``.sample``."""
        embedding = F.silu(self._embed(timestep.expand(len(sample)), class_labels))
        x, source, inputs = self.conv_in(sample), sample, iter(self.inputs)
        skips = [x]
        for block in self.down:
            x = self._run(block, x, embedding)
            if self.inputs and isinstance(block.resampling, Resampling):
                x = source = (x + self.shrink(next(inputs)(source), padding=0)) * self.config["skip_scale"]
            skips.append(x)
        for block in self.middle:
            x = self._run(block, x, embedding)
        for block in self.up:
            x = x if isinstance(block.resampling, Resampling) else torch.cat([x, skips.pop()], dim=1)
            x = self._run(block, x, embedding)
        output = self.conv_out(F.silu(self.norm_out(x)))
        return UNet2DOutput(sample=output) if return_dict else (output,)

    def _run(self, block: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, x, embedding)  # pyright: ignore[reportCallIssue, reportOptionalCall]
        return block(x, embedding)

    def _embed(self, timestep: Tensor, class_labels: Tensor | None) -> Tensor:
        """The embedding of noise level and class."""
        if "frequencies" in self.noise:
            angles = timestep.float()[:, None] * (2 * math.pi * self.noise["frequencies"].float())
        else:
            half = self.config["noise_channels"] // 2
            steps = torch.arange(half, device=timestep.device) / (half - int(self.config["endpoint"]))
            angles = timestep.float()[:, None] * 1e4**-steps
        waves = (angles.sin(), angles.cos()) if self.config["sines_first"] else (angles.cos(), angles.sin())
        noise = torch.cat(waves, dim=1).to(self.dtype)
        label = 0.0 if self.classes is None else self.classes(class_labels)
        early = self.config["class_in_noise"]
        embedding = self.time[1](F.silu(self.time[0](noise + label if early else noise)))
        return embedding if early else embedding + label
