r"""Linear operators A of a measurement y = A(x) + v: the protocol, the calls, and the operators of general use.

The operators of this library take any number of leading dimensions (:class:`Broadcasting`). Those of other libraries,
such as DeepInverse's physics, take exactly one: images ``(B, C, H, W)``. :func:`apply`, :func:`adjoint` and
:func:`pseudo_inverse` call both kinds; likelihoods, refinement and baselines call operators through them alone. Of a
physics they use ``A``, ``A_adjoint`` and ``A_dagger``, never its noise model.

:class:`Separable` is the base of operators that act on rows and columns separately, A(x) = L x R^T for each channel:

.. math:: A^\top y = L^\top y R, \qquad A^+ y = L^+ y (R^+)^\top

The matrices include the borders, so adjoint and pseudo-inverse are exact there too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import has_values, kept
from pyro_vipaint.errors import InputError, in_one_line, instance, numbers

IMAGE_DIM = 3  # (C, H, W)


class Operator(Protocol):
    """A linear map from images to observations, with the names of DeepInverse; ``A_dagger`` is optional."""

    def A(self, x: Tensor) -> Tensor: ...

    def A_adjoint(self, y: Tensor) -> Tensor: ...


class Broadcasting:
    """Base of operators whose methods take any leading dimensions in front of one image or observation.

    ``keeps_range`` declares that observations have the range of images, up to the overshoot of a bicubic kernel: each
    element of A(x) is a weighted mean of pixels, or zero.
    """

    keeps_range: ClassVar[bool] = False


def check_is_operator(operator: Any) -> None:
    """Refuses what has no A and A_adjoint, and a class in the place of an object."""
    wanted = "an object with A and A_adjoint, such as Inpainting(mask) or GaussianBlur(1.0)"
    instance("The operator", operator, hasattr(operator, "A") and hasattr(operator, "A_adjoint"), wanted)


def observed_by(operator: Any, images: Tensor) -> Tensor:
    """A(images), ``(N, *observation)``; refuses an operator that cannot take the images ``(N, C, H, W)``."""
    try:
        made = apply(operator, images)
        instance("A(x) of the operator", made, isinstance(made, Tensor), "a tensor")
        return made
    except Exception as error:  # operators of other libraries raise anything
        raise in_one_line(f"The operator cannot take images of shape {tuple(images.shape[1:])}", error) from error


def apply(operator: Operator, x: Tensor) -> Tensor:
    """A(x) for images ``(…, C, H, W)`` with any leading dimensions."""
    return _over_leading(operator, operator.A, x)


def adjoint(operator: Operator, y: Tensor, leading: int | None = None) -> Tensor:
    """A_adjoint(y) for observations with any leading dimensions.

    For another library's operator their number must be given, unless an observation is ``(C, H, W)``.
    """
    return _over_leading(operator, operator.A_adjoint, y, leading)


def pseudo_inverse(operator: Operator, y: Tensor, leading: int | None = None) -> Tensor:
    """A_dagger(y) where the operator has one, A_adjoint(y) otherwise; the arguments are those of :func:`adjoint`.

    All physics of DeepInverse have one, an unregularised inversion or conjugate gradients, which amplifies the noise of
    ``y`` where the singular values of A are small. :func:`pyro_vipaint.models.cgls` does not.
    """
    return _over_leading(operator, getattr(operator, "A_dagger", operator.A_adjoint), y, leading)


def observation_mask(operator: Operator) -> Tensor | None:
    """The operator's ``mask``, 1 where an element of the observation counts and 0 where it is hidden; None without one.

    For a composition it is that of the outer operator. The ``mask`` of another library's operator may be something
    else, such as the singular values of a blur. It counts if it has at most the dimensions of a batch of images and
    holds only 0 and 1.
    """
    if isinstance(operator, Compose):
        return observation_mask(operator.outer)
    mask = getattr(operator, "mask", None)
    if isinstance(operator, Broadcasting):
        return mask
    if not isinstance(mask, Tensor) or mask.ndim > IMAGE_DIM + 1:
        return None
    return mask if kept(mask, _is_binary) else None


def _is_binary(mask: Tensor) -> bool:
    return bool(((mask == 0) | (mask == 1)).all())


def placed(matrix: Tensor, like: Tensor) -> Tensor:
    """A constant of an operator with the device and the dtype of ``like``: it is copied to a device once."""
    return matrix.to(like) if matrix.device == like.device else kept(matrix, Tensor.to, like.device, like.dtype)


def _over_leading(
    operator: Operator, function: Callable[[Tensor], Tensor], x: Tensor, leading: int | None = None
) -> Tensor:
    """``function(x)`` with the leading dimensions that the operator can take: one, and those in front by turns."""
    first = x.ndim - IMAGE_DIM if leading is None else leading
    if isinstance(operator, Broadcasting) or first <= 1:
        return function(x)
    one_by_one = has_one_per_image(operator)
    first -= one_by_one
    batches = x.reshape(-1, *x.shape[first:])
    result = torch.stack([function(batch) for batch in batches]) if one_by_one else function(batches)
    return result.reshape(*x.shape[:first], *result.shape[1:])


def has_one_per_image(operator: Operator) -> bool:
    """Whether a mask or filter ``(N, C, H, W)`` of the operator, or of one in it, has an entry for each image."""
    return per_image(operator) > 1


def per_image(part: Any) -> int:
    """The most entries N of a mask, filter or noise map ``(N, C, H, W)`` in an operator or likelihood; 1 without."""
    if isinstance(part, Tensor):
        return max(len(part), 1) if part.ndim > IMAGE_DIM else 1
    if isinstance(part, nn.Module):
        inner = [*part.buffers(), *part.parameters()]
    else:
        inner = [
            value
            for value in getattr(part, "__dict__", {}).values()
            if isinstance(value, Tensor) or hasattr(value, "A")
        ]
    return max(map(per_image, inner), default=1)


class Separable(Broadcasting, ABC):
    """An operator on images ``(…, C, H, W)`` that is defined by the matrix of each side, :meth:`side`."""

    @abstractmethod
    def side(self, size: int) -> Tensor:
        """The matrix ``(observed size, size)``, float64, for a side of ``size`` pixels."""

    def image_side(self, observed: int) -> int:
        """The pixels on a side of the image, where its observation has ``observed``."""
        return observed

    def A(self, x: Tensor) -> Tensor:
        rows, columns = (placed(self.side(size), x) for size in x.shape[-2:])
        return rows @ x @ columns.mT

    def A_adjoint(self, y: Tensor) -> Tensor:
        rows, columns = (placed(self.side(self.image_side(size)), y) for size in y.shape[-2:])
        return rows.mT @ y @ columns


def check_mask_values(mask: Any) -> None:
    """Refuses what is not a tensor of 0 (hidden) and 1 (observed) alone."""
    instance("The mask", mask, isinstance(mask, Tensor), "a tensor of 0 (hidden) and 1 (observed)")
    if mask.dtype == torch.bool or not has_values(mask) or _is_binary(mask):
        return
    todo = "set it to 0 where hidden and 1 where observed"
    if bool(((mask == 0) | (mask == 255)).all()):
        todo = "divide it by 255"
    elif not mask.is_complex() and bool(((mask >= 0) & (mask <= 1)).all()):
        soft = "Gaussian(Inpainting(torch.ones_like(mask)), sigma=map)"
        todo = f"threshold it (mask > 0.5), or state the noise of each pixel instead, {soft}"
    raise InputError(f"The mask must hold 0 (hidden) and 1 (observed) alone: {todo}.")


@dataclass(frozen=True, eq=False)
class Inpainting(Broadcasting):
    """A(x) = m ⊙ x with ``mask`` 1 where observed and 0 where hidden; its own adjoint and pseudo-inverse.

    ``mask`` broadcasts against the image: ``(1, H, W)`` for one mask, ``(N, 1, H, W)`` for one mask per image; of any
    dtype, bool included.

    Raises:
        InputError: ``mask`` is not a tensor of 0 and 1 alone; the message says what fits 255, or values in between.
    """

    keeps_range: ClassVar[bool] = True
    mask: Tensor

    __repr__, _repr_html_ = compact, as_html

    def __post_init__(self) -> None:
        check_mask_values(self.mask)

    def A(self, x: Tensor) -> Tensor:
        return x * placed(self.mask, x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.A(y)


@dataclass(frozen=True, eq=False)
class Matrix(Broadcasting):
    """A(x) = matrix · x for vectors, ``(…, d_x)`` to ``(…, d_y)``; ``matrix`` has shape ``(d_y, d_x)``."""

    matrix: Tensor

    __repr__, _repr_html_ = compact, as_html

    def __post_init__(self) -> None:
        matrix = 1.0 * self.matrix if isinstance(self.matrix, Tensor) else self.matrix  # of integers too
        numbers("matrix", matrix, ("d_y", "d_x"))

    def A(self, x: Tensor) -> Tensor:
        return x @ placed(self.matrix, x).T

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y @ placed(self.matrix, y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return y @ placed(kept(self.matrix, torch.linalg.pinv), y).T


@dataclass(frozen=True, eq=False)
class Compose(Broadcasting):
    """A(x) = outer(inner(x)), for example ``Compose(SuperResolution(4), GaussianBlur(1.0))``.

    Elements that the mask of an ``outer`` inpainting hides are not observed. There is no attribute ``mask``, since the
    observed pixels are not those of the image, and no pseudo-inverse, since that of a product is not the product of the
    pseudo-inverses.
    """

    outer: Operator
    inner: Operator

    __repr__, _repr_html_ = compact, as_html

    def __post_init__(self) -> None:
        check_is_operator(self.outer)
        check_is_operator(self.inner)

    def A(self, x: Tensor) -> Tensor:
        return apply(self.outer, apply(self.inner, x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return adjoint(self.inner, adjoint(self.outer, y))
