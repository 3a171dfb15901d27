"""The code of docs/priors.md runs as printed, on small random networks, and gives the priors that it describes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_vipaint as vp
from tests.networks import random_unet
from tests.pipelines import random_vae

LATENT, IMAGE = (4, 16, 16), (3, 32, 32)  # large enough for LPIPS
DOCUMENT = Path(__file__).parents[2] / "docs" / "priors.md"
ALPHAS_CUMPROD = (1 - torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)


def run_block(containing: str, **names: Any) -> dict[str, Any]:
    """The names after the one block of Python that contains the text."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    (code,) = (block for block in blocks if containing in block)
    exec(code.replace("(4, 32, 32)", str(LATENT)), names)
    return names


# a user's network and autoencoder


@pytest.fixture(scope="module")
def ten_lines() -> dict[str, Any]:
    """The names after the ten lines on a random network and autoencoder; the left half of an image is observed."""
    torch.manual_seed(0)
    image, mask = torch.rand(IMAGE) * 2 - 1, torch.zeros(IMAGE[1:])
    mask[:, :16] = 1
    names: dict[str, Any] = {"image": image, "mask": mask, "alphas_cumprod": ALPHAS_CUMPROD.tolist()}
    network = random_unet(sample_size=16, in_channels=4, out_channels=4)
    return run_block('name="mine"', network=network, autoencoder=random_vae(shift_factor=None), **names)


def test_the_ten_lines_inpaint(ten_lines: dict[str, Any]) -> None:
    """Ten lines; K + 1 calls for each step of the fit, one before it, K - 1 for sampling, one per refinement step."""
    block = next(b for b in DOCUMENT.read_text(encoding="utf-8").split("```") if 'name="mine"' in b)
    assert len([line for line in block.splitlines()[1:] if line]) <= 10
    result, settings = ten_lines["result"], ten_lines["result"].settings
    assert result.calls == 1 + settings.steps * (2 + 1) + 1 + settings.refine_steps
    assert result.samples.shape == (10, 1, *IMAGE) and result.samples.isfinite().all()
    assert result.fit.bounds.isfinite().all() and len(result.fit.bounds) == settings.steps
    assert not any(p.requires_grad for m in (ten_lines["network"], ten_lines["autoencoder"]) for p in m.parameters())


@torch.no_grad()
def test_its_transition_by_hand(ten_lines: dict[str, Any]) -> None:
    """Step n to step m is the Gaussian bridge at the clean latent implied by the predicted noise."""
    for n, m in ((999, 500), (400, 399), (30, 2)):
        prior, z = ten_lines["prior"], torch.randn(2, *LATENT)
        noise = ten_lines["network"](z, n).sample.double()
        at, below = ALPHAS_CUMPROD[n], ALPHAS_CUMPROD[m]
        clean = (z.double() - (1 - at).sqrt() * noise) / at.sqrt()
        ratio = at / below
        mean = (ratio.sqrt() * (1 - below) * z.double() + below.sqrt() * (1 - ratio) * clean) / (1 - at)
        variance = (1 - ratio) * (1 - below) / (1 - at)
        step = prior.transition(z, (n + 1) / 1000, (m + 1) / 1000)
        torch.testing.assert_close(step.mean, mean.float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(step.stddev, variance.sqrt().float().expand_as(z), rtol=1e-4, atol=1e-6)


def test_its_own_codec_takes_part(ten_lines: dict[str, Any]) -> None:
    """``Folded`` is its own inverse under any leading dimensions, and images have the shape that it states."""
    codec = run_block("class Folded")["Folded"]()
    x = torch.rand(3, 2, 1, 32, 32) * 2 - 1
    z = codec.encode(x)
    assert z.shape == (3, 2, *LATENT) and z[1, 1, :, 2, 3].tolist() == x[1, 1, 0, 4:6, 6:8].flatten().tolist()
    assert torch.equal(codec.decode(z), x)
    prior = replace(ten_lines["prior"], codec=codec)
    result = vp.inpaint(x[0], torch.ones(32, 32).triu(), prior, 2, 3, steps=2, refine_steps=2, seed=0)
    assert result.samples.shape == (3, 2, 1, 32, 32) and result.fit.bounds.isfinite().all()


# single files: opened once
