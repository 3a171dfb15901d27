"""Are hidden parts drawn as often as they should be? VIPaint's draws beside the exact posterior of a face's parts."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from safetensors import safe_open

import pyro_vipaint as vp
from pyro_vipaint.cats.classifier import draw_labels, part_probabilities, shipped_classifier
from pyro_vipaint.cats.parts import PER_CLASS, draw_held_out, shipped_layers
from pyro_vipaint.cats.posterior import given_class
from pyro_vipaint.diagnostics import parts_posterior
from pyro_vipaint.models.pretrained.load import weights_folder

SIGMA, DRAWS, SLOTS = 0.05, 24, ("eyes", "mouth", "glasses")
torch.manual_seed(0)
with safe_open(weights_folder() / "faces32" / "parts.safetensors", "pt") as file:
    names = json.loads(file.metadata()["names"])
x, style = draw_held_out("faces32", 1, seed=3)
mask = torch.ones(1, 1, 32, 32)
mask[..., 10:24, :] = 0  # 1 = observed
y = mask * (x + SIGMA * torch.randn_like(x))
exact = given_class(parts_posterior(shipped_layers("faces32"), y, mask, SIGMA), style, PER_CLASS["faces32"])
result = vp.inpaint(y, mask, "faces32", num_samples=DRAWS, label=style, noise=SIGMA, seed=0)
read = draw_labels(part_probabilities(shipped_classifier("faces32"), result.samples), torch.Generator().manual_seed(1))
figure = plt.figure(figsize=(8, 4.2), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=[1, 1.7])
for panel, picture in zip(above.subplots(1, 8), [x[0], y[0], *result.samples[:6, 0]], strict=True):
    panel.imshow((picture.permute(1, 2, 0).clamp(-1, 1) + 1) / 2)
    panel.set_axis_off()
above.suptitle("truth, observation and six draws", fontsize=9)
for panel, slot in zip(below.subplots(1, 3), SLOTS, strict=True):
    p, places = exact.marginals[slot][0], torch.arange(len(names[slot]))
    panel.barh(places - 0.2, p, 0.4, color="0.6", label="exact")
    panel.barh(places + 0.2, torch.bincount(read[slot][:, 0], minlength=len(p)) / DRAWS, 0.4, label=f"{DRAWS} draws")
    panel.set(title=slot, yticks=places, yticklabels=names[slot])
panel.legend(fontsize=8)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)
