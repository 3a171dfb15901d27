"""How does a prompt change what is drawn? The hair is hidden, and four prompts name its colour."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pyro_vipaint as vp
from pyro_vipaint.cats.parts import draw_held_out
from pyro_vipaint.models import from_diffusers

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from _prompts import COLOURS, trained  # noqa: E402  # a small pipeline, trained here in less than a minute

torch.manual_seed(0)
prior = from_diffusers(trained())
faces, _ = draw_held_out("faces32", 40, seed=8)
x = faces[[9], :, ::2, ::2]
mask = torch.ones(1, 16, 16)
mask[:, :7] = 0  # 1 = observed
prompts = [f"{colour} hair" for colour in COLOURS]
result = vp.inpaint(x.expand(4, -1, -1, -1), mask, prior, num_samples=6, prompt=prompts, seed=0)

figure, axes = plt.subplots(4, 8, figsize=(8, 4.3), layout="constrained")
for row, prompt, mean, samples in zip(axes, prompts, result.mean, result.samples.unbind(1), strict=True):
    for panel, picture in zip(row, [x[0] * mask, mean, *samples], strict=True):
        panel.imshow((picture.permute(1, 2, 0).clamp(-1, 1) + 1) / 2)
        panel.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"“{prompt}”", fontsize=8)
for panel, title in zip(axes[0], ["observed", "mean", *["draw"] * 6], strict=True):
    panel.set_title(title, fontsize=9)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)
