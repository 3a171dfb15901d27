"""Imports and first calls of what cases use, so that their time is that of the case alone."""

from __future__ import annotations

import torch

from pyro_vipaint import diagnostics, metrics


def warm() -> None:
    """Loads lazily imported packages, once."""
    from tests.hostile import benches, objects, prior_folders, results, world

    torch.set_num_threads(1)
    world.inpaint()
    world.network_prior()
    metrics.lpips_distance(torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32))
    diagnostics.c2st(torch.randn(20, 2), torch.randn(20, 2), steps=1)
    for template in (prior_folders.template, prior_folders.latent_template, objects.template):
        template()
    prior_folders.load_prior(prior_folders.latent_template())
    results.template()
    benches.template()
