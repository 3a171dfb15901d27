"""CoPaint: its step by hand, and its rates sample by sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.baselines.copaint import Coherence, copaint, copaint_calls
from pyro_vipaint.calls import count_calls
from pyro_vipaint.models import DiffusionPrior, GaussianPrior
from pyro_vipaint.models.measurements.operators import Matrix
from pyro_vipaint.models.priors.kernels import coordinate_scale
from pyro_vipaint.models.priors.schedules import EDM, LinearVP, RectifiedFlow, noise_level, time_of
from tests.baselines.chains import unconditional_chain
from tests.problems import LIKELIHOOD, MASK, Y, four_pixels


def coherence(prior: DiffusionPrior, likelihood: Any = LIKELIHOOD, y: Tensor = Y, **options: Any) -> Coherence:
    settings = {"condition": {}, "gradient_steps": 2, "lr": 0.05, "growth": 1.012, "regularisation": 1e-2}
    return Coherence(prior, likelihood, y, **(settings | options))


@dataclass(frozen=True)
class Shifted:
    """A prediction that depends on the class, so that mixed-up conditions show."""

    gain: float = 0.5

    def __call__(self, z_t: Tensor, t: Any, **condition: Any) -> Tensor:
        labels = condition["class_labels"]
        leading = z_t.shape[:-3]
        return self.gain * torch.tanh(z_t) + labels.expand(leading).reshape(*leading, 1, 1, 1)


def test_one_gradient_step_is_the_one_computed_by_hand() -> None:
    """Variance preserving, prediction m + g (z - alpha m): u moves by eta 2 g (y - prediction) where it is seen."""
    prior, t, z = four_pixels(LinearVP()), 0.3, torch.randn(3, 1, 1, 2, 2)
    alpha, sigma = (float(value) for value in prior.schedule(torch.tensor(t, dtype=torch.float64)))
    gain = alpha * 0.09 / (alpha**2 * 0.09 + sigma**2)
    prediction = 0.2 + gain * (z - alpha * 0.2)
    rate = 0.05 * 1.012 ** (250 * 0.4) * alpha
    moved, x_hat = coherence(prior, gradient_steps=1)(z, t, progress=0.4)
    expected = z + rate * 2 * gain * MASK * (Y - prediction)
    assert torch.allclose(moved, expected, atol=1e-6)
    assert torch.allclose(x_hat, 0.2 + gain * (expected - alpha * 0.2), atol=1e-6)


def test_the_second_gradient_has_a_part_towards_the_origin() -> None:
    """Hidden pixels never move; observed ones move less, the larger lambda is."""
    prior, z = four_pixels(LinearVP()), torch.randn(3, 1, 1, 2, 2)
    free, held = (coherence(prior, regularisation=weight)(z, 0.3, 0.5)[0] - z for weight in (0.0, 1.0))
    assert (free[..., 1, :] == 0).all() and (held[..., 1, :] == 0).all()
    assert (held[..., 0, :].abs() < free[..., 0, :].abs()).all()


def test_without_gradient_steps_it_is_the_priors_ddim_chain() -> None:
    torch.manual_seed(3)
    expected = unconditional_chain(four_pixels(), Y, 4, 6)
    ours = copaint(four_pixels(), LIKELIHOOD, Y, 4, 6, gradient_steps=0, seed=3).samples
    assert torch.allclose(ours, expected, atol=1e-6)


def test_the_same_rate_means_the_same_on_every_schedule() -> None:
    """From the same noisy image, with rates that fail and shrink on the way."""
    x, moved = torch.randn(16, 1, 1, 2, 2), []
    for schedule in (EDM(), LinearVP(), RectifiedFlow()):
        t = time_of(schedule, 0.7)
        scale = float(coordinate_scale(schedule, t))
        with count_calls() as count:
            z, x_hat = coherence(four_pixels(schedule), lr=60.0)(x * scale, t, 0.0)
        assert count.calls > 3, "no rate failed"
        moved.append((z / scale, x_hat))
        assert float(noise_level(schedule, t)) == pytest.approx(0.7)
    for z, x_hat in moved[1:]:
        assert torch.allclose(z, moved[0][0], atol=1e-4) and torch.allclose(x_hat, moved[0][1], atol=1e-4)


def uneven(images: int = 3) -> tuple[DiffusionPrior, vp.Gaussian, Tensor, Tensor, Tensor]:
    """Images that differ in mask, class and size of the residual, so that some rates fail and others do not."""
    prior = DiffusionPrior(LinearVP(), Shifted(), (1, 2, 2))
    masks = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]]).reshape(3, 1, 2, 2)[:images]
    y = masks * torch.tensor([0.3, 5.0, -0.8]).reshape(3, 1, 1, 1)[:images]
    return prior, vp.Gaussian(vp.Inpainting(masks), 0.1), y, torch.tensor([0.0, 0.4, -0.4]), torch.randn(2, 3, 1, 2, 2)


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    """All together or one image at a time: the same points, though rates shrink for some samples only."""
    prior, likelihood, y, labels, z = uneven()
    options: dict[str, Any] = {"lr": 20.0, "growth": 1.0, "gradient_steps": 3}
    with count_calls() as count:
        together, x_hat = coherence(prior, likelihood, y, condition={"class_labels": labels}, **options)(z, 0.3, 0.0)
    assert count.calls > 4 and count.nfe < 6 * count.calls, "nothing was tried again, or all samples were"
    for n in range(3):
        alone = vp.Gaussian(vp.Inpainting(likelihood.operator.mask[n : n + 1]), 0.1)  # pyright: ignore
        single = coherence(prior, alone, y[n : n + 1], condition={"class_labels": labels[n : n + 1]}, **options)
        z_n, x_n = single(z[:, n : n + 1], 0.3, 0.0)
        assert torch.allclose(together[:, n : n + 1], z_n, atol=1e-6)
        assert torch.allclose(x_hat[:, n : n + 1], x_n, atol=1e-6)


def test_the_prediction_is_that_of_the_returned_point() -> None:
    """Also for samples whose rate failed: DDIM continues with a point and its own prediction."""
    prior, likelihood, y, labels, z = uneven()
    condition = {"class_labels": labels}
    moved, x_hat = coherence(prior, likelihood, y, condition=condition, lr=20.0)(z, 0.3, 0.0)
    assert torch.allclose(x_hat, prior.denoise(moved, 0.3, **condition), atol=1e-6)


def test_no_rate_however_large_raises_the_residual() -> None:
    prior, z = four_pixels(LinearVP()), torch.randn(64, 1, 1, 2, 2)
    for steps in (1, 2):
        _, x_hat = coherence(prior, lr=1000.0, regularisation=0.0, gradient_steps=steps)(z, 0.3, 0.0)
        before, after = (LIKELIHOOD.residual(x, Y).flatten(2).norm(dim=-1) for x in (prior.denoise(z, 0.3), x_hat))
        assert (after <= before * (1 + 1e-5)).all() and (after < 0.9 * before).all()


def test_a_point_that_cannot_get_better_stays() -> None:
    """The network returns NaN everywhere but at the samples: the tries end, and the samples do not change."""
    z = torch.randn(2, 1, 1, 2, 2)

    def cliff(z_t: Tensor, t: Any, **condition: Any) -> Tensor:
        known = (z_t.flatten(1) - z.flatten(1)).abs().amax(-1) == 0
        return torch.where(known.reshape(-1, 1, 1, 1), z_t, z_t * torch.nan)

    moved, x_hat = coherence(DiffusionPrior(LinearVP(), cliff, (1, 2, 2)), gradient_steps=1)(z, 0.3, 0.0)
    assert torch.equal(moved, z) and torch.equal(x_hat, z)


def test_gradient_steps_cost_a_call_each() -> None:
    for gradient_steps in (0, 3):
        result = copaint(four_pixels(), LIKELIHOOD, Y, 5, 7, gradient_steps=gradient_steps, lr=1e-3)
        assert result.calls == copaint_calls(7, gradient_steps) == 7 * (gradient_steps + 1)


def test_a_blur_without_noise_is_fitted_exactly() -> None:
    """Two pixels seen as one: the image has the mean that was observed."""
    vector = GaussianPrior.diagonal(torch.full((4,), 0.2), torch.full((4,), 0.3))
    likelihood, y = vp.Gaussian(Matrix(torch.tensor([[0.5, 0.5, 0.0, 0.0]])), 0.1), torch.tensor([[0.6]])
    samples = copaint(vector, likelihood, y, 8, 100, seed=0).samples
    assert torch.allclose(samples[..., :2].mean(-1), torch.full((8, 1), 0.6), atol=1e-2)
