"""What does a fit do to a picture? The prediction of the guide's draws, step by step, beside the rising bound."""

from pathlib import Path

import pyro_vipaint as vp
from pyro_vipaint.demo import demo_problem
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, load_prior

prior = load_prior("fashion32")
images, masks, labels = demo_problem("fashion32")
images, masks, labels = images[2:], masks[2:], labels[2:]
likelihood = vp.Laplace(vp.Inpainting(masks), scale=0.2)
keypoints = vp.keypoints(prior, noise_levels=[level * prior.sigma_data for level in (6.0, 3.0, 1.5, 0.9)])
model = DiffusionModel(prior, likelihood, keypoints, class_labels=labels)
guide = HierarchicalGuide(model, 0 * images)  # its means start at grey
fit = vp.fit(model, guide, masks * images, vp.BetaELBO(), steps=40, keep=20, seed=0)
fit.animate().save(Path(__file__).with_suffix(".gif"))
