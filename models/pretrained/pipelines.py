"""A prior from the parts of a diffusers pipeline: network, scheduler, autoencoder, text encoders.

The scheduler states the prediction of the network and its noise schedule. The autoencoder, if there is one, is the
codec. The null condition of guidance is the embedding of the empty prompt, or the label that means "no label".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint.errors import InputError, in_one_line, number, whole
from pyro_vipaint.models.pretrained.text import EncodeText, text_encoder
from pyro_vipaint.models.priors.classifier_free import GuidedNetwork
from pyro_vipaint.models.priors.codecs import AutoencoderCodec, Codec, Identity
from pyro_vipaint.models.priors.denoisers import (
    EDMDenoiser,
    EpsilonDenoiser,
    FlowDenoiser,
    LearnedRangeDenoiser,
    NetworkDenoiser,
    SampleDenoiser,
    VDenoiser,
    integer_timestep,
)
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import EDM, RectifiedFlow, TableVP

BY_PREDICTION: dict[str, type[NetworkDenoiser]] = {
    "epsilon": EpsilonDenoiser,
    "v_prediction": VDenoiser,
    "sample": SampleDenoiser,
}
CONDITIONS = {  # of each supported network, besides class labels
    "UNet2DModel": (),
    "UNet2DConditionModel": ("encoder_hidden_states",),
    "ResidualUNet": (),
    "LabelledUNet": (),
    "SD3Transformer2DModel": ("encoder_hidden_states", "pooled_projections"),
}
OTHER_CONDITIONS = ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type")
LEARNED = "learned_range"  # variance_type of schedulers for networks that also predict the variance
MAX_SIDE = 4096  # pixels or latents along a side of an image
STATED = ("prediction_type", "sigma_schedule", "timestep_type", "invert_sigmas")  # by the configuration of a scheduler
ASK_FOR = {
    "class_labels": "This prior is class-conditional and has no null_label in prior.json: give a label.",
    "encoder_hidden_states": "This prior needs text and has no text encoder: give encoder_hidden_states.",
    "pooled_projections": "This prior needs text and has no text encoder: give pooled_projections.",
}


def build_prior(
    parts: Mapping[str, Any],
    details: Mapping[str, Any],
    name: str,
    checkpointing: bool = False,
    tile: int | None = None,
) -> DiffusionPrior:
    """The prior made of the ``parts`` of a pipeline, frozen; arguments as for :func:`from_diffusers` and the prior.

    ``details`` are the entries of ``prior.json``; see :mod:`pyro_vipaint.models.pretrained.load`.

    Raises:
        InputError: parts are missing, are not supported, or do not fit each other.
    """
    module = parts.get("transformer", parts.get("unet"))
    learned = getattr(parts.get("scheduler"), "config", {}).get("variance_type") == LEARNED
    event_shape = _event_shape(module, 2 if learned else 1)
    num_classes = module.config.get("num_class_embeds") or 0
    details = {name: value for name, value in details.items() if value is not None}
    names, null_label = details.get("classes", []), details.get("null_label")
    listed = isinstance(names, list) and len(names) <= num_classes and all(isinstance(name, str) for name in names)
    if not (listed and len(set(names)) == len(names) and all(map(str.isprintable, names))):
        raise InputError(
            f"The network has {num_classes} classes: classes in prior.json must be a list of at most as many different "
            f"names, not {names!r:.80}."
        )
    if null_label is not None:
        whole(f"null_label in prior.json, for {num_classes} classes,", null_label, 0, num_classes - 1)
    if details.get("event_shape", list(event_shape)) != list(event_shape):
        raise InputError(f"prior.json states event_shape {details['event_shape']!r:.80}, the network {event_shape}.")
    codec = build_codec(parts, event_shape, checkpointing, tile)
    freeze(module, checkpointing)
    needed = CONDITIONS[type(module).__name__]
    encode_text = text_encoder(parts) if needed else None
    null = {} if encode_text is None else _null_text(encode_text)
    if null_label is not None:
        null["class_labels"] = torch.tensor(null_label, dtype=torch.long, device=module.device)
    needed = (*needed, "class_labels") if num_classes else needed
    network = GuidedNetwork(DiffusersNetwork(module), null, {name: ASK_FOR[name] for name in needed})
    denoiser = build_denoiser(network, parts.get("scheduler"))
    unit = 0.5 if isinstance(codec, Identity) else 1.0  # of pixels in [-1, 1]; of scaled latents
    sigma_data = details.get("sigma_data", getattr(denoiser, "sigma_data", unit))
    return DiffusionPrior(
        denoiser.schedule,
        denoiser,
        event_shape,
        codec,
        sigma_data=number("sigma_data in prior.json", sigma_data, positive=True),
        class_names=tuple(details.get("classes", map(str, range(num_classes)))),
        name=name,
        encode_text=encode_text,
        guided_by=tuple(null),
        conditions=needed,
        familiar_error=details.get("familiar_error"),
    )


def _null_text(encode_text: EncodeText) -> dict[str, Tensor]:
    """The embedding of the empty prompt by condition: the first text that passes through tokenizer and encoder."""
    try:
        return {name: value[0] for name, value in encode_text([""]).items()}
    except Exception as error:  # an index out of range, lengths that differ, …
        raise in_one_line("The text encoders do not fit their tokenizers", error) from error


def build_codec(
    parts: Mapping[str, Any], event_shape: torch.Size, checkpointing: bool = False, tile: int | None = None
) -> Codec:
    """The codec of the autoencoder among ``parts``, with the factors of its configuration; pixels if there is none."""
    autoencoder = parts.get("vae", parts.get("vqvae"))
    if autoencoder is None:
        if tile is not None:
            raise InputError("The prior is one of pixels, which are not decoded: omit tile.")
        return Identity()
    config = autoencoder.config
    channels = config.get("vq_embed_dim") or config.latent_channels
    if channels != event_shape[0] or config.in_channels != config.out_channels:
        raise InputError(
            f"The autoencoder maps {config.in_channels} to {channels} to {config.out_channels} channels, "
            f"the prior is about latents with {event_shape[0]}."
        )
    if config.get("latents_mean") or config.get("latents_std"):
        raise InputError("The autoencoder scales its channels by latents_mean and latents_std, which is not supported.")
    scale = number("scaling_factor of the autoencoder", config.scaling_factor, positive=True)
    shift = number("shift_factor of the autoencoder", config.get("shift_factor") or 0.0, signed=True)
    freeze(autoencoder, checkpointing)
    return AutoencoderCodec(autoencoder, scale, shift, tile)


def build_denoiser(network: Any, scheduler: Any) -> NetworkDenoiser:
    """``network`` with the noise schedule and the prediction that the scheduler states."""
    kind: str = type(scheduler).__name__
    config: Any = getattr(scheduler, "config", {})

    def positive(name: str, default: float | None = None) -> float:
        return number(f"{name} of the scheduler", config.get(name, default), positive=True)

    prediction = config.get("prediction_type", "epsilon")
    if kind.startswith("EDM"):
        if prediction == "epsilon" and config.sigma_schedule == "karras":
            schedule = EDM(positive("sigma_min"), positive("sigma_max"), positive("rho", 7.0))
            return EDMDenoiser(network, schedule, sigma_data=positive("sigma_data"))
    elif kind.startswith("FlowMatch"):
        if not config.get("invert_sigmas", False):
            flow, steps = RectifiedFlow(positive("shift", 1.0)), positive("num_train_timesteps")
            return FlowDenoiser(network, flow, lambda t: steps * flow(t)[1])  # whatever the shift
    elif hasattr(scheduler, "alphas_cumprod") and config.get("timestep_type", "discrete") == "discrete":
        if prediction in tuple(BY_PREDICTION):
            schedule = TableVP(scheduler.alphas_cumprod.tolist())
            if config.get("variance_type") == LEARNED and prediction == "epsilon":
                return LearnedRangeDenoiser(network, schedule, integer_timestep(schedule.num_steps))
            return BY_PREDICTION[prediction](network, schedule, integer_timestep(schedule.num_steps))
    stated = ", ".join(f"{name} {config[name]!s:.80}" for name in STATED if name in config)
    raise InputError(f"The scheduler {kind} with {stated or 'this configuration'} is not supported.")


def _event_shape(module: Any, outputs: int = 1) -> torch.Size:
    """(C, H, W) of the latents; refuses networks that are not supported, or have not ``outputs`` times C outputs."""
    kind, config = type(module).__name__, cast(Any, getattr(module, "config", {}))
    others = [name for name in OTHER_CONDITIONS if config.get(name) is not None]
    size = config.get("sample_size")
    if kind not in CONDITIONS or others or size is None or config.out_channels != outputs * config.in_channels:
        raise InputError(
            f"The network is a {kind}{' with ' if others else ''}{' and '.join(others)}. Supported are "
            f"{', '.join(CONDITIONS)} with a sample_size, as many channels out as in (or twice as many) and no "
            f"{', '.join(OTHER_CONDITIONS)}."
        )
    sides = size if isinstance(size, (tuple, list)) and len(size) == 2 else (size, size)
    return torch.Size((config.in_channels, *(whole("sample_size of the network", side, 1, MAX_SIDE) for side in sides)))


@dataclass(frozen=True, eq=False)
class DiffusersNetwork:
    """A UNet or transformer in its own dtype: ``z`` and conditions are cast to it, the output to the dtype of ``z``.

    The timestep is not cast, since half precision would round 999 to 1000. The models embed it in float32.
    """

    module: Any

    __repr__, _repr_html_ = compact, as_html

    def __call__(self, z: Tensor, timestep: Tensor, **condition: Any) -> Tensor:
        dtype = self.module.dtype
        given = {name: v.to(dtype) if v.is_floating_point() else v for name, v in condition.items()}
        return self.module(z.to(dtype), timestep=timestep, **given, return_dict=False)[0].to(z.dtype)


def freeze(module: Any, checkpointing: bool) -> None:
    """Freezes the weights of ``module`` and sets evaluation mode; ``checkpointing`` recomputes its activations.

    Recomputation (Chen et al. 2016) takes about a third more time and keeps the activations of one block only. It is
    that of diffusers, active whenever gradients are.
    """
    module.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    if checkpointing:
        # VQModel consists of the blocks of AutoencoderKL, which support it; its class does not declare this.
        module._supports_gradient_checkpointing = True
        module.enable_gradient_checkpointing()
