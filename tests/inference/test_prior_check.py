"""Whether a prior fits pictures: each planted fault is found by its name, and the sound priors pass."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.cats.parts import draw_held_out
from pyro_vipaint.demo import held_out_images
from pyro_vipaint.models import (
    MASKS,
    CosineVP,
    DiffusionPrior,
    EpsilonDenoiser,
    GaussianPrior,
    LinearVP,
    NetworkDenoiser,
    SampleDenoiser,
    VDenoiser,
    load_prior,
)
from pyro_vipaint.models.priors.kernels import expand_event
from pyro_vipaint.models.priors.schedules import times_of
from pyro_vipaint.prior_check import familiar_error, unfamiliar, warn_of_unfamiliar

SHAPE = (1, 8, 8)
MEAN = torch.linspace(-0.9, 0.6, 64).reshape(SHAPE)
STD = 0.1
COSINE, LINEAR = CosineVP(), LinearVP()


class Output:
    """The output of a network that knows a prior and was trained with a schedule, in one parametrisation."""

    def __init__(self, prior: DiffusionPrior, schedule: Any, kind: str) -> None:
        self.prior, self.schedule, self.kind = prior, schedule, kind

    def __call__(self, z: Tensor, t: Tensor, **condition: Any) -> Tensor:
        alpha, sigma = (expand_event(value, z) for value in self.schedule(t))
        low, high = self.prior.noise_range
        level = (sigma / alpha).flatten().double().clamp(low, high)
        x_hat = self.prior.denoise(z / alpha, times_of(self.prior.schedule, level), **condition)
        epsilon = (z - alpha * x_hat) / sigma
        return {"epsilon": epsilon, "v": alpha * epsilon - sigma * x_hat, "x_0": x_hat}[self.kind]


def network_prior(
    prior: DiffusionPrior, true: Any, claimed: Any, kind: str, adapter: type[NetworkDenoiser]
) -> DiffusionPrior:
    """A prior on the schedule ``claimed`` by an ``adapter`` for a network trained on the schedule ``true``."""
    denoiser = adapter(Output(prior, true, kind), claimed)
    return DiffusionPrior(claimed, denoiser, prior.event_shape, sigma_data=prior.sigma_data, name="planted")


def gaussian(channels: int = 1) -> tuple[DiffusionPrior, Tensor]:
    """A prior of pictures around a ramp, and sixteen pictures of it; of colours, the ramps are different."""
    mean = MEAN if channels == 1 else torch.cat([MEAN, MEAN.flip(-1), MEAN.flip(-2)])
    prior = GaussianPrior.diagonal(mean, torch.full(mean.shape, STD)).diffusion()
    x = mean + STD * torch.randn(16, *mean.shape, generator=torch.Generator().manual_seed(0))
    return replace(prior, sigma_data=0.45, name="plain"), x.clamp(-1, 1)


FAULTS: dict[str, tuple[Any, str]] = {  # prior, pictures -> those with a fault; what is said of them
    "epsilon read as v": (
        lambda p, x: (network_prior(p, COSINE, COSINE, "epsilon", VDenoiser), x), "predicts epsilon, not v",
    ),
    "v read as epsilon": (
        lambda p, x: (network_prior(p, COSINE, COSINE, "v", EpsilonDenoiser), x), "predicts v, not epsilon",
    ),
    "x_0 read as epsilon": (
        lambda p, x: (network_prior(p, COSINE, COSINE, "x_0", EpsilonDenoiser), x), "predicts x_0, not epsilon",
    ),
    "trained on cosine, used on linear": (
        lambda p, x: (network_prior(p, COSINE, LINEAR, "epsilon", EpsilonDenoiser), x), "trained with another schedule",
    ),
    "trained on linear, used on cosine": (
        lambda p, x: (network_prior(p, LINEAR, COSINE, "epsilon", EpsilonDenoiser), x), "trained with another schedule",
    ),
    "pictures on [0, 1]": (lambda p, x: (p, (x + 1) / 2), r"pictures are on \[0, 1\]"),
    "a prior of pictures on [0, 1]": (lambda p, x: (p, (2 * x - 1).clamp(-2.8, 1)), r"range from|trained on \[0, 1\]"),
    "inverted pictures": (lambda p, x: (p, -x), "pictures are inverted"),
    "a wrong scale": (lambda p, x: (p, 0.35 * x), "wrong scale: 2.8 times is better"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(fault: str) -> None:
    plant, message = FAULTS[fault]
    found = vp.check_prior(*plant(*gaussian()))
    assert not found.sound and len(found.faults) >= 1
    assert found.faults[0] and re.search(message, " ".join(found.faults)), found.verdict
    assert found.verdict.startswith(("plain does not fit", "planted does not fit")) and "\n" not in found.verdict


def test_swapped_channels_are_named() -> None:
    prior, x = gaussian(3)
    assert vp.check_prior(prior, x).sound
    assert "red and blue are swapped" in vp.check_prior(prior, x.flip(1)).verdict


@pytest.mark.parametrize("kind", ["exact", "epsilon", "v", "x_0"])
def test_sound_priors_pass(kind: str) -> None:
    """The error of an exact denoiser of independent pixels is in closed form; the calls are those that are promised."""
    prior, x = gaussian()
    adapters: Any = {"epsilon": EpsilonDenoiser, "v": VDenoiser, "x_0": SampleDenoiser}
    used = prior if kind == "exact" else network_prior(prior, COSINE, COSINE, kind, adapters[kind])
    with vp.count_calls() as count:
        found = vp.check_prior(used, x)
    planted = 0 if kind == "exact" else 1  # the network inside asks the prior once more
    assert count.calls <= 35 * (1 + planted) and found.sound, found.verdict
    assert max(found.alternatives.values()) < 1.04
    level = torch.tensor(found.table["noise_level"].to_numpy())
    exact = STD * level / (STD**2 + level**2).sqrt()
    torch.testing.assert_close(torch.tensor(found.table["error"].to_numpy()), exact, rtol=0.12, atol=0)
    assert repr(found) == f"<PriorCheck: {found.verdict}>" and len(repr(found)) < 600


def test_bad_pictures_are_refused() -> None:
    prior, x = gaussian()
    for images, message in ((x.expand(-1, 3, -1, -1), "image has shape"), (x[..., :4], "resize"), ("x.png", "not str")):
        with pytest.raises(vp.InputError, match=message):
            vp.check_prior(prior, images)


def test_the_error_on_visible_pixels_is_theirs_alone() -> None:
    """In closed form for independent pixels; hidden ones, whatever they are, change nothing there."""
    prior, x = gaussian()
    mask = (torch.arange(64).reshape(SHAPE) % 2).float()
    with vp.count_calls() as count:
        error = familiar_error(prior, x, mask)
    assert (count.calls, count.nfe) == (1, 16)
    exact = STD * prior.sigma_data / (STD**2 + prior.sigma_data**2) ** 0.5
    assert abs(float(error.square().mean().sqrt()) / exact - 1) < 0.1
    assert torch.equal(error, familiar_error(prior, torch.where(mask > 0, x, -x), mask))


def test_inpaint_warns_of_unfamiliar_pictures_when_asked_to() -> None:
    """One line, once, and one call more; none where the limit is not known, nor after that of images on [0, 1]."""
    prior, x = gaussian()
    known = replace(prior, familiar_error=1.6 * STD)
    mask = (torch.arange(64).reshape(SHAPE) % 2).float()
    few: dict[str, Any] = {"levels": 1, "num_samples": 2, "refine_steps": 2, "device": "cpu", "seed": 0}

    def warned(picture: Tensor, used: DiffusionPrior, **named: Any) -> tuple[list[str], int]:
        with warnings.catch_warnings(record=True) as caught, vp.count_calls() as count:
            warnings.simplefilter("always")
            vp.inpaint(picture, mask, used, **few, **named)
        return [str(each.message) for each in caught], count.calls

    nothing, calls = warned(-x[0], known)
    assert nothing == []
    lines, more = warned(-x[0], known, check=True)
    assert len(lines) == 1 and "was not made for pictures like this one" in lines[0] and more == calls + 1
    assert warned(x[0], known, check=True) == ([], calls + 1)
    assert warned(-x[0], prior, check=True) == ([], calls)
    lines, _ = warned((x[:2] + 1) / 2, known, check=True)
    assert len(lines) == 1 and "[0, 1]" in lines[0]
    with pytest.raises(vp.InputError, match="states no familiar_error"):
        unfamiliar(prior, x)
    with pytest.warns(UserWarning, match="like 3 of these 4"):
        warn_of_unfamiliar(known, torch.cat([x[:1], -x[:3]]), mask)


def test_composites_keep_the_observed_pixels_exactly() -> None:
    """A soft mask blends; hidden pixels are those of the run without, and NaN there has no influence."""
    prior, x = gaussian()
    mask = (torch.arange(64).reshape(SHAPE) % 8 / 7).float()
    few: dict[str, Any] = {"levels": 1, "num_samples": 2, "refine_steps": 2, "device": "cpu", "seed": 0}
    for m in (mask, (mask > 0.5).float()):
        picture = torch.where(m > 0, x[0], torch.nan)
        plain, pasted = (vp.inpaint(picture, m, prior, composite=c, **few).samples for c in (False, True))
        expected = m * x[0] + (1 - m) * plain
        torch.testing.assert_close(pasted, expected)
        assert torch.equal(pasted[..., m[0] == 1], x[:1, :, m[0] == 1].expand(2, -1, -1, -1))
        assert torch.equal(pasted[..., m[0] == 0], plain[..., m[0] == 0])


# the shipped priors


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion32", "faces32", "cats64"])
def test_shipped_priors_pass_with_pictures_held_out_and_fail_with_others(name: str) -> None:
    prior = load_prior(name)
    x = held_out_images()[0][:16] if name == "fashion32" else draw_held_out(name, 16)[0]
    found = vp.check_prior(prior, x)
    assert found.sound and max(found.alternatives.values()) < 1.04, found.alternatives
    assert r"on [0, 1]" in vp.check_prior(prior, (x + 1) / 2).verdict
    if x.shape[1] == 3:
        assert "red and blue are swapped" in vp.check_prior(prior, x.flip(1)).verdict


@pytest.mark.slow
@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "a prior of pictures on [0, 1]"])
def test_a_fault_planted_in_fashion32_is_named(fault: str) -> None:
    plant, message = FAULTS[fault]
    found = vp.check_prior(*plant(load_prior("fashion32"), held_out_images()[0][:8]))
    assert re.search(message, found.verdict), found.verdict


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion32", "faces32", "cats64"])
def test_false_and_true_alarms(name: str) -> None:
    """Under the masks of the paper: of 32 held-out pictures at most one in four masks, of inverted ones most."""
    prior = load_prior(name)
    x = held_out_images()[0][:32] if name == "fashion32" else draw_held_out(name, 32)[0]
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    masks = [make(x.shape[-1], 32, seed=1) for kind, make in MASKS.items() if kind != "box"]
    false = sum(int(unfamiliar(prior, x, mask).sum()) for mask in masks)
    true = [unfamiliar(prior, other, masks[0]).float().mean() for other in (-x, noise)]
    assert false <= 1 and min(true) > 0.9
