"""The reference weights of four projects: converted priors compute what the authors' own modules do.

They stand in ``../shared/checkpoints`` beside the checkout; without them these tests are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from pyro_vipaint.cli.main import app
from pyro_vipaint.errors import InputError
from pyro_vipaint.models import DiffusionPrior, convert, load_prior
from pyro_vipaint.models.pretrained.convert import recognise
from pyro_vipaint.models.pretrained.convert_files import Checkpoint
from pyro_vipaint.models.pretrained.convert_networks import UNUSED, Conversion, conversion
from pyro_vipaint.models.priors.schedules import times_of
from tests.checkpoints import NAMES, REFERENCES, needs_references

pytestmark = needs_references
TOLERANCE = 2e-5  # absolute: that of the references; a wrong eps of a norm is seen at 4e-5
PUBLISHED_KINDS = {
    "edm-cifar10-cond-ddpmpp": "ResidualUNet",
    "edm-imagenet64-cond-adm": "UNet2DModel",
    "guided-diffusion-imagenet64-cond": "UNet2DModel",
    "guided-diffusion-imagenet256-uncond-narrow": "UNet2DModel",
    "ldm-cin256-v2-narrow": "LabelledUNet",
    "ldm-lsun-churches256-narrow": "ResidualUNet",
}


@pytest.fixture(scope="module", params=NAMES)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, DiffusionPrior]:
    """A converted reference by its name."""
    name, folder = request.param, tmp_path_factory.mktemp("prior")
    convert(REFERENCES / f"{name}.safetensors", folder, config=REFERENCES / f"{name}.json")
    return name, load_prior(folder)


@torch.no_grad()
def test_outputs_are_those_of_the_authors(reference: tuple[str, DiffusionPrior]) -> None:
    name, prior = reference
    io = load_file(REFERENCES / f"{name}.io.safetensors")
    check = {"edm": _check_edm, "guided": _check_adm, "ldm": _check_ldm}[name.split("-")[0]]
    check(prior, io)


def equal(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=0)


def _check_edm(prior: DiffusionPrior, io: dict[str, Tensor]) -> None:
    """D at its noise levels, with a class, and without one by the null label."""
    t = times_of(prior.schedule, io["sigma"].double())
    equal(prior.denoise(io["x"], t, class_labels=io["class_index"]), io["denoised"])
    equal(prior.denoise(io["x"], t), io["denoised_without_label"])
    network: Any = prior.denoiser.network  # type: ignore[attr-defined]
    equal(network(io["network_input"], io["c_noise"], class_labels=io["class_index"]), io["network_output"])


def _check_adm(prior: DiffusionPrior, io: dict[str, Tensor]) -> None:
    """Noise and variance."""
    network: Any = prior.denoiser.network  # type: ignore[attr-defined]
    label = {"class_labels": io["y"]} if "y" in io else {}
    equal(network(io["x"], io["timesteps"].float(), **label), io["output"])


def _check_ldm(prior: DiffusionPrior, io: dict[str, Tensor]) -> None:
    """The noise, under the averaged weights where there are some; the latents and pictures of the autoencoder."""
    network: Any = prior.denoiser.network  # type: ignore[attr-defined]
    label = {"class_labels": io["class_index"]} if "class_index" in io else {}
    wanted = next(io[name] for name in ("eps_ema_weights", "eps_raw_weights", "eps") if name in io)
    equal(network(io["x"], io["timesteps"].float(), **label), wanted)
    if "given_context" in io:  # tokens enough that cross-attention matters
        module = network.network.module
        given: Any = UNet2DConditionModel.forward(module, io["x"], io["timesteps"], io["given_context"])
        equal(given.sample, io["eps_from_given_context"])
    equal(prior.encode(io["image"]), io["latent_scaled"])
    equal(prior.decode(io["latent"]), io["decoded_from_latent"])
    equal(prior.decode(io["latent_scaled"]), io["decoded_image"])  # the two in a chain double the rounding


def published(name: str) -> tuple[dict[str, Any], dict[str, Tensor], Conversion]:
    """The published network at full size, without numbers and without any configuration."""
    told = json.loads((REFERENCES / f"{name}.json").read_text())["published"]
    tensors = {key: torch.empty(shape, device="meta") for key, shape in told["shapes"].items()}
    return told, tensors, conversion(Checkpoint(tensors), recognise(tensors))


@pytest.mark.parametrize("name", PUBLISHED_KINDS)
def test_every_published_key_is_used_once_at_full_size(name: str) -> None:
    """The networks hold the published numbers and no others, but for what is stated here, key by key.

    Not in the networks are the tables of schedules, the raw weights where there are averages, the filters and the
    augmentation of EDM; EDM's classes have a row more, for no class, and where they had a bias, that row is it.
    """
    told, tensors, made = published(name)
    assert made.parts["unet"].kind == PUBLISHED_KINDS[name]
    raw = any(key.startswith("model_ema.") for key in tensors)
    unused = {
        key
        for key in tensors
        if UNUSED.fullmatch(key) or key.endswith(("resample_filter", "map_augment.weight")) or key == "scale_factor"
        or (raw and key.startswith("model.diffusion_model."))
    }  # fmt: skip
    used = sum(value.numel() for key, value in tensors.items() if key not in unused)
    if name.startswith("edm"):
        rows = next(value for key, value in tensors.items() if key.endswith("map_label.weight"))
        used += 0 if any(key.endswith("map_label.bias") for key in tensors) else rows.shape[0]
    held = sum(value.numel() for part in made.parts.values() for value in part.tensors.values())
    assert held == used
    assert sum(value.numel() for value in tensors.values()) == told["state_dict_elements"]


@pytest.mark.parametrize("name", PUBLISHED_KINDS)
def test_a_published_key_less_or_more_is_refused(name: str) -> None:
    """Without its last weight, or with a copy of it under another name, nothing is converted."""
    _, tensors, made = published(name)
    key = [key for key in tensors if "conv" in key or "proj_out" in key][-1]
    fewer = {other: value for other, value in tensors.items() if other != key}
    more = tensors | {f"{key}.copy": tensors[key]}
    for changed in (fewer, more):
        with pytest.raises(InputError, match=r"\w"):
            conversion(Checkpoint(changed), made.kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_convert_then_inpaint(tmp_path: Path, name: str) -> None:
    """``vipaint convert``, then ``vipaint inpaint`` with the result, in the fewest steps."""
    source = REFERENCES / name
    made = _run("convert", f"{source}.safetensors", "--to", tmp_path / "prior", "--config", f"{source}.json")
    assert f"--prior {tmp_path / 'prior'}" in made
    prior = load_prior(tmp_path / "prior")
    _, height, width = prior.image_shape
    mask = np.full((height, width), 255, np.uint8)
    mask[height // 4 : height // 2] = 0
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    few = ("--levels", 2, "--steps", 1, "--refine-steps", 1, "--samples", 1, "--device", "cpu")
    label = ("--label", 1) if prior.class_names else ()
    _run("inpaint", tmp_path / "image.png", "--mask", tmp_path / "mask.png", "--out", tmp_path / "out",
         "--prior", tmp_path / "prior", *few, *label)  # fmt: skip
    completed = np.asarray(Image.open(tmp_path / "out" / "sample_00.png"))
    assert completed.shape == (height, width, 3)


def _run(*words: object) -> str:
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.stdout
