"""What if a pixel is half seen? A map of the noise is a soft mask, and draws differ where the noise is large."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pyro_vipaint as vp
from pyro_vipaint.cats.parts import draw_held_out

torch.manual_seed(0)
x, label = draw_held_out("faces32", 1, seed=11)
distance = (torch.arange(32) - 15.5).square()
distance = (distance[:, None] + distance).sqrt()  # pixels from the centre
sigma = (0.05 * 400 ** (1 - distance / 16).clamp(0, 1))[None]  # .05 outside, 20 at the centre; images in [-1, 1]
y = x + sigma * torch.randn_like(x)
operator = vp.Inpainting(torch.ones(1, 32, 32))
result = vp.restore(
    y, operator, "faces32", num_samples=12, label=label, likelihood=vp.Gaussian(operator, sigma), seed=0
)

figure, axes = plt.subplots(2, 5, figsize=(8, 3.4), layout="constrained")
for panel, picture in zip(axes.T.flat, [x, y, None, None, *result.samples], strict=False):
    if picture is not None:
        panel.imshow((picture[0].permute(1, 2, 0).clamp(-1, 1) + 1) / 2)
    panel.set(xticks=[], yticks=[])
maps = {"noise": (axes[0, 1], sigma[0].log10(), "Purples"), "std. dev.": (axes[1, 1], result.std[0].mean(0), "viridis")}
for title, (panel, values, colours) in maps.items():
    figure.colorbar(panel.imshow(values, cmap=colours), ax=panel, shrink=0.8)
    panel.set_title({"noise": "log10 of the noise"}.get(title, title), fontsize=9)
axes[0, 0].set_title("truth", fontsize=9)
axes[1, 0].set_title("observed", fontsize=9)
axes[0, 3].set_title("draws", fontsize=9)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)
