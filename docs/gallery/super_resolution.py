"""Which faces have these 8 × 8 pixels? The prior fills in what a mean over blocks of 4 × 4 pixels has lost."""

from pathlib import Path

import torch

import pyro_vipaint as vp
from pyro_vipaint.cats.parts import draw_held_out

SIGMA = 0.05  # of the noise, images in [-1, 1]
torch.manual_seed(0)
images, labels = draw_held_out("faces32", 3, seed=5)
operator = vp.SuperResolution(4)
y = operator.A(images)
y = y + SIGMA * torch.randn_like(y)
result = vp.restore(y, operator, "faces32", num_samples=8, label=labels, noise=SIGMA, seed=0)
result.plot(images).savefig(Path(__file__).with_suffix(".png"), dpi=80)
