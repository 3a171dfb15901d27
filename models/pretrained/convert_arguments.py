"""The arguments of a network's constructor: read from a file, looked up, and compared with the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vipaint._files import check_file, read_json
from pyro_vipaint.errors import InputError, in_one_line, whole
from pyro_vipaint.models.pretrained.components import MAX_CONFIG, MAX_ENTRY
from pyro_vipaint.models.pretrained.pipelines import MAX_SIDE

Arguments = Mapping[str, Any]


def read_arguments(path: Path) -> dict[str, Any]:
    """The arguments of a constructor in a JSON or YAML file.

    They stand at its root, under ``constructor`` with ``norm_groups`` beside it, or, as in latent diffusion's YAML,
    under ``model: params``.

    Raises:
        InputError: the file cannot be read, or holds no arguments.
    """
    content: Any = read_json(path, most=MAX_CONFIG) if path.suffix == ".json" else _read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no arguments by name.")
    model = content.get("model")
    if isinstance(model, dict) and isinstance(model.get("params"), dict):
        return dict(model["params"])
    inner = content.get("constructor")
    if not isinstance(inner, dict):
        return content
    flags = inside(content, "published", "flags")
    beside = {name: flags[name] for name in ("noise_schedule", "diffusion_steps") if name in flags}
    notes = " ".join(map(str, content.get("deviations_from_repository", [])))
    if stated := re.search(r"channels per head set to (\d{1,4})\b", notes):
        beside["channels_per_head"] = int(stated[1])
    if "norm_groups" in content:
        beside["norm_groups"] = content["norm_groups"]
    return {**beside, **inner}


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        check_file(path, MAX_CONFIG)
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except InputError:
        raise
    except Exception as error:  # a parser of broken files raises anything
        raise in_one_line(f"{path} cannot be read as JSON or YAML", error) from error


def inside(arguments: Arguments, *names: str) -> dict[str, Any]:
    """The dictionary under ``names``, one inside the other; empty if it is not there."""
    value: Any = arguments
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def count(arguments: Arguments, name: str, default: int | None = None, least: int = 1, most: int = MAX_ENTRY) -> int:
    """A whole number among the arguments, from ``least`` to ``most``.

    Raises:
        InputError: it is none, or missing without a default.
    """
    value = arguments.get(name, default)
    if value is None:
        raise InputError(f"the network is none of the published ones: give its constructor by --config ({name} first).")
    return whole(name, value, least, most)


def side_of(arguments: Arguments, name: str, layout: Mapping[str, Any], default: int | None = None) -> int:
    """The height and width of the images of a network, which its levels halve.

    Raises:
        InputError: it is too large, missing without a default, or cannot be halved so often.
    """
    side, factor = count(arguments, name, default, most=MAX_SIDE), 2 ** (len(layout["block_out_channels"]) - 1)
    if side % factor:
        raise InputError(f"{name} must be a multiple of {factor}, since the network halves it, not {side}.")
    return side


def groups(arguments: Arguments, default: tuple[int, int]) -> dict[str, Any]:
    """The groups of norms: a number, or the rule of EDM in words, which is the default of EDM."""
    given = arguments.get("norm_groups")
    if given is None or isinstance(given, str):
        rule = (32, 4) if given is not None else default
        if isinstance(given, str) and given.replace(" ", "") != "min(32,channels//4)":
            raise InputError(f"norm_groups must be a number or min(32, channels // 4), not {given!r:.80}.")
        return {"groups": rule[0], "min_group_channels": rule[1]}
    return {"groups": whole("norm_groups", given, 1, MAX_ENTRY), "min_group_channels": 1}


def agree(arguments: Arguments, layout: Mapping[str, Any]) -> None:
    """Refuses arguments that the shapes of the weights contradict."""
    for name, told in (("model_channels", "base_channels"), ("num_channels", "base_channels")):
        stated = arguments.get(name, layout[told])
        if "channel_mult" not in arguments and stated != layout[told]:
            raise InputError(f"{name} is {layout[told]} by the shapes of the weights, not {stated!r:.40}.")
    for name in ("num_res_blocks", "num_blocks"):
        if (stated := arguments.get(name, layout["layers_per_block"])) != layout["layers_per_block"]:
            raise InputError(f"{name} is {layout['layers_per_block']} by the names of the weights, not {stated!r:.40}.")
    factors, base = arguments.get("channel_mult"), arguments.get("model_channels")
    if isinstance(factors, (list, tuple)) and isinstance(base, int):
        widths = [base * factor for factor in factors]
        if widths != layout["block_out_channels"]:
            raise InputError(f"the widths of the levels are {layout['block_out_channels']}, not {widths!s:.80}.")
