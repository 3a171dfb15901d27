"""The empirical prior against enumeration of its images, and its restriction to a class.

Enumerations are plain sums over differences, without batches and without log-sum-exp.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import pyro_vipaint as vp
from pyro_vipaint.errors import InputError
from pyro_vipaint.models import EmpiricalPrior
from pyro_vipaint.models.measurements.operators import Matrix
from pyro_vipaint.models.priors.schedules import EDM, LinearVP, RectifiedFlow, Schedule, as_time, time_of
from tests.every_prior import IMAGES as M
from tests.every_prior import LABELS, ONE_OF_EACH, SHAPE, empirical
from tests.statistics import assert_within


def at(schedule: Schedule, t: float) -> tuple[float, float]:
    """alpha_t and sigma_t as numbers."""
    alpha, sigma = schedule(as_time(t))
    return alpha.item(), sigma.item()


def mixture(prior: EmpiricalPrior, t: float) -> MixtureSameFamily:
    """p(z_t) as torch writes a mixture of isotropic Gaussians."""
    alpha, sigma = at(prior.schedule, t)
    normals = Independent(Normal(alpha * prior.denoiser.images.double(), sigma), len(SHAPE))
    return MixtureSameFamily(Categorical(logits=prior.denoiser.log_weights), normals)


def enumerated_mean(prior: EmpiricalPrior, z: Tensor, t: float) -> Tensor:
    """E[x | z_t], ``z`` ``(B, *SHAPE)``, by a softmax over differences."""
    alpha, sigma = at(prior.schedule, t)
    images = prior.denoiser.images.double()
    distance = (z.double()[:, None] - alpha * images).flatten(2).square().sum(2)
    weights = (prior.denoiser.log_weights - distance / (2 * sigma**2)).softmax(1)
    return torch.einsum("bm,mchw->bchw", weights, images)


@pytest.mark.parametrize("schedule", ONE_OF_EACH, ids=lambda schedule: repr(schedule)[:40])
def test_batches_equal_enumeration(schedule: Schedule) -> None:
    """Denoiser, log density and the gradients of both, for every batch size."""
    for t, batch_size in product((0.1, 0.5, 1.0), (1, 3, 100)):
        prior = empirical(schedule, batch_size=batch_size)
        z = mixture(prior, t).sample((5,)).requires_grad_()
        direction = torch.randn_like(z)

        def gradient(value: Tensor, z: Tensor = z) -> Tensor:
            return torch.autograd.grad(value, z)[0]

        ours, expected = prior.denoise(z, t), enumerated_mean(prior, z, t)
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(gradient((ours * direction).sum()), gradient((expected * direction).sum()))
        density, exact = prior.marginal(t).log_prob(z), mixture(prior, t).log_prob(z)
        torch.testing.assert_close(density, exact)
        torch.testing.assert_close(gradient(density.sum()), gradient(exact.sum()))


def test_the_gradient_keeps_only_the_mean_of_a_batch() -> None:
    """The tensors kept for the backward pass are far smaller than one number per latent and image."""
    count, size, sizes = 64, 5000, []
    prior = EmpiricalPrior(torch.randn(size, 4), batch_size=500)

    def pack(value: Tensor) -> Tensor:
        sizes.append(value.numel())
        return value

    z = torch.randn(count, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        prior.denoise(z, 0.5)
    assert sizes and sum(sizes) < count * size / 5


def test_a_class_is_the_prior_of_its_images() -> None:
    """With ``class_labels``, denoiser, marginal, evidence and posterior are those of the images of that class."""
    for label in (0, 1, 4):
        whole = empirical()
        here, labels = LABELS == label, torch.tensor([label, label])
        alone = EmpiricalPrior(whole.denoiser.images[here], whole.denoiser.log_weights.exp()[here])
        z, y = torch.randn(2, *SHAPE, dtype=torch.float64), torch.randn(2, *SHAPE, dtype=torch.float64)
        torch.testing.assert_close(whole.denoise(z, 0.5, class_labels=labels), alone.denoise(z, 0.5))
        marginal = whole.marginal(0.5, class_labels=labels)
        torch.testing.assert_close(marginal.log_prob(z), alone.marginal(0.5).log_prob(z))
        likelihood = vp.Gaussian(vp.Inpainting((torch.rand(SHAPE) > 0.5).float()), 0.5)
        evidence = whole.log_evidence(likelihood, y, class_labels=labels)
        torch.testing.assert_close(evidence, alone.log_evidence(likelihood, y))
        posterior, exact = whole.posterior(likelihood, y, class_labels=labels), alone.posterior(likelihood, y)
        torch.testing.assert_close(posterior.log_weights[:, here], exact.log_weights)
        torch.testing.assert_close(posterior.mean, exact.mean)
        torch.testing.assert_close(posterior.variance, exact.variance)


def test_classes_without_images_are_refused() -> None:
    """A label that no image has, a label without labels, and an unknown condition."""
    z = torch.zeros(2, *SHAPE, dtype=torch.float64)
    with pytest.raises(InputError, match="label 3"):
        empirical().denoise(z, 0.5, class_labels=torch.tensor([1, 3]))
    with pytest.raises(InputError, match="label 1"):
        empirical(labels=None).denoise(z, 0.5, class_labels=torch.tensor([1, 1]))
    with pytest.raises(TypeError, match="prompt"):
        empirical(labels=None).denoise(z, 0.5, prompt="a cat")


def test_without_noise_it_is_the_nearest_image() -> None:
    """At t = 0 (sigma = 0, or EDM's 0.002) each image predicts itself, close pairs included; gradients are finite."""
    for schedule, dtype in product((LinearVP(), RectifiedFlow(), EDM()), (torch.float32, torch.float64)):
        images = empirical(dtype=dtype).denoiser.images
        prior = EmpiricalPrior(torch.cat([images, images + 0.02]), schedule=schedule, batch_size=4)
        z = prior.denoiser.images.clone().requires_grad_()
        x_hat = prior.denoise(z, 0.0)
        assert x_hat.dtype == dtype
        torch.testing.assert_close(x_hat, prior.denoiser.images)
        (gradient,) = torch.autograd.grad(x_hat.sum(), z)
        assert gradient.isfinite().all()


def test_draws_of_the_marginal_are_the_set_diffused() -> None:
    """Each image is drawn with the frequency of its weight in its class, with noise of standard deviation sigma."""
    prior, num = empirical(), 20_000
    t = time_of(prior.schedule, 0.01)
    images = prior.denoiser.images
    z = prior.marginal(t, class_labels=torch.tensor([4, 1])).expand(torch.Size([2])).sample((num,))
    assert z.shape == (num, 2, *SHAPE)
    nearest = torch.cdist(z.flatten(2), images.flatten(1).expand(num, M, -1)).argmin(-1)
    expected = prior.denoiser.log_prior(2, class_labels=torch.tensor([4, 1])).exp()
    for n in range(2):
        share = torch.bincount(nearest[:, n], minlength=M) / num
        assert_within(share, expected[n], (expected[n] * (1 - expected[n]) / num).sqrt())
    noise = (z - images[nearest]).flatten()
    assert_within(noise.mean(), 0.0, 0.01 / len(noise) ** 0.5)
    assert_within(noise.std(), 0.01, 0.01 / (2 * len(noise)) ** 0.5)


@pytest.mark.parametrize("kind", [vp.Gaussian, vp.Laplace])
def test_posterior_is_enumeration(kind: type[vp.Gaussian] | type[vp.Laplace]) -> None:
    """w_m p(y_n | x_m), a product of densities over observed pixels, with one mask per observation."""
    prior, width = empirical(labels=None), 0.5
    masks = (torch.rand(2, *SHAPE) > 0.4).double()
    y = torch.randn(2, *SHAPE, dtype=torch.float64)
    images, weights = prior.denoiser.images, prior.denoiser.log_weights.exp()
    joint = torch.zeros(2, M, dtype=torch.float64)
    for n in range(2):
        for m in range(M):
            gap = (y[n] - images[m])[masks[n] == 1] / width
            if kind is vp.Gaussian:
                density = (-0.5 * gap**2).exp() / (width * math.sqrt(2 * math.pi))
            else:
                density = (-gap.abs()).exp() / (2 * width)
            joint[n, m] = weights[m] * density.prod()
    likelihood = kind(vp.Inpainting(masks), width)
    evidence, posterior = joint.sum(1), joint / joint.sum(1, keepdim=True)
    unseen = torch.where(masks == 1, y, torch.nan)  # hidden pixels are not read
    ours = prior.posterior(likelihood, unseen)
    # the likelihood keeps its width in single precision where y is in double
    torch.testing.assert_close(prior.log_evidence(likelihood, unseen), evidence.log(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.log_weights.exp(), posterior, rtol=1e-6, atol=1e-6)
    mean = torch.stack([sum(posterior[n, m] * images[m] for m in range(M)) for n in range(2)])  # pyright: ignore
    square = torch.stack([sum(posterior[n, m] * images[m] ** 2 for m in range(M)) for n in range(2)])  # pyright: ignore
    torch.testing.assert_close(ours.mean, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.variance, square - mean**2, rtol=1e-6, atol=1e-6)


def test_posterior_under_a_matrix() -> None:
    """With an operator to another space the weights are a softmax over residuals."""
    prior = EmpiricalPrior(torch.randn(M, 4, dtype=torch.float64), batch_size=3)
    matrix, y = torch.randn(2, 4, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    residual = y[:, None] - prior.denoiser.images @ matrix.T
    expected = (-residual.square().sum(2) / (2 * 0.5**2)).log_softmax(1)
    posterior = prior.posterior(vp.Gaussian(Matrix(matrix), 0.5), y)
    torch.testing.assert_close(posterior.log_weights, expected)


def test_draws_of_the_posterior_have_its_weights() -> None:
    """Every draw is an image of the set, with the frequency of its posterior weight."""
    prior, num = empirical(labels=None), 20_000
    posterior = prior.posterior(vp.Gaussian(vp.Inpainting(torch.ones(SHAPE)), 1.0), torch.randn(2, *SHAPE).double())
    draws = posterior.sample((num,))
    assert draws.shape == (num, 2, *SHAPE)
    which = (draws[:, :, None] == prior.denoiser.images).flatten(3).all(3).double()  # (num, 2, M)
    assert (which.sum(2) == 1).all()
    expected = posterior.log_weights.exp()
    assert_within(which.mean(0), expected, (expected * (1 - expected) / num).sqrt())


def test_sigma_data_is_that_of_all_elements() -> None:
    """With equal weights it is the standard deviation of the tensor; a weight of two counts an image twice."""
    images = torch.randn(M, *SHAPE)
    assert EmpiricalPrior(images).sigma_data == pytest.approx(float(images.std(correction=0)))
    weights = torch.tensor([1.0, 1, 2, 1, 1, 1, 1])
    repeated = torch.cat([images, images[2:3]])
    assert EmpiricalPrior(images, weights).sigma_data == pytest.approx(float(repeated.std(correction=0)))


def test_an_unusable_set_is_refused() -> None:
    """No image, integer images, and weights and labels that do not fit raise InputError."""
    images = torch.zeros(2, *SHAPE)
    for weights in (torch.ones(3), torch.tensor([1.0, 0.0]), torch.tensor([1.0, torch.nan])):
        with pytest.raises(InputError, match="weight"):
            EmpiricalPrior(images, weights)
    with pytest.raises(InputError, match="at least one image"):
        EmpiricalPrior(images[:0])
    with pytest.raises(InputError, match="label"):
        EmpiricalPrior(images, labels=torch.tensor([1]))
    with pytest.raises(InputError, match=r"images / 127\.5 - 1"):
        EmpiricalPrior(torch.zeros(2, *SHAPE, dtype=torch.uint8))


@pytest.mark.parametrize("filling", [0.7, math.nan])
def test_hidden_pixels_do_not_count_in_the_perceptual_likelihood(filling: float) -> None:
    """The second factor of the likelihood is a function of the whole image."""
    images, mask = torch.rand(4, 1, 32, 32) * 2 - 1, torch.ones(1, 32, 32)
    mask[:, :16] = 0
    prior, likelihood = EmpiricalPrior(images), vp.Perceptual(vp.Inpainting(mask))
    clean, filled = (torch.where(mask == 1, images[:2], torch.tensor(value)) for value in (0.0, filling))
    assert torch.equal(prior.log_evidence(likelihood, filled), prior.log_evidence(likelihood, clean))
    assert torch.equal(prior.posterior(likelihood, filled).mean, prior.posterior(likelihood, clean).mean)


def test_observations_of_another_shape_are_refused() -> None:
    prior = empirical(dtype=torch.float32)
    likelihood, y = vp.Gaussian(vp.Inpainting(torch.ones(SHAPE))), torch.zeros(3, *SHAPE)
    assert prior.log_evidence(likelihood, y).shape == (3,)
    with pytest.raises(InputError, match="y has shape"):
        prior.log_evidence(likelihood, y[:, 0])


def test_the_facade_takes_its_classes() -> None:
    """Samples of a class are near its images; guidance is refused, since the classes are exact."""
    labels = torch.where(LABELS == 4, 2, LABELS)
    prior = empirical(labels=labels, dtype=torch.float32)
    assert prior.class_names == prior.diffusion().class_names == ("0", "1", "2")
    assert empirical(labels=10**9 * LABELS).class_names == (), "not numbers of classes"
    image, mask = prior.denoiser.images[3], torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    quick: dict[str, Any] = {"levels": 2, "num_samples": 3, "steps": 2, "refine_steps": 4, "device": "cpu", "seed": 0}
    result = vp.inpaint(image, mask, prior, label=1, **quick)
    own = prior.denoiser.images[labels == 1]
    assert (result.samples[:, 0, None] - own).abs().flatten(2).amax(2).amin(1).max() < 0.2
    z, labels = torch.randn(2, *SHAPE), torch.tensor([0, 1])
    with pytest.raises(TypeError, match="guidance_scale"):
        prior.denoise(z, 0.5, class_labels=labels, guidance_scale=2.0)
