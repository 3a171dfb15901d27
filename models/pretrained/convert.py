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
(:data:`ADM_NETWORKS`, :data:`LDM_NETWORKS`) and is given by ``config`` for others. Every weight of the file is used
once, or is one of those that sampling does not need.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._files import check_file, check_finite, own_ending, read_json, sweep
from pyro_vipaint.errors import InputError, choice, in_one_line, instance, number, whole
from pyro_vipaint.models.pretrained.components import MAX_CONFIG, MAX_ENTRY, MAX_STEPS
from pyro_vipaint.models.pretrained.convert_files import Checkpoint, read_checkpoint
from pyro_vipaint.models.pretrained.convert_names import RESAMPLE_FILTER, Tensors, describe, from_adm, from_edm
from pyro_vipaint.models.pretrained.convert_unets import Facts, Part, autoencoder, unet
from pyro_vipaint.models.pretrained.pipelines import MAX_SIDE

KINDS = ("auto", "edm", "adm", "ldm", "sd")
Arguments = Mapping[str, Any]

# Constructor arguments by (channels of the first layer, widths of levels, blocks on a level, levels that attend,
# whether it has classes), of guided-diffusion's README and of the configuration of DPS for ffhq_10m.pt.
_WIDE = {"image_size": 256, "num_head_channels": 64, "noise_schedule": "linear"}
ADM_NETWORKS: dict[tuple[Any, ...], dict[str, Any]] = {
    (192, (192, 384, 576, 768), 3, (1, 2, 3), True): {
        "image_size": 64, "num_head_channels": 64, "noise_schedule": "cosine", "use_new_attention_order": True,
    },
    (256, (256, 256, 512, 768, 1024), 2, (2, 3, 4), True): {
        "image_size": 128, "num_heads": 4, "noise_schedule": "linear",
    },
    (256, (256, 256, 512, 512, 1024, 1024), 2, (3, 4, 5), False): _WIDE,
    (256, (256, 256, 512, 512, 1024, 1024), 2, (3, 4, 5), True): _WIDE,
    (128, (128, 256, 256, 512, 512, 1024, 1024), 2, (4, 5, 6), True): {**_WIDE, "image_size": 512},
    (128, (128, 128, 256, 256, 512, 512), 1, (4,), False): _WIDE,
}  # fmt: skip
# Of the configurations in models/ldm and configs/latent-diffusion of the repository.
_START = {"linear_start": 0.0015, "timesteps": 1000}
LDM_NETWORKS: dict[tuple[Any, ...], dict[str, Any]] = {
    (192, (192, 384, 576, 960), 2, (1, 2, 3), True): {
        **_START, "linear_end": 0.0195, "unet_config": {"params": {"image_size": 64, "num_heads": 1}},
    },
    (192, (192, 384, 384, 768, 768), 2, (0, 1, 2, 3), False): {
        **_START, "linear_end": 0.0155, "unet_config": {"params": {"image_size": 32, "num_heads": 8}},
    },
    (224, (224, 448, 672, 896), 2, (1, 2, 3), False): {
        **_START, "linear_end": 0.0195, "unet_config": {"params": {"image_size": 64, "num_head_channels": 32}},
    },
}  # fmt: skip
FILTERS = {2: [1, 1], 4: [1, 3, 3, 1]}  # the resampling filters of EDM by length
UNUSED = re.compile(  # weights of latent diffusion that sampling does not need: of training, and tables of the schedule
    r"first_stage_model\.loss\..*|model_ema\.(decay|num_updates)|logvar|betas|alphas_cumprod(_prev)?|lvlb_weights"
    r"|sqrt_(one_minus_|recip_|recipm1_)?alphas_cumprod|log_one_minus_alphas_cumprod"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])|cond_ids"
)
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass(frozen=True)
class Conversion:
    """A prior as its folder holds it.

    Attributes:
        kind: of the checkpoint.
        parts: networks by the name of their folder.
        scheduler: the configuration of the scheduler.
        details: the entries of ``prior.json``.
    """

    kind: str
    parts: dict[str, Part]
    scheduler: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)


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


def conversion(checkpoint: Checkpoint, kind: str, config: Arguments | None = None) -> Conversion:
    """The prior of a checkpoint of ``kind`` edm, adm or ldm; also of weights on the meta device.

    Raises:
        InputError: the weights are not those of a supported network, or ``config`` contradicts or lacks something.
    """
    build = {"edm": _edm, "adm": _adm, "ldm": _ldm}[kind]
    try:
        return build(dict(checkpoint.tensors), {**checkpoint.arguments, **(config or {})})
    except Exception as error:  # names, shapes and arguments that no network has break this in any way
        raise in_one_line(f"neither the weights nor the arguments are those of a network of {kind}", error) from error


def _converted(path: Path, checkpoint: Checkpoint, kind: str, config: Any) -> Conversion:
    """:func:`conversion`, whose errors name the file."""
    arguments = config if isinstance(config, Mapping) or config is None else read_arguments(Path(config))
    try:
        return conversion(checkpoint, kind, arguments)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


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
    flags = _inside(content, "published", "flags")
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


def _inside(arguments: Arguments, *names: str) -> dict[str, Any]:
    """The dictionary under ``names``, one inside the other; empty if it is not there."""
    value: Any = arguments
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def _count(arguments: Arguments, name: str, default: int | None = None, least: int = 1, most: int = MAX_ENTRY) -> int:
    """A whole number among the arguments, from ``least`` to ``most``.

    Raises:
        InputError: it is none, or missing without a default.
    """
    value = arguments.get(name, default)
    if value is None:
        raise InputError(f"the network is none of the published ones: give its constructor by --config ({name} first).")
    return whole(name, value, least, most)


def _side(arguments: Arguments, name: str, layout: Mapping[str, Any], default: int | None = None) -> int:
    """The height and width of the images of a network, which its levels halve.

    Raises:
        InputError: it is too large, missing without a default, or cannot be halved so often.
    """
    side, factor = _count(arguments, name, default, most=MAX_SIDE), 2 ** (len(layout["block_out_channels"]) - 1)
    if side % factor:
        raise InputError(f"{name} must be a multiple of {factor}, since the network halves it, not {side}.")
    return side


def _groups(arguments: Arguments, default: tuple[int, int]) -> dict[str, Any]:
    """The groups of norms: a number, or the rule of EDM in words, which is the default of EDM."""
    given = arguments.get("norm_groups")
    if given is None or isinstance(given, str):
        rule = (32, 4) if given is not None else default
        if isinstance(given, str) and given.replace(" ", "") != "min(32,channels//4)":
            raise InputError(f"norm_groups must be a number or min(32, channels // 4), not {given!r:.80}.")
        return {"groups": rule[0], "min_group_channels": rule[1]}
    return {"groups": whole("norm_groups", given, 1, MAX_ENTRY), "min_group_channels": 1}


def _agree(arguments: Arguments, layout: Mapping[str, Any]) -> None:
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


def _signature(layout: Mapping[str, Any], classes: bool) -> tuple[Any, ...]:
    """The key of a published network."""
    widths, attended = tuple(layout["block_out_channels"]), tuple(layout["attention_levels"])
    return layout["base_channels"], widths, layout["layers_per_block"], attended, classes


def _edm(tensors: Tensors, arguments: Arguments) -> Conversion:
    """A network of EDM: F of Karras et al. 2022, Eq. 7."""
    names = {name.removeprefix("model."): value for name, value in tensors.items()}
    plain = from_edm(names)
    dhariwal = any(name.startswith("out_conv.") for name in names)
    filters = [plain.pop(name) for name in list(plain) if name.endswith(RESAMPLE_FILTER)]
    plain = {name: value for name, value in plain.items() if not name.startswith("map_augment.")}
    labels, shift = plain.pop("map_label.weight", None), plain.pop("map_label.bias", None)
    if labels is not None:
        plain["classes.weight"] = _class_table(labels, shift, 1.0 if dhariwal else math.sqrt(labels.shape[1]))
    layout = describe(plain)
    _check_noise(layout)
    _agree(arguments, layout)
    sides = [int(found[1]) for name in names if (found := re.match(r"enc\.(\d+)x", name))]
    style: dict[str, Any] = {"resample_filter": _filter(filters)}
    if not dhariwal:
        style |= {"skip_scale": math.sqrt(0.5), "norm_eps": 1e-6, "skip_kernels": True, "sines_first": True}
        style |= {"endpoint": layout["noise_embedding"] == "positional", "class_in_noise": True}
    facts = Facts(
        _side(arguments, "img_resolution", layout, max(sides, default=None)),
        attention_head_dim=_count(arguments, "channels_per_head", 64) if dhariwal else None,
        order="channel",
        style=style,
        **_groups(arguments, (32, 4)),
    )
    sigma_data = number("sigma_data", arguments.get("sigma_data", 0.5), positive=True, most=MAX_ENTRY)
    scheduler = {
        "_class_name": "EDMEulerScheduler", "num_train_timesteps": 1000, "prediction_type": "epsilon", "rho": 7.0,
        "sigma_data": sigma_data, "sigma_max": 80.0, "sigma_min": 0.002, "sigma_schedule": "karras",
    }  # fmt: skip
    details = {} if labels is None else _classes(labels.shape[1], facts.sample_size, null=True)
    return Conversion("edm", {"unet": unet(plain, facts)}, scheduler, details)


def _class_table(weight: Tensor, shift: Tensor | None, factor: float) -> Tensor:
    """The embedding of each one-hot label, and of none: a linear map of labels at its 1 + L possible arguments."""
    table = torch.cat([factor * weight.T, torch.zeros_like(weight[:, :1].T)])
    return table if shift is None else table + shift


def _filter(filters: list[Tensor]) -> list[int]:
    """The row whose outer square is the resampling filter.

    Raises:
        InputError: it is none of the repository's.
    """
    row = FILTERS[2]
    for value in filters:
        row = FILTERS.get(value.shape[-1], [])
        outer = torch.tensor(row, dtype=torch.float32)
        wanted = outer[:, None] * outer / max(sum(row), 1) ** 2
        if value.shape[-2:] != wanted.shape or not (value.is_meta or torch.allclose(value.float(), wanted, atol=1e-4)):
            raise InputError(f"the resampling filters must be {FILTERS[2]} or {FILTERS[4]}.")
    return row


def _adm(tensors: Tensors, arguments: Arguments) -> Conversion:
    """A network of guided-diffusion."""
    plain = from_adm(tensors)
    layout = describe(plain)
    _agree(arguments, layout)
    known = ADM_NETWORKS.get(_signature(layout, "classes.weight" in plain), {})
    given = {**known, **arguments}
    if given.get("num_heads_upsample", -1) not in (-1, given.get("num_heads")):
        raise InputError("num_heads_upsample other than num_heads is not supported.")
    facts = _adm_facts(given, layout)
    part = unet(plain, facts)
    learnt = _learns_variance(layout, given)
    schedules = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
    stated = given.get("noise_schedule", "linear")  # the default of the repository
    choice("noise_schedule", stated, tuple(schedules))
    shortest = 20 if stated == "linear" else 1  # the largest beta, 20 / steps, is at most 1
    steps = _count(given, "diffusion_steps", 1000, shortest, MAX_STEPS)
    scheduler = {
        "_class_name": "DDPMScheduler", "beta_schedule": schedules[stated], "num_train_timesteps": steps,
        "beta_start": 0.1 / steps, "beta_end": 20.0 / steps, "prediction_type": "epsilon",
        "variance_type": "learned_range" if learnt else "fixed_small", "clip_sample": False,
    }  # fmt: skip
    classes = layout["num_class_embeds"]
    return Conversion("adm", {"unet": part}, scheduler, _classes(classes, facts.sample_size) if classes else {})


def _learns_variance(layout: Mapping[str, Any], given: Arguments) -> bool:
    """Whether a network of guided-diffusion predicts the variance beside the noise.

    Raises:
        InputError: it predicts something else, as an upsampler, which takes a small picture beside the noisy one.
    """
    channels, predicted = layout["in_channels"], layout["out_channels"]
    learnt = predicted == 2 * channels
    if predicted not in (channels, 2 * channels):
        raise InputError(
            f"the network predicts {predicted} channels of {channels}, neither noise nor noise and variance."
        )
    if given.get("large_size") is not None or given.get("learn_sigma", learnt) != learnt:
        told = f"of {channels} channels the network predicts {predicted}"
        raise InputError(f"learn_sigma is {learnt}, since {told}; large_size and upsamplers are not supported.")
    return learnt


def _check_noise(layout: Mapping[str, Any]) -> None:
    """Refuses a network that takes more than the noisy picture, as one of latent diffusion for inpainting does."""
    channels, predicted = layout["in_channels"], layout["out_channels"]
    if predicted != channels:
        raise InputError(f"the network predicts {predicted} channels of {channels}, not their noise: not supported.")


def _adm_facts(given: Arguments, layout: Mapping[str, Any]) -> Facts:
    """The facts among the arguments of ``UNetModel``, of guided-diffusion and of latent diffusion."""
    size, new_order = given.get("num_head_channels", -1), given.get("use_new_attention_order", False)
    instance("use_new_attention_order", new_order, isinstance(new_order, bool), "true or false")
    return Facts(
        _side(given, "image_size", layout),
        num_heads=1 if size != -1 else _count(given, "num_heads"),
        attention_head_dim=None if size == -1 else _count(given, "num_head_channels"),
        order="qkv" if new_order else "head",
        **_groups(given, (32, 1)),
    )


def _ldm(tensors: Tensors, arguments: Arguments) -> Conversion:
    """Latent diffusion: UNet, autoencoder and, for class-conditional ones, the class embedder."""
    parts: dict[str, Tensors] = {"model.diffusion_model.": {}, "first_stage_model.": {}}
    table, factor, average = None, None, {}
    for name, value in tensors.items():
        prefix = next((prefix for prefix in parts if name.startswith(prefix)), None)
        if name == "cond_stage_model.embedding.weight":
            table = value
        elif name == "scale_factor":
            factor = value
        elif UNUSED.fullmatch(name):
            continue
        elif name.startswith("model_ema."):
            average[name] = value
        elif prefix is None:
            raise InputError(f"{name:.120} has no place in a latent diffusion model of a known kind.")
        else:
            parts[prefix][name.removeprefix(prefix)] = value
    network = _averaged(parts["model.diffusion_model."], average)
    plain = from_adm(network)
    if table is not None:
        plain["classes.weight"] = table
    layout = describe(plain)
    _check_noise(layout)
    known = LDM_NETWORKS.get(_signature(layout, table is not None), {})
    given = {**known, **arguments}
    inner = {**_inside(known, "unet_config", "params"), **_inside(arguments, "unet_config", "params")}
    for name in ("norm_groups", "image_size"):
        if name in given:
            inner.setdefault(name, given[name])
    _agree(inner, layout)
    facts = _adm_facts(inner, layout)
    scale = given.get("scale_factor", 1.0) if factor is None or factor.is_meta else float(factor)
    first = parts["first_stage_model."]
    scale, side = (
        number("scale_factor", scale, positive=True, most=MAX_ENTRY),
        _inside(given, "first_stage_config", "params", "ddconfig"),
    )
    side = _count(side, "resolution", 256, most=MAX_SIDE)
    codec = autoencoder(first, facts.groups, scale, side)
    latents = codec.config.get("vq_embed_dim", codec.config["latent_channels"])
    if latents != layout["in_channels"]:
        raise InputError(f"the latents have {latents} channels, the UNet takes {layout['in_channels']}: of two files?")
    name = "vae" if codec.kind == "AutoencoderKL" else "vqvae"
    details = {} if table is None else _classes(len(table) - 1, 256, null=True)
    scheduler = _scaled_linear(given, tensors.get("alphas_cumprod"))
    return Conversion("ldm", {"unet": unet(plain, facts), name: codec}, scheduler, details)


def _averaged(raw: Tensors, average: Tensors) -> Tensors:
    """The averages (EMA) of the ``raw`` weights, with which the repository samples; these if there are none.

    Raises:
        InputError: there is not one average for each weight.
    """
    if not average:
        return raw
    names = {name: f"model_ema.diffusion_model{name.replace('.', '')}" for name in raw}
    if set(names.values()) != average.keys() or len(set(names.values())) < len(names):
        raise InputError("the averages under model_ema are not those of the weights of the UNet, one for each.")
    return {name: average[averaged] for name, averaged in names.items()}


def _scaled_linear(given: Arguments, table: Tensor | None) -> dict[str, Any]:
    """The scheduler of latent diffusion, checked against the table in the file."""
    if "linear_start" not in given or "linear_end" not in given:
        raise InputError("the network is none of the published ones: give its constructor by --config.")
    start, end = (number(name, given[name], positive=True, most=1.0) for name in ("linear_start", "linear_end"))
    steps = _count(given, "timesteps", 1000, most=MAX_STEPS)
    if table is not None and not table.is_meta:
        betas = torch.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=torch.float64).square()
        wanted = (1 - betas).cumprod(0)
        rounding = torch.finfo(table.dtype).eps if table.is_floating_point() else 0.0
        if table.shape != wanted.shape or not torch.allclose(table.double(), wanted, rtol=max(1e-3, rounding)):
            raise InputError("alphas_cumprod of the file is another schedule than linear_start and linear_end give.")
    return {
        "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": start, "beta_end": end,
        "num_train_timesteps": steps, "prediction_type": "epsilon", "clip_sample": False,
    }  # fmt: skip


def _classes(count: int, size: int, null: bool = False) -> dict[str, Any]:
    """The entries of ``prior.json``: names of ImageNet's and CIFAR-10's classes by their number, and the null label."""
    names = list(map(str, range(count)))
    if count == 1000:
        names = _imagenet()
    elif count == len(CIFAR10) and size == 32:
        names = CIFAR10
    return {"classes": names, **({"null_label": count} if null else {})}


def _imagenet() -> list[str]:
    """The names of ImageNet's classes in their common order, of torchvision; repeated ones get their number."""
    from torchvision.models import ResNet18_Weights

    names: list[str] = list(ResNet18_Weights.DEFAULT.meta["categories"])
    return [name if name not in names[:i] else f"{name} {i}" for i, name in enumerate(names)]


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
