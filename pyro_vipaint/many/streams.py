"""A stream of random numbers for each image of a batch, so that its draws do not depend on the others.

The library draws with the shapes sample × batch × event: normals ``(…, N, *event)`` or ``(…, N, m)``, uniforms
``(…, N)``. Inside :func:`streams` the part of each image comes from a generator of its own, with the shape that it has
for an image alone. An image then gets the same numbers in every batch, and those of a call on it alone with its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_vipaint.errors import InputError

NORMAL: frozenset[Callable[..., Any]] = frozenset({torch.randn, torch.randn_like, torch.normal, Tensor.normal_})
UNIFORM: frozenset[Callable[..., Any]] = frozenset({torch.rand, torch.rand_like, Tensor.uniform_})
OTHERS: frozenset[Callable[..., Any]] = frozenset({
    torch.bernoulli, torch.multinomial, torch.poisson, torch.randint, torch.randint_like, torch.randperm,
    torch._standard_gamma, Tensor.bernoulli_, Tensor.exponential_, Tensor.geometric_, Tensor.random_,
})  # fmt: skip


class Streams(TorchFunctionMode):
    """Within the block each of N images draws from its own generator.

    Args:
        seeds: one per image.
        event_shape: of the prior.
        device: of the draws.
    """

    def __init__(self, seeds: Sequence[int], event_shape: Sequence[int], device: torch.device) -> None:
        super().__init__()
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._event = tuple(event_shape)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The result of ``func``; of one that draws, by image."""
        kwargs = dict(kwargs or {})
        if func not in NORMAL | UNIFORM | OTHERS or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        if func in OTHERS:
            raise InputError(f"This guide draws by {func.__name__}, which batches do not divide: use --batch 1.")
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0].copy_(self._drawn(func, args[0], args[1:], kwargs))
        if func is torch.normal:
            mean, std = args
            return mean + std * self._drawn(Tensor.normal_, mean + std, (), {})
        like = func(*args, **kwargs)  # for shape, dtype and device; its numbers come from the global generator
        return self._drawn(Tensor.normal_ if func in NORMAL else Tensor.uniform_, like, (), {}).requires_grad_(
            like.requires_grad
        )

    def _drawn(self, fill: Any, like: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Numbers of the shape of ``like``, those of each image from its generator."""
        axis = self._axis(like.shape, fill is Tensor.normal_)
        one = [1 if i == axis else size for i, size in enumerate(like.shape)]
        parts = [fill(like.new_empty(one), *args, **kwargs, generator=generator) for generator in self._generators]
        return torch.cat(parts, axis)

    def _axis(self, shape: Sequence[int], normal: bool) -> int:
        """The axis of the images."""
        ends = (len(self._event), 1) if normal else (len(self._event), 0)
        for end in ends:
            axis = len(shape) - 1 - end
            of_event = end != len(self._event) or tuple(shape[axis + 1 :]) == self._event
            if axis >= 0 and of_event and shape[axis] == len(self._generators):
                return axis
        raise InputError(f"This guide draws numbers of shape {tuple(shape)} that belong to no image: use --batch 1.")
