"""Folders that nobody vouches for: what is opened, what is refused, and that a refusal is one line and cheap."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from pyro_vipaint.errors import InputError
from pyro_vipaint.models import load_prior
from tests.networks import random_unet
from tests.priors.test_pretrained import Bomb

STEM = "diffusion_pytorch_model"
NAME = "conv_in.weight"  # of a tensor
UNET, SCHEDULER, PRIOR = "unet/config.json", "scheduler/scheduler_config.json", "prior.json"
Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pixel prior with four classes."""
    folder = tmp_path_factory.mktemp("good")
    random_unet(num_class_embeds=4).save_pretrained(folder / "unet")
    diffusers.DDPMScheduler().save_pretrained(folder / "scheduler")
    return folder


def text(name: str, content: str | bytes) -> Damage:
    """The file holds something else."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def entry(name: str, **changes: Any) -> Damage:
    """The JSON file has other entries."""

    def damage(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))

    return damage


def weights(folder: Path) -> Path:
    return folder / "unet" / f"{STEM}.safetensors"


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    """The safetensors file holds other tensors."""

    def damage(folder: Path) -> None:
        state = load_file(weights(folder))
        change(state)
        save_file(state, weights(folder))

    return damage


def replaced(convert: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    """One tensor is another."""
    return tensors(lambda state: state.update({NAME: convert(state[NAME])}))


def header(length: int | None = None, **entries: Any) -> Damage:
    """The safetensors file has a header with these entries and 8 bytes of numbers."""
    content = json.dumps(entries).encode()
    return lambda folder: weights(folder).write_bytes(
        struct.pack("<Q", len(content) if length is None else length) + content + bytes(8)
    )


def floats(start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}


def moved(target: str, link: bool = False) -> Damage:
    """The weights lie elsewhere, and the index names them or a link leads there."""

    def damage(folder: Path) -> None:
        there = (folder / "unet" / target).resolve()
        there.parent.mkdir(exist_ok=True)
        shutil.move(weights(folder), there)
        if link:
            weights(folder).symlink_to(there)
        else:
            index(target)(folder)

    return damage


def index(target: Any) -> Damage:
    return entry(f"unet/{STEM}.safetensors.index.json", metadata={}, weight_map={NAME: target})


def special(name: str, make: Callable[[Path], Any]) -> Damage:
    """The file is something else than a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return damage


def nan(value: torch.Tensor) -> torch.Tensor:
    value.view(-1)[3] = float("nan")
    return value


DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
REFUSED: dict[str, tuple[Damage, str]] = {
    # which weights are opened
    "index of a pickle": (index(f"{STEM}.bin"), "names 'diffusion_pytorch_model.bin', not safetensors files"),
    "index of a pickle, renamed": (index("bomb.safetensors"), "bomb.safetensors cannot be read as a safetensors file"),
    "index of another folder": (moved("../../elsewhere/a.safetensors"), r"names '\.\./\.\./elsewhere"),
    "index of an absolute path": (index("/a.safetensors"), "names '/a.safetensors'"),
    "index of a number": (index(3), "names '3'"),
    "index of nothing": (entry(f"unet/{STEM}.safetensors.index.json", weight_map={}), "not safetensors files"),
    "index without a map": (entry(f"unet/{STEM}.safetensors.index.json", weight_map=[1]), "not safetensors files"),
    "dummy beside a pickle": (
        lambda folder: weights(folder).rename(folder / "unet" / "a.safetensors"),
        f"only {STEM}.bin, a pickle",
    ),
    "link that leaves the folder": (moved("../../secret.safetensors", link=True), "is a link that leaves the folder"),
    "link to a device": (special(UNET, lambda path: path.symlink_to("/dev/zero")), "is a link that leaves"),
    "link to itself": (special(UNET, lambda path: path.symlink_to(path)), "cannot be read"),
    # what they hold
    "missing": (tensors(lambda state: state.pop(NAME)), r"conv_in\.weight is missing, needed of shape \(8, 1, 3, 3\)"),
    "surplus": (tensors(lambda state: state.update(a=torch.ones(1))), r"a is of shape \(1,\), needed missing"),
    "shape": (replaced(lambda value: value[:, :, :2].contiguous()), r"conv_in\.weight is of shape \(8, 1, 2, 3\)"),
    "integers": (replaced(lambda value: value.int()), r"conv_in\.weight as I32, not as floating-point numbers"),
    "complex": (replaced(lambda value: value * 1j), r"conv_in\.weight as C64"),
    "NaN": (replaced(nan), r"conv_in\.weight holds numbers that are NaN or infinite"),
    "infinite": (replaced(lambda value: value / 0), r"conv_in\.weight holds numbers"),
    "too large for the type": (replaced(lambda value: value.double() * 1e300), r"conv_in\.weight holds numbers"),
    # safetensors files
    "empty": (text(f"unet/{STEM}.safetensors", ""), "cannot be read as a safetensors file"),
    "truncated": (lambda folder: os.truncate(weights(folder), 5000), "cannot be read as a safetensors file"),
    "header of 2^60 bytes": (header(2**60), "cannot be read as a safetensors file"),
    "overlapping offsets": (header(a=floats(0, 8), b=floats(4, 8)), "cannot be read as a safetensors file"),
    "offsets beyond the file": (header(a=floats(0, 2**40)), "cannot be read as a safetensors file"),
    "huge shape": (header(a={**floats(0, 8), "shape": [2**62, 2**62]}), "cannot be read as a safetensors file"),
    "nested header": (text(f"unet/{STEM}.safetensors", struct.pack("<Q", len(DEEP)) + DEEP.encode()), "safetensors"),
    # configurations
    "a million pixels": (entry(UNET, sample_size=10**6), "sample_size of the network must be at most 4096"),
    "no pixels": (entry(UNET, sample_size=0), "sample_size of the network must be at least 1"),
    "three sides": (entry(UNET, sample_size=[8, 8, 8]), "sample_size of the network must be a whole number"),
    "text for a size": (entry(UNET, sample_size="8"), "sample_size of the network must be a whole number"),
    "a million layers": (entry(UNET, layers_per_block=10**6), "it has more than .* parameters"),
    "100 000 layers": (entry(UNET, layers_per_block=100_000), "it has more than .* parameters"),
    "10 000 blocks": (entry(UNET, down_block_types=["DownBlock2D"] * 10_000), "does not describe a UNet2DModel"),
    "wide": (entry(UNET, block_out_channels=[10**9, 10**9]), "block_out_channels 1e.09; numbers up to 1000000"),
    "wide, within the bounds": (entry(UNET, block_out_channels=[10**6, 10**6]), "is of shape"),
    "wider than 64 bits": (entry(UNET, block_out_channels=[10**18, 10**18]), "numbers up to 1000000"),
    "negative": (entry(UNET, block_out_channels=[-8, 16]), "does not describe a UNet2DModel"),
    "text": (entry(UNET, block_out_channels="many"), "does not describe a UNet2DModel"),
    "no groups": (entry(UNET, norm_num_groups=0), "does not describe a UNet2DModel"),
    "NaN in a configuration": (text(UNET, '{"_class_name": "UNet2DModel", "norm_eps": NaN}'), "as a JSON object"),
    "quantised": (entry(UNET, quantization_config={"quant_method": "x"}), "entry quantization_config"),
    "own code": (entry(UNET, auto_map={"AutoModel": "own.Own"}), "entry auto_map"),
    "a class that is no text": (entry(UNET, _class_name={"a": [1]}), "holds a {'a': \\[1\\]}, not a UNet2DModel"),
    "architectures that are no list": (entry(UNET, _class_name=None, architectures=3), "holds a None"),
    # JSON
    "deep": (text(UNET, DEEP), "cannot be read as a JSON object"),
    "huge": (text(UNET, '{"a": "' + "a" * 2**21 + '"}'), "has 2097161 bytes; at most 1048576 are read"),
    "overflow": (text(UNET, '{"a": 1e999}'), "cannot be read as a JSON object"),
    "long number": (text(UNET, '{"a": 1' + "0" * 400 + "}"), "cannot be read as a JSON object"),
    "an entry twice": (text(UNET, '{"a": 1, "a": 2}'), "cannot be read as a JSON object"),
    "no Unicode": (text(UNET, b"\xff\x00\xff"), "cannot be read as a JSON object"),
    "list": (text(UNET, "[]"), "cannot be read as a JSON object"),
    "pipe": (special(UNET, os.mkfifo), "config.json is not a file"),
    "folder": (special(PRIOR, Path.mkdir), "prior.json is not a file"),
    "dangling link": (special(PRIOR, lambda path: path.symlink_to("nothing")), "prior.json does not exist"),
    "pipe for weights": (special(f"unet/{STEM}.safetensors", os.mkfifo), "is not a file"),
    # schedulers
    "10^12 steps": (entry(SCHEDULER, num_train_timesteps=10**12), "num_train_timesteps 1e.12"),
    "a million steps": (entry(SCHEDULER, num_train_timesteps=10**6), "must be at most 100000, not 1000000"),
    "no steps": (entry(SCHEDULER, num_train_timesteps=0), "must be at least 1, not 0"),
    "unknown betas": (entry(SCHEDULER, beta_schedule="own"), "does not describe a DDPMScheduler"),
    "rising table": (entry(SCHEDULER, beta_start=-1.0), "alphas_cumprod must be one decreasing row"),
    "order of 10^7": (
        entry(SCHEDULER, _class_name="DPMSolverMultistepScheduler", solver_order=10**7),
        "solver_order 1e.07",
    ),
    "EDM of no width": (
        entry(SCHEDULER, _class_name="EDMEulerScheduler", sigma_data=0, prediction_type="epsilon"),
        "sigma_data of the scheduler must be positive",
    ),
    # prior.json
    "unknown entry": (entry(PRIOR, sigma_dat=0.5), "no entry of .*prior.json, 'sigma_dat': choose from sigma_data,"),
    "NaN for sigma": (text(PRIOR, '{"sigma_data": NaN}'), "cannot be read as a JSON object"),
    "classes twice": (entry(PRIOR, classes=["a", "a"]), "at most as many different names"),
    "ten million classes": (entry(PRIOR, classes=["a"] * 10**6), "at most 1048576 are read"),
    "a class of two lines": (entry(PRIOR, classes=["a\nb"]), "different names"),
    "another shape": (entry(PRIOR, event_shape=[3, 8, 8]), "states event_shape"),
}


def refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("name", REFUSED)
def test_a_damaged_folder_is_refused(name: str, good: Path, tmp_path: Path) -> None:
    """In one line, and no pickle beside the weights or among them runs."""
    damage, message = REFUSED[name]
    folder, canary = tmp_path / "prior", tmp_path / "opened"
    shutil.copytree(good, folder)
    for pickled in (f"{STEM}.bin", "bomb.safetensors"):
        (folder / "unet" / pickled).write_bytes(pickle.dumps(Bomb(canary)))
    damage(folder)
    refused(lambda: load_prior(folder), message)
    assert not canary.exists()
