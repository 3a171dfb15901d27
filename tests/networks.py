"""Small random networks that several tests share."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DModel


def random_unet(**settings: Any) -> UNet2DModel:
    """A UNet on one 8×8 channel with weights large enough for outputs of order one that depend on every input."""
    network = UNet2DModel(
        **{
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 1,
            "layers_per_block": 1,
            "block_out_channels": (8, 16),
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
            "add_attention": False,
            **settings,
        }
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network.eval()
