"""A small text-to-image pipeline, trained in a minute: faces of 16 × 16 pixels, with prompts for the hair's colour.

It has the parts of Stable Diffusion without an autoencoder. The text encoder is that of CLIP with random weights; the
network has cross-attention, and learns to read what the encoder makes of the words.
"""

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import CosineAnnealingLR
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pyro_vipaint.cats.parts import draw_parts, shipped_layers

COLOURS = ("black", "blond", "red", "blue")  # of part k of faces32: COLOURS[k % 4]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def untrained() -> StableDiffusionPipeline:
    """The pipeline with random weights."""
    tokens = (*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>")
    tokenizer = CLIPTokenizer({token: i for i, token in enumerate(tokens)}, [], model_max_length=16)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=54, max_position_embeddings=16, **sizes, **ends))
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=(16, 48), layers_per_block=1,
        norm_num_groups=8, attention_head_dim=8, cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False, steps_offset=1
    )
    return StableDiffusionPipeline(None, encoder, tokenizer, unet, scheduler, None, None, None, False)


def trained(steps: int = 300, batch: int = 32) -> StableDiffusionPipeline:
    """The pipeline after ``steps`` batches of drawn faces; an eighth of the prompts is empty, for guidance."""
    pipeline, layers = untrained(), shipped_layers("faces32")
    texts = ["", *(f"{colour} hair" for colour in COLOURS)]
    words, _ = pipeline.encode_prompt(texts, "cpu", 1, do_classifier_free_guidance=False)
    optimizer = torch.optim.AdamW(pipeline.unet.parameters(), 2e-3)
    rates = CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        index = draw_parts(layers, batch, held_out=False)
        x, noise = layers.compose(index)[..., ::2, ::2], torch.randn(batch, 3, 16, 16)
        said = (index[:, -1] % 4 + 1) * (torch.rand(batch) > 1 / 8)
        t = torch.randint(1000, (batch,))
        z, v = pipeline.scheduler.add_noise(x, noise, t), pipeline.scheduler.get_velocity(x, noise, t)
        loss = mse_loss(pipeline.unet(z, t, words[said].detach()).sample, v)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    return pipeline
