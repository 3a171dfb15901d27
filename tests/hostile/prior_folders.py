"""Hostile folders of priors: nothing in them runs code, nothing outside of them is read, and all else is one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from pyro_vipaint.models import DiffusionPrior, load_prior
from tests.hostile.harness import Case
from tests.networks import random_unet
from tests.pipelines import random_vae
from tests.priors.test_pretrained import Bomb

UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
PICKLE = "unet/diffusion_pytorch_model.bin"
INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


@cache
def template() -> Path:
    """A good folder: a UNet with attention, a scheduler, an autoencoder beside it, and prior.json."""
    folder = Path(mkdtemp(prefix="hostile-prior-"))
    torch.manual_seed(0)
    random_unet(num_class_embeds=4).save_pretrained(folder / "unet")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    details = {"sigma_data": 0.6, "classes": ["bag", "boot", "coat"], "null_label": 3}
    (folder / "prior.json").write_text(json.dumps(details))
    (folder / "notes.txt").write_text("mine")
    return folder


@cache
def latent_template() -> Path:
    """A good folder of a latent prior."""
    folder = Path(mkdtemp(prefix="hostile-latent-"))
    torch.manual_seed(0)
    random_unet(in_channels=4, out_channels=4).save_pretrained(folder / "unet")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    random_vae().save_pretrained(folder / "vae")
    return folder


def covariance() -> bytes:
    """A good file of the covariance of its images."""
    vectors = torch.linalg.qr(torch.arange(128.0).reshape(64, 2).sin()).Q.T.reshape(2, 1, 8, 8)
    return save({"vectors": vectors.half(), "variances": torch.tensor([2.0, 1.0]), "rest": torch.tensor([0.1])})


def good(folder: Path, source: Callable[[], Path] = template) -> Path:
    """A copy of the good folder."""
    shutil.copytree(source(), folder / "prior")
    return folder / "prior"


Change = Callable[[Path], Any]


def load(folder: Path) -> DiffusionPrior:
    return load_prior(folder / "prior")


def case(name: str, change: Change, says: str = "", source: Callable[[], Path] = template) -> Case:
    """A good folder with one change is refused, and a canary that its pickles would leave is not there."""

    def act(folder: Path) -> DiffusionPrior:
        try:
            return load(folder)
        finally:
            assert not (folder / "ran").exists(), "a pickle was opened"

    return Case(name, act, says, lambda folder: change(good(folder, source)))


def edited(file: str, **changes: Any) -> Change:
    """Changes entries of a JSON file; None as ``...`` removes one."""

    def change(folder: Path) -> None:
        record = json.loads((folder / file).read_text()) | changes
        record = {name: value for name, value in record.items() if value is not ...}
        (folder / file).write_text(json.dumps(record))

    return change


def written(file: str, content: str | bytes | Callable[[], bytes]) -> Change:
    """Replaces a file."""

    def change(folder: Path) -> None:
        data = content() if callable(content) else content
        (folder / file).write_bytes(data.encode() if isinstance(data, str) else data)

    return change


def tensors(change: Callable[[dict[str, Tensor]], Any], file: str = WEIGHTS) -> Change:
    """Changes the weights."""

    def run(folder: Path) -> None:
        weights = load_file(folder / file)
        save_file(change(weights) or weights, folder / file, metadata={"format": "pt"})

    return run


def without(*names: str) -> Change:
    return tensors(lambda w: {name: value for name, value in w.items() if name not in names})


def with_value(value: float) -> Change:
    """One number of the first convolution becomes ``value``."""

    def change(weights: dict[str, Tensor]) -> None:
        weights["conv_in.weight"].view(-1)[0] = value

    return tensors(change)


def as_type(dtype: torch.dtype) -> Change:
    return tensors(lambda w: {name: value.to(dtype) for name, value in w.items()})


def removed(*files: str) -> Change:
    return lambda folder: [(folder / file).unlink() for file in files]


def fifo(file: str) -> Change:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return change


def linked(file: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).symlink_to(target)

    return change


def moved_out(file: str) -> Change:
    """The file lies outside of the folder, and a link in its place."""

    def change(folder: Path) -> None:
        outside = folder.parent / Path(file).name
        shutil.move(folder / file, outside)
        (folder / file).symlink_to(outside)

    return change


def as_folder(file: str) -> Change:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    return change


def pickled(folder: Path, file: str = PICKLE) -> None:
    (folder / file).write_bytes(pickle.dumps(Bomb(folder.parent / "ran")))


def then(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def index(target: str, metadata: bool = True) -> Change:
    """An index that says where every weight is."""

    def change(folder: Path) -> None:
        names = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        content = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, target)}
        (folder / INDEX).write_text(json.dumps(content if metadata else content["weight_map"]))

    return change


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(start: int = 0, stop: int = 4, dtype: str = "F32", shape: Any = (1,)) -> dict[str, Any]:
    return {"conv_in.weight": {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}}


DEEP = "[" * 100_000 + "]" * 100_000
JSONS: dict[str, str | bytes] = {
    "empty": "",
    "cut": '{"sample_size": 8,',
    "a list": "[]",
    "null": "null",
    "a string": '"UNet2DModel"',
    "a number": "8",
    "NaN": "NaN",
    "nested 100 000 deep": DEEP,
    "an entry nested 100 000 deep": '{"a": ' + DEEP + "}",
    "objects nested 100 000 deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "UTF-16": '{"sample_size": 8}'.encode("utf-16"),
    "Latin-1": '{"a": "\xe9"}'.encode("latin-1"),
    "a byte order mark": b"\xef\xbb\xbf[]",
    "null bytes": bytes(1000),
    "64 MiB of blanks": b" " * 2**26,
    "a number of a million digits": '{"sample_size": ' + "9" * 10**6 + "}",
}
CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "no class": ({"_class_name": ...}, "UNet2DModel"),
    "an unknown class": ({"_class_name": "UNet9DModel"}, "UNet2DModel"),
    "a class of another module": ({"_class_name": "os.system"}, "UNet2DModel"),
    "a class that is a list": ({"_class_name": ["UNet2DModel"]}, "UNet2DModel"),
    "sample_size of a million": ({"sample_size": 10**6}, ""),
    "sample_size negative": ({"sample_size": -8}, "size"),
    "sample_size 0": ({"sample_size": 0}, "size"),
    "sample_size None": ({"sample_size": None}, "size"),
    "sample_size a string": ({"sample_size": "8"}, "size"),
    "sample_size 8.5": ({"sample_size": 8.5}, "size"),
    "sample_size NaN": ({"sample_size": float("nan")}, "size|JSON"),
    "sample_size infinite": ({"sample_size": float("inf")}, "size|JSON"),
    "sample_size three numbers": ({"sample_size": [8, 8, 8]}, "size"),
    "sample_size True": ({"sample_size": True}, "size"),
    "sample_size of 400 digits": ({"sample_size": 10**400}, "size|JSON"),
    "100 000 layers a block": ({"layers_per_block": 100_000}, ""),
    "a million layers a block": ({"layers_per_block": 10**6}, ""),
    "layers as a string": ({"layers_per_block": "1"}, ""),
    "layers negative": ({"layers_per_block": -1}, ""),
    "channels of 10^9": ({"block_out_channels": [10**9, 10**9]}, ""),
    "channels negative": ({"block_out_channels": [-8, 16]}, ""),
    "channels 0": ({"block_out_channels": [0, 16]}, ""),
    "channels a string": ({"block_out_channels": "8, 16"}, ""),
    "channels NaN": ({"block_out_channels": [float("nan"), 16]}, ""),
    "100 000 blocks": (
        {"block_out_channels": [8] * 100_000, "down_block_types": ["DownBlock2D"] * 100_000,
         "up_block_types": ["UpBlock2D"] * 100_000}, "",
    ),
    "a block missing": ({"down_block_types": ["DownBlock2D"]}, ""),
    "an unknown block": ({"down_block_types": ["DownBlock9D", "DownBlock2D"]}, ""),
    "in_channels 10^9": ({"in_channels": 10**9}, ""),
    "in_channels 3": ({"in_channels": 3}, ""),
    "in_channels a string": ({"in_channels": "1"}, ""),
    "classes 10^12": ({"num_class_embeds": 10**12}, ""),
    "classes negative": ({"num_class_embeds": -4}, ""),
    "groups 3": ({"norm_num_groups": 3}, ""),
    "groups 0": ({"norm_num_groups": 0}, ""),
    "an unknown activation": ({"act_fn": "os.system"}, ""),
    "another embedding of time": ({"time_embedding_type": "clock"}, ""),
    "text embedding": ({"class_embed_type": "timestep"}, ""),
}  # fmt: skip
SCHEDULERS: dict[str, tuple[dict[str, Any], str]] = {
    "no class": ({"_class_name": ...}, "scheduler"),
    "a class that is no scheduler": ({"_class_name": "UNet2DModel"}, "scheduler"),
    "a pipeline": ({"_class_name": "DDPMPipeline"}, "scheduler"),
    "a class that is a list": ({"_class_name": ["DDPMScheduler"]}, "scheduler"),
    "10^12 steps": ({"num_train_timesteps": 10**12}, ""),
    "10^8 steps": ({"num_train_timesteps": 10**8}, ""),
    "0 steps": ({"num_train_timesteps": 0}, ""),
    "-5 steps": ({"num_train_timesteps": -5}, ""),
    "steps a string": ({"num_train_timesteps": "1000"}, ""),
    "steps NaN": ({"num_train_timesteps": float("nan")}, ""),
    "beta NaN": ({"beta_start": float("nan")}, ""),
    "beta above one": ({"beta_end": 5.0}, ""),
    "beta negative": ({"beta_start": -0.1, "beta_end": -0.2}, ""),
    "beta a string": ({"beta_start": "small"}, ""),
    "an unknown beta schedule": ({"beta_schedule": "steep"}, ""),
    "trained betas of ten million": ({"trained_betas": [0.1] * 10**6}, ""),
    "an unknown prediction": ({"prediction_type": "future"}, "prediction|support"),
}
DETAILS: dict[str, tuple[dict[str, Any], str]] = {
    "sigma_data NaN": ({"sigma_data": float("nan")}, "sigma_data|JSON"),
    "sigma_data negative": ({"sigma_data": -0.5}, "sigma_data"),
    "sigma_data 0": ({"sigma_data": 0}, "sigma_data"),
    "sigma_data a string": ({"sigma_data": "0.5"}, "sigma_data"),
    "sigma_data infinite": ({"sigma_data": float("inf")}, "sigma_data|JSON"),
    "sigma_data a list": ({"sigma_data": [0.5]}, "sigma_data"),
    "sigma_data True": ({"sigma_data": True}, "sigma_data"),
    "sigma_data of 400 digits": ({"sigma_data": 10**400}, "sigma_data|JSON"),
    "classes a string": ({"classes": "bag"}, "classes"),
    "classes numbers": ({"classes": [1, 2, 3]}, "classes"),
    "classes too many": ({"classes": list("abcde")}, "classes"),
    "classes twice the same": ({"classes": ["bag", "bag", "coat"]}, "classes|bag"),
    "classes a million": ({"classes": ["bag"] * 10**6}, "classes|bytes"),
    "null_label too large": ({"null_label": 4}, "null_label"),
    "null_label negative": ({"null_label": -1}, "null_label"),
    "null_label a string": ({"null_label": "3"}, "null_label"),
    "null_label 3.0": ({"null_label": 3.0}, "null_label"),
    "null_label True": ({"null_label": True}, "null_label"),
    "an unknown entry": ({"sigma": 0.5}, "sigma"),
    "an unknown entry of code": ({"auto_map": {"AutoModel": "evil.py"}}, "auto_map"),
}


def cases() -> Iterator[Case]:
    for file in (UNET, SCHEDULER, "prior.json"):
        for name, content in JSONS.items():
            yield case(f"{file}: {name}", written(file, content), "json|JSON|holds a None|no scheduler None")
        yield case(f"{file}: a FIFO", fifo(file), "json|file")
        yield case(f"{file}: a folder", as_folder(file), "json|file")
        yield case(f"{file}: a link to /dev/zero", linked(file, "/dev/zero"), "json|link|file")
        yield case(f"{file}: a link to itself", linked(file, Path(file).name), "json|link|file")
        yield case(f"{file}: a link out of the folder", moved_out(file), "outside|link|leaves|leads")
    for name, (changes, says) in CONFIGS.items():
        yield case(f"unet: {name}", edited(UNET, **changes), says)
    for name, (changes, says) in SCHEDULERS.items():
        yield case(f"scheduler: {name}", edited(SCHEDULER, **changes), says)
    for name, (changes, says) in DETAILS.items():
        yield case(f"prior.json: {name}", edited("prior.json", **changes), says)


BYTES: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"1234567",
    "a pickle": pickle.dumps({"a": 1}),
    "zeros": bytes(1000),
    "a header of 2^60 bytes": safetensors({}, length=2**60),
    "a header longer than the file": safetensors({}, length=10**6),
    "a header that is a list": safetensors([]),
    "a header that is no JSON": safetensors(b"{not json"),
    "a header nested deep": safetensors(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "offsets beyond the file": safetensors(one(0, 4 * 10**9, shape=(10**9,)), bytes(4)),
    "offsets that overlap": safetensors({**one(0, 4), "conv_in.bias": one(2, 6)["conv_in.weight"]}, bytes(6)),
    "negative offsets": safetensors(one(-4, 0), bytes(4)),
    "offsets in reverse": safetensors(one(4, 0), bytes(4)),
    "a shape of 2^70": safetensors(one(0, 4, shape=(2**70,)), bytes(4)),
    "a negative shape": safetensors(one(0, 4, shape=(-1,)), bytes(4)),
    "a shape that is a string": safetensors(one(0, 4, shape="1"), bytes(4)),
    "an unknown type": safetensors(one(0, 4, dtype="F7"), bytes(4)),
    "no tensors": safetensors({}),
}

CASES = [
    *cases(),
    *[case(f"weights: {name}", written(WEIGHTS, content), "safetensors|weights|conv_in|parameters") for name,
     content in BYTES.items()],
    case("weights: cut", lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]), "safetensors|weights"),
    case("weights: bytes after the end", lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes() + b"x"),
         "safetensors|weights"),
    case("weights: missing", removed(WEIGHTS), "safetensors|weights"),
    case("weights: a convolution missing", without("conv_in.weight"), "conv_in.weight"),
    case("weights: the last bias missing", without("conv_out.bias"), "conv_out.bias"),
    case("weights: a surplus one", tensors(lambda w: w | {"extra.weight": torch.zeros(3)}), "extra.weight"),
    case("weights: of another shape", tensors(lambda w: w | {"conv_in.bias": torch.zeros(3)}), "conv_in.bias"),
    case("weights: transposed",
         tensors(lambda w: w | {"time_embedding.linear_1.weight": w["time_embedding.linear_1.weight"].T.contiguous()}),
         "time_embedding.linear_1.weight"),
    case("weights: NaN", with_value(float("nan")), "conv_in.weight"),
    case("weights: infinite", with_value(float("inf")), "conv_in.weight"),
    case("weights: whole numbers", as_type(torch.int64), "int|I64|float"),
    case("weights: bytes", as_type(torch.uint8), "int|U8|float"),
    case("weights: booleans", as_type(torch.bool), "bool|float"),
    case("weights: complex", as_type(torch.complex64), "complex|C64|float"),
    case("weights: a FIFO", fifo(WEIGHTS), "file|safetensors"),
    case("weights: a folder", as_folder(WEIGHTS), "file|safetensors|weights"),
    case("weights: a link out of the folder", moved_out(WEIGHTS), "outside|link|leaves|leads"),
    case("weights: a link to /dev/zero", linked(WEIGHTS, "/dev/zero"), "outside|link|file|leads"),
    case("weights: a pickle alone", then(removed(WEIGHTS), pickled), "pickle"),
    case("weights: a pickle under the name of safetensors", lambda f: pickled(f, WEIGHTS), "safetensors|pickle"),
    case("weights: a pickle beside a dummy",
         then(pickled, lambda f: (f / WEIGHTS).rename(f / "unet/dummy.safetensors")), "pickle|safetensors|weights"),
    case("weights: a pickle beside an empty file", then(pickled, written(WEIGHTS, b"")), "safetensors"),
    case("weights: a pickle beside others' tensors",
         then(pickled, lambda f: save_file({"a": torch.zeros(1)}, f / WEIGHTS)), "conv|weights|tensor|parameters"),
    case("index: names a pickle", then(pickled, index("diffusion_pytorch_model.bin")), "safetensors|bin"),
    case("index: names a file outside", then(index("../../stolen.safetensors")), "outside|name|folder|stolen"),
    case("index: an absolute path", index("/etc/passwd"), "outside|name|folder|passwd|safetensors"),
    case("index: names a missing shard", index("shard-1.safetensors"), "shard-1|exist"),
    case("index: names a number", index(3), "index|name"),  # type: ignore[arg-type]
    case("index: no map", index("a.safetensors", metadata=False), "weight_map|index"),
    case("index: no JSON", then(removed(WEIGHTS), written(INDEX, "{")), "json|JSON"),
    case("index: nested deep", then(removed(WEIGHTS), written(INDEX, DEEP)), "json|JSON"),
    case("index: a FIFO", then(removed(WEIGHTS), lambda f: os.mkfifo(f / INDEX)), "json|file"),
    case("a pickle of the scheduler", then(lambda f: (f / SCHEDULER).unlink(), lambda f: pickled(f,
         "scheduler/scheduler.bin")),
         "scheduler_config"),
    case("no network", lambda f: shutil.rmtree(f / "unet"), "config|unet"),
    case("no scheduler", lambda f: shutil.rmtree(f / "scheduler"), "scheduler"),
    case("an empty unet", then(lambda f: shutil.rmtree(f / "unet"), lambda f: (f / "unet").mkdir()), "config"),
    case("the unet is a file", then(lambda f: shutil.rmtree(f / "unet"), lambda f: (f / "unet").write_text("")),
         "config|unet"),
    case("the unet is a link to the folder", then(lambda f: shutil.rmtree(f / "unet"),
         lambda f: (f / "unet").symlink_to(".")),
         "config|unet"),
    case("vae: the unet in its place", lambda f: (shutil.rmtree(f / "vae"), shutil.copytree(f / "unet", f / "vae")),
         "AutoencoderKL|vae", latent_template),
    case("vae: latents of eight channels", edited("vae/config.json", latent_channels=8), "", latent_template),
    case("vae: scaling NaN", edited("vae/config.json", scaling_factor=float("nan")), "scaling|JSON", latent_template),
    case("vae: scaling 0", edited("vae/config.json", scaling_factor=0.0), "scaling", latent_template),
    case("vae: scaling a string", edited("vae/config.json", scaling_factor="0.7"), "scaling", latent_template),
    case("vae: shift infinite", edited("vae/config.json", shift_factor=float("inf")), "shift|JSON", latent_template),
    case("vae: a convolution missing",
         tensors(lambda w: {n: v for n, v in w.items() if n != "decoder.conv_in.weight"},
             "vae/diffusion_pytorch_model.safetensors"),
         "decoder.conv_in.weight", latent_template),
    case("vae: a pickle",
         lambda f: ((f / "vae/diffusion_pytorch_model.safetensors").unlink(), pickled(f,
          "vae/diffusion_pytorch_model.bin")),
         "pickle", latent_template),
    Case("an empty folder", load, "config|unet", lambda f: (f / "prior").mkdir()),
    Case("a file", load, "prior", lambda f: (f / "prior").write_text("")),
    Case("a FIFO", load, "prior", lambda f: os.mkfifo(f / "prior")),
    Case("a link to itself", load, "prior", lambda f: (f / "prior").symlink_to("prior")),
    Case("nothing", load, "prior"),
    Case("a good folder (works)", load, arrange=good, works=lambda f, p: p.class_names == ("bag", "boot", "coat")),
    Case("a good latent folder (works)", load, arrange=lambda f: good(f, latent_template), works=lambda f,
         p: p.is_latent),
    Case("a link to a good folder (works)", load, arrange=lambda f: (f / "prior").symlink_to(template()),
         works=lambda f, p: p.sigma_data == 0.6),
    Case("weights in half precision (works)", load, arrange=lambda f: as_type(torch.float16)(good(f)),
         works=lambda f, p: p.denoise(torch.zeros(1, 1, 8, 8), 0.5).isfinite().all()),
    Case("without prior.json (works)", load, arrange=lambda f: removed("prior.json")(good(f)),
         works=lambda f, p: p.class_names == ("0", "1", "2", "3")),
    Case("an unused pickle beside good weights (works or is refused)", lambda f: load(f),
         arrange=lambda f: pickled(good(f)),
         works=lambda f, p: not (f / "ran").exists()),
    Case("in shards (works)", load, arrange=lambda f: _sharded(good(f)), works=lambda f, p: torch.equal(
        p.denoise(torch.ones(1, 1, 8, 8), 0.5), load_prior(template()).denoise(torch.ones(1, 1, 8, 8), 0.5))),
]  # fmt: skip


def _sharded(folder: Path) -> None:
    """The weights in several files with an index."""
    network = UNet2DModel.from_pretrained(folder / "unet", local_files_only=True)
    (folder / WEIGHTS).unlink()
    network.save_pretrained(folder / "unet", max_shard_size="20KB")
    assert (folder / INDEX).exists()
