"""The base of every guide of this package: one distribution per site, ancestral sampling, saving and loading."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from pyro.distributions import Normal, TorchDistribution
from pyro.infer.autoguide import AutoMessenger, init_to_value
from pyro.nn import PyroParam
from pyro.nn.module import pyro_method
from pyro.poutine.runtime import _PYRO_STACK, Message, get_plates
from pyro.poutine.trace_messenger import TraceMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vipaint._files import FilePair, no_larger_than
from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import device_of
from pyro_vipaint.errors import InputError, instance, number, numbers, whole

if TYPE_CHECKING:
    from pyro_vipaint.corrections import Correction
    from pyro_vipaint.models import DiffusionModel, Level

FILES = FilePair("guide.json", "model.safetensors")
OBSERVATION = "y"  # the one site of the model that is not a latent level
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
            as the model's conditions describe, on the device of the prior. It decides device and dtype of the
            parameters.

    Raises:
        InputError: ``init`` is not finite or does not have the prior's event shape; or, when the guide runs, the
            number of images is not the N that the guide has parameters for.
    """

    correction: Correction | None = None

    __repr__, _repr_html_ = compact, as_html

    def __init__(self, model: DiffusionModel, init: Tensor | None = None) -> None:
        instance("model", model, hasattr(model, "levels"), "a DiffusionModel")
        if init is not None:
            numbers("init", init, ("N", ...), least=1)
        super().__init__(model)
        self.settings: dict[str, Any] = {}
        self.num_images = model.num_images if init is None else len(init)
        self._shaped_for: int | None = None  # N of the parameters; a guide without any runs on any number of images
        self._levels = {level.name: level for level in model.levels}
        self._above = {lower.name: upper for upper, lower in pairwise(model.levels)}
        self._top = model.levels[0].name

    def _facts(self) -> dict[str, Any]:
        """What the guide prints: its levels and images, what it was told, and how many numbers are fitted by kind."""
        kinds: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            kind = name.split("_")[0].split(".")[-1]
            kinds[kind] = kinds.get(kind, 0) + parameter.numel()
        said: dict[str, Any] = {"levels": self._levels, "num_images": self.num_images} | self.settings
        if self.correction is not None:
            said["correction"] = self.correction
        return said | {"parameters": {f"{count:,} {kind}": count for kind, count in kinds.items()}}

    def get_traces(self) -> tuple[Trace, Trace]:
        """The traces ``(model, guide)`` of the last run, which objectives and weights compare.

        Raises:
            InputError: that run had no observation, so that the likelihood is in neither of them.
        """
        model_trace, guide_trace = super().get_traces()
        running = hasattr(self, "_outer_plates")
        if OBSERVATION in guide_trace and not running:
            raise InputError("the guide ran without an observation: pass y; it runs the model that it was built on.")
        return model_trace, guide_trace

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] == OBSERVATION:  # observed, or drawn as the model says
            infer: Any = msg["infer"]
            infer["prior"] = msg["fn"]
            return
        for plate in msg["cond_indep_stack"]:
            # The parameters of one image would otherwise broadcast silently over all images.
            if plate.name == "images" and self._shaped_for not in (None, plate.size):
                raise InputError(
                    f"the guide has parameters for {self._shaped_for} images and runs on {plate.size}: build it with "
                    "init of shape (N, *event), e.g. from pyro_vipaint.initial_latent, and give y as (N, ...) or "
                    "num_images=N."
                )
        prior = msg["fn"]
        try:
            super()._pyro_sample(msg)
        except RuntimeError:
            self._check_event(str(msg["name"]), prior)
            raise

    def _check_event(self, name: str, prior: Any) -> None:
        """Refuses a posterior of elements in the place of one of events, which Pyro cannot expand."""
        dim = len(getattr(self.get_posterior(name, prior), "event_shape", prior.event_shape))
        if dim != prior.event_dim:
            call = f"{type(self).__name__}.get_posterior({name!r}, prior)"
            todo = "end with .to_event(prior.event_dim)"
            raise InputError(f"{call} has an event of {dim} dimensions, the site one of {prior.event_dim}: {todo}.")

    def _pyro_post_sample(self, msg: Message) -> None:
        """Records the site. The observation is recorded here alone, a trace of the guide holds the latents only.

        Pyro takes the log density of a trace of the guide for log q: the likelihood must not be in it.
        """
        super()._pyro_post_sample(msg)
        if msg["name"] == OBSERVATION:
            for outer in _PYRO_STACK[: _PYRO_STACK.index(self)]:
                if isinstance(outer, TraceMessenger) and OBSERVATION in outer.trace:
                    outer.trace.remove_node(OBSERVATION)

    @pyro_method
    def sample_latents(self, num_images: int, y: Tensor | None = None) -> Tensor:
        """Draws z_K … z_1 from the guide and returns z_1: K - 1 network calls, none for the observation ``y``.

        Only a guide that depends on the observation without having been fitted to it reads ``y``.
        """
        self._outer_plates = tuple(frame.name for frame in get_plates())
        try:
            model: Any = self.model
            with self:
                return model.sample_latents(num_images)
        finally:
            del self._outer_plates

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``model.safetensors`` (the parameters, unconstrained) and ``guide.json`` into ``folder``.

        Of a correction the name alone is written.
        """
        record = {"num_images": self.num_images, "settings": self.settings, "levels": _noise(self)}
        if self.correction is not None:
            record["correction"] = type(self.correction).__name__
        FILES.write(folder, type(self).__name__, record, self.state_dict())

    @classmethod
    def load(
        cls: type[Guide], folder: str | Path, model: DiffusionModel, correction: Correction | None = None
    ) -> Guide:
        """The guide that was saved in ``folder``, on the CPU, bit for bit; ``model`` has the same levels and shapes.

        ``correction`` is the one that the guide had, which the folder names and does not hold.

        Raises:
            InputError: the folder holds another class of guide or broken files, does not fit the model, or names
                another correction.
        """
        record, tensors = FILES.read(folder, cls.__name__)
        named, given = record.get("correction"), None if correction is None else type(correction).__name__
        if named != given:
            raise InputError(f"{folder} holds a guide with the correction {named!r:.80}, load was given {given}.")
        following = {} if correction is None else {"correction": correction}
        dtype = next((value.dtype for value in tensors.values() if value.is_floating_point()), None)
        most = max(MAX_SETTING, len(tensors), *(side for value in tensors.values() for side in value.shape))
        elements = sum(value.numel() for value in tensors.values())
        try:
            for name, value in {**record["settings"], "num_images": record["num_images"]}.items():
                whole(name, value if isinstance(value, int) else 0, -most, most)
            init = torch.zeros(whole("num_images", record["num_images"]), *model.prior.event_shape, dtype=dtype)
            # random initial values are overwritten below
            with torch.random.fork_rng(devices=[]), no_larger_than(len(tensors), elements):
                guide = cls(model, init, **record["settings"], **following)
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
        """``init``, or zeros where the prior lies; marks the guide as one with parameters for ``num_images`` images."""
        self._shaped_for = self.num_images
        if init is None:
            return torch.zeros(self.num_images, *model.prior.event_shape, device=device_of(model.prior))
        return numbers("init", init, ("N", *model.prior.event_shape)).detach()

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


def init_to_start(model: DiffusionModel, start: Tensor) -> Callable[..., Any]:
    """An ``init_loc_fn`` for Pyro's autoguides: the site z_i starts at alpha_i times ``start``.

    By default they draw every site of the model once, z_K by the chain from pure noise with 250 network calls on a
    network's prior, and start at zero. With ``start`` the first run of the guide costs the K calls of the model:

    >>> AutoNormal(model, init_loc_fn=init_to_start(model, start))  # doctest: +SKIP

    Their ``init_scale`` is one number for all levels, .1 by default, where the prior has sigma_i.

    Args:
        model: the :class:`DiffusionModel` to be approximated.
        start: ``(N, *event)``, clean scale, for instance from :func:`pyro_vipaint.initial_latent`.

    Raises:
        InputError: ``start`` is not finite or does not have the prior's event shape.
    """
    start = numbers("start", start, ("N", *model.prior.event_shape)).detach()
    return init_to_value(values={level.name: level.alpha * start for level in model.levels}, fallback=None)


def gaussian(mean: Tensor, std: Tensor, event_dim: int) -> TorchDistribution:
    """N(mean, std^2) of the shape of ``mean``, without argument checks (each would cost a pass over the image)."""
    return Normal(mean, std.expand(mean.shape), validate_args=False).to_event(event_dim)


def _noise(guide: LatentGuide) -> dict[str, tuple[float, ...]]:
    """(alpha, sigma) by level: the meaning of the parameters depends on them."""
    return {name: (level.alpha, level.sigma) for name, level in guide._levels.items()}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}
