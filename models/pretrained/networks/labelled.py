"""The UNet of class-conditional latent diffusion: its context is one token, an embedding of the class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn


class LabelledUNet(UNet2DConditionModel):
    """``UNet2DConditionModel`` of diffusers with the class embedder of latent diffusion (Rombach et al. 2022).

    Args:
        num_class_embeds: number of classes, one for no label among them.
        cross_attention_dim: size of the embedding of a class.
        sample_size, in_channels, out_channels, down_block_types, up_block_types, block_out_channels, layers_per_block,
            attention_head_dim, norm_num_groups: as for ``UNet2DConditionModel``, which takes the number of heads as
            ``attention_head_dim``.
    """

    @register_to_config
    def __init__(
        self,
        num_class_embeds: int,
        cross_attention_dim: int,
        sample_size: int,
        in_channels: int,
        out_channels: int,
        down_block_types: Sequence[str],
        up_block_types: Sequence[str],
        block_out_channels: Sequence[int],
        layers_per_block: int,
        attention_head_dim: int | Sequence[int],
        norm_num_groups: int = 32,
    ) -> None:
        super().__init__(
            sample_size, in_channels, out_channels, down_block_types=tuple(down_block_types),
            up_block_types=tuple(up_block_types), block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block, attention_head_dim=attention_head_dim,  # pyright: ignore
            norm_num_groups=norm_num_groups, cross_attention_dim=cross_attention_dim,
        )  # fmt: skip
        self.register_to_config(num_class_embeds=num_class_embeds, _use_default_values=[])
        self.classes = nn.Embedding(num_class_embeds, cross_attention_dim)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, sample: Tensor, timestep: Tensor, class_labels: Tensor, return_dict: bool = True
    ) -> Any:
        """The prediction for ``sample`` at ``timestep``, of the classes ``class_labels`` ``(N,)``."""
        context = self.classes(class_labels)[:, None]
        return super().forward(sample, timestep, encoder_hidden_states=context, return_dict=return_dict)
