"""What an operator is, and how the library calls one of any origin.

Ours take any number of leading dimensions (:class:`Broadcasting`). Others, DeepInverse's physics for example, want
exactly one: images ``(B, C, H, W)``. :func:`apply`, :func:`adjoint` and :func:`pseudo_inverse` call both kinds, and are
the only way in which likelihoods, refinement and baselines call an operator. An operator is linear and without noise:
of a physics, only ``A``, ``A_adjoint`` and ``A_dagger`` are used, never its noise model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

IMAGE_DIM = 3  # (C, H, W)


class Operator(Protocol):
    """A linear map from images to observations, with DeepInverse's names; ``A_dagger``, the pseudo-inverse, may be."""

    def A(self, x: Tensor) -> Tensor: ...

    def A_adjoint(self, y: Tensor) -> Tensor: ...


class Broadcasting:
    """Base of operators whose methods take any leading dimensions in front of one image or observation."""

    @property
    def observation_mask(self) -> Tensor | None:
        """1 where observations are observed, 0 where they are hidden; None where all of them count."""
        return getattr(self, "mask", None)


def apply(operator: Operator, x: Tensor) -> Tensor:
    """A(x) for images ``(…, C, H, W)`` with any leading dimensions."""
    return _over_leading(operator, operator.A, x)


def adjoint(operator: Operator, y: Tensor) -> Tensor:
    """A_adjoint(y) for observations with any leading dimensions; of an operator that is not ours, ``(…, C, H, W)``."""
    return _over_leading(operator, operator.A_adjoint, y)


def pseudo_inverse(operator: Operator, y: Tensor) -> Tensor:
    """A_dagger(y) where the operator has one, A_adjoint(y) otherwise; shapes are those of :func:`adjoint`.

    DeepInverse's physics all have one, by an unregularised inversion or conjugate gradients: on a noisy ``y`` it
    amplifies the noise where A hardly sees (:func:`pyro_vipaint.operators.least_squares` does not).
    """
    return _over_leading(operator, getattr(operator, "A_dagger", operator.A_adjoint), y)


def observation_mask(operator: Operator) -> Tensor | None:
    """The operator's ``mask``, 1 where its observations are observed and 0 where they are hidden; None without one.

    What another library calls a mask may be something else, such as the singular values of a blur. A mask counts if it
    has no more dimensions than a batch of images, and holds 0 and 1 only.
    """
    if isinstance(operator, Broadcasting):
        return operator.observation_mask
    mask = getattr(operator, "mask", None)
    if not isinstance(mask, Tensor) or mask.ndim > IMAGE_DIM + 1:
        return None
    return mask if bool(((mask == 0) | (mask == 1)).all()) else None


def _over_leading(operator: Operator, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)`` with the leading dimensions that the operator can take."""
    if isinstance(operator, Broadcasting) or x.ndim <= IMAGE_DIM + 1:
        return function(x)
    kept = 1 + IMAGE_DIM if is_one_an_image(operator) else IMAGE_DIM
    leading, event = x.shape[:-kept], x.shape[-kept:]
    batches = x.reshape(-1, *event)
    result = function(batches) if kept == IMAGE_DIM else torch.stack([function(batch) for batch in batches])
    return result.reshape(*leading, *result.shape[1:])


def is_one_an_image(operator: Operator) -> bool:
    """Whether a mask or filter ``(N, C, H, W)`` of the operator has an entry for each image of a batch."""
    return any(tensor.ndim > IMAGE_DIM and len(tensor) > 1 for tensor in _tensors(operator))


def _tensors(operator: Operator) -> Iterator[Tensor]:
    """Those that the operator holds, and the operators that it is composed of."""
    if isinstance(operator, nn.Module):
        yield from chain(operator.buffers(), operator.parameters())
        return
    for value in getattr(operator, "__dict__", {}).values():
        if isinstance(value, Tensor):
            yield value
        elif hasattr(value, "A"):
            yield from _tensors(value)
