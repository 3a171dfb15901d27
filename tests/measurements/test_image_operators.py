"""Super-resolution, blurs and their compositions: exact adjoints, pseudo-inverses, independent implementations."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.checks import WIDEST
from pyro_vipaint.errors import InputError
from pyro_vipaint.models.exact.gaussian import operator_matrix
from pyro_vipaint.models.measurements.blur import GaussianBlur, MotionBlur
from pyro_vipaint.models.measurements.linalg import cgls, operator_norm
from pyro_vipaint.models.measurements.operators import Compose, Inpainting, Matrix, Operator
from pyro_vipaint.models.measurements.super_resolution import SuperResolution

SHAPE = (2, 8, 12)
MASK = (torch.arange(8 * 12).reshape(1, 8, 12) % 3 > 0).double()
OPERATORS: dict[str, Callable[[], Any]] = {
    "box x2": lambda: SuperResolution(2),
    "bicubic x4": lambda: SuperResolution(4, "bicubic"),
    "gaussian": lambda: GaussianBlur(0.8),
    "gaussian wider than the image": lambda: GaussianBlur(1.5, kernel_size=61),
    "horizontal motion": lambda: MotionBlur(5),
    "oblique motion": lambda: MotionBlur(4, 30.0),
    "motion longer than the image": lambda: MotionBlur(31, 75.0),
    "blur, then fewer pixels": lambda: Compose(SuperResolution(2), GaussianBlur(0.7)),
    "motion, then a hole": lambda: Compose(Inpainting(MASK), MotionBlur(3, 45.0)),
}
each_operator = pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS.keys())


def images(*leading: int) -> Tensor:
    return torch.randn(*leading, *SHAPE, dtype=torch.float64)


# laws


@each_operator
def test_adjoint(make: Callable[[], Operator]) -> None:
    """⟨Ax, y⟩ = ⟨x, Aᵀy⟩ in float64, borders included: for every image and every observation."""
    operator, x = make(), images(3)
    y = torch.randn_like(operator.A(x))
    back = operator.A_adjoint(y)
    assert back.shape == x.shape
    torch.testing.assert_close(
        operator.A(x).flatten(1) @ y.flatten(1).T, x.flatten(1) @ back.flatten(1).T, rtol=1e-12, atol=1e-12
    )


@each_operator
def test_linear_with_any_leading_dimensions(make: Callable[[], Operator]) -> None:
    """An image by itself, a batch, and samples of a batch give the same numbers, in their own dtype."""
    operator, x = make(), images(3, 2)
    y = operator.A(x)
    torch.testing.assert_close(operator.A(2 * x[:2] - 3 * x[1:]), 2 * y[:2] - 3 * y[1:])
    assert y.shape[:2] == (3, 2) and operator.A(x.float()).dtype == torch.float32
    torch.testing.assert_close(y[1], operator.A(x[1]))
    torch.testing.assert_close(y[1, 0], operator.A(x[1, 0]))
    torch.testing.assert_close(operator.A_adjoint(y)[1, 0], operator.A_adjoint(y[1, 0]))


@pytest.mark.parametrize("mode", ["box", "bicubic"])
@pytest.mark.parametrize("factor", [2, 4])
def test_pseudo_inverse(factor: int, mode: Any) -> None:
    """All four conditions of Moore and Penrose, on the matrices of A and A†."""
    operator = SuperResolution(factor, mode)
    matrix = operator_matrix(operator, (1, 8, 12)).double()
    observed = torch.eye(len(matrix)).reshape(-1, 1, 8 // factor, 12 // factor)
    inverse = operator.A_dagger(observed).reshape(len(matrix), -1).T.double()
    for left, right in ((matrix, inverse), (inverse, matrix)):
        torch.testing.assert_close(left @ right @ left, left, rtol=0, atol=1e-5)
        torch.testing.assert_close((left @ right).T, left @ right, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 4])
def test_the_pseudo_inverse_is_stable(factor: int) -> None:
    """All singular values of the box are 1 / factor; those of bicubic are at most 2.2 times smaller."""
    for mode in ("box", "bicubic"):
        values = torch.linalg.svdvals(operator_matrix(SuperResolution(factor, mode), (1, 32, 32)))
        assert values.min() * 2.2 > 1 / factor


# independent implementations


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("mode", ["box", "bicubic"])
def test_super_resolution_equals_torch_and_pil(factor: int, mode: Any) -> None:
    """torch's antialiased interpolation (or average pooling) of the whole image, and PIL's resize."""
    x = images(2)
    small = (8 // factor, 12 // factor)
    ours = SuperResolution(factor, mode).A(x)
    if mode == "box":
        torch.testing.assert_close(ours, torch.nn.functional.avg_pool2d(x, factor))
    else:
        torch.testing.assert_close(ours, torch.nn.functional.interpolate(x, small, mode=mode, antialias=True))
    filters = {"box": Image.Resampling.BOX, "bicubic": Image.Resampling.BICUBIC}
    picture = Image.fromarray(x[0, 0].float().numpy()).resize((small[1], small[0]), filters[mode])
    torch.testing.assert_close(ours[0, 0].float(), torch.from_numpy(np.array(picture)), rtol=1e-5, atol=1e-5)


def test_gaussian_blur_equals_scipy() -> None:
    """scipy's filter of the same reach with the same mirror at the border."""
    for std, kernel_size in ((0.375, None), (1.0, None), (1.3, 7), (2.0, 1)):
        from scipy.ndimage import gaussian_filter

        reach = round(10 * std) if kernel_size is None else kernel_size // 2
        x = images()
        expected = gaussian_filter(x.numpy(), std, mode="mirror", axes=(-2, -1), radius=reach)
        torch.testing.assert_close(GaussianBlur(std, kernel_size).A(x), torch.from_numpy(expected))


def test_motion_blur_equals_shifted_copies_by_scipy() -> None:
    """The mean of copies shifted along the line, bilinear between pixels, mirrored at the border."""
    for length, angle in ((1, 0.0), (3, 0.0), (4, 90.0), (7, 30.0), (5, -135.0)):
        from scipy.ndimage import shift

        x = images()
        steps = np.arange(length) - (length - 1) / 2
        direction = (0, math.sin(math.radians(angle)), -math.cos(math.radians(angle)))
        copies = [shift(x.numpy(), step * np.array(direction), order=1, mode="mirror") for step in steps]
        torch.testing.assert_close(MotionBlur(length, angle).A(x), torch.from_numpy(np.mean(copies, axis=0)))


def test_operators_that_keep_the_range_do() -> None:
    """The elements of A(x) for images in [-1, 1] lie within the bound that observations are checked against."""
    for operator in (*(make() for make in OPERATORS.values()), Inpainting(MASK)):
        assert operator.keeps_range == (not isinstance(operator, Compose))
        if operator.keeps_range:
            assert operator_matrix(operator, SHAPE).abs().sum(1).max() <= WIDEST
    assert not Matrix(torch.eye(3)).keeps_range


def test_the_default_kernel_is_the_papers() -> None:
    """The kernel has 61 pixels for a std of 3."""
    impulse = torch.zeros(1, 201, 201, dtype=torch.float64)
    impulse[0, 100, 100] = 1
    assert int((GaussianBlur(3.0).A(impulse)[0, 100] != 0).sum()) == 61


# composition


def test_compose_is_the_product_of_the_matrices() -> None:
    outer, inner, shape = SuperResolution(2), GaussianBlur(0.9), (1, 8, 12)
    product = operator_matrix(outer, shape) @ operator_matrix(inner, shape)
    torch.testing.assert_close(operator_matrix(Compose(outer, inner), shape), product)


def test_a_hole_after_a_blur_is_not_observed() -> None:
    """The likelihood counts the elements that the outer mask keeps; the composition has no ``mask`` itself."""
    operator, x = Compose(Inpainting(MASK), GaussianBlur(0.6)), images(2)
    y = images(2)
    likelihood = vp.Gaussian(operator, 0.3)
    spoilt = torch.where(MASK.bool(), y, torch.nan)
    by_hand = torch.distributions.Normal(GaussianBlur(0.6).A(x), 0.3).log_prob(y) * MASK
    torch.testing.assert_close(likelihood(x).log_prob(spoilt).sum(), by_hand.sum())
    assert torch.equal(likelihood.residual(x, spoilt), likelihood.residual(x, y))
    assert not hasattr(operator, "mask")


# least squares


@pytest.mark.parametrize("make", [OPERATORS["gaussian"], OPERATORS["oblique motion"], OPERATORS["bicubic x4"]])
def test_conjugate_gradients_equal_scipys_lsqr(make: Callable[[], Operator]) -> None:
    """Each observation equals the result of LSQR, the same iterates by another recursion, after as many steps."""
    from scipy.sparse.linalg import LinearOperator, lsqr

    operator, r = make(), make().A(images(3))
    matrix = operator_matrix(operator, SHAPE).double()
    for steps, n in product((1, 3, 5), range(3)):
        observation, d = r[n], cgls(operator, r, steps)[n]
        linear: Any = LinearOperator(
            matrix.shape,
            matvec=lambda v: operator.A(torch.from_numpy(v).reshape(SHAPE)).flatten().numpy(),  # pyright: ignore
            rmatvec=lambda v: operator.A_adjoint(torch.from_numpy(v).reshape(r[0].shape)).flatten().numpy(),  # pyright: ignore
        )
        expected = lsqr(linear, observation.flatten().numpy(), iter_lim=steps, atol=0, btol=0, conlim=0)[0]
        torch.testing.assert_close(d.flatten(), torch.from_numpy(expected), rtol=1e-7, atol=1e-9)


def test_one_step_is_exact_for_holes_and_boxes_and_more_steps_change_nothing() -> None:
    x = images(2)
    for operator in (Inpainting(MASK), SuperResolution(2)):
        for steps in (1, 7):
            exact = operator.A_dagger(operator.A(x))
            torch.testing.assert_close(cgls(operator, operator.A(x), steps), exact)
    assert torch.equal(cgls(SuperResolution(2), torch.zeros(1, 2, 4, 6)), torch.zeros(1, *SHAPE))


@each_operator
def test_norm(make: Callable[[], Operator]) -> None:
    """The largest singular value of the matrix, approximated from below."""
    exact = float(torch.linalg.matrix_norm(operator_matrix(make(), SHAPE), 2))
    assert 0.97 * exact < operator_norm(make(), (1, *SHAPE)) < exact + 1e-4


def test_the_norm_of_a_box_is_one_over_its_factor() -> None:
    assert operator_norm(SuperResolution(4), (2, *SHAPE)) == pytest.approx(0.25, rel=1e-5)
    assert operator_norm(Inpainting(torch.zeros(1, 8, 12)), (1, *SHAPE)) == 0


# refusals


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: SuperResolution(1), "must be at least 2, not 1"),
    (lambda: SuperResolution(2.5), "must be a whole number, not 2.5"),  # pyright: ignore
    (lambda: SuperResolution(2, "nearest"), "There is no mode of super-resolution 'nearest': choose from box, bicubic"),  # pyright: ignore
    (lambda: SuperResolution(3).A(images()), "The factor 3 of super-resolution does not divide a side of 8"),
    (lambda: GaussianBlur(0.0), "positive and finite( and at most 1000)?, not 0"),
    (lambda: GaussianBlur(math.nan), "positive and finite( and at most 1000)?, not nan"),
    (lambda: GaussianBlur(1.0, 4), "must be odd, not 4"),
    (lambda: MotionBlur(0), "must be at least 1, not 0"),
    (lambda: MotionBlur(3, math.inf), "must be finite, not inf"),
]


def test_unusable_numbers_are_refused() -> None:
    for make, message in REFUSED:
        with pytest.raises(InputError, match=message):
            make()
