"""Operators are linear with the adjoint they claim; likelihoods count what is observed, by their closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pyro_vipaint.models.measurements.likelihoods import Gaussian, Laplace
from pyro_vipaint.models.measurements.operators import Inpainting
from pyro_vipaint.models.priors.codecs import Identity

SHAPE = (3, 4, 5)
MASKS = {
    "one mask": lambda: (torch.rand(1, 4, 5) > 0.5).float(),
    "one each": lambda: (torch.rand(2, 1, 4, 5) > 0.5).float(),
    "every channel": lambda: (torch.rand(3, 4, 5) > 0.5).float(),
    "boolean": lambda: torch.rand(1, 4, 5) > 0.5,
    "nothing observed": lambda: torch.zeros(1, 4, 5),
}

each_mask = pytest.mark.parametrize("kind", list(MASKS))


@dataclass(frozen=True)
class Halving:
    """An operator without a mask, to images of half the height."""

    def A(self, x: Tensor) -> Tensor:
        return x[..., ::2, :] + x[..., 1::2, :]

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(2, -2)


def images(*leading: int) -> Tensor:
    """Random images in float64."""
    return torch.randn(*leading, *SHAPE, dtype=torch.float64)


def elementwise(kind: type[Gaussian] | type[Laplace], difference: Tensor, width: float) -> Tensor:
    """Log density of the noise, from its formula."""
    if kind is Gaussian:
        return -0.5 * (difference / width) ** 2 - math.log(width) - 0.5 * math.log(2 * math.pi)
    return -difference.abs() / width - math.log(2 * width)


@each_mask
def test_adjoint(kind: str) -> None:
    """⟨Ax, y⟩ = ⟨x, Aᵀy⟩, with leading dimensions in front of the mask's own."""
    operator, x, y = Inpainting(MASKS[kind]()), images(6, 2), images(6, 2)
    torch.testing.assert_close((operator.A(x) * y).sum(), (x * operator.A_adjoint(y)).sum())


@each_mask
def test_inpainting_is_a_linear_projection(kind: str) -> None:
    """A(a x + b y) = a A(x) + b A(y), A A = A, A A† A = A, and A keeps observed and zeroes hidden pixels."""
    operator, x, y = Inpainting(MASKS[kind]()), images(2), images(2)
    torch.testing.assert_close(operator.A(2 * x - 3 * y), 2 * operator.A(x) - 3 * operator.A(y))
    torch.testing.assert_close(operator.A(operator.A(x)), operator.A(x), rtol=0, atol=0)
    torch.testing.assert_close(operator.A(operator.A_dagger(operator.A(x))), operator.A(x), rtol=0, atol=0)
    observed = operator.mask.bool().expand(x.shape)
    assert (operator.A(x)[observed] == x[observed]).all()
    assert (operator.A(x)[~observed] == 0).all()
    assert operator.A(x).dtype == x.dtype


@each_mask
@pytest.mark.parametrize(("kind_of_noise", "width"), [(Gaussian, 0.3), (Laplace, 0.7)])
def test_log_density_is_the_sum_over_observed_pixels(
    kind: str, kind_of_noise: type[Gaussian] | type[Laplace], width: float
) -> None:
    """log p(y | x) is the closed form at y - x summed over observed pixels; hidden ones contribute 0."""
    mask = MASKS[kind]()
    x, y = images(2), images(2)
    log_prob = kind_of_noise(Inpainting(mask), width)(x).log_prob(y)
    observed = mask.bool().expand(x.shape)
    torch.testing.assert_close(log_prob[observed], elementwise(kind_of_noise, (y - x)[observed], width))
    assert (log_prob[~observed] == 0).all()


@pytest.mark.parametrize(("kind", "width"), [(Gaussian, 0.3), (Laplace, 0.7)])
@pytest.mark.parametrize("content", [0.0, 1e6, float("inf"), float("nan")])
def test_hidden_pixels_of_y_are_never_read(kind: type[Gaussian] | type[Laplace], width: float, content: float) -> None:
    """Log density and residual are the same whatever y holds at hidden pixels."""
    mask = MASKS["one mask"]()
    likelihood, x, y = kind(Inpainting(mask), width), images(2), images(2)
    changed = torch.where(mask.bool(), y, content)
    torch.testing.assert_close(likelihood(x).log_prob(changed).sum(), likelihood(x).log_prob(y).sum())
    torch.testing.assert_close(likelihood.residual(x, changed), likelihood.residual(x, y))


@pytest.mark.parametrize(("kind", "width"), [(Gaussian, 0.3), (Laplace, 0.7)])
def test_hidden_pixels_of_x_get_no_gradient(kind: type[Gaussian] | type[Laplace], width: float) -> None:
    """The gradient of log p(y | x) is that of the closed form where observed and exactly zero where hidden."""
    mask = MASKS["one mask"]()
    x, y = images(2).requires_grad_(), images(2)
    (gradient,) = torch.autograd.grad(kind(Inpainting(mask), width)(x).log_prob(y).sum(), x)
    difference = (y - x).detach()
    slope = difference / width**2 if kind is Gaussian else difference.sign() / width
    torch.testing.assert_close(gradient, slope * mask.to(slope))


def test_residual_is_the_difference_on_what_is_observed() -> None:
    """y - A(x), zero at hidden pixels even where y is not; samples of x broadcast against y."""
    mask = MASKS["one mask"]()
    x, y = images(6, 2), images(2)
    residual = Gaussian(Inpainting(mask)).residual(x, y)
    torch.testing.assert_close(residual, (y - x) * mask.double())


@pytest.mark.parametrize("kind", [Gaussian, Laplace])
def test_without_a_mask_every_element_counts(kind: type[Gaussian] | type[Laplace]) -> None:
    """An operator to another space has the density of y - A(x) everywhere and the plain residual."""
    likelihood, x, y = kind(Halving(), 0.4), images(2), torch.randn(2, 3, 2, 5, dtype=torch.float64)
    difference = y - Halving().A(x)
    torch.testing.assert_close(likelihood(x).log_prob(y), elementwise(kind, difference, 0.4))
    torch.testing.assert_close(likelihood.residual(x, y), difference)
    assert likelihood.observed(y).all()


def test_adjoint_of_the_operator_used_above() -> None:
    """⟨Ax, y⟩ = ⟨x, Aᵀy⟩ for a map between two spaces."""
    x, y = images(2), torch.randn(2, 3, 2, 5, dtype=torch.float64)
    torch.testing.assert_close((Halving().A(x) * y).sum(), (x * Halving().A_adjoint(y)).sum())


@pytest.mark.parametrize("kind", [Gaussian, Laplace])
@pytest.mark.parametrize("width", [0.0, -0.1, float("nan")])
def test_noise_without_width_is_refused(kind: type[Gaussian] | type[Laplace], width: float) -> None:
    """A sigma or scale that is zero, negative or NaN raises ValueError that says so."""
    with pytest.raises(ValueError, match="must be positive"):
        kind(Inpainting(torch.ones(1, 4, 5)), width)


def test_identity_codec_changes_nothing() -> None:
    """Pixels are their own latents, both ways."""
    x = images(2)
    assert Identity().encode(x) is x
    assert Identity().decode(x) is x
