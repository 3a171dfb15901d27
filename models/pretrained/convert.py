r"""Published single-file checkpoints, converted to folders that :func:`load_prior` reads.

======  ================================  =====================================================================
kind    published by                      becomes
======  ================================  =====================================================================
edm     NVlabs/edm                        ``UNet2DModel`` or ``ResidualUNet``, preconditioned (Karras et al. 2022)
adm     openai/guided-diffusion           ``UNet2DModel``, noise prediction, with the learnt variance if it has one
ldm     CompVis/latent-diffusion          ``LabelledUNet``, ``UNet2DModel`` or ``ResidualUNet``, and the autoencoder
sd      Stable Diffusion 1, 3, 3.5        the pipeline, by diffusers' own reader of single files
======  ================================  =====================================================================

The kind is told by the names of the weights. What names and shapes do not tell is known for the published networks
(:mod:`pyro_vipaint.models.pretrained.convert_networks`) and is given by ``config`` for others. Every weight of the file
is used once, or is one of those that sampling does not need.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._files import check_finite, own_ending, sweep
from pyro_vipaint.errors import InputError, choice, in_one_line, instance
from pyro_vipaint.models.pretrained.convert_arguments import read_arguments
from pyro_vipaint.models.pretrained.convert_files import Checkpoint, read_checkpoint
from pyro_vipaint.models.pretrained.convert_names import Tensors
from pyro_vipaint.models.pretrained.convert_networks import Conversion, conversion

KINDS = ("auto", "edm", "adm", "ldm", "sd")


def convert(
    file: str | Path, to: str | Path, *, kind: str = "auto", config: str | Path | Mapping[str, Any] | None = None
) -> str:
    """Converts a published checkpoint to a folder for :func:`load_prior`; returns its kind.

    Nothing in a pickle is run: docs/priors.md has what is read and what is refused.

    Args:
        file: a safetensors file, a file of ``torch.save``, or a pickle of EDM.
        to: the folder, new or empty.
        kind: ``"edm"``, ``"adm"``, ``"ldm"``, ``"sd"``, or ``"auto"``: told by the names of the weights.
        config: arguments of the constructor for networks other than the published ones: a mapping, a JSON file, or the
            authors' YAML. For ``"sd"`` a folder with the configurations of the pipeline, which diffusers otherwise
            takes from the hub.

    Raises:
        InputError: the file or the configuration cannot be read, the network is unknown or not supported, or the folder
            holds something. Nothing is written then.
    """
    wanted = "a mapping of arguments, or the path of a file"
    instance("config", config, config is None or isinstance(config, (str, os.PathLike, Mapping)), wanted)
    choice("kind", kind, KINDS)
    path = Path(file)
    with _made_whole(Path(to)) as folder:
        checkpoint = read_checkpoint(path)
        found = recognise(checkpoint.tensors) if kind == "auto" else kind
        if found == "sd":
            _convert_pipeline(path, checkpoint.tensors, folder, config)
        else:
            _write(_converted(path, checkpoint, found, config), path, folder)
    return found


@contextmanager
def _made_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder whose content is that of ``folder``, new or empty, when the block ends well.

    Otherwise nothing stays, of the folders above it either. An empty folder stays the one that it was: it may be the
    working directory, a link, or a disk.

    Raises:
        InputError: the folder holds something, or cannot be written.
    """
    from safetensors import SafetensorError

    temporary: Path | None = None
    above: list[Path] = []
    try:
        there = folder.is_dir()
        home = folder if there else folder.parent
        if home.is_dir():
            sweep(home)  # what killed conversions left
        if os.path.lexists(folder) and (not there or any(folder.iterdir())):
            raise InputError(f"{folder} is not an empty folder: name a new one.")
        above = [each for each in (home, *home.parents) if not each.exists()]
        temporary = home / f".{folder.name[:50] or 'vipaint'}.{own_ending()}"
        temporary.mkdir(parents=True)
        yield temporary
        if there:
            for path in sorted(temporary.iterdir()):
                os.replace(path, folder / path.name)
        else:
            os.replace(temporary, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder!s:.150} cannot be written ({reason!s:.100}): name another folder.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        for each in above:
            with suppress(OSError):
                each.rmdir()  # stays unless it is empty


def recognise(tensors: Mapping[str, Tensor]) -> str:
    """The kind of a checkpoint, by the names of its weights.

    Raises:
        InputError: it is none of those that are known.
    """
    signs = {
        "sd": r"(model\.diffusion_model\.)?joint_blocks\..*|cond_stage_model\.(transformer|model)\..*|conditioner\..*",
        "edm": r"(model\.)?map_layer0\.weight",
        "ldm": r"model\.diffusion_model\.input_blocks\.0\.0\.weight",
        "adm": r"input_blocks\.0\.0\.weight",
    }
    for kind, sign in signs.items():
        if any(re.fullmatch(sign, name) for name in tensors):
            return kind
    shown = ", ".join(sorted(tensors)[:3])
    raise InputError(f"The checkpoint, with weights such as {shown:.200}, is of no known kind: {', '.join(KINDS[1:])}.")


def _converted(path: Path, checkpoint: Checkpoint, kind: str, config: Any) -> Conversion:
    """:func:`conversion`, whose errors name the file."""
    arguments = config if isinstance(config, Mapping) or config is None else read_arguments(Path(config))
    try:
        return conversion(checkpoint, kind, arguments)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _write(prior: Conversion, path: Path, folder: Path) -> None:
    """Writes the folder of a prior.

    Raises:
        InputError: a number of a weight is NaN or infinite, or no floating-point number.
    """
    from safetensors.torch import save_file

    for name, part in prior.parts.items():
        tensors = _unshared(part.tensors)
        for entry, value in tensors.items():
            if not value.is_floating_point():
                raise InputError(f"{path}: {entry} is of {value.dtype}, not of floating-point numbers.")
            check_finite(path, entry, value)
        (folder / name).mkdir()
        _write_json(folder / name / "config.json", {"_class_name": part.kind, **part.config})
        save_file(tensors, folder / name / "diffusion_pytorch_model.safetensors", {"format": "pt"})
        (folder / name / "diffusion_pytorch_model.safetensors").chmod(0o644)
    (folder / "scheduler").mkdir()
    _write_json(folder / "scheduler" / "scheduler_config.json", prior.scheduler)
    _write_json(folder / "prior.json", {"kind": prior.kind, **prior.details})


def _unshared(tensors: Tensors) -> Tensors:
    """The tensors, contiguous; one whose numbers another has too, which a pickle may say, becomes a copy."""
    found: Tensors = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        found[name] = value.clone(memory_format=torch.contiguous_format) if place in seen else value.contiguous()
        seen.add(place)
    return found


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _convert_pipeline(path: Path, tensors: Tensors, folder: Path, config: Any) -> None:
    """Writes the pipeline of Stable Diffusion, which diffusers reads from the safetensors file.

    Raises:
        InputError: diffusers cannot read it.
    """
    import diffusers
    from safetensors.torch import save_file

    if config is not None and not (isinstance(config, (str, Path)) and Path(config).is_dir()):
        raise InputError("For Stable Diffusion config must be a folder in diffusers' layout, with its configurations.")
    third = any("joint_blocks." in name for name in tensors)
    kind = "StableDiffusion3Pipeline" if third else "StableDiffusionPipeline"
    absent: dict[str, Any] = {} if third else {"safety_checker": None, "feature_extractor": None}
    if third:
        marks = {"text_encoder": "clip_l.", "text_encoder_2": "clip_g.", "text_encoder_3": "t5xxl."}
        missing = [part for part, mark in marks.items() if not any(f"text_encoders.{mark}" in name for name in tensors)]
        absent = dict.fromkeys([*missing, *(part.replace("text_encoder", "tokenizer") for part in missing)])
    source = path
    if path.suffix != ".safetensors":
        source = folder / "checkpoint.safetensors"
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, source)
    given = {} if config is None else {"config": str(config), "local_files_only": True}
    try:
        pipeline = getattr(diffusers, kind).from_single_file(str(source), **given, **absent)
    except Exception as error:  # a network, a hub or weights that do not fit: anything
        raise in_one_line(f"{path}: diffusers cannot read it as a {kind}", error) from error
    pipeline.save_pretrained(folder, safe_serialization=True)
    if source != path:
        source.unlink()
