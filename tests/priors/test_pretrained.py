"""Loading priors from diffusers' layout; unsafe and unsupported files are refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    ScoreSdeVeScheduler,
    UNet2DModel,
)
from safetensors.torch import save_file
from torch import Tensor

from pyro_vipaint.errors import InputError
from pyro_vipaint.models import DiffusionPrior, embedded_priors, from_diffusers, load_prior
from pyro_vipaint.models.pretrained import load as pretrained
from tests import networks

EVENT = (1, 8, 8)
CLASSES = 4  # three named ones and "no label"
DETAILS = {"sigma_data": 0.6, "classes": ["bag", "boot", "coat"], "null_label": 1}


def random_unet(classes: int | None = CLASSES, **settings: Any) -> UNet2DModel:
    """The shared network with so many class embeddings."""
    return networks.random_unet(num_class_embeds=classes, **settings)


def save(folder: Path, network: UNet2DModel, scheduler: Any, details: dict[str, Any] | None = None) -> Path:
    """The layout of a pipeline's save_pretrained, with our prior.json."""
    network.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    if details is not None:
        (folder / "prior.json").write_text(json.dumps(details), encoding="utf-8")
    return folder


def latents() -> Tensor:
    """Three images of noise."""
    return torch.randn(3, *EVENT)


def test_a_prior_describes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Event shape, noise range, classes, sigma_data and name come from the folder, which a hub may have fetched."""
    folder = save(tmp_path / "snapshot", random_unet(), EDMEulerScheduler(sigma_data=0.6, sigma_max=50.0), DETAILS)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    prior = load_prior("owner/shirts")
    assert prior.event_shape == EVENT
    assert prior.noise_range == pytest.approx((0.002, 50.0))
    assert prior.class_names == ("bag", "boot", "coat")
    assert prior.sigma_data == 0.6
    assert prior.name == "shirts"
    z = latents().requires_grad_()
    prior.denoise(z, 0.5).sum().backward()
    assert z.grad is not None and z.grad.abs().max() > 0


def test_without_a_null_label_a_label_is_required(tmp_path: Path) -> None:
    """Without null_label in prior.json no class means "no label"; unnamed classes have their numbers as names."""
    prior = load_prior(save(tmp_path, random_unet(), EDMEulerScheduler()))
    assert prior.class_names == ("0", "1", "2", "3")
    with pytest.raises(InputError, match="give a label"):
        prior.denoise(latents(), 0.5)


def test_from_diffusers_equals_the_saved_pipeline(tmp_path: Path) -> None:
    """A pipeline in memory and the same one saved and loaded give the same denoised images and transitions."""
    pipeline = DDIMPipeline(random_unet(None), DDIMScheduler(beta_schedule="squaredcos_cap_v2"))
    pipeline.save_pretrained(tmp_path)
    ours, theirs, z = from_diffusers(pipeline), load_prior(tmp_path), latents()
    assert ours.event_shape == theirs.event_shape
    step, other = ours.transition(z, 0.6, 0.5), theirs.transition(z, 0.6, 0.5)
    torch.testing.assert_close(step.mean, other.mean)
    torch.testing.assert_close(step.stddev, other.stddev)
    assert ours.denoise(z, 0.6).std() > 0.01


def test_a_network_at_the_root_of_the_folder_is_found(tmp_path: Path) -> None:
    """Without a unet folder the network is read from the root."""
    network = random_unet(None)
    network.save_pretrained(tmp_path)
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    z = latents()
    nested = load_prior(save(tmp_path / "nested", network, DDPMScheduler()))
    torch.testing.assert_close(load_prior(tmp_path).denoise(z, 0.5), nested.denoise(z, 0.5))


def test_rectangular_networks_keep_their_shape(tmp_path: Path) -> None:
    """A sample_size of (height, width) is the event shape."""
    for size in ((8, 16), [16, 8]):
        prior = load_prior(save(tmp_path, random_unet(None, sample_size=size), DDPMScheduler()))
        assert prior.event_shape == (1, *size)


class Bomb:
    """An object that writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "opened")


def test_a_pickle_beside_safetensors_is_left_alone(tmp_path: Path) -> None:
    """With both kinds of weights in the folder the safetensors are read, and the pickle never runs."""
    network, target = random_unet(None), tmp_path / "opened"
    folder = save(tmp_path / "prior", network, DDPMScheduler(clip_sample=False))
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb(target)))
    prior, z = load_prior(folder), latents()
    with torch.no_grad():
        expected = DDPMScheduler(clip_sample=False).step(network(z, 500).sample, 500, z, return_dict=False)[1]
    torch.testing.assert_close(prior.denoise(z, 0.501), expected, rtol=1e-3, atol=1e-4)
    assert not target.exists()


def test_safetensors_of_another_name_do_not_let_a_pickle_in(tmp_path: Path) -> None:
    """With an unrelated safetensors file beside it a pickle does not run, and one of true weights is not read."""
    network, target = random_unet(None), tmp_path / "opened"
    folder = save(tmp_path / "prior", network, DDPMScheduler())
    next((folder / "unet").glob("*.safetensors")).unlink()
    save_file({"a": torch.zeros(1)}, folder / "unet" / "other.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(InputError):
        load_prior(folder)
    assert not target.exists()
    torch.save(network.state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="not opened"):
        load_prior(folder)


def test_an_unknown_name_lists_the_shipped_priors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is neither shipped nor a folder raises InputError with the names that are."""
    for name in ("digits", "faces"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prior.json").write_text("{}", encoding="utf-8")
    (tmp_path / "no_prior").mkdir()
    monkeypatch.setattr(pretrained, "weights_folder", lambda: tmp_path)
    assert embedded_priors() == ["digits", "faces"]
    with pytest.raises(InputError, match=r"'shirts'.*digits, faces, a folder"):
        load_prior("shirts")


def test_a_hub_id_that_cannot_be_fetched_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a connection owner/name raises InputError, and no file that could be a pickle is requested."""
    patterns: list[str] = []

    def unreachable(name: str, allow_patterns: list[str], **_: Any) -> str:
        patterns.extend(allow_patterns)
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(InputError, match=r"owner/nothing.*hub"):
        load_prior("owner/nothing")
    assert patterns and all(pattern.endswith((".json", ".safetensors", "merges.txt")) for pattern in patterns)


def test_other_names_are_refused_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths that do not exist, addresses and empty names raise InputError without a request to the hub."""

    for name in ("", "../weights", "a/b/c", "https://host/name", "no such folder"):

        def asked(*_: Any, **__: Any) -> str:
            raise AssertionError("the hub was asked")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)
        with pytest.raises(InputError):
            load_prior(name)


def test_a_folder_cannot_name_code_as_its_scheduler(tmp_path: Path) -> None:
    """A scheduler folder that names a pipeline with code of its own raises InputError, and the code never runs."""
    folder, target = save(tmp_path / "prior", random_unet(None), DDPMScheduler()), tmp_path / "opened"
    scheduler = folder / "scheduler"
    code = "from diffusers import DiffusionPipeline\nclass Own(DiffusionPipeline):\n    pass\n"
    (scheduler / "own.py").write_text(f"open({str(target)!r}, 'w').close()\n{code}", encoding="utf-8")
    (scheduler / "model_index.json").write_text(json.dumps({"_class_name": ["own", "Own"]}), encoding="utf-8")
    for kind in ("NoSuchScheduler", "DiffusionPipeline", "UNet2DModel", "utils", ["own", "Own"], None):
        (scheduler / "scheduler_config.json").write_text(json.dumps({"_class_name": kind}), encoding="utf-8")
        with pytest.raises(InputError, match="scheduler"):
            load_prior(folder)
        assert not target.exists()


MISFITS: list[tuple[Any, str]] = [
    ([1], "cannot be read as a JSON object"),
    ({"sigma_data": "x"}, "sigma_data in prior.json must be positive and finite, not 'x'"),
    ({"sigma_data": -1}, "must be positive and finite, not -1"),
    ({"classes": "abcd"}, "classes in prior.json must be a list of at most as many different names, not 'abcd'"),
    ({"classes": ["a"] * (CLASSES + 1)}, "The network has 4 classes: .*list of at most as many different names, not"),
    ({"null_label": CLASSES}, "null_label in prior.json, for 4 classes, must be at most 3, not 4"),
    ({"null_label": 1.5}, "null_label .* must be a whole number, not 1.5"),
]


def test_details_that_do_not_fit_the_network_are_refused(tmp_path: Path) -> None:
    """Otherwise they would fail much later, as an index out of range inside the network."""
    for details, message in MISFITS:
        folder = save(tmp_path / "prior", random_unet(), EDMEulerScheduler(), details)
        with pytest.raises(InputError, match=message):
            load_prior(folder)


def test_a_folder_that_is_incomplete_is_refused(tmp_path: Path) -> None:
    """Missing weights, another kind of model, a missing scheduler and broken JSON each raise InputError."""
    with pytest.raises(InputError, match=r"config\.json does not exist"):
        load_prior(tmp_path)
    folder = save(tmp_path / "prior", random_unet(None), DDPMScheduler())
    (weights,) = (folder / "unet").glob("*.safetensors")
    weights.rename(tmp_path / "kept")
    with pytest.raises(InputError, match="no weights"):
        load_prior(folder)
    (tmp_path / "kept").rename(weights)
    config = folder / "unet" / "config.json"
    whole = config.read_text(encoding="utf-8")
    config.write_text(whole.replace("UNet2DModel", "AutoencoderKL"), encoding="utf-8")
    with pytest.raises(InputError, match="AutoencoderKL"):
        load_prior(folder)
    config.write_text(whole, encoding="utf-8")
    (folder / "scheduler").rename(folder / "elsewhere")
    with pytest.raises(InputError, match="scheduler"):
        load_prior(folder)
    (folder / "elsewhere").rename(folder / "scheduler")
    (folder / "prior.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"prior\.json"):
        load_prior(folder)


def test_parts_that_would_be_misread_are_refused() -> None:
    """Missing parts, another noise schedule, prediction or size than those implemented; never a wrong prior."""
    unknown: dict[str, Any] = {"prediction_type": "flow"}
    schedulers: tuple[Any, ...] = (
        ScoreSdeVeScheduler(),
        EDMEulerScheduler(prediction_type="v_prediction"),
        EDMEulerScheduler(sigma_schedule="exponential"),
        EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"),
        FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        None,
    )
    network = random_unet(None)
    parts = [(network, scheduler, type(scheduler).__name__) for scheduler in schedulers]
    parts += [(network, DDPMScheduler(**unknown), "prediction_type flow"), (None, None, "^SimpleNamespace: ")]
    parts += [
        (random_unet(None, **s), DDPMScheduler(), "sample_size") for s in ({"out_channels": 2}, {"sample_size": None})
    ]
    for unet, scheduler, reason in parts:
        with pytest.raises(InputError, match=reason):
            from_diffusers(SimpleNamespace(unet=unet, scheduler=scheduler))


@pytest.mark.parametrize("name", embedded_priors())
def test_shipped_priors_load(name: str) -> None:
    """Every prior that ships loads by its name and denoises an image of its own shape."""
    prior = load_prior(name)
    assert isinstance(prior, DiffusionPrior)
    z = torch.randn(1, *prior.event_shape)
    denoised = prior.denoise(z, 0.3)
    assert denoised.shape == z.shape
    assert denoised.isfinite().all()
