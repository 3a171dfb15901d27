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
from pyro_vipaint.models import from_diffusers, load_prior
from pyro_vipaint.models.pretrained.components import ENCODERS, NETWORKS, read_network
from tests import pipelines
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


def tensors(change: Callable[[dict[str, torch.Tensor]], Any], name: str = f"unet/{STEM}.safetensors") -> Damage:
    """The safetensors file holds other tensors."""

    def damage(folder: Path) -> None:
        state = load_file(folder / name)
        change(state)
        save_file(state, folder / name, {"format": "pt"})

    return damage


TOKENS = "embeddings.token_embedding.weight"


def rewritten(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    """The text encoder has other tensors."""
    return tensors(change, "text_encoder/model.safetensors")


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
    "a million layers": (entry(UNET, layers_per_block=10**6), "it has far more parameters than the 105 in the file"),
    "100 000 layers": (entry(UNET, layers_per_block=100_000), "it has far more parameters than the 105 in the file"),
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
    "null for a number": (entry(UNET, downsample_padding=None), "has null for downsample_padding"),
    "a list for a number": (entry(UNET, mid_block_scale_factor=[1]), r"has \[1\] for mid_block_scale_factor"),
    "no steps": (entry(SCHEDULER, num_train_timesteps=0), "must be at least 1, not 0"),
    "unknown betas": (entry(SCHEDULER, beta_schedule="own"), "does not describe a DDPMScheduler"),
    "rising table": (entry(SCHEDULER, beta_start=-1.0), "alphas_cumprod must be"),
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


CLIP, WORDS = "text_encoder", "tokenizer/tokenizer_config.json"
REFUSED_TEXTS: dict[str, tuple[Damage, str]] = {
    "index of a pickle": (
        entry(f"{CLIP}/model.safetensors.index.json", weight_map={"a": "pytorch_model.bin"}),
        "names 'pytorch_model.bin', not safetensors files",
    ),
    "missing": (rewritten(lambda state: state.popitem()), "the weights do not fit the CLIPTextModel .* is missing"),
    "surplus": (rewritten(lambda state: state.update(a=torch.ones(1))), "CLIPTextModel of config.json: a is surplus"),
    "shape": (rewritten(lambda state: state.update({TOKENS: state[TOKENS][:9].clone()})), rf"{TOKENS} is of shape"),
    "NaN": (rewritten(lambda state: nan(state[TOKENS])), f"{TOKENS} holds numbers that are NaN"),
    "100 000 layers": (entry(f"{CLIP}/config.json", num_hidden_layers=100_000), "far more parameters than the"),
    "wide": (
        entry(f"{CLIP}/config.json", hidden_size=10**6),
        "config.json has [0-9]+ numbers, not",
    ),
    "own code": (entry(WORDS, auto_map={"AutoTokenizer": ["own.Own", None]}), "entry auto_map, which is not followed"),
    "vocabulary elsewhere": (entry(WORDS, fast_tokenizer_files=["../x/tokenizer.1.json"]), "fast_tokenizer_files"),
    "a prompt of 10^9 tokens": (entry(WORDS, model_max_length=10**9), "model_max_length .* must be at most 10000"),
    "a prompt longer than the encoder's": (entry(WORDS, model_max_length=99), "encoders do not fit their tokenizers"),
    "pipe": (special("tokenizer/merges.txt", os.mkfifo), "merges.txt is not a file"),
    "link": (special("tokenizer/vocab.json", lambda path: path.symlink_to("/dev/zero")), "is a link that leaves"),
}


@pytest.fixture(scope="module")
def good_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latent prior with a text encoder."""
    folder = tmp_path_factory.mktemp("text")
    pipelines.stable_diffusion().save_pretrained(folder)
    return folder


QUICK = {"index of a pickle", "missing", "own code", "a prompt of 10^9 tokens"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in REFUSED_TEXTS]
)
def test_a_damaged_text_part_is_refused(name: str, good_text: Path, tmp_path: Path) -> None:
    """As the network is; neither a pickle nor code beside the vocabulary runs."""
    damage, message = REFUSED_TEXTS[name]
    folder, canary = tmp_path / "prior", tmp_path / "opened"
    shutil.copytree(good_text, folder)
    (folder / CLIP / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(canary)))
    (folder / "tokenizer" / "own.py").write_text(f"open({str(canary)!r}, 'w')")
    damage(folder)
    refused(lambda: load_prior(folder), message)
    assert not canary.exists()


def weights_of(network: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(network: Any, expected: dict[str, torch.Tensor]) -> None:
    found = network.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_older_names_and_several_files_load(tmp_path: Path) -> None:
    """Old names of attention and of text encoders, and weights in several files, load bit for bit."""
    vq, clip, transformer = pipelines.random_vq(), pipelines.random_clip(False), pipelines.random_transformer()
    for name, network in (("vqvae", vq), ("text_encoder", clip)):
        network.save_pretrained(tmp_path / name)
        (path,) = (tmp_path / name).glob("*.safetensors")
        old = load_file(path)
        if name == "vqvae":
            pairs = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
            for new, former in pairs.items():
                old = {key.replace(f".{new}.", f".{former}."): value for key, value in old.items()}
            assert sum(".proj_attn." in key for key in old) == 4
        else:
            old = {f"text_model.{key}": value for key, value in old.items()}
            old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        save_file(old, path, {"format": "pt"})
    transformer.save_pretrained(tmp_path / "transformer", max_shard_size="20KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 2
    for name, network in (("vqvae", vq), ("text_encoder", clip), ("transformer", transformer)):
        kinds = {**NETWORKS, **ENCODERS}[name]
        same(read_network(tmp_path / name, kinds, torch.float32), weights_of(network))
        half = read_network(tmp_path / name, kinds, torch.bfloat16)
        same(half, {key: value.bfloat16() for key, value in weights_of(network).items()})


def test_a_snapshot_of_the_hub_loads(good: Path, tmp_path: Path) -> None:
    """Its files are links to the blobs of the cache; the same links in any other folder lead out."""
    blobs, folder = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "1f"
    shutil.copytree(good, folder)
    blobs.mkdir()
    for number, path in enumerate(path for path in folder.rglob("*") if path.is_file()):
        shutil.move(path, blobs / str(number))
        path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
    z = torch.randn(1, 1, 8, 8)
    condition = {"class_labels": torch.tensor([1])}
    assert torch.equal(load_prior(folder).denoise(z, 0.5, **condition), load_prior(good).denoise(z, 0.5, **condition))
    shutil.move(tmp_path / "models--a--b", tmp_path / "other")
    (tmp_path / "other" / "snapshots").rename(tmp_path / "other" / "copies")
    refused(lambda: load_prior(tmp_path / "other" / "copies" / "1f"), "is a link that leaves the folder")


def test_objects_that_are_no_priors_are_refused() -> None:
    """With what to give instead."""
    network = random_unet()
    sources: list[Any] = [network, 123, None, ["fashion32"]]
    for source in sources:
        refused(lambda source=source: load_prior(source), f"not a {type(source).__name__}: pipelines go to from_diff")
    for name in ("", "a" * 5000, "a\0b"):
        refused(lambda name=name: load_prior(name), "Unknown prior")
    for pipeline in (network, None, diffusers.DDPMPipeline, "fashion32"):
        refused(lambda pipeline=pipeline: from_diffusers(pipeline), "from_diffusers takes a pipeline with a unet or")
    refused(lambda: load_prior("fashion32", dtype=torch.int8), "dtype must be a floating-point type")
    refused(lambda: load_prior("fashion32", "nowhere"), "Device 'nowhere' is not available")


def test_a_variant_alone_is_named(tmp_path: Path) -> None:
    """``save_pretrained(folder, variant="fp16")`` writes weights under another name."""
    pipeline = diffusers.DDPMPipeline(random_unet(), diffusers.DDPMScheduler())
    pipeline.save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(InputError, match=r"unet has only diffusion_pytorch_model\.fp16\.safetensors, a variant"):
        load_prior(tmp_path)
