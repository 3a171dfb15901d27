"""The base of every guide of this package: one distribution per site, ancestral sampling, saving and loading."""

from __future__ import annotations

import math
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from pyro.distributions import Normal, TorchDistribution
from pyro.infer.autoguide import AutoMessenger
from pyro.nn import PyroParam
from pyro.nn.module import pyro_method
from pyro.poutine.runtime import Message, get_plates
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vipaint._files import FilePair, no_larger_than
from pyro_vipaint.errors import InputError, number, whole

if TYPE_CHECKING:
    from pyro_vipaint.models import DiffusionModel, Level

FILES = FilePair("guide.json", "model.safetensors")
MAX_SETTING = 1000  # of a whole number in a saved guide that counts nothing in its parameters
Guide = TypeVar("Guide", bound="LatentGuide")


class LatentGuide(AutoMessenger):
    """A guide over the latent levels of a :class:`DiffusionModel`.

    A subclass implements ``get_posterior(name, prior)``: the distribution at a site, given the model's own
    distribution there. The guide runs together with the model, so that both share every network call.

    A subclass creates all its parameters in its constructor ``(model, init=None, …)`` and names them
    ``<kind>_<level>``; each kind can have its own learning rate. Arguments of the constructor that decide the shapes
    or the meaning of the parameters go into ``settings``, by argument name, as plain numbers and strings, so that
    :meth:`load` can repeat them.

    Args:
        model: the :class:`DiffusionModel` to be approximated.
        init: initial value of the means, shape ``(N, *event)``, clean scale; if not given, zeros for as many images
            as the model's conditions describe. It decides the device and the dtype of the parameters.

    Raises:
        InputError: ``init`` does not have the prior's event shape; or, when the guide runs, the number of images is
            not the N that the guide has parameters for.
    """

    def __init__(self, model: DiffusionModel, init: Tensor | None = None) -> None:
        super().__init__(model)
        self.settings: dict[str, Any] = {}
        self.num_images = model.num_images if init is None else len(init)
        self._shaped_for: int | None = None  # N of the parameters; a guide without any runs on any number of images
        self._levels = {level.name: level for level in model.levels}
        self._above = {lower.name: upper for upper, lower in pairwise(model.levels)}
        self._top = model.levels[0].name

    def _pyro_sample(self, msg: Message) -> None:
        for plate in msg["cond_indep_stack"]:
            # The parameters of one image would otherwise broadcast silently over all images.
            if plate.name == "images" and self._shaped_for not in (None, plate.size):
                raise InputError(
                    f"the guide has parameters for {self._shaped_for} images and runs on {plate.size}: build it with "
                    f"init of shape (N, *event), e.g. from pyro_vipaint.initial_latent, and give y as (N, ...)."
                )
        super()._pyro_sample(msg)

    @pyro_method
    def sample_latents(self, num_images: int) -> Tensor:
        """Draws z_K … z_1 from the guide and returns z_1: K - 1 network calls, none for the observation."""
        self._outer_plates = tuple(frame.name for frame in get_plates())
        try:
            model: Any = self.model
            with self:
                return model.sample_latents(num_images)
        finally:
            del self._outer_plates

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``model.safetensors`` (the parameters, unconstrained) and ``guide.json`` into ``folder``."""
        record = {"num_images": self.num_images, "settings": self.settings, "levels": _noise(self)}
        FILES.write(folder, type(self).__name__, record, self.state_dict())

    @classmethod
    def load(cls: type[Guide], folder: str | Path, model: DiffusionModel) -> Guide:
        """The guide that was saved in ``folder``, on the CPU, bit for bit; ``model`` has the same levels and shapes.

        Raises:
            InputError: the folder holds another class of guide or broken files, or does not fit the model.
        """
        record, tensors = FILES.read(folder, cls.__name__)
        dtype = next((value.dtype for value in tensors.values() if value.is_floating_point()), None)
        most = max(MAX_SETTING, len(tensors), *(side for value in tensors.values() for side in value.shape))
        elements = sum(value.numel() for value in tensors.values())
        try:
            for name, value in {**record["settings"], "num_images": record["num_images"]}.items():
                whole(name, value if isinstance(value, int) else 0, -most, most)
            init = torch.zeros(whole("num_images", record["num_images"]), *model.prior.event_shape, dtype=dtype)
            # random initial values are overwritten below
            with torch.random.fork_rng(devices=[]), no_larger_than(len(tensors), elements):
                guide = cls(model, init, **record["settings"])
            saved = {name: tuple(map(float, pair)) for name, pair in record["levels"].items()} | _shapes(tensors)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"{Path(folder) / FILES.record} does not describe a {cls.__name__}.") from error
        needed = _noise(guide) | _shapes(guide.state_dict())
        for name in sorted(saved.keys() | needed.keys()):
            theirs, ours = saved.get(name), needed.get(name)
            pairs = zip_longest(theirs or (), ours or (), fillvalue=math.nan)
            if None in (theirs, ours) or not all(math.isclose(*pair, rel_tol=1e-6) for pair in pairs):
                raise InputError(f"{folder} holds {theirs} for {name}, the model needs {ours}.")
        for name, value in guide.state_dict().items():
            if value.is_floating_point() and not tensors[name].is_floating_point():
                raise InputError(f"{folder} holds {name} as {tensors[name].dtype}, not as floating-point numbers.")
        guide.load_state_dict(tensors)
        return guide

    def _start(self, model: DiffusionModel, init: Tensor | None) -> Tensor:
        """``init``, or zeros; marks the guide as one with parameters for ``num_images`` images."""
        self._shaped_for = self.num_images
        shape = (self.num_images, *model.prior.event_shape)
        if init is not None and init.shape != shape:
            raise InputError(f"init has shape {tuple(init.shape)}; the shape must be (N, *event), event {shape[1:]}.")
        return torch.zeros(shape) if init is None else init.detach()

    def _initial_tau(self, level: Level, tau_scale: float) -> float:
        """The initial tau of a level: sigma at T_e, ``tau_scale`` times the standard deviation of the prior below."""
        scale = number("tau_scale", tau_scale, positive=True)
        return level.sigma if level.name == self._top else scale * level.step_std

    def _create(self, kind: str, name: str, value: Tensor, constraint: Constraint = constraints.real) -> None:
        """A parameter of this kind at the site ``name``, with the initial value ``value``."""
        setattr(self, f"{kind}_{name.removeprefix('z_')}", PyroParam(value.clone(), constraint=constraint))

    def _of(self, kind: str, name: str) -> Tensor:
        """The parameter of this kind at the site ``name``."""
        return getattr(self, f"{kind}_{name.removeprefix('z_')}")

    def _location(self, name: str) -> Tensor:
        """alpha_i mu_i: the clean mean in the scale of the site."""
        return self._levels[name].alpha * self._of("mu", name)


def gaussian(mean: Tensor, std: Tensor, event_dim: int) -> TorchDistribution:
    """N(mean, std^2) of the shape of ``mean``, without argument checks (each would cost a pass over the image)."""
    return Normal(mean, std.expand(mean.shape), validate_args=False).to_event(event_dim)


def _noise(guide: LatentGuide) -> dict[str, tuple[float, ...]]:
    """(alpha, sigma) by level: the meaning of the parameters depends on them."""
    return {name: (level.alpha, level.sigma) for name, level in guide._levels.items()}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}
