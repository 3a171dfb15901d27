# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How do I write my own guide, ELBO, likelihood, operator, prior or baseline?
#
# Each is one small class or function. This notebook writes one of each, runs it through the library, and checks a law
# that it must obey on a prior whose posterior is known: eight independent Gaussian coordinates, four of them observed
# with noise of standard deviation 0.2, and a model with three levels.

# %%
import time
from dataclasses import dataclass
from itertools import pairwise

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroParam
from torch.distributions import constraints

import pyro_vipaint as vp
from pyro_vipaint.baselines import BaselineResult
from pyro_vipaint.guides import HierarchicalGuide, LatentGuide, PriorGuide
from pyro_vipaint.models import (
    Broadcasting,
    CosineVP,
    DiffusionModel,
    DiffusionPrior,
    GaussianPrior,
    apply,
)

plt.rcParams["figure.dpi"] = 90
pyro.set_rng_seed(0)
STANDARD_ERRORS = 5  # chance exceeds this less than once in a million

mean, std = torch.linspace(-0.5, 0.5, 8), torch.linspace(0.4, 1.0, 8)
prior = GaussianPrior.diagonal(mean, std)
mask = torch.tensor([1.0, 0.0] * 4)  # 1 = observed
likelihood = vp.Gaussian(vp.Inpainting(mask), sigma=0.2)
y = mask * (mean + std * torch.randn(1, 8) + 0.2 * torch.randn(1, 8))
keypoints = vp.keypoints(prior, noise_levels=[3.0, 1.0, 0.3])
model = DiffusionModel(prior, likelihood, keypoints)
start = vp.initial_latent(prior, likelihood, y)
evidence = prior.log_evidence(likelihood, y, keypoints)

# %% [markdown]
# ## A guide
#
# A guide answers one question: which distribution stands at this site, given the model's own distribution there? The
# prior's mean already depends on the level above, so this family moves it by a learnt vector,
# $q(z_i \mid z_{i+1}) = N(\hat z_i + \mu_i, \tau_i^2)$. Parameters are named `<kind>_<level>`; each kind can have a
# learning rate of its own.
#
# `prior` is the model's distribution at that site: below the top level `prior.mean` is computed already, so that it
# needs no network call. The distribution returned has to end in `.to_event(prior.event_dim)`, as the site does.


# %%
class ShiftedGuide(LatentGuide):
    """The prior's chain, moved by mu and with a spread tau of its own; a Gaussian at the top level."""

    def __init__(self, model, init):
        super().__init__(model, init)
        for level in model.levels:
            number, top = level.name.removeprefix("z_"), level is model.levels[0]
            mu = level.alpha * init if top else torch.zeros_like(init)
            setattr(self, f"mu_{number}", PyroParam(mu))
            setattr(self, f"tau_{number}", PyroParam(torch.full_like(init, level.step_std), constraints.positive))

    def get_posterior(self, name, prior):
        number = name.removeprefix("z_")
        mean = getattr(self, f"mu_{number}")
        if number != str(len(self.model.levels)):
            mean = mean + prior.mean
        return dist.Normal(mean, getattr(self, f"tau_{number}").expand(mean.shape)).to_event(prior.event_dim)


guides = {
    "prior": PriorGuide,
    "shifted": lambda model: ShiftedGuide(model, start),
    "hierarchical": lambda model: HierarchicalGuide(model, start, gamma_logit=0.0),
}
elbos = {"bound": vp.BetaELBO(num_particles=16)}
numbers = {"steps": 300, "lr": 0.1, "lr_decay": 0.05, "evidence": evidence}
table = vp.compare(model, guides, elbos, y, **numbers).table.set_index("guide")
table[["bound", "bound_se", "gap", "calls"]].round(3)

# %% [markdown]
# The laws: no bound exceeds the evidence; the shifted guide lies between the other two; and a guide makes no network
# call of its own: a step costs $K$ calls with an exact marginal, and $K + 1$ with a network's.

# %%
gap, error = table["gap"], table["bound_se"]
assert (gap > -STANDARD_ERRORS * error).all()
assert gap["hierarchical"] < gap["shifted"] + STANDARD_ERRORS * error["shifted"]
assert gap["shifted"] < gap["prior"] - STANDARD_ERRORS * error["prior"]
assert (table["calls"] == 300 * 3).all()

# %% [markdown]
# ## An ELBO
#
# An objective says how a latent site enters. Here a level costs nothing below a number of *free nats*, so that the fit
# does not waste steps on levels that are good enough (Kingma et al. 2016). β, the record of the terms and the particles
# come from the base class.


# %%
class FreeNatsELBO(vp.BetaELBO):
    """BetaELBO whose KL terms are at least ``free`` nats per image."""

    def __init__(self, free, beta=1.0, num_particles=5):
        super().__init__(beta, num_particles)
        self.free = free

    def _latent_term(self, model_site, guide_site):
        return super()._latent_term(model_site, guide_site).clamp(min=self.free)


def loss_of(elbo):
    """One evaluation at the start of a fit, with fixed draws."""
    pyro.set_rng_seed(1)
    return elbo.loss(model, HierarchicalGuide(model, start), y)


plain = loss_of(vp.BetaELBO())
assert loss_of(FreeNatsELBO(0.0)) == plain  # a KL divergence is never negative
assert loss_of(FreeNatsELBO(2.0)) > plain
objectives = {"free nats": FreeNatsELBO(0.5, num_particles=16), **elbos}
hierarchical = {"hierarchical": guides["hierarchical"]}
found = vp.compare(model, hierarchical, objectives, y, **numbers).table
assert (found["gap"] > -STANDARD_ERRORS * found["bound_se"]).all()  # judged by the true bound, whatever was optimised
found[["objective", "bound", "bound_se", "gap"]].round(3)

# %% [markdown]
# ## A likelihood
#
# A likelihood maps images to the distribution of y, element by element; a mask omits elements that were not observed.
# Student's t is robust to outliers. It inherits the residual and the mask of `vp.Gaussian`.


# %%
@dataclass(frozen=True, eq=False)
class StudentT(vp.Gaussian):
    """y = A(x) + v, v Student's t with ``df`` degrees of freedom and scale ``sigma``."""

    df: float = 2.0

    def __call__(self, x):
        mean = apply(self.operator, x)
        return dist.StudentT(self.df, mean, self.sigma).mask(self.observed(mean))


x = torch.randn(3, 1, 8, dtype=torch.float64)
nearly = StudentT(likelihood.operator, 0.2, df=1e8)(x).log_prob(y.double())
assert torch.allclose(nearly, likelihood(x).log_prob(y.double()), atol=1e-3)  # its limit is the Gaussian

outlier = y.clone()
outlier[0, 0] += 8.0
means = {}
for name, chosen in {"Gaussian": likelihood, "Student's t": StudentT(likelihood.operator, 0.2)}.items():
    robust = DiffusionModel(prior, chosen, keypoints)
    guide = HierarchicalGuide(robust, start, gamma_logit=0.0)
    vp.fit(robust, guide, outlier, vp.BetaELBO(num_particles=16), steps=300, lr=0.1, lr_decay=0.05, seed=0)
    means[name] = robust.reconstruct(vp.sample(guide, outlier, 500, seed=1))[:, 0].mean(0)
moved = {name: (mean - prior.mean)[0].abs().item() for name, mean in means.items()}  # of the outlier's coordinate
assert moved["Student's t"] < 0.25 * moved["Gaussian"]
print({name: round(value, 2) for name, value in moved.items()}, "away from the prior mean at the outlier")

# %% [markdown]
# ## An operator
#
# A linear operator has `A` and `A_adjoint`, and takes any leading dimensions. Horizontal differences of an image say
# nothing about its brightness. Any operator goes into `vp.restore`.


# %%
class Differences(Broadcasting):
    """A(x) = the difference of horizontal neighbours, (…, W) to (…, W - 1)."""

    def A(self, x):
        return x.diff(dim=-1)

    def A_adjoint(self, y):
        zero = torch.zeros_like(y[..., :1])
        return torch.cat([zero, y], -1) - torch.cat([y, zero], -1)


operator = Differences()
a, b = torch.randn(2, 1, 6, 6), torch.randn(2, 1, 6, 5)
assert torch.allclose((operator.A(a) * b).sum(), (a * operator.A_adjoint(b)).sum(), atol=1e-4)  # <Ax, y> = <x, A'y>

rows = GaussianPrior.diagonal(torch.zeros(1, 6, 6), torch.full((1, 6, 6), 0.4))
picture = 0.4 * torch.randn(1, 1, 6, 6)
restored = vp.restore(operator.A(picture), operator, rows, levels=2, num_samples=20, noise=0.05, steps=100, seed=0)
error = (operator.A(restored.mean) - restored.observation).abs().mean() / restored.observation.abs().mean()
brightness = restored.samples.mean(-1).std(0).mean()  # of a row; exactly 0.4 / sqrt(6) = 0.16
assert error < 0.3 and brightness > 0.05
print(f"relative error of the differences {error:.2f}, standard deviation of a row's brightness {brightness:.2f}")

# %% [markdown]
# ## A prior
#
# A prior is a schedule, a denoiser $E[x \mid z_t]$, and a shape. Here each coordinate is $+1$ or $-1$ with equal
# probability, and $E[x \mid z_t] = \tanh(\alpha_t z_t / \sigma_t^2)$ is exact. A network stands in its place by one of
# the adapters (`EpsilonDenoiser`, …): [notebook 5](05_bring_your_own_prior.ipynb).

# %%
schedule = CosineVP()


def denoise(z, t, **condition):
    """E[x given z_t]; t is a number or has the leading shape of z."""
    alpha, sigma = (value.reshape(*value.shape, *[1] * (z.ndim - value.ndim)).to(z) for value in schedule(t))
    return torch.tanh(alpha * z / sigma**2)


signs = DiffusionPrior(schedule, denoise, event_shape=(8,), sigma_data=1.0)
draws = signs.marginal(0.02).sample((500,))  # the chain from pure noise down to t = 0.02
assert ((draws.abs() - 1).abs() < 0.5).double().mean() > 0.99
assert draws.sign().mean().abs() < STANDARD_ERRORS / 4000**0.5

seen = DiffusionModel(signs, vp.Gaussian(vp.Inpainting(mask), 0.2), vp.keypoints(signs, noise_levels=[4.0, 2.0, 1.0]))
y_signs = mask * torch.tensor([[1.0, 1, -1, 1, 1, 1, -1, 1]])
guide = HierarchicalGuide(seen, vp.initial_latent(signs, seen.likelihood, y_signs), gamma_logit=0.0)
fit = vp.fit(seen, guide, y_signs, vp.BetaELBO(num_particles=16), steps=200, lr=0.1, lr_decay=0.1, seed=0)
z = vp.refine(seen, vp.sample(guide, y_signs, 200, seed=1), y_signs, steps=30, seed=2)[:, 0]
right = (z.sign() == y_signs[0]).double().mean(0)
assert (right[mask == 1] > 0.99).all()  # the observed signs are those of y
assert z[:, mask == 0].sign().mean(0).abs().max() < 0.5  # the hidden ones stay open
print(f"observed signs right: {right[mask == 1].mean():.0%}")

# %% [markdown]
# ## A baseline
#
# A baseline is one function from a prior, a likelihood and y to samples, with their cost. The simplest that is exact in
# the limit draws many candidates from the prior and resamples them by their likelihood. An entry in
# `pyro_vipaint.bench.METHODS` puts it into `vipaint bench`.


# %%
def resampled_prior(prior, likelihood, y, num_samples=10, steps=100, *, candidates=20_000, seed=None, **condition):
    """Draws of the prior by its own chain, resampled by p(y | x): ``steps`` network calls."""
    begun, (_, sigma) = time.perf_counter(), prior.schedule(torch.tensor(1.0))
    with vp.count_calls() as count, torch.no_grad(), torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        z = float(sigma) * torch.randn(candidates, len(y), *prior.event_shape)
        for t, s in pairwise(torch.linspace(1, 0, steps + 1).tolist()):
            z = prior.transition(z, t, s, **condition).sample()
        x = prior.decode(z)
        weights = likelihood(x).log_prob(y).flatten(2).sum(-1).softmax(0)  # (candidates, N)
        chosen = weights.T.multinomial(num_samples, replacement=True).T
        samples = torch.stack([x[index, image] for image, index in enumerate(chosen.T)], 1)
    return BaselineResult(samples, count.calls, count.nfe, time.perf_counter() - begun)


vague = vp.Gaussian(vp.Inpainting(mask), sigma=0.6)  # so that many candidates are near y
run = resampled_prior(prior, vague, y, num_samples=2000, seed=0)
assert run.calls == 100
exact = prior.posterior(vague, y)  # of x itself
drawn, mean, std = run.samples[:, 0], exact.mean[0], exact.stddev[0]
size = 500  # effective draws at least
assert ((drawn.mean(0) - mean).abs() < STANDARD_ERRORS * std / size**0.5).all()

figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
place = torch.arange(8)
axes.errorbar(place - 0.1, mean, std, fmt="o", color="black", capsize=3, label="exact")
axes.errorbar(place + 0.1, drawn.mean(0), drawn.std(0), fmt="o", capsize=3, label="resampled prior")
axes.plot(place[mask == 1], y[0, mask == 1], "x", color="tab:red", label="observed")
axes.set(xlabel="coordinate", ylabel="mean ± standard deviation")
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## The answer
#
# | new | write | the law to check first |
# |---|---|---|
# | guide | `get_posterior(name, prior)` | the bound stays below a known evidence; no network call of its own |
# | ELBO | how a latent site enters | a limit in which it is the plain bound |
# | likelihood | image ↦ distribution of y | a limit in which it is Gaussian |
# | operator | `A`, `A_adjoint` | $\langle Ax, y\rangle = \langle x, A^\top y\rangle$ |
# | prior | schedule, denoiser, shape | its chain draws what it should |
# | baseline | one function | a posterior that is known; calls counted |
#
# To add one to the library, see the table "Who adds what touches which file" in [CONTRIBUTING](../CONTRIBUTING.md): one
# file, one line in the list that the laws run over.
