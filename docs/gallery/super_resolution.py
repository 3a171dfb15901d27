"""Which faces have these few pixels? The prior fills in what means over blocks of 2 × 2, 4 × 4 and 8 × 8 have lost."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pyro_vipaint as vp
from pyro_vipaint.cats.parts import draw_held_out

SIGMA = 0.05  # of the noise, images in [-1, 1]
torch.manual_seed(0)
x, label = draw_held_out("faces32", 1, seed=5)
figure, axes = plt.subplots(3, 8, figsize=(8, 3.4), layout="constrained")
for row, factor in zip(axes, (2, 4, 8), strict=True):
    operator = vp.SuperResolution(factor)
    y = operator.A(x)
    y = y + SIGMA * torch.randn_like(y)
    result = vp.restore(y, operator, "faces32", num_samples=6, label=label, noise=SIGMA, seed=0)
    for panel, picture in zip(row, [x[0], y[0], *result.samples[:5, 0]], strict=False):
        panel.imshow((picture.permute(1, 2, 0).clamp(-1, 1) + 1) / 2)
    shown = row[-1].imshow(result.std[0].mean(0), vmin=0, vmax=0.6)
    row[0].set_ylabel(f"{factor} × {factor}", fontsize=9)
for panel, title in zip(axes[0], ["truth", "observed", *["draw"] * 5, "std. dev."], strict=True):
    panel.set_title(title, fontsize=9)
for panel in axes.flat:
    panel.set(xticks=[], yticks=[])
figure.colorbar(shown, ax=axes[:, -1], shrink=0.8)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)
