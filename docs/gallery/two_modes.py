"""What does a guide miss when the posterior has two modes? One Gaussian takes one of them, a mixture takes both."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pyro_vipaint as vp
from pyro_vipaint.diagnostics import elbo_estimate, log_weights
from pyro_vipaint.guides import HierarchicalGuide, MixtureGuide
from pyro_vipaint.models import DiffusionModel, GaussianMixturePrior

torch.manual_seed(0)
centre = torch.tensor([0.0, 1.0])  # the first coordinate is measured; its value says nothing about the second
prior = GaussianMixturePrior.diagonal(torch.tensor([0.6, 0.4]), torch.stack([centre, -centre]), 0.25)
likelihood = vp.Gaussian(vp.Inpainting(torch.tensor([1.0, 0.0])), sigma=0.2)
y = torch.tensor([[0.3, 0.0]])
model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=[0.5, 0.2, 0.05]))
one = HierarchicalGuide(model, vp.initial_latent(prior, likelihood, y), gamma_logit=1.0)
several = MixtureGuide(model, prior.marginal(0.001).sample((1, 8)), num_components=8, gamma_logit=1.0)
evidence = prior.log_evidence(likelihood, y).item()
draws = {f"exact posterior: log p(y) = {evidence:.2f}": prior.posterior(likelihood, y).sample((1000,))[:, 0]}
for guide in (one, several):
    vp.fit(model, guide, y, vp.BetaELBO(num_particles=16), steps=200, lr=0.1, lr_decay=0.1, seed=0)
    bound, error = elbo_estimate(log_weights(model, guide, y, 4000, seed=1))
    name = f"{type(guide).__name__}: bound {bound.item():.2f} ± {error.item():.2f}"
    draws[name] = model.reconstruct(vp.sample(guide, y, 1000, seed=2))[:, 0].detach()
figure, axes = plt.subplots(1, 3, figsize=(8, 3), sharex=True, sharey=True, layout="constrained")
for panel, (name, x) in zip(axes, draws.items(), strict=True):
    panel.plot(*x.T, ".", markersize=2, alpha=0.5)
    panel.axvline(y[0, 0], color="tab:red", linewidth=0.8)
    panel.set_title(name, fontsize=9)
    panel.set(xlabel="measured", xlim=(-1, 1.5), ylim=(-1.6, 1.6))
axes[0].set_ylabel("hidden")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)
