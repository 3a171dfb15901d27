"""``check_operator``: what is not linear, or has another adjoint, is found; what is passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.models.measurements.operators import Broadcasting
from tests.measurements.test_image_operators import OPERATORS, SHAPE


@dataclass(frozen=True)
class Own:
    """An operator of two functions."""

    forward: Callable[[Tensor], Tensor] = lambda x: x
    back: Callable[[Tensor], Tensor] = lambda y: y

    def A(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.back(y)


BLUR = vp.GaussianBlur(0.8)
HALF = vp.SuperResolution(2)
ADJOINT = "A_adjoint must be the adjoint of A"
BROKEN: dict[str, tuple[Any, str]] = {
    "twice the adjoint": (Own(lambda x: x, lambda y: 2 * y), ADJOINT),
    "the inverse in its place": (Own(lambda x: 2 * x, lambda y: y / 2), ADJOINT),
    "a shift not undone": (Own(lambda x: x.roll(1, -1), lambda y: y.roll(1, -1)), ADJOINT),
    "repeated pixels for a mean": (Own(HALF.A, HALF.A_dagger), ADJOINT),
    "another border": (Own(BLUR.A, BLUR.A), ADJOINT),
    "an adjoint that makes nothing": (Own(lambda x: x, torch.zeros_like), ADJOINT),
    "an adjoint of another shape": (Own(HALF.A, lambda y: y), r"must return images of shape \(1, 2, 8, 12\), not"),
    "an adjoint that fails": (Own(HALF.A, lambda y: y @ torch.ones(3, 3)), "A_adjoint cannot take observations"),
    "an adjoint that is not finite": (Own(lambda x: x, lambda y: y / 0), ADJOINT),
    "an offset": (Own(lambda x: x + 1), r"A\(0\) is not 0"),
    "a clipping": (Own(lambda x: x.clamp(-1, 1)), r"A\(x \+ x'\) is not"),
    "a square": (Own(lambda x: x**2), r"A\(x \+ x'\) is not"),
    "noise": (Own(lambda x: x + torch.rand_like(x)), "noise belongs to the likelihood"),
    "NaN": (Own(lambda x: x * torch.nan), "must return finite values"),
    "an A that fails": (Own(lambda x: x @ torch.ones(3, 3)), "operator cannot take images of shape"),
    "a class": (Broadcasting, "not the class Broadcasting"),
}


@pytest.mark.parametrize(("operator", "message"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_broken_operators_are_found(operator: Any, message: str, dtype: torch.dtype) -> None:
    with pytest.raises(vp.InputError, match=message) as caught:
        vp.check_operator(operator, (1, *SHAPE), dtype=dtype)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operators_of_the_library_pass_and_the_generator_is_left_alone(dtype: torch.dtype) -> None:
    before = torch.get_rng_state()
    for operator in (*(make() for make in OPERATORS.values()), vp.Inpainting(torch.zeros(1, 8, 12)), Own()):
        vp.check_operator(operator, (1, *SHAPE), dtype=dtype)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_small_error_is_found_in_float64_alone() -> None:
    """One part in a thousand is the rounding of a GPU, and a mistake of a program that claims 15 digits."""
    operator = Own(lambda x: x, lambda y: 1.001 * y)
    vp.check_operator(operator, (1, *SHAPE))
    with pytest.raises(vp.InputError, match=ADJOINT):
        vp.check_operator(operator, (1, *SHAPE), dtype=torch.float64)
