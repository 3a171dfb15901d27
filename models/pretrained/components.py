"""Reading the parts of a pipeline from their folders, as diffusers' ``save_pretrained`` writes them.

Weights are read from safetensors only, since a pickle could run code when opened. Each part is one of the classes
listed here, so that no folder can name code of its own, and nothing outside the folder is read: the files that count
are found and checked here, the classes of diffusers and transformers are given what stands in them.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from pyro_vipaint._files import MAX_JSON, check_file, read_json
from pyro_vipaint.errors import InputError, in_one_line, whole
from pyro_vipaint.models.pretrained.weights import Uninitialised, Weights, shown

NETWORKS = {
    "unet": ("UNet2DModel", "UNet2DConditionModel", "ResidualUNet", "LabelledUNet"),
    "transformer": ("SD3Transformer2DModel",),
    "vae": ("AutoencoderKL",),
    "vqvae": ("VQModel",),
}
OWN = {  # the networks that are ours, by module
    "ResidualUNet": "pyro_vipaint.models.pretrained.networks.residual",
    "LabelledUNet": "pyro_vipaint.models.pretrained.networks.labelled",
}
ENCODERS = {
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "text_encoder_3": ("T5EncoderModel",),
}
TOKENIZERS = {"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer", "tokenizer_3": "T5TokenizerFast"}
PLAIN: dict[Any, tuple[type, ...]] = {int: (int, float), float: (int, float), bool: (bool, int), str: (str,)}
PARTS = (*NETWORKS, "scheduler", *ENCODERS, *TOKENIZERS)

MAX_CONFIG = 2**20  # bytes of a configuration; those of the largest models have about 5000
MAX_ENTRY = 10**6  # of a number in a configuration; the largest in use are sizes of vocabularies
MAX_STEPS = 10**5  # training timesteps of a scheduler; 1000 in practice
MAX_TOKENS = 10**4  # of a prompt, up to which it is padded; 77 and 512 in practice
UNLIMITED = 1e20  # a length of prompts from which transformers takes it as none
FREE = {"model_max_length", "lambda_min_clipped"}  # entries that may be 1e30 and -Infinity, which mean no limit
CODE = ("auto_map", "quantization_config", "fast_tokenizer_files", "init_inputs", "vocab", "merges")
OPENED = {".json", ".safetensors", ".txt", ".model", ".jinja"}


def check_links(folder: Path) -> None:
    """Refuses links that lead out of the ``folder`` of a prior, before anything in it is opened.

    In the cache of huggingface_hub the files of a snapshot are links to the blobs of the cache, which are read.

    Raises:
        InputError: a file that could be read lies elsewhere, or the folder cannot be listed.
    """
    real = Path(os.path.realpath(folder))
    model = next((parent.parent for parent in real.parents if parent.name == "snapshots"), real)
    homes = (real, model / "blobs", model.parent / "blobs") if model != real else (real,)
    try:
        parts = [part for part in (folder, *map(folder.joinpath, PARTS)) if part.is_dir()]
        paths = [path for part in parts for path in part.iterdir() if path.suffix in OPENED]
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}).") from error
    for path in paths:
        target = Path(os.path.realpath(path))
        if not any(target.is_relative_to(home) for home in homes):
            raise InputError(f"{path} is a link that leaves the folder of the prior: put the file itself there.")


def read_components(folder: Path, device: str | torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The :data:`PARTS` in ``folder`` by name, networks on ``device``; a network at the root is the ``unet``.

    Raises:
        InputError: a part cannot be read, has no safetensors, is of an unknown class, or lies outside ``folder``.
    """
    check_links(folder)
    found = {name: folder / name for name in (*NETWORKS, *ENCODERS) if (folder / name).is_dir()}
    if not found.keys() & {"unet", "transformer"}:
        found["unet"] = folder
    kinds = {**NETWORKS, **ENCODERS}
    scheduler = _read_scheduler(folder / "scheduler")
    tokenizers = _read_tokenizers(folder) if found.keys() & ENCODERS.keys() else {}
    parts: dict[str, Any] = {name: read_network(path, kinds[name], dtype).to(device) for name, path in found.items()}
    return {**parts, **tokenizers, "scheduler": scheduler}


def read_network(root: Path, kinds: tuple[str, ...], dtype: torch.dtype) -> nn.Module:
    """The model in ``root``, of one of the classes ``kinds`` of diffusers or transformers.

    Raises:
        InputError: it is of another class, or ``config.json`` and the weights do not describe one network of finite
            floating-point numbers.
    """
    config = _read_config(root / "config.json")
    classes = config.get("architectures")
    kind = config.get("_class_name") or (classes[0] if isinstance(classes, list) and classes else None)
    if kind not in kinds:
        raise InputError(f"{root} holds a {kind!s:.80}, not a {' or '.join(kinds)}.")
    read = _read_diffusers if "_class_name" in config else _read_encoder
    return read(root, kind, config, dtype).eval()


def _read_diffusers(root: Path, kind: str, config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    model = getattr(import_module(OWN.get(kind, "diffusers")), kind)
    _check_types(model, config, root / "config.json")
    build = partial(model.from_config, config)
    weights = Weights.find(root, kind, "diffusion_pytorch_model")
    outline = weights.outline(build)
    weights.check_names({name: value.shape for name, value in outline.state_dict().items()})
    weights.check_cost(outline)
    with Uninitialised():
        network = build()
    network.load_state_dict(weights.read(dtype), assign=True)
    return nn.Module.to(network, dtype)  # what the network computes for itself


def _read_encoder(root: Path, kind: str, config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """A text encoder; transformers converts the names of older versions and keeps some layers in single precision."""
    encoder = getattr(_transformers(root), kind)
    stated = config.get(encoder.config_class.base_config_key, config)  # of CLIP as a whole the half for texts
    stated = {name: value for name, value in stated.items() if "_implementation" not in name}
    weights = Weights.find(root, kind, "model")
    outline: Any = weights.outline(lambda: encoder(encoder.config_class.from_dict(stated)))
    weights.check_cost(outline)
    options = {"config": outline.config, "dtype": dtype, "ignore_mismatched_sizes": True, "output_loading_info": True}
    tensors = weights.read()
    try:
        with _quiet("transformers.modeling_utils"):  # its report of what differs has many lines
            network, found = encoder.from_pretrained(None, state_dict=tensors, **options)
    except Exception as error:  # where weights are missing it draws random ones, which a configuration can break
        raise in_one_line(f"{root}: the weights do not fit the {kind} of config.json", error) from error
    differ = dict.fromkeys(found["missing_keys"], shown(None)) | dict.fromkeys(found["unexpected_keys"], "surplus")
    differ |= {name: f"{shown(theirs)}, needed {shown(ours)}" for name, theirs, ours in found["mismatched_keys"]}
    weights.check_none(differ)
    return network


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Switches a logger off inside the block."""
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _read_config(path: Path, constants: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The configuration in a JSON file.

    Raises:
        InputError: it cannot be read, names code to be run, or asks for more than ``MAX_ENTRY`` of anything.
    """
    config = read_json(path, constants, MAX_CONFIG)
    for name in CODE:
        if config.get(name):
            raise InputError(f"{path} has an entry {name}, which is not followed: save the model without it.")
    pending: list[tuple[str, Any]] = list(config.items())
    while pending:
        name, value = pending.pop()
        if isinstance(value, (dict, list)):
            pending += value.items() if isinstance(value, dict) else ((name, entry) for entry in value)
        elif isinstance(value, (int, float)) and name not in FREE and not abs(value) <= MAX_ENTRY:
            raise InputError(f"{path} has {name} {value:.4g}; numbers up to {MAX_ENTRY} are read.")
    return config


def _check_types(model: type, config: Mapping[str, Any], path: Path) -> None:
    """Refuses an entry that is no number or text where the class declares one: it would show at the first call only."""
    for name, parameter in signature(model.__init__).parameters.items():
        kinds, value = PLAIN.get(parameter.annotation), config.get(name, parameter.default)
        if kinds is not None and value is not parameter.default and not isinstance(value, kinds):
            given = shorten(json.dumps(value), 50, placeholder="…")
            raise InputError(f"{path} has {given} for {name}: omit it, or give a value such as {parameter.default!r}.")


def _read_scheduler(folder: Path) -> Any:
    import diffusers

    path = folder / "scheduler_config.json"
    config = _read_config(path, {"-Infinity": -math.inf})
    kind = config.get("_class_name")
    scheduler = getattr(diffusers, kind, None) if isinstance(kind, str) else None
    if not (isinstance(scheduler, type) and issubclass(scheduler, diffusers.SchedulerMixin)):
        raise InputError(f"{folder}: this version of diffusers has no scheduler {kind!r:.80}.")
    whole(f"num_train_timesteps in {path}", config.get("num_train_timesteps", 1), 1, MAX_STEPS)
    try:
        return scheduler.from_config(config)  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:  # a configuration can break a constructor in any way
        raise in_one_line(f"{path} does not describe a {kind}", error) from error


def _read_tokenizers(folder: Path) -> dict[str, Any]:
    library, tokenizers = _transformers(folder), {}
    for name, kind in TOKENIZERS.items():
        if (folder / name).is_dir():
            _check_vocabulary(folder / name)
            try:
                tokenizers[name] = getattr(library, kind).from_pretrained(folder / name, local_files_only=True)
            except Exception as error:  # an OSError, or anything that the reader of a broken vocabulary raises
                raise InputError(f"{folder}: the vocabulary in {name} cannot be read.") from error
    return tokenizers


def _check_vocabulary(folder: Path) -> None:
    """Refuses, in the folder of a tokenizer, what is not a regular file of bounded size, and entries that lead out."""
    for path in folder.iterdir():
        check_file(path, MAX_JSON)
    path = folder / "tokenizer_config.json"
    length = _read_config(path).get("model_max_length", 1) if os.path.lexists(path) else 1
    if not (isinstance(length, (int, float)) and length >= UNLIMITED):
        whole(f"model_max_length in {path}", length, 1, MAX_TOKENS)


def _transformers(folder: Path) -> Any:
    if find_spec("transformers") is None:
        raise InputError(f"{folder} has a text encoder: install transformers (pip install 'pyro-vipaint[text]').")
    return import_module("transformers")
