"""Can the spread be believed? Ranks of the truth among draws are uniform for a right guide, and show how others err."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pyro_vipaint as vp
from pyro_vipaint import diagnostics
from pyro_vipaint.guides import HierarchicalGuide, MeanFieldGuide
from pyro_vipaint.models import DiffusionModel, GaussianPrior

torch.manual_seed(0)
D, SEEN, PROBLEMS, DRAWS, BINS = 16, 6, 200, 199, 10
prior = GaussianPrior.diagonal(mean=0.5 * torch.randn(D), std=0.3 + torch.rand(D))
likelihood = vp.Gaussian(vp.Inpainting((torch.arange(D) < SEEN).float()), sigma=0.1)
model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=[3.0, 1.0, 0.3]))
theta, y = diagnostics.draw_latent_and_data(model, PROBLEMS)  # drawn jointly, so that theta is one more posterior draw
start = vp.initial_latent(prior, likelihood, y)
guides = {
    "hierarchical": (HierarchicalGuide(model, start, gamma_logit=0.0), 1.0),
    "counts the data twice": (HierarchicalGuide(model, start, gamma_logit=0.0), 0.5),
    "mean field": (MeanFieldGuide(model, start), 1.0),
}
figure, axes = plt.subplots(2, 3, figsize=(8, 3.8), sharex=True, sharey="row", layout="constrained")
for column, name in zip(axes.T, guides, strict=True):
    guide, beta = guides[name]
    vp.fit(model, guide, y, vp.BetaELBO(beta=beta, num_particles=4), steps=400, lr=0.2, lr_decay=0.005, seed=1)
    ranks = diagnostics.rank_statistics(theta, vp.sample(guide, y, DRAWS, seed=2))
    for panel, part, kind in ((column[0], ranks[:, :SEEN], "observed"), (column[1], ranks[:, SEEN:], "hidden")):
        counts = diagnostics.rank_histogram(part.flatten(), DRAWS, BINS) / part.numel()
        error = 3 * (0.1 * 0.9 / part.numel()) ** 0.5  # of independent ranks
        panel.axhspan(0.1 - error, 0.1 + error, color="0.85")
        panel.bar((torch.arange(BINS) + 0.5) * (DRAWS + 1) / BINS, counts, 0.9 * (DRAWS + 1) / BINS)
        panel.set_ylabel(f"share, {kind}" if name == "hierarchical" else "")
    column[0].set_title(name, fontsize=10)
    column[1].set_xlabel(f"rank among {DRAWS} draws")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)
