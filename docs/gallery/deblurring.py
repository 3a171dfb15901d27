"""How much of a picture survives a blur? Draws for three blurs of one held-out boot, from weak to strong."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pyro_vipaint as vp
from pyro_vipaint.demo import held_out_images

SIGMA = 0.05  # of the noise, images in [-1, 1]
torch.manual_seed(0)
images, labels = held_out_images()
x, label = images[[28]], labels[[28]]
blurs = {
    "Gaussian, 1 pixel": vp.GaussianBlur(1.0),
    "motion, 9": vp.MotionBlur(9, 30),
    "Gaussian, 4": vp.GaussianBlur(4),
}
figure, axes = plt.subplots(3, 8, figsize=(8, 3.4), layout="constrained")
for row, (name, blur) in zip(axes, blurs.items(), strict=True):
    y = blur.A(x) + SIGMA * torch.randn_like(x)
    result = vp.restore(y, blur, "fashion32", num_samples=12, label=label, noise=SIGMA, seed=0)
    pictures = [x, y, result.mean, *result.samples[:4]]
    for panel, picture in zip(row, pictures, strict=False):
        panel.imshow(picture.squeeze(), cmap="gray", vmin=-1, vmax=1)
    shown = row[-1].imshow(result.std.squeeze(), vmin=0, vmax=0.6)
    row[0].set_ylabel(name, fontsize=8)
for panel, title in zip(axes[0], ["truth", "observed", "mean", *["draw"] * 4, "std. dev."], strict=True):
    panel.set_title(title, fontsize=9)
for panel in axes.flat:
    panel.set(xticks=[], yticks=[])
figure.colorbar(shown, ax=axes[:, -1], shrink=0.8)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)
