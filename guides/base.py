"""What every effect-based guide here is: one method, ``get_posterior(name, prior)``, ancestral sampling, saving."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isclose
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from pyro.distributions import Distribution, Normal
from pyro.infer.autoguide import AutoMessenger
from pyro.nn import PyroParam
from pyro.nn.module import pyro_method
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.runtime import Message, get_plates
from torch import Tensor
from torch.distributions import constraints

from pyro_vipaint._files import FilePair
from pyro_vipaint.errors import InputError

FILES = FilePair("guide.json", "model.safetensors")
IMAGES = "images"  # the plate of :class:`DiffusionModel`
Guide = TypeVar("Guide", bound="LatentGuide")


class LevelLike(Protocol):
    """A latent site as the model describes it: alpha and sigma there, the prior's spread given the level above."""

    @property
    def name(self) -> str: ...
    @property
    def alpha(self) -> float: ...
    @property
    def sigma(self) -> float: ...
    @property
    def step_std(self) -> float: ...


class PriorLike(Protocol):
    """The shape of one latent."""

    @property
    def event_shape(self) -> Sequence[int]: ...


class ModelLike(Protocol):
    """What the guide reads of a :class:`DiffusionModel`."""

    def __call__(self, y: Tensor | None = None, num_images: int | None = None) -> Tensor: ...

    @property
    def levels(self) -> Sequence[LevelLike]: ...

    @property
    def prior(self) -> PriorLike: ...

    @property
    def num_images(self) -> int: ...


class LatentGuide(AutoMessenger):
    """A guide over the latent levels of a :class:`DiffusionModel`.

    A subclass says ``get_posterior(name, prior)``: the distribution at a site, given the model's own distribution
    there. The guide rides on the model's run, so that guide and model share every network call.

    A subclass creates all its parameters in its constructor ``(model, init=None, …)``, named ``<kind>_<level>``: the
    kind has a learning rate of its own. Arguments of the constructor that decide the parameters' shapes or meaning
    go into ``settings``, plain numbers and strings by argument name, so that :meth:`load` can repeat them.

    Args:
        model: the :class:`DiffusionModel` to be approximated.
        init: where the means start, shape ``(N, *event)``, clean scale; if not given, zeros for as many images as
            the model's conditions tell of. It decides the device and the dtype of the parameters.

    Raises:
        InputError: ``init`` has not the prior's event shape; or, when the guide runs, the model runs on another number
            of images than the N that the guide has parameters for.
    """

    def __init__(self, model: ModelLike, init: Tensor | None = None) -> None:
        super().__init__(model)
        self.settings: dict[str, Any] = {}
        self.num_images = model.num_images if init is None else len(init)
        self._shaped_for: int | None = None  # N of the parameters; a guide that needs none runs on any number
        self._levels = {level.name: level for level in model.levels}
        self._top = model.levels[0].name

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] == self._top:
            self._check_images(msg["cond_indep_stack"])
        super()._pyro_sample(msg)

    def _check_images(self, plates: Sequence[CondIndepStackFrame]) -> None:
        """One image's parameters would broadcast over all images without a word."""
        for plate in plates:
            if plate.name == IMAGES and self._shaped_for not in (None, plate.size):
                raise InputError(
                    f"the guide has parameters for {self._shaped_for} images and runs on {plate.size}: build it with "
                    f"init of shape (N, *event), e.g. from pyro_vipaint.initial_latent, and give y as (N, ...)."
                )

    @pyro_method
    def sample_latents(self, num_images: int) -> Tensor:
        """Draws z_K … z_1 from the guide and returns z_1: K - 1 network calls, none for the observation."""
        self._outer_plates = tuple(frame.name for frame in get_plates())
        try:
            with self:
                return self.model.sample_latents(num_images)
        finally:
            del self._outer_plates

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``model.safetensors`` (the parameters, unconstrained) and ``guide.json`` into ``folder``."""
        record = {"num_images": self.num_images, "settings": self.settings, "levels": self._noise()}
        FILES.write(folder, type(self).__name__, record, self.state_dict())

    @classmethod
    def load(cls: type[Guide], folder: str | Path, model: ModelLike) -> Guide:
        """The guide that was saved in ``folder``, on the CPU, bit for bit; ``model`` has the same levels and shapes.

        Raises:
            InputError: the folder holds another class of guide or broken files, or does not fit the model.
        """
        record, tensors = FILES.read(folder, cls.__name__)
        dtype = next((value.dtype for value in tensors.values() if value.is_floating_point()), None)
        try:
            init = torch.zeros(record["num_images"], *model.prior.event_shape, dtype=dtype)
            with torch.random.fork_rng(devices=[]):  # what a constructor draws is overwritten
                guide = cls(model, init, **record["settings"])
            saved_noise = {name: tuple(map(float, pair)) for name, pair in record["levels"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"{Path(folder) / FILES.record} does not describe a {cls.__name__}.") from error
        guide._check_fit(folder, saved_noise, tensors)
        guide.load_state_dict(tensors)
        return guide

    def _noise(self) -> dict[str, tuple[float, float]]:
        """(alpha, sigma) by level: what the parameters' values mean depends on them."""
        return {name: (level.alpha, level.sigma) for name, level in self._levels.items()}

    def _check_fit(self, folder: str | Path, noise: dict[str, tuple[float, ...]], tensors: dict[str, Tensor]) -> None:
        """Refuses levels of another noise, and parameters of other names or shapes."""
        if noise.keys() != self._levels.keys():
            raise InputError(f"{folder} holds {len(noise)} levels, the model has {len(self._levels)}.")
        for name, ours in self._noise().items():
            if not all(isclose(a, b, rel_tol=1e-6) for a, b in zip(noise[name], ours, strict=True)):
                raise InputError(f"{folder} has (alpha, sigma) = {noise[name]} at {name}, the model has {ours}.")
        expected = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in tensors.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                shapes = [str(shapes[name]) if name in shapes else "nothing" for shapes in (found, expected)]
                raise InputError(f"{folder} holds {shapes[0]} for {name}, the model wants {shapes[1]}.")

    def _start(self, model: ModelLike, init: Tensor | None) -> Tensor:
        """``init``, or zeros: the parameters will be those of ``num_images`` images."""
        self._shaped_for = self.num_images
        shape = (self.num_images, *model.prior.event_shape)
        if init is not None and init.shape != shape:
            raise InputError(f"init has shape {tuple(init.shape)}; (N, *event) with event {shape[1:]} is wanted.")
        return torch.zeros(shape) if init is None else init.detach()

    def _initial_tau(self, level: LevelLike, tau_scale: float) -> float:
        """Where tau starts at a level: at sigma at T_e, at ``tau_scale`` times the prior's step below it."""
        if not 0 < tau_scale < inf:
            raise InputError(f"tau_scale must be positive and finite, not {tau_scale}.")
        return level.sigma if level.name == self._top else tau_scale * level.step_std

    def _create(self, name: str, value: Tensor, constraint: constraints.Constraint = constraints.real) -> None:
        setattr(self, name, PyroParam(value, constraint=constraint))

    def _of(self, kind: str, name: str) -> Tensor:
        """The parameter of this kind at the site ``name``."""
        return getattr(self, f"{kind}_{name.removeprefix('z_')}")

    def _location(self, name: str) -> Tensor:
        """alpha_i mu_i: the clean mean in the scale of the site."""
        return self._levels[name].alpha * self._of("mu", name)


def gaussian(mean: Tensor, std: Tensor, event_dim: int) -> Distribution:
    """N(mean, std^2) of the shape of ``mean``, without argument checks (each would cost a pass over the image)."""
    return Normal(mean, std.expand(mean.shape), validate_args=False).to_event(event_dim)
