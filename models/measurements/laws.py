r"""The laws of an operator: A is linear, and ``A_adjoint`` is its adjoint.

.. math:: A(0) = 0, \qquad A(x + x') = A(x) + A(x'), \qquad \langle A x, y \rangle = \langle x, A^\top y \rangle
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pyro_vipaint._torch import gradients
from pyro_vipaint.errors import InputError, described, in_one_line
from pyro_vipaint.models.measurements.operators import Operator, adjoint, check_is_operator, observed_by

DRAWS = 2
TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-6}  # rounding: 1e-7, with TF32 on GPUs 5e-4; and 1e-15


@torch.no_grad()
def check_operator(
    operator: Operator,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Refuses an operator that is not linear or draws noise, or whose ``A_adjoint`` is not the adjoint of ``A``.

    The laws of :mod:`pyro_vipaint.models.measurements.laws` are tried on two pairs of standard normal images and two
    observations: ten calls of A, two of its adjoint. Rounding may break them by 1e-2 in float32, where a GPU multiplies
    matrices in ten bits, and by 1e-6 in float64, both relative to |A x|. With another adjoint the inner products differ
    by a normal number of about that standard deviation, so that it is missed once in 10,000 times.

    Args:
        operator: A, of this library, of DeepInverse, or your own.
        shape: of the images, ``(N, C, H, W)``; N is 1, or the number of the operator's masks or filters.
        device: of the images, and of an operator that is a module.
        dtype: of the images, float32 or float64.

    Raises:
        InputError: the first law that is broken, values that are not finite, or images that A cannot take. The random
            numbers are always the same ones; the global generator is left alone.
    """
    check_is_operator(operator)
    generator = torch.Generator().manual_seed(0)
    for _ in range(DRAWS):
        x, other = (torch.randn(*shape, generator=generator, dtype=dtype).to(device) for _ in range(2))
        seen = observed_by(operator, x)
        y = torch.randn(seen.shape, generator=generator, dtype=dtype).to(device)
        for law, difference in _differences(operator, x, other, seen, y):
            if not float(difference.norm()) <= TOLERANCE[dtype] * float(seen.norm()):
                raise InputError(f"The operator {described(operator)} cannot be used: {law}.")


def check_gradient(operator: Operator, shape: Sequence[int], device: torch.device | str = "cpu") -> None:
    """Refuses an operator through which torch cannot differentiate, such as one that calls NumPy: one call of A.

    Raises:
        InputError: A(x) of images x of this ``shape`` does not depend on x, as far as torch knows.
    """
    with gradients():
        seen = observed_by(operator, torch.zeros(*shape, device=device, requires_grad=True))
    if not seen.requires_grad:
        todo = "compute it by torch, without NumPy, detach or no_grad"
        raise InputError(f"The operator {described(operator)} cannot be used: A has no gradient, {todo}.")


def _differences(operator: Operator, x: Tensor, other: Tensor, seen: Tensor, y: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The laws, each with what must be zero but for rounding, in the scale of |A x|."""
    yield "A must return finite values", seen - seen
    yield "A must make the same of the same image; noise belongs to the likelihood", observed_by(operator, x) - seen
    yield "A must be linear, but A(0) is not 0", observed_by(operator, torch.zeros_like(x))
    both = observed_by(operator, x + other) - observed_by(operator, other)
    yield "A must be linear, but A(x + x') is not A(x) + A(x')", both - seen
    try:
        back = adjoint(operator, y)
    except Exception as error:  # operators of other libraries raise anything
        raise in_one_line(f"A_adjoint cannot take observations of shape {tuple(y.shape[1:])}", error) from error
    fits = back.shape == x.shape
    law = "A_adjoint must be the adjoint of A, but <A x, y> is not <x, A_adjoint y>"
    law = law if fits else f"A_adjoint must return images of shape {tuple(x.shape)}, not {tuple(back.shape)}"
    yield law, _inner(seen, y) - _inner(x, back) if fits else y.new_tensor(torch.inf)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.cpu().double() * b.cpu().double()).sum()
