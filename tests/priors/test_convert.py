"""Published checkpoints become priors that compute the same; pickles are read without being run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from pyro_vipaint.errors import InputError
from pyro_vipaint.models import DiffusionPrior, convert, load_prior
from pyro_vipaint.models.pretrained.convert import recognise
from pyro_vipaint.models.pretrained.convert_files import read_checkpoint
from tests import pipelines
from tests.checkpoints import Bomb, as_adm, as_edm, edm_pickle, network, persistent, rows, torch_file

ADM = {"image_size": 8, "num_head_channels": 4, "norm_groups": 2, "use_new_attention_order": True}
SONG = {
    "attention_head_dim": None, "num_heads": 1, "min_group_channels": 4, "norm_num_groups": 32, "scale_shift": False,
    "skip_scale": math.sqrt(0.5), "norm_eps": 1e-6, "skip_kernels": True, "sines_first": True, "class_in_noise": True,
    "endpoint": True, "up_attention": "last", "num_class_embeds": 4, "layers_per_block": 2,
}  # fmt: skip
FOURIER = {"noise_embedding": "fourier", "endpoint": False, "residual_inputs": True, "resample_filter": (1, 3, 3, 1)}


def batch(classes: int = 0) -> tuple[Tensor, ...]:
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([0.1, 3.0, 41.5])
    return (x, t, torch.arange(3) % classes) if classes else (x, t)


def converted(folder: Path, tensors: Mapping[str, Tensor], config: Any = None) -> DiffusionPrior:
    save_file(dict(tensors), folder / "file.safetensors")
    convert(folder / "file.safetensors", folder / "prior", config=config)
    return load_prior(folder / "prior")


def predicted(prior: DiffusionPrior, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    return prior.denoiser.network(x, t, **({} if labels is None else {"class_labels": labels}))  # type: ignore[attr-defined]


def kind(folder: Path) -> str:
    return json.loads((folder / "prior" / "unet" / "config.json").read_text())["_class_name"]


@pytest.mark.parametrize("settings", [
    {}, {"scale_shift": False}, {"num_class_embeds": 4}, {"layers_per_block": 2, "attention_levels": (0, 1)},
    {"block_out_channels": (8, 8, 16), "attention_levels": ()},
], ids=str)  # fmt: skip
def test_the_unet_of_diffusers_computes_what_ours_does(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Two implementations of one network, and the names of guided-diffusion between them."""
    module = network(**settings)
    prior, given = converted(tmp_path, as_adm(module), ADM), batch(settings.get("num_class_embeds", 0))
    assert kind(tmp_path) == "UNet2DModel"
    torch.testing.assert_close(predicted(prior, *given), module(*given).sample, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("settings", [
    {"num_heads": 2, "attention_head_dim": None, "attention_levels": (0, 1)},
    {"base_channels": 4, "norm_num_groups": 4, "noise_channels": 16},
], ids=str)  # fmt: skip
def test_ours_holds_what_diffusers_cannot(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Heads of several widths; a first layer of another width than the first level."""
    module = network(**settings)
    config = {"image_size": 8, "norm_groups": module.config["norm_num_groups"], "use_new_attention_order": True}
    config |= {"num_heads": 2} if settings.get("num_heads") else {"num_head_channels": 4}
    prior = converted(tmp_path, as_adm(module), config)
    assert kind(tmp_path) == "ResidualUNet"
    given = batch()
    torch.testing.assert_close(predicted(prior, *given), module(*given).sample, atol=2e-6, rtol=1e-5)


def test_the_order_of_query_key_and_value_is_an_argument(tmp_path: Path) -> None:
    module, given = network(), batch()
    for order in ("qkv", "head"):
        folder = tmp_path / order
        folder.mkdir()
        config = {**ADM, "use_new_attention_order": order == "qkv"}
        prior = converted(folder, as_adm(module, order), config)
        torch.testing.assert_close(predicted(prior, *given), module(*given).sample, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, FOURIER, {"num_class_embeds": None, "class_in_noise": True}], ids=str)
@pytest.mark.parametrize("pickled", [False, True])
def test_networks_of_edm(tmp_path: Path, settings: dict[str, Any], pickled: bool) -> None:
    """DDPM++ and NCSN++, with classes and without, from safetensors and from a pickle: nothing else is stated."""
    module = network(**{**SONG, **settings})
    classes = module.config["num_class_embeds"] or 0
    given, tensors = batch(classes), as_edm(module)
    if pickled:
        (tmp_path / "network.pkl").write_bytes(edm_pickle({"ema": persistent(tensors, sigma_data=0.3)}))
        assert convert(tmp_path / "network.pkl", tmp_path / "prior") == "edm"
        prior = load_prior(tmp_path / "prior")
    else:
        prior = converted(tmp_path, tensors)
    assert kind(tmp_path) == "ResidualUNet" and prior.sigma_data == (0.3 if pickled else 0.5)
    torch.testing.assert_close(predicted(prior, *given), module(*given).sample, atol=2e-6, rtol=1e-5)
    if classes:
        assert len(prior.class_names) == classes - 1 and prior.guided_by == ("class_labels",)
        none = torch.full((3,), classes - 1)
        torch.testing.assert_close(predicted(prior, *given[:2]), module(*given[:2], none).sample, atol=2e-6, rtol=1e-5)


def test_filters_of_ncsnpp_follow_the_kernel_as_one_strided_convolution() -> None:
    """The resampled input of the residual encoder: kernel, then filter, without the padding in between."""
    module, x = network(**{**SONG, **FOURIER}), torch.randn(2, 3, 8, 8)
    conv, row = module.inputs[0], torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8  # type: ignore[index]
    kernel = torch.zeros(8, 3, 6, 6)
    for i in range(4):
        for j in range(4):
            kernel[:, :, i : i + 3, j : j + 3] += row[i] * row[j] * conv.weight
    wanted = F.conv2d(x, kernel, conv.bias, stride=2, padding=2)
    torch.testing.assert_close(module.shrink(conv(x), padding=0), wanted, atol=1e-6, rtol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize("size", [4, 6])
def test_up_is_the_adjoint_of_down(size: int) -> None:
    from pyro_vipaint.models.pretrained.networks.residual import Resampling

    for weights in ((1, 1), (1, 3, 3, 1)):
        x, y = torch.randn(1, 2, size, size), torch.randn(1, 2, size // 2, size // 2)
        down, up = Resampling(weights, up=False), Resampling(weights, up=True)
        torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum() / 4)


WRITERS: dict[str, Callable[[dict[str, Tensor]], bytes]] = {
    "zip": torch_file,
    "legacy": lambda tensors: torch_file(tensors, legacy=True),
    "a state_dict beside notes": lambda tensors: torch_file({"state_dict": tensors, "epoch": 3, "notes": {1, 2}}),
    "EDM": lambda tensors: edm_pickle({"ema": persistent(tensors), "loss_fn": persistent({}, "EDMLoss")}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_pickles_are_read_as_torch_reads_them(tmp_path: Path, write: Callable[[dict[str, Tensor]], bytes]) -> None:
    """Views, types and shapes included."""
    base = torch.randn(4, 6)
    tensors = {"a": base, "b": base.T[1:], "c": torch.arange(3), "d.e": torch.randn(2).half(), "d.f": torch.tensor(3.0)}
    if write is WRITERS["EDM"]:
        tensors.pop("c")  # a parameter is of floating-point numbers
    (tmp_path / "file").write_bytes(write(tensors))
    found = read_checkpoint(tmp_path / "file").tensors
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype


def _hostile(canary: Path) -> dict[str, bytes]:
    bomb, good = Bomb(canary), as_adm(network())
    inner = persistent(as_edm(network(**SONG)))
    inner.state["forward"] = bomb
    return {
        "zip": torch_file({**good, "more": bomb}),
        "legacy": torch_file({**good, "more": bomb}, legacy=True),
        "a plain pickle": edm_pickle(bomb),
        "beside the network of EDM": edm_pickle({"ema": persistent({}), "loss_fn": bomb}),
        "in the state of a network of EDM": edm_pickle({"ema": inner}),
        "eval": b"\x80\x04cbuiltins\neval\n(V1/0\ntR.",
        "a name with a dot": b"\x80\x04\x8c\x05torch\x8c\x12_utils.os.getcwd()\x93)R.",
        "inside the bytes of a storage": edm_pickle(0)[:2] + b"ctorch.storage\n_load_from_bytes\n(C"
        + bytes([len(edm_pickle(bomb))]) + edm_pickle(bomb) + b"tR.",
    }  # fmt: skip


@pytest.mark.parametrize("name", _hostile(Path("canary")))
def test_hostile_pickles_are_refused_and_not_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(_hostile(tmp_path / "ran")[name])
    with pytest.raises(InputError, match=r"asks for '.*nothing in it was run"):
        convert(tmp_path / "file", tmp_path / "prior")
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_the_source_that_edm_pickles_with_a_network_is_ignored(tmp_path: Path) -> None:
    module = persistent(as_edm(network(**SONG)))
    module.source = f"open({str(tmp_path / 'ran')!r}, 'w')"
    (tmp_path / "file").write_bytes(edm_pickle({"ema": module}))
    convert(tmp_path / "file", tmp_path / "prior")
    assert not (tmp_path / "ran").exists()


NOTES = {  # an object in the place of the key or of the value of a note, and how it is made
    "a class": (b"pytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint", b""),
    "a dictionary of hyperparameters": (b"pytorch_lightning.utilities.parsing\nAttributeDict", b")\x81(Va\nK\x01u"),
    "a configuration": (b"omegaconf.dictconfig\nDictConfig", b")\x81}Va\nK\x01sb"),
    "a list of a configuration": (b"omegaconf.listconfig\nListConfig", b")\x81(K\x01K\x02e"),
    "milestones": (b"collections\nCounter", b"(}K\x05K\x01stR"),
    "an array": (b"numpy.core.multiarray\n_reconstruct", b"(cnumpy\nndarray\n(K\x00tC\x01btR(K\x01(K\x03tNtb"),
    "a number of NumPy": (b"numpy.core.multiarray\nscalar", b"(cnumpy\ndtype\n(Vf8\ntRC\x08abcdefghtR"),
    "arguments": (b"argparse\nNamespace", b")\x81}Vlr\nK\x01sb"),
    "a type of torch": (b"torch\nfloat16", b""),
    "a shape": (b"torch\nSize", b"((K\x01K\x02ttR"),
}


@pytest.mark.parametrize("name", NOTES)
def test_notes_of_a_training_are_stubs(tmp_path: Path, name: str) -> None:
    """What files of latent diffusion hold beside the weights is neither imported nor read, and is no obstacle."""
    home, made = NOTES[name]
    content = torch_file({"state_dict": {"a": torch.ones(2)}, "callbacks": {"KEY": 1}}, legacy=True)
    key = content.index(b"X\x03\x00\x00\x00KEY")
    content = content[:key] + b"c" + home + b"\n" + made + content[key + 8 :]
    (tmp_path / "file").write_bytes(content)
    assert torch.equal(read_checkpoint(tmp_path / "file").tensors["a"], torch.ones(2))


@pytest.mark.parametrize(
    ("change", "config", "says"),
    [
        (
            lambda w: w.update({name: value[:2] for name, value in w.items() if "8x8_aux_conv" in name}),
            {},
            "2 channels",
        ),
        (lambda w: w.update({"model.map_label.weight": torch.ones(3)}), {}, "neither the weights nor the arguments"),
        (lambda w: None, {"sigma_data": 1e300}, "at most 1e"),
        (lambda w: None, {"img_resolution": 7}, "multiple of 2"),
    ],
)
def test_networks_of_edm_that_no_folder_holds(tmp_path: Path, change: Any, config: Any, says: str) -> None:
    tensors = as_edm(network(**SONG))
    change(tensors)
    with pytest.raises(InputError, match=says):
        converted(tmp_path, tensors, config)
    assert {path.name for path in tmp_path.iterdir()} == {"file.safetensors"}


Change = Callable[[dict[str, Tensor]], Any]
BROKEN: dict[str, tuple[Change, dict[str, Any], str]] = {
    "a weight missing": (lambda w: w.pop("middle_block.0.in_layers.2.bias"), ADM, "missing"),
    "a weight too many": (lambda w: w.update({"input_blocks.1.0.in_layers.2.more": torch.zeros(1)}), ADM, "more"),
    "a stranger": (lambda w: w.update({"stranger": torch.zeros(1)}), ADM, "stranger"),
    "of another shape": (lambda w: w.update({"out.2.weight": torch.zeros(3, 9, 3, 3)}), ADM, "conv_out"),
    "NaN": (lambda w: w["out.2.bias"].fill_(math.nan), ADM, "NaN"),
    "an unpublished network": (lambda w: None, {}, "--config"),
    "heads that do not fit": (lambda w: None, {**ADM, "num_head_channels": 5}, "5"),
    "another depth": (lambda w: None, {**ADM, "num_res_blocks": 7}, "num_res_blocks"),
    "other widths": (lambda w: None, {**ADM, "model_channels": 8, "channel_mult": [1, 3]}, "widths"),
    "another schedule": (lambda w: None, {**ADM, "noise_schedule": "warm"}, "linear"),
    "an order in quotes": (lambda w: None, {**ADM, "use_new_attention_order": "False"}, "true or false"),
    "a width that is none": (lambda w: None, {**ADM, "model_channels": 8, "channel_mult": [1, None]}, "arguments"),
    "a size that cannot be halved": (lambda w: None, {**ADM, "image_size": 7}, "multiple of 2"),
    "a size that no prior has": (lambda w: None, {**ADM, "image_size": 2**13}, "4096"),
    "a schedule of too few steps": (lambda w: None, {**ADM, "diffusion_steps": 10}, "at least 20"),
    "a schedule of too many": (lambda w: None, {**ADM, "diffusion_steps": 10**6}, "100000"),
    "a size that is a word": (lambda w: None, {**ADM, "image_size": "8"}, "image_size"),
    "an upsampler": (
        lambda w: w.update({
            "input_blocks.0.0.weight": torch.ones(8, 6, 3, 3), "out.2.weight": torch.ones(6, 8, 3, 3),
            "out.2.bias": torch.ones(6),
        }), {**ADM, "learn_sigma": True}, "of 6 channels the network predicts 6; .*upsamplers",
    ),
    "an upsampler by its size": (lambda w: None, {**ADM, "large_size": 8}, "large_size and upsamplers"),
    "five channels of three": (
        lambda w: w.update({"out.2.weight": torch.ones(5, 8, 3, 3), "out.2.bias": torch.ones(5)}), ADM, "5 channels",
    ),
    "nothing known": (lambda w: w.clear() or w.update(a=torch.zeros(1)), ADM, "known kind"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_refused_in_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    change, config, says = BROKEN[name]
    tensors = as_adm(network())
    change(tensors)
    with pytest.raises(InputError, match=says):
        converted(tmp_path, tensors, config)
    assert {path.name for path in tmp_path.iterdir()} == {"file.safetensors"}


def test_nothing_of_the_users_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior" / "mine").touch()
    with pytest.raises(InputError, match="not an empty folder"):
        converted(tmp_path, as_adm(network()), ADM)
    (tmp_path / "prior" / "mine").unlink()
    assert converted(tmp_path / ".", as_adm(network()), ADM).event_shape == (3, 8, 8)


def test_a_refused_file_leaves_no_folders_above(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "file.safetensors")
    with pytest.raises(InputError, match="known kind"):
        convert(tmp_path / "file.safetensors", tmp_path / "new" / "deep" / "prior")
    assert {path.name for path in tmp_path.iterdir()} == {"file.safetensors"}


def test_an_empty_folder_stays_the_one_that_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory, by ``--to .``, a link to a folder on another disk; and what a killed run left in it."""
    save_file(as_adm(network()), tmp_path / "file.safetensors")
    folder = tmp_path / "empty"
    folder.mkdir()
    (tmp_path / "link").symlink_to("empty")
    (folder / f".vipaint.{2**31}-0badcafe.part").mkdir()
    number = folder.stat().st_ino
    monkeypatch.chdir(folder)
    convert("../file.safetensors", ".", config=ADM)
    assert folder.stat().st_ino == number and os.listdir() and not list(folder.glob(".*"))
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    convert(tmp_path / "file.safetensors", tmp_path / "link", config=ADM)
    assert (tmp_path / "link").is_symlink() and load_prior(folder).event_shape == (3, 8, 8)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise SafetensorError("Error while serializing: No space left on device")

    save_file(as_adm(network()), tmp_path / "file.safetensors")
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(InputError, match=r"cannot be written .*No space left"):
        convert(tmp_path / "file.safetensors", tmp_path / "prior", config=ADM)
    assert {path.name for path in tmp_path.iterdir()} == {"file.safetensors"}


def test_weights_that_share_their_numbers(tmp_path: Path) -> None:
    """A pickle may say twice which numbers a tensor has; files of safetensors hold them twice."""
    tensors = as_adm(network())
    first, second = "input_blocks.1.0.in_layers.2.bias", "input_blocks.1.0.out_layers.3.bias"
    tensors[second] = tensors[first]
    (tmp_path / "file.pt").write_bytes(torch_file(tensors))
    convert(tmp_path / "file.pt", tmp_path / "prior", config=ADM)
    written = load_file(tmp_path / "prior" / "unet" / "diffusion_pytorch_model.safetensors")
    for name in ("conv1", "conv2"):
        assert torch.equal(written[f"down_blocks.0.resnets.0.{name}.bias"], tensors[first])


@pytest.mark.parametrize("config", [5, [1]])
def test_a_configuration_is_a_mapping_or_a_file(tmp_path: Path, config: Any) -> None:
    with pytest.raises(InputError, match="a mapping of arguments, or the path of a file"):
        converted(tmp_path, as_adm(network()), config)


def test_arguments_from_files(tmp_path: Path) -> None:
    """JSON at its root and under constructor, and the authors' YAML, mean the same."""
    files = {
        "a.json": json.dumps(ADM),
        "b.json": json.dumps({"constructor": {k: v for k, v in ADM.items() if k != "norm_groups"}, "norm_groups": 2}),
        "c.yaml": yaml.safe_dump(ADM),
    }
    module, given = network(), batch()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        folder = tmp_path / f"{name} made"
        folder.mkdir()
        prior = converted(folder, as_adm(module), tmp_path / name)
        torch.testing.assert_close(predicted(prior, *given), module(*given).sample, atol=2e-6, rtol=1e-5)


def test_classes_of_imagenet_and_cifar_have_their_names(tmp_path: Path) -> None:
    """In the order of the training sets: 207 is the golden retriever, 3 the cat."""
    from pyro_vipaint.models.pretrained.convert_networks import _classes

    imagenet = _classes(1000, 64, null=True)
    assert imagenet["classes"][207] == "golden retriever" and len(set(imagenet["classes"])) == 1000
    assert imagenet["null_label"] == 1000
    assert _classes(10, 32)["classes"][3] == "cat"


def test_kinds_are_told_by_names() -> None:
    signs = {
        "edm": "model.map_layer0.weight", "adm": "input_blocks.0.0.weight", "sd": "joint_blocks.0.x",
        "ldm": "model.diffusion_model.input_blocks.0.0.weight",
    }  # fmt: skip
    for wanted, name in signs.items():
        assert recognise({name: torch.zeros(1)}) == wanted


def test_rows_of_qkv_are_permuted_by_their_definition() -> None:
    from pyro_vipaint.models.pretrained.convert_names import query_key_value

    qkv = torch.arange(24.0)[:, None]
    for order in ("qkv", "head", "channel"):
        assert torch.equal(query_key_value(rows(qkv, 2, order), 2, order), qkv)


@pytest.mark.parametrize("pickled", [False, True])
def test_stable_diffusion_goes_through_the_reader_of_diffusers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickled: bool
) -> None:
    """It is given safetensors and the folder of configurations only; what it makes is a prior."""
    pytest.importorskip("transformers")
    pipeline, seen = pipelines.stable_diffusion(), {}

    def from_single_file(path: str, **given: Any) -> Any:
        seen.update(given, tensors=load_file(path))
        return pipeline

    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", from_single_file)
    tensors = {"cond_stage_model.transformer.a": torch.ones(2)}
    file, configs = tmp_path / ("file.ckpt" if pickled else "file.safetensors"), tmp_path / "configs"
    configs.mkdir()
    file.write_bytes(torch_file({"state_dict": tensors})) if pickled else save_file(tensors, file)
    assert convert(file, tmp_path / "prior", config=configs) == "sd"
    assert torch.equal(seen["tensors"]["cond_stage_model.transformer.a"], torch.ones(2))
    assert seen["config"] == str(configs) and seen["local_files_only"]
    prior = load_prior(tmp_path / "prior")
    assert prior.is_latent and prior.encode_text is not None
    assert not list((tmp_path / "prior").glob("checkpoint*"))
