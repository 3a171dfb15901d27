"""From the parts of a diffusers pipeline (network, scheduler, autoencoder, text encoders) to a prior.

The scheduler says what the network predicts and at which noise; the autoencoder, if there is one, is the codec; the
embedding of the empty prompt, or the label that means "no label", is the null condition of guidance.

A model of diffusers as a frozen function of ``(z, timestep, **condition)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint.errors import InputError
from pyro_vipaint.models.pretrained.text import EncodeText, text_encoder
from pyro_vipaint.models.priors.classifier_free import GuidedNetwork
from pyro_vipaint.models.priors.codecs import AutoencoderCodec, Codec, Identity
from pyro_vipaint.models.priors.denoisers import (
    EDMDenoiser,
    EpsilonDenoiser,
    FlowDenoiser,
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
CONDITIONS = {  # of the networks that are conditional by their class
    "UNet2DModel": (),
    "UNet2DConditionModel": ("encoder_hidden_states",),
    "SD3Transformer2DModel": ("encoder_hidden_states", "pooled_projections"),
}
OTHER_CONDITIONS = ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type")
ASK_FOR = {
    "class_labels": "This prior is class-conditional and names no null_label in prior.json: give a label.",
    "encoder_hidden_states": "This prior needs text and has no text encoder: give encoder_hidden_states.",
    "pooled_projections": "This prior needs text and has no text encoder: give pooled_projections.",
}


def build_prior(
    parts: Mapping[str, Any], details: Mapping[str, Any], name: str, checkpointing: bool = False
) -> DiffusionPrior:
    """The prior of a pipeline's ``parts`` by name, frozen.

    Args:
        parts: ``unet`` or ``transformer``; ``scheduler``; for latent priors ``vae`` or ``vqvae``; for text
            ``text_encoder`` and ``tokenizer``, with ``_2`` and ``_3``; others are not looked at.
        details: what diffusers has no field for; see :mod:`pyro_vipaint.models.pretrained.load`.
        name: what the prior is called in reports.
        checkpointing: recompute activations instead of keeping them for the gradient.

    Raises:
        InputError: parts that are not understood or do not fit each other.
    """
    parts = {part: value for part, value in parts.items() if value is not None}
    module = parts["transformer"] if "transformer" in parts else parts["unet"]
    event_shape = _event_shape(module)
    _check_details(details, _num_classes(module))
    details = {name: value for name, value in details.items() if value is not None}
    codec = build_codec(parts, event_shape, checkpointing)
    freeze(module, checkpointing)
    encode_text = text_encoder(parts) if CONDITIONS[type(module).__name__] else None
    null = _null_condition(module, details, encode_text)
    denoiser = build_denoiser(_guided(module, null), parts["scheduler"])
    unit = 0.5 if isinstance(codec, Identity) else 1.0  # of pixels in [-1, 1]; of scaled latents
    unnamed = [str(label) for label in range(_num_classes(module))]
    return DiffusionPrior(
        denoiser.schedule,
        denoiser,
        event_shape,
        codec,
        sigma_data=details.get("sigma_data", getattr(denoiser, "sigma_data", unit)),
        class_names=tuple(details.get("classes", unnamed)),
        name=name,
        encode_text=encode_text,
        guided_by=tuple(null),
    )


def build_codec(parts: Mapping[str, Any], event_shape: torch.Size, checkpointing: bool = False) -> Codec:
    """The codec of the autoencoder among ``parts``, with the factors of its configuration; pixels without one."""
    autoencoder = parts.get("vae", parts.get("vqvae"))
    if autoencoder is None:
        return Identity()
    config = autoencoder.config
    channels = config.get("vq_embed_dim") or config.latent_channels
    if channels != event_shape[0] or config.in_channels != config.out_channels:
        raise InputError(
            f"The autoencoder maps {config.in_channels} to {channels} to {config.out_channels} channels, "
            f"the prior is about latents with {event_shape[0]}."
        )
    freeze(autoencoder, checkpointing)
    return AutoencoderCodec(autoencoder, config.scaling_factor, config.get("shift_factor") or 0.0)


def build_denoiser(network: Any, scheduler: Any) -> NetworkDenoiser:
    """``network`` with the noise schedule and the kind of prediction that the scheduler states."""
    kind = type(scheduler).__name__
    if kind.startswith("EDM"):
        return _edm(network, scheduler.config, kind)
    if kind.startswith("FlowMatch"):
        return _flow(network, scheduler.config, kind)
    return _table(network, scheduler, kind)


def _edm(network: Any, config: Any, kind: str) -> NetworkDenoiser:
    if config.prediction_type != "epsilon" or config.sigma_schedule != "karras":
        raise InputError(
            f"{kind} with prediction_type {config.prediction_type} and sigma_schedule {config.sigma_schedule} "
            "is not supported: epsilon with karras is."
        )
    schedule = EDM(config.sigma_min, config.sigma_max, config.get("rho", 7.0))
    return EDMDenoiser(network, schedule, sigma_data=config.sigma_data)


def _flow(network: Any, config: Any, kind: str) -> NetworkDenoiser:
    """The clock of the network is sigma times the number of training steps, whatever the shift."""
    if config.get("invert_sigmas", False):
        raise InputError(f"{kind} with invert_sigmas is not supported.")
    schedule, steps = RectifiedFlow(config.get("shift", 1.0)), config.num_train_timesteps
    return FlowDenoiser(network, schedule, lambda t: steps * schedule(t)[1])


def _table(network: Any, scheduler: Any, kind: str) -> NetworkDenoiser:
    prediction = scheduler.config.get("prediction_type", "epsilon")
    discrete = scheduler.config.get("timestep_type", "discrete") == "discrete"
    if not hasattr(scheduler, "alphas_cumprod") or prediction not in BY_PREDICTION or not discrete:
        raise InputError(f"Scheduler {kind} with prediction_type {prediction} is not supported.")
    schedule = TableVP(scheduler.alphas_cumprod.tolist())
    return BY_PREDICTION[prediction](network, schedule, integer_timestep(schedule.num_steps))


def _guided(module: Any, null: Mapping[str, Tensor]) -> GuidedNetwork:
    names = [*CONDITIONS[type(module).__name__], *(["class_labels"] if _num_classes(module) else [])]
    return GuidedNetwork(DiffusersNetwork(module), null, {name: ASK_FOR[name] for name in names})


def _null_condition(module: Any, details: Mapping[str, Any], encode_text: EncodeText | None) -> dict[str, Tensor]:
    """The null condition of one image, as far as there is one."""
    null = {} if encode_text is None else {name: value[0] for name, value in encode_text([""]).items()}
    label = details.get("null_label")
    if _num_classes(module) and label is not None:
        null["class_labels"] = torch.tensor(label, device=module.device)
    return null


def _check_details(details: Any, num_classes: int) -> None:
    """Refuses entries of prior.json that the network would trip over much later."""
    if not isinstance(details, Mapping):
        raise InputError("prior.json must hold a JSON object.")
    sigma, names, null = (details.get(name) for name in ("sigma_data", "classes", "null_label"))
    if sigma is not None and not (_is_number(sigma) and 0 < sigma < math.inf):
        raise InputError(f"sigma_data in prior.json must be a positive number, not {sigma!r}.")
    if names is not None and not (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)):
        raise InputError("classes in prior.json must be a list of names.")
    if names is not None and len(names) > num_classes:
        raise InputError(f"prior.json names {len(names)} classes, the network has {num_classes}.")
    if null is not None and not (isinstance(null, int) and not isinstance(null, bool) and 0 <= null < num_classes):
        raise InputError(f"null_label in prior.json must be one of the network's {num_classes} classes, not {null!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _num_classes(module: Any) -> int:
    return module.config.get("num_class_embeds") or 0


def _event_shape(module: Any) -> torch.Size:
    """(C, H, W) of what the network denoises; refuses networks that are not understood."""
    kind = type(module).__name__
    if kind not in CONDITIONS:
        raise InputError(f"A {kind} is not supported: {', '.join(CONDITIONS)} are.")
    config = module.config
    for name in OTHER_CONDITIONS:
        if config.get(name) is not None:
            raise InputError(f"A {kind} with {name} {config[name]} is not supported.")
    size = config.sample_size
    if size is None or config.in_channels != config.out_channels:
        raise InputError("The network must state its sample_size and return as many channels as it takes.")
    height, width = (size, size) if isinstance(size, int) else size
    return torch.Size((config.in_channels, height, width))


@dataclass(frozen=True, eq=False)
class DiffusersNetwork:
    """A UNet or transformer in its own dtype: ``z`` and conditions are cast to it, the output to the dtype of ``z``.

    The timestep is not: half precision would round 999 to 1000. The models embed it in float32.
    """

    module: Any

    def __call__(self, z: Tensor, timestep: Tensor, **condition: Any) -> Tensor:
        dtype = self.module.dtype
        cast = {name: value.to(dtype) if _is_float(value) else value for name, value in condition.items()}
        return self.module(z.to(dtype), timestep=timestep, **cast, return_dict=False)[0].to(z.dtype)


def freeze(module: Any, checkpointing: bool) -> None:
    """``module`` without gradients of its weights, in evaluation mode; ``checkpointing`` recomputes its activations.

    Recomputation (Chen et al. 2016) trades about a third more time for the memory of all but a block's activations. It
    is diffusers' own, active wherever gradients are.
    """
    module.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    if checkpointing:
        # VQModel is made of the blocks of AutoencoderKL, which can; only its class does not say so.
        module._supports_gradient_checkpointing = True
        module.enable_gradient_checkpointing()


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
