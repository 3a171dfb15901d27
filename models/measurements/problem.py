"""One check of a problem, a prior with a likelihood, observations and conditions, at the door of every call.

:class:`DiffusionModel` checks once what it is made of (:func:`check_likelihood`), and at each run, which is each step
of a fit, what needs no synchronisation (:func:`check_observation`). A fit, a refinement, a comparison, a diagnostic and
a baseline call :func:`check_problem` once, which also reads the values. None of these runs the network or the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vipaint._torch import device_of, has_values
from pyro_vipaint.errors import InputError, described, in_one_line, instance, warn_once
from pyro_vipaint.models.measurements.likelihoods import check_shape
from pyro_vipaint.models.measurements.operators import per_image
from pyro_vipaint.models.priors.conditions import check_condition, check_count, check_place
from pyro_vipaint.models.priors.prior import DiffusionPrior

PRECISIONS = (torch.float32, torch.float64)
FOLLOWED = ("operator", "residual")  # the members of a likelihood that a refinement and a baseline follow
FAR = 20.0  # farthest value of an image, in units of 1 or of sigma_data; bytes go to 255
# Images are taken to be on [0, 1] where at least MANY values are observed, none is negative, one is above BRIGHT, and
# one is below DARK or the share WIDE of the picture is observed. No shipped picture is, under a mask of the paper.
DARK, BRIGHT, WIDE, MANY = 0.1, 0.5, 2 / 3, 64
ON_0_1 = "All observed values are at least 0, as on [0, 1]: images must be on [-1, 1], which is 2 * x - 1."
SUPPORTS = {
    constraints.nonnegative_integer: "counts, whole numbers of at least 0",
    constraints.nonnegative: "at least 0",
    constraints.positive: "positive",
}


class Observations(NamedTuple):
    """What a likelihood makes: for how many ``images`` at least (1 for any number), of which shape and support."""

    images: int
    shape: torch.Size
    support: Any


def check_likelihood(prior: DiffusionPrior, likelihood: Any, device: torch.device | None = None) -> Observations | None:
    """What the likelihood makes of a blank image of the prior; refuses what is no likelihood for such images.

    ``None`` where the device is unknown, since neither prior nor likelihood shows a tensor, and the CPU will not do.
    """
    wanted = "a function of images that returns a distribution, such as Gaussian(operator, sigma=0.05)"
    instance("The likelihood", likelihood, callable(likelihood), wanted)
    device = device or device_of(prior) or device_of(likelihood)
    try:
        made = _of_blank_images(likelihood, prior.image_shape, device)
    except Exception as error:  # operators of other libraries raise anything
        if device is None:
            return None
        raise in_one_line(f"The likelihood cannot take images of shape {tuple(prior.image_shape)}", error) from error
    if not (hasattr(made, "log_prob") and hasattr(made, "to_event") and made.shape()):
        wanted = "a distribution of Pyro of shape (N, *observation) for N images"
        plain = isinstance(made, Distribution) and not hasattr(made, "to_event")
        given = f"the {described(made)} of torch: import it from pyro.distributions" if plain else described(made)
        raise InputError(f"The likelihood must return {wanted}, not {given}.")
    support = None
    with suppress(NotImplementedError, AttributeError):
        support = made.support
    return Observations(made.shape()[0], made.shape()[1:], support)


@torch.no_grad()
def _of_blank_images(likelihood: Any, image_shape: torch.Size, device: torch.device | None) -> Any:
    """The likelihood of one image, or of one for each filter, in the first precision that it takes."""
    for count in sorted({1, per_image(likelihood)}):
        for dtype in PRECISIONS:
            with suppress(Exception):
                return likelihood(torch.zeros(count, *image_shape, dtype=dtype, device=device))
    return likelihood(torch.zeros(1, *image_shape, device=device))


def check_observation(y: Any, made: Observations | None) -> None:
    """Refuses observations of another type or shape, or for another number of images, than those ``made``."""
    if not isinstance(y, Tensor) or not y.ndim or not len(y):
        given = f"one of shape {tuple(y.shape)}" if isinstance(y, Tensor) else described(y)
        raise InputError(f"y must be a tensor (N, *observation) of at least one image, not {given}.")
    if y.dtype not in PRECISIONS:
        raise InputError(f"y holds {y.dtype}, not float32 or float64 in the units of [-1, 1] (bytes: y / 127.5 - 1).")
    if made is not None:
        check_shape(y, (len(y), *made.shape))
        check_count("masks or filters", made.images, len(y))


def check_problem(
    prior: DiffusionPrior,
    likelihood: Any,
    y: Any,
    condition: Mapping[str, Any],
    needs: Sequence[str] = FOLLOWED,
    farthest: float | None = None,
) -> None:
    """Refuses a problem that cannot be solved, in one line, before a network call; warns of images on [0, 1].

    Args:
        prior, likelihood, condition: as for :class:`pyro_vipaint.models.DiffusionModel`.
        y: observations ``(N, *observation)``, float32 or float64, on the device of the prior; finite where observed,
            in the support of the likelihood, and not farther from 0 than images and noise go.
        needs: members of the likelihood that the call uses.
        farthest: how far from 0 images go; by default :data:`FAR`, or that many ``sigma_data`` where these are more.

    Raises:
        InputError: anything of this is not so.
    """
    if missing := [name for name in needs if not hasattr(likelihood, name)]:
        wanted = f"a likelihood with {', '.join(needs)}, such as Gaussian(operator, sigma=0.05)"
        raise InputError(f"This needs {wanted}; {described(likelihood)} has no {missing[0]}.")
    check_observation(y, None)
    check_place("y", y.device, "prior", device_of(prior))
    made = check_likelihood(prior, likelihood, y.device)
    check_observation(y, made)
    check_condition(prior, condition, len(y), y.device)
    support = None if made is None else made.support
    check_values(likelihood, y, support, FAR * max(1.0, prior.sigma_data) if farthest is None else farthest)


def check_values(likelihood: Any, y: Tensor, support: Any, farthest: float) -> None:
    """The part of :func:`check_problem` that reads the observed values."""
    if not has_values(y):
        return
    y = y.detach()
    values = y[likelihood.observed(y)] if hasattr(likelihood, "observed") else y
    if not values.numel():
        return
    low, high = (float(value) for value in values.aminmax())
    if not math.isfinite(high - low):
        raise InputError("Observed values must be finite: hide NaN and infinite ones by the mask.")
    there = f"they range from {low:g} to {high:g}"
    if support in SUPPORTS and not support.check(values).all():
        raise InputError(f"Observed values must be {SUPPORTS[support]}, {there}.")
    reach = likelihood.farthest(farthest) if hasattr(likelihood, "farthest") else math.inf
    if max(-low, high) > reach:
        todo = "scale them (bytes: x / 127.5 - 1), or state the noise"
        raise InputError(f"Observed values must lie in [-1, 1] up to noise, {there}: {todo}.")
    count = values.numel()
    unsigned = count >= MANY and low >= 0 and high > BRIGHT and (low < DARK or count > WIDE * y.numel())
    if unsigned and reach < math.inf:
        warn_once(ON_0_1)
