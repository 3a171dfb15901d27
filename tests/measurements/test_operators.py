"""Inpainting is a projection; likelihoods are their closed forms on the observed elements."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pyro_vipaint.models.measurements.likelihoods import Gaussian, Laplace
from pyro_vipaint.models.measurements.operators import Inpainting

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
def test_inpainting_is_a_linear_projection(kind: str) -> None:
    """A is linear, its own adjoint, A A = A, A A† A = A; it keeps observed and zeroes hidden pixels."""
    operator, x, y = Inpainting(MASKS[kind]()), images(6, 2), images(6, 2)
    torch.testing.assert_close((operator.A(x) * y).sum(), (x * operator.A_adjoint(y)).sum())
    torch.testing.assert_close(operator.A(2 * x - 3 * y), 2 * operator.A(x) - 3 * operator.A(y))
    torch.testing.assert_close(operator.A(operator.A(x)), operator.A(x), rtol=0, atol=0)
    torch.testing.assert_close(operator.A(operator.A_dagger(operator.A(x))), operator.A(x), rtol=0, atol=0)
    observed = operator.mask.bool().expand(x.shape)
    assert (operator.A(x)[observed] == x[observed]).all()
    assert (operator.A(x)[~observed] == 0).all()
    assert operator.A(x).dtype == x.dtype


@each_mask
def test_log_density_and_residual_count_observed_pixels(kind: str) -> None:
    """log p(y | x) is the closed form at y - x where observed, 0 elsewhere; the residual is y - x or 0."""
    mask = MASKS[kind]()
    x, y = images(2), images(2)
    observed = mask.bool().expand(x.shape)
    for noise, width in ((Gaussian, 0.3), (Laplace, 0.7)):
        likelihood = noise(Inpainting(mask), width)
        log_prob = likelihood(x).log_prob(y)
        torch.testing.assert_close(log_prob[observed], elementwise(noise, (y - x)[observed], width))
        assert (log_prob[~observed] == 0).all()
        torch.testing.assert_close(likelihood.residual(images(3, 2) * 0 + x, y)[1], (y - x) * observed)


@pytest.mark.parametrize(("kind", "width"), [(Gaussian, 0.3), (Laplace, 0.7)])
def test_hidden_pixels_of_y_are_never_read(kind: type[Gaussian] | type[Laplace], width: float) -> None:
    """Log density and residual do not depend on y at hidden pixels."""
    for content in (0.0, 1e6, float("inf"), float("nan")):
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


@pytest.mark.parametrize("kind", [Gaussian, Laplace])
def test_without_a_mask_every_element_counts(kind: type[Gaussian] | type[Laplace]) -> None:
    """An operator to another space has the density of y - A(x) everywhere and the plain residual."""
    likelihood, x, y = kind(Halving(), 0.4), images(2), torch.randn(2, 3, 2, 5, dtype=torch.float64)
    difference = y - Halving().A(x)
    torch.testing.assert_close(likelihood(x).log_prob(y), elementwise(kind, difference, 0.4))
    torch.testing.assert_close(likelihood.residual(x, y), difference)
    assert likelihood.observed(y).all()


@pytest.mark.parametrize("kind", [Gaussian, Laplace])
def test_noise_without_width_is_refused(kind: type[Gaussian] | type[Laplace]) -> None:
    """A sigma or scale that is zero, negative or NaN raises ValueError that says so."""
    for width in (0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="must be positive"):
            kind(Inpainting(torch.ones(1, 4, 5)), width)
