"""Networks of EDM, guided-diffusion and latent diffusion as diffusers' parts: from the weights of a file to a prior."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.errors import InputError, choice, in_one_line, instance, number
from pyro_vipaint.models.pretrained.components import MAX_ENTRY, MAX_STEPS
from pyro_vipaint.models.pretrained.convert_arguments import Arguments, agree, count, groups, inside, side_of
from pyro_vipaint.models.pretrained.convert_files import Checkpoint
from pyro_vipaint.models.pretrained.convert_names import RESAMPLE_FILTER, Tensors, describe, from_adm, from_edm
from pyro_vipaint.models.pretrained.convert_unets import Facts, Part, autoencoder, unet
from pyro_vipaint.models.pretrained.pipelines import MAX_SIDE

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
CLASS_TABLE, SCALE_FACTOR = "cond_stage_model.embedding.weight", "scale_factor"  # of latent diffusion
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
    agree(arguments, layout)
    sides = [int(found[1]) for name in names if (found := re.match(r"enc\.(\d+)x", name))]
    style: dict[str, Any] = {"resample_filter": _filter(filters)}
    if not dhariwal:
        style |= {"skip_scale": math.sqrt(0.5), "norm_eps": 1e-6, "skip_kernels": True, "sines_first": True}
        style |= {"endpoint": layout["noise_embedding"] == "positional", "class_in_noise": True}
    facts = Facts(
        side_of(arguments, "img_resolution", layout, max(sides, default=None)),
        attention_head_dim=count(arguments, "channels_per_head", 64) if dhariwal else None,
        order="channel",
        style=style,
        **groups(arguments, (32, 4)),
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
    agree(arguments, layout)
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
    steps = count(given, "diffusion_steps", 1000, shortest, MAX_STEPS)
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
        side_of(given, "image_size", layout),
        num_heads=1 if size != -1 else count(given, "num_heads"),
        attention_head_dim=None if size == -1 else count(given, "num_head_channels"),
        order="qkv" if new_order else "head",
        **groups(given, (32, 1)),
    )


def _signature(layout: Mapping[str, Any], classes: bool) -> tuple[Any, ...]:
    """The key of a published network."""
    widths, attended = tuple(layout["block_out_channels"]), tuple(layout["attention_levels"])
    return layout["base_channels"], widths, layout["layers_per_block"], attended, classes


def _ldm(tensors: Tensors, arguments: Arguments) -> Conversion:
    """Latent diffusion: UNet, autoencoder and, for class-conditional ones, the class embedder."""
    network, first = _of_latent_diffusion(tensors)
    plain = from_adm(network)
    table = tensors.get(CLASS_TABLE)
    if table is not None:
        plain["classes.weight"] = table
    layout = describe(plain)
    _check_noise(layout)
    known = LDM_NETWORKS.get(_signature(layout, table is not None), {})
    given = {**known, **arguments}
    inner = {**inside(known, "unet_config", "params"), **inside(arguments, "unet_config", "params")}
    for name in ("norm_groups", "image_size"):
        if name in given:
            inner.setdefault(name, given[name])
    agree(inner, layout)
    facts = _adm_facts(inner, layout)
    factor = tensors.get(SCALE_FACTOR)
    stated = given.get(SCALE_FACTOR, 1.0) if factor is None or factor.is_meta else float(factor)
    scale = number(SCALE_FACTOR, stated, positive=True, most=MAX_ENTRY)
    side = count(inside(given, "first_stage_config", "params", "ddconfig"), "resolution", 256, most=MAX_SIDE)
    codec = autoencoder(first, facts.groups, scale, side)
    latents = codec.config.get("vq_embed_dim", codec.config["latent_channels"])
    if latents != layout["in_channels"]:
        raise InputError(f"the latents have {latents} channels, the UNet takes {layout['in_channels']}: of two files?")
    name = "vae" if codec.kind == "AutoencoderKL" else "vqvae"
    details = {} if table is None else _classes(len(table) - 1, 256, null=True)
    scheduler = _scaled_linear(given, tensors.get("alphas_cumprod"))
    return Conversion("ldm", {"unet": unet(plain, facts), name: codec}, scheduler, details)


def _of_latent_diffusion(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """The weights of the UNet, averaged where the file has averages, and of the autoencoder.

    Raises:
        InputError: a weight has no place in latent diffusion.
    """
    network: Tensors = {}
    first: Tensors = {}
    average: Tensors = {}
    places = {"model.diffusion_model.": network, "first_stage_model.": first}
    for name, value in tensors.items():
        prefix = next((prefix for prefix in places if name.startswith(prefix)), None)
        if name in (CLASS_TABLE, SCALE_FACTOR) or UNUSED.fullmatch(name):
            continue
        if name.startswith("model_ema."):
            average[name] = value
        elif prefix is None:
            raise InputError(f"{name:.120} has no place in a latent diffusion model of a known kind.")
        else:
            places[prefix][name.removeprefix(prefix)] = value
    return _averaged(network, average), first


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
    steps = count(given, "timesteps", 1000, most=MAX_STEPS)
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
