"""The empirical prior against enumeration of its images, its own automatic derivative, and its restriction to a class.

What is enumerated here is written as plain sums over differences, without batches and without log-sum-exp.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import pyro_vipaint as vp
from pyro_vipaint.errors import InputError
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior, EmpiricalPrior
from pyro_vipaint.models.measurements.operators import Matrix
from pyro_vipaint.models.priors.schedules import EDM, CosineVP, LinearVP, RectifiedFlow, Schedule, as_time, time_of
from tests.statistics import STANDARD_ERRORS, assert_within, mean_and_error

SHAPE, M = (1, 2, 3), 7
SCHEDULES: list[Schedule] = [LinearVP(), CosineVP(), EDM(), RectifiedFlow(3.0)]
LABELS = torch.tensor([4, 0, 4, 1, 0, 4, 1])

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def build(labels: Tensor | None = None, dtype: torch.dtype = torch.float64, **options: Any) -> EmpiricalPrior:
    """Seven images of 1 × 2 × 3 pixels with unequal weights, in batches of three."""
    images, weights = torch.rand(M, *SHAPE, dtype=torch.float64) * 2 - 1, 0.2 + torch.rand(M, dtype=torch.float64)
    return EmpiricalPrior(images.to(dtype), weights, labels=labels, **{"batch_size": 3, **options})


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


@every_schedule
@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_tweedie(schedule: Schedule, t: float) -> None:
    """alpha x_hat = z + sigma^2 ∇ log p(z_t), the gradient by automatic differentiation of the marginal."""
    prior = build(schedule=schedule)
    _, sigma = at(schedule, t)
    z = prior.marginal(t).sample((6,)).requires_grad_()
    (score,) = torch.autograd.grad(prior.marginal(t).log_prob(z).sum(), z)
    alpha, _ = at(schedule, t)
    torch.testing.assert_close(alpha * prior.denoise(z, t), z + sigma**2 * score, rtol=1e-9, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_equal_enumeration(schedule: Schedule, t: float, batch_size: int) -> None:
    """Denoiser, log density and the gradients of both, whatever the batch size."""
    prior = build(schedule=schedule, batch_size=batch_size)
    z = mixture(prior, t).sample((5,)).requires_grad_()
    direction = torch.randn_like(z)

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, z)[0]

    ours, expected = prior.denoise(z, t), enumerated_mean(prior, z, t)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradient((ours * direction).sum()), gradient((expected * direction).sum()))
    density, exact = prior.marginal(t).log_prob(z), mixture(prior, t).log_prob(z)
    torch.testing.assert_close(density, exact)
    torch.testing.assert_close(gradient(density.sum()), gradient(exact.sum()))


def test_for_the_gradient_a_batch_keeps_its_mean_alone() -> None:
    """What is kept for the backward pass is far smaller than one kernel for each latent and image."""
    count, size, sizes = 64, 5000, []
    prior = EmpiricalPrior(torch.randn(size, 4), batch_size=500)

    def pack(value: Tensor) -> Tensor:
        sizes.append(value.numel())
        return value

    z = torch.randn(count, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        prior.denoise(z, 0.5)
    assert sizes and sum(sizes) < count * size / 5


def test_leading_dimensions_and_times_equal_a_loop() -> None:
    """Each latent is denoised by itself, at its own time and in its own class."""
    prior = build(LABELS)
    z, t = torch.randn(3, 2, *SHAPE, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64)
    labels = torch.tensor([4, 1])
    together = prior.denoise(z, t, class_labels=labels)
    for i in range(3):
        for j in range(2):
            alone = prior.denoise(z[i, j], t[i, j].item(), class_labels=labels[j])
            torch.testing.assert_close(together[i, j], alone)
    density = prior.marginal(0.3, class_labels=labels).log_prob(z)
    for j in range(2):
        alone = prior.marginal(0.3, class_labels=int(labels[j])).log_prob(z[:, j])
        torch.testing.assert_close(density[:, j], alone)


@pytest.mark.parametrize("label", [0, 1, 4])
def test_a_class_is_the_prior_of_its_images(label: int) -> None:
    """With ``class_labels``, denoiser, marginal, evidence and posterior know the images of that class alone."""
    whole = build(LABELS)
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
    """A label that no image has, labels where none were given, and an unknown condition."""
    z = torch.zeros(2, *SHAPE, dtype=torch.float64)
    with pytest.raises(InputError, match="class 3"):
        build(LABELS).denoise(z, 0.5, class_labels=torch.tensor([1, 3]))
    with pytest.raises(InputError, match="no labels"):
        build().denoise(z, 0.5, class_labels=torch.tensor([1, 1]))
    with pytest.raises(TypeError, match="prompt"):
        build().denoise(z, 0.5, prompt="a cat")


@pytest.mark.parametrize("schedule", [LinearVP(), RectifiedFlow(), EDM()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_noise_it_is_the_nearest_image(schedule: Schedule, dtype: torch.dtype) -> None:
    """At t = 0 (sigma = 0, or EDM's 0.002) each image is its own prediction, near ones too; the gradient is finite."""
    images = build(dtype=dtype).denoiser.images
    prior = EmpiricalPrior(torch.cat([images, images + 0.02]), schedule=schedule, batch_size=4)
    z = prior.denoiser.images.clone().requires_grad_()
    x_hat = prior.denoise(z, 0.0)
    assert x_hat.dtype == dtype
    torch.testing.assert_close(x_hat, prior.denoiser.images)
    (gradient,) = torch.autograd.grad(x_hat.sum(), z)
    assert gradient.isfinite().all()


@every_schedule
def test_single_precision_agrees_with_double(schedule: Schedule) -> None:
    """From little noise to all of it, where alpha may be 1e-5."""
    small = build(dtype=torch.float32, schedule=schedule)
    weights = small.denoiser.log_weights.exp()
    large = EmpiricalPrior(small.denoiser.images.double(), weights, schedule=schedule)
    for t in (0.01, 0.5, 1.0):
        z = mixture(small, t).sample((8,)).float()
        torch.testing.assert_close(small.denoise(z, t), large.denoise(z.double(), t).float(), rtol=1e-5, atol=1e-6)
        density = large.marginal(t).log_prob(z.double()).float()
        torch.testing.assert_close(small.marginal(t).log_prob(z), density, rtol=1e-5, atol=1e-5)


def test_without_information_it_is_the_mean_of_the_set() -> None:
    """At t = 1 of a rectified flow, alpha = 1e-5, the prediction is the weighted mean."""
    prior = build(schedule=RectifiedFlow())
    mean = torch.tensordot(prior.denoiser.log_weights.exp(), prior.denoiser.images, 1)
    z = torch.randn(4, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(prior.denoise(z, 1.0), mean.expand_as(z), rtol=0, atol=1e-3)


def test_draws_of_the_marginal_are_the_set_diffused() -> None:
    """Each image is drawn as often as its weight in its class says, with noise of standard deviation sigma."""
    prior, num = build(LABELS), 20_000
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
    """w_m p(y_n | x_m), one product of densities for each image, observation and observed pixel; a mask for each."""
    prior, width = build(), 0.5
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
    """An operator to another space: the weights of a softmax over residuals."""
    prior = EmpiricalPrior(torch.randn(M, 4, dtype=torch.float64), batch_size=3)
    matrix, y = torch.randn(2, 4, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    residual = y[:, None] - prior.denoiser.images @ matrix.T
    expected = (-residual.square().sum(2) / (2 * 0.5**2)).log_softmax(1)
    posterior = prior.posterior(vp.Gaussian(Matrix(matrix), 0.5), y)
    torch.testing.assert_close(posterior.log_weights, expected)


def test_draws_of_the_posterior_have_its_weights() -> None:
    """Every draw is an image of the set, as often as its posterior weight says."""
    prior, num = build(), 20_000
    posterior = prior.posterior(vp.Gaussian(vp.Inpainting(torch.ones(SHAPE)), 1.0), torch.randn(2, *SHAPE).double())
    draws = posterior.sample((num,))
    assert draws.shape == (num, 2, *SHAPE)
    which = (draws[:, :, None] == prior.denoiser.images).flatten(3).all(3).double()  # (num, 2, M)
    assert (which.sum(2) == 1).all()
    expected = posterior.log_weights.exp()
    assert_within(which.mean(0), expected, (expected * (1 - expected) / num).sqrt())


def test_the_estimated_marginal_is_a_lower_bound() -> None:
    """``diffusion()``: the mean estimate lies below the exact log density, by a fraction of a nat on a fine grid."""
    prior = build(schedule=EDM(sigma_max=20.0))
    t = time_of(prior.schedule, 0.5)
    for z in prior.marginal(t).sample((3,)):
        estimates = prior.diffusion().marginal(t).log_prob(z.expand(40_000, 1, *SHAPE))[:, 0]
        bound, error = mean_and_error(estimates)
        exact = prior.marginal(t).log_prob(z)
        assert bound < exact + STANDARD_ERRORS * error
        assert exact - bound < 0.3 + STANDARD_ERRORS * error
        assert error < 0.1, "the comparison is too noisy to mean anything"


@pytest.mark.parametrize(("estimated", "calls"), [(False, 3), (True, 4)])
def test_the_model_runs_on_it(estimated: bool, calls: int) -> None:
    """An SVI step of three levels costs K calls with the exact marginal, K + 1 with the estimated; gradients exist."""
    exact = build(LABELS, dtype=torch.float32)
    prior: DiffusionPrior = exact.diffusion() if estimated else exact
    mask, labels = (torch.rand(SHAPE) > 0.4).float(), torch.tensor([4, 1])
    y = mask * torch.randn(2, *SHAPE)
    likelihood, times = vp.Laplace(vp.Inpainting(mask), 0.2), vp.keypoints(prior, noise_levels=[4.0, 1.0, 0.3])
    model = DiffusionModel(prior, likelihood, times, class_labels=labels)
    guide = HierarchicalGuide(model, vp.initial_latent(prior, likelihood, y))
    with vp.count_calls() as count:
        vp.BetaELBO(num_particles=7).differentiable_loss(model, guide, y).backward()
    assert (count.calls, count.nfe) == (calls, calls * 14)
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert model().shape == (2, *SHAPE)


def test_data_std_is_that_of_all_elements() -> None:
    """With equal weights it is the standard deviation of the tensor; a weight of two counts an image twice."""
    images = torch.randn(M, *SHAPE)
    assert EmpiricalPrior(images).sigma_data == pytest.approx(float(images.std(correction=0)))
    weights = torch.tensor([1.0, 1, 2, 1, 1, 1, 1])
    repeated = torch.cat([images, images[2:3]])
    assert EmpiricalPrior(images, weights).sigma_data == pytest.approx(float(repeated.std(correction=0)))


def test_what_is_no_set_is_refused() -> None:
    """No image, integers, weights and labels that do not fit."""
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
def test_hidden_pixels_do_not_count_as_the_model_does_not_see_them(filling: float) -> None:
    """With the perceptual likelihood, too, whose second factor is of the whole image."""
    images, mask = torch.rand(4, 1, 32, 32) * 2 - 1, torch.ones(1, 32, 32)
    mask[:, :16] = 0
    prior, likelihood = EmpiricalPrior(images), vp.Perceptual(vp.Inpainting(mask))
    clean, filled = (torch.where(mask == 1, images[:2], torch.tensor(value)) for value in (0.0, filling))
    assert torch.equal(prior.log_evidence(likelihood, filled), prior.log_evidence(likelihood, clean))
    assert torch.equal(prior.posterior(likelihood, filled).mean, prior.posterior(likelihood, clean).mean)


def test_observations_of_another_shape_are_refused() -> None:
    prior = build(dtype=torch.float32)
    likelihood, y = vp.Gaussian(vp.Inpainting(torch.ones(SHAPE))), torch.zeros(3, *SHAPE)
    assert prior.log_evidence(likelihood, y).shape == (3,)
    with pytest.raises(InputError, match="y has shape"):
        prior.log_evidence(likelihood, y[:, 0])


def test_the_facade_takes_its_classes() -> None:
    """Samples of a class are near its images; guidance would sharpen what is exact, and is refused."""
    labels = torch.where(LABELS == 4, 2, LABELS)
    prior = build(labels=labels, dtype=torch.float32)
    assert prior.class_names == prior.diffusion().class_names == ("0", "1", "2")
    assert build(labels=10**9 * LABELS).class_names == (), "not numbers of classes"
    image, mask = prior.denoiser.images[3], torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    quick: dict[str, Any] = {"levels": 2, "num_samples": 3, "steps": 2, "refine_steps": 4, "device": "cpu", "seed": 0}
    result = vp.inpaint(image, mask, prior, label=1, **quick)
    own = prior.denoiser.images[labels == 1]
    assert (result.samples[:, 0, None] - own).abs().flatten(2).amax(2).amin(1).max() < 0.2
    with pytest.raises(InputError, match="no guidance-scale"):
        vp.inpaint(image, mask, prior, label=1, guidance_scale=2.0, **quick)
    z, labels = torch.randn(2, *SHAPE), torch.tensor([0, 1])
    with pytest.raises(InputError, match="leave guidance_scale away"):
        prior.denoise(z, 0.5, class_labels=labels, guidance_scale=2.0)
    assert torch.equal(
        prior.denoise(z, 0.5, class_labels=labels, guidance_scale=1.0), prior.denoise(z, 0.5, class_labels=labels)
    )
