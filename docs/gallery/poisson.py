"""How many photons does a picture need? White pixels with 2, 10 and 50 counts on average, and a hidden band."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pyro_vipaint as vp
from pyro_vipaint.demo import held_out_images

torch.manual_seed(0)
images, labels = held_out_images()
x, label = images[[1]], labels[[1]]
mask = torch.ones(1, 32, 32)
mask[..., 10:22] = 0  # 1 = observed
operator = vp.Inpainting(mask)
figure, axes = plt.subplots(3, 8, figsize=(8, 3.4), layout="constrained")
for row, gain in zip(axes, (2, 10, 50), strict=True):  # expected count of a white pixel
    likelihood = vp.Poisson(operator, gain=gain)
    y = torch.poisson(gain * (x + 1) / 2) * mask
    result = vp.restore(y, operator, "fashion32", num_samples=12, label=label, likelihood=likelihood, seed=0)
    row[0].imshow(x.squeeze(), cmap="gray", vmin=-1, vmax=1)
    row[1].imshow(y.where(mask > 0, torch.nan).squeeze(), cmap="gray", vmin=0, vmax=gain)
    for panel, picture in zip(row[2:7], [result.mean, *result.samples], strict=False):
        panel.imshow(picture.squeeze(), cmap="gray", vmin=-1, vmax=1)
    shown = row[-1].imshow(result.std.squeeze(), vmin=0, vmax=0.6)
    row[0].set_ylabel(f"{gain} counts", fontsize=8)
for panel, title in zip(axes[0], ["truth", "counts", "mean", *["draw"] * 4, "std. dev."], strict=True):
    panel.set_title(title, fontsize=9)
for panel in axes.flat:
    panel.set(xticks=[], yticks=[], facecolor="lightsteelblue")
figure.colorbar(shown, ax=axes[:, -1], shrink=0.8)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)
