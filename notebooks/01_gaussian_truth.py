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
# # Is the bound true, and how tight?
#
# A variational fit returns one number that can be checked: a lower bound on the evidence,
#
# $$\log p(y) \;\ge\; E_q\big[\log p(y \mid z_1)\big] - \sum_i \mathrm{KL}\big(q(z_i \mid z_{i+1}) \,\|\,
# p(z_i \mid z_{i+1})\big), \qquad \text{gap} = \mathrm{KL}\big(q(z) \,\|\, p(z \mid y)\big).$$
#
# For a network the left side is unknown. For a Gaussian prior every step of the diffusion is linear and Gaussian, so
# evidence and posterior are closed forms. Here the prior has 16 independent coordinates, six of which are measured
# with noise of standard deviation $0.1$, and the model has three levels, at $\sigma/\alpha = 3, 1, 0.3$.

# %%
import math

import matplotlib.pyplot as plt
import pandas as pd
import pyro
import torch
from pyro.infer import Importance, Predictive
from pyro.infer.inspect import get_model_relations
from torch.distributions import MultivariateNormal, kl_divergence

import pyro_vipaint as vp
from pyro_vipaint.diagnostics import elbo_estimate, iwae_bound, log_weights
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import DiffusionModel, GaussianPrior

plt.rcParams["figure.dpi"] = 90
pyro.set_rng_seed(0)
STANDARD_ERRORS = 5  # chance exceeds this less than once in a million

mean, std = 0.5 * torch.randn(16), 0.3 + torch.rand(16)
prior = GaussianPrior.diagonal(mean, std)
mask = (torch.arange(16) < 6).float()  # 1 = observed
likelihood = vp.Gaussian(vp.Inpainting(mask), sigma=0.1)
x = mean + std * torch.randn(1, 16)
y = mask * (x + 0.1 * torch.randn(1, 16))

keypoints = vp.keypoints(prior, noise_levels=[3.0, 1.0, 0.3])
model = DiffusionModel(prior, likelihood, keypoints)
evidence = prior.log_evidence(likelihood, y, keypoints).item()
print(f"log p(y) of the three-level model: {evidence:.3f} nats")

# %% [markdown]
# The model is a Pyro program, a chain of latents from noise to image that ends in the observation (grey).
# `pyro.render_model(model, (y,))` draws its graph where Graphviz is installed; Matplotlib can draw the same relations,
# of the guide below as well.


# %%
def draw(axes, title, program):
    """The sites of a program with y in the order in which they run, and who depends on whom."""
    relations = get_model_relations(program, (y,))
    place = {site: column for column, site in enumerate(relations["sample_sample"])}
    for site, above in relations["sample_sample"].items():
        grey = "lightgrey" if site in relations["observed"] else "white"
        axes.text(place[site], 0, site, ha="center", va="center", bbox={"boxstyle": "circle,pad=0.6", "fc": grey})
        for other in above:
            arrow = {"arrowstyle": "-|>", "shrinkA": 17, "shrinkB": 17, "color": "black"}
            axes.annotate("", (place[site], 0), (place[other], 0), arrowprops=arrow)
    axes.set(xlim=(-0.5, 3.5), ylim=(-0.5, 0.5), title=title)
    axes.axis("off")
    return relations["sample_sample"]


figure, (left, right) = plt.subplots(1, 2, figsize=(7, 1.4), layout="constrained")
chain = {"z_3": [], "z_2": ["z_3"], "z_1": ["z_2"]}
assert draw(left, "model", model) == chain | {"y": ["z_1"]}
assert draw(right, "guide", HierarchicalGuide(model)) == chain
plt.show()

# %% [markdown]
# The hierarchical guide has a mean, a spread and a weight $\gamma$ for each coordinate and level. With independent
# coordinates this family holds the exact posterior, so the gap is only due to optimisation. Each dot of the plot is a
# Monte-Carlo estimate from 16 draws, made during the fit. It scatters on both sides of the line: the bound is a
# statement about the mean.


# %%
def fitted(model, particles=16, steps=700):
    """A hierarchical guide fitted to y, and the record of the fit."""
    guide = HierarchicalGuide(model, vp.initial_latent(model.prior, likelihood, y), gamma_logit=0.0)
    elbo = vp.BetaELBO(num_particles=particles)
    return guide, vp.fit(model, guide, y, elbo, steps, lr=0.1, lr_decay=0.01, seed=1)


guide, fit = fitted(model)
steps = torch.arange(len(fit.losses))
bounds = fit.bounds[:, 0]

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(steps, bounds, ".", markersize=2, color="tab:blue", alpha=0.4, label="one step, 16 draws")
axes.plot(steps[49:], bounds.unfold(0, 50, 1).mean(1), color="tab:blue", label="mean of 50 steps")
axes.axhline(evidence, color="black", linewidth=1, label="log p(y), exact")
axes.set(xlabel="SVI step", ylabel="bound on log p(y), nats", ylim=(evidence - 8, evidence + 3))
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# The fitted guide is now held fixed and judged by fresh draws: the bound as the mean of $\log w$ with
# $w = p(y, z)/q(z)$, and the importance-weighted bound $\log \frac1L \sum_l w_l$, which any guide with wide enough
# tails brings to $\log p(y)$.

# %%
log_w = log_weights(model, guide, y, 20_000, seed=2)
bound, bound_se = (v.item() for v in elbo_estimate(log_w))
iwae, iwae_se = (v.item() for v in iwae_bound(log_w))

assert bound < evidence + STANDARD_ERRORS * bound_se, "the bound is above the evidence"
assert evidence - bound < 0.05 + STANDARD_ERRORS * bound_se, "the bound is loose"
assert abs(iwae - evidence) < STANDARD_ERRORS * iwae_se

table = pd.DataFrame(
    {
        "nats": [evidence, bound, iwae],
        "standard error": [0.0, bound_se, iwae_se],
        "below log p(y)": [0.0, evidence - bound, evidence - iwae],
    },
    index=["log p(y), exact", "bound of the fitted guide", "importance-weighted bound"],
)
table.round(4)

# %% [markdown]
# Pyro's own tools agree. `Importance` runs guide and model one draw after the other and has one weight for all images
# of a batch together (here there is one image); `Predictive` draws y again.

# %%
with torch.no_grad():
    pyros = torch.stack(Importance(model, guide, num_samples=1000).run(y).log_weights)
    drawn = Predictive(model, guide=guide, num_samples=4000, parallel=True)()["y"][:, 0, :6]
pyros_se = (pyros.exp().std() / pyros.exp().mean() / len(pyros) ** 0.5).item()
exact_y = prior.posterior(likelihood, y, keypoints)
exact_y_mean, exact_y_std = exact_y.mean[0, :6], (exact_y.variance[0, :6] + 0.1**2).sqrt()

assert abs(pyros.logsumexp(0).item() - math.log(len(pyros)) - evidence) < STANDARD_ERRORS * pyros_se
assert ((drawn.mean(0) - exact_y_mean).abs() < (STANDARD_ERRORS / 4000**0.5 + 0.03) * exact_y_std).all()
print(f"Pyro's estimate of log p(y): {pyros.logsumexp(0).item() - math.log(len(pyros)):.3f} ± {pyros_se:.3f} nats")

# %% [markdown]
# A small gap says that $q$ is close to the posterior as a whole. The margins show where it is not: the next figure
# compares mean and standard deviation of the reconstruction $E[x \mid z_1]$ at the hidden coordinates with the exact
# ones.

# %%
draws = 4000
hidden = mask == 0
reconstructed = model.reconstruct(vp.sample(guide, y, draws, seed=3))[:, 0, hidden]
posterior = prior.posterior(likelihood, y, keypoints)
exact_mean, exact_std = posterior.mean[0, hidden], posterior.stddev[0, hidden]
sample_mean, sample_std = reconstructed.mean(0), reconstructed.std(0)

mean_se, std_se = exact_std / draws**0.5, exact_std / (2 * draws) ** 0.5
assert ((sample_mean - exact_mean).abs() < STANDARD_ERRORS * mean_se + 0.03 * exact_std).all()
assert ((sample_std - exact_std).abs() < STANDARD_ERRORS * std_se + 0.03 * exact_std).all()

figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
position = torch.arange(len(exact_mean)) + 7
axes.errorbar(position - 0.1, exact_mean, exact_std, fmt="o", color="black", capsize=3, label="exact")
axes.errorbar(position + 0.1, sample_mean, sample_std, fmt="o", color="tab:blue", capsize=3, label="fitted guide")
axes.set(xlabel="hidden coordinate", ylabel="mean ± standard deviation", xticks=position)
axes.legend(fontsize=8)
print(f"largest error of a mean:               {((sample_mean - exact_mean) / exact_std).abs().max():.3f} std. dev.")
print(f"largest error of a standard deviation: {(sample_std / exact_std - 1).abs().max():.1%}")

# %% [markdown]
# **Which evidence.** The evidence above is that of the three-level *model*. Its transitions
# $p_\theta(z_s \mid z_t)$ have the right mean but omit the variance of the denoiser's error, so its prior of $y$
# is a little narrower than the Gaussian that we started from. On average over data this costs
# $\mathrm{KL}(p(y) \,\|\, p_K(y))$, which is again a closed form.


# %%
def discretisation(levels):
    """KL from the prior's p(y) to that of the model with these noise levels, in nats."""
    times = vp.keypoints(prior, noise_levels=levels)
    laws = (prior.observation_moments(likelihood, given)[2:] for given in (None, times))
    return kl_divergence(*(MultivariateNormal(*moments) for moments in laws)).item()


counts = torch.tensor([2, 3, 4, 6, 8, 12, 16, 32, 64, 128])
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
costs = {}
for last, colour in ((0.3, "tab:blue"), (0.1, "tab:orange"), (0.03, "tab:green")):
    grids = [torch.logspace(0.5, torch.tensor(last).log10().item(), int(count)).tolist() for count in counts]
    costs[last] = torch.tensor([discretisation(levels) for levels in grids])
    axes.loglog(counts, costs[last], "o-", markersize=4, color=colour, label=rf"$T_s$ at $\sigma/\alpha = {last}$")
    if last > 0.05:
        axes.axhline(discretisation([last]), color=colour, linestyle=":", linewidth=1)
axes.loglog(counts, costs[0.03][-1] * (counts[-1] / counts) ** 2, "--", color="grey", linewidth=1, label=r"$K^{-2}$")
axes.set(xlabel="levels K, evenly spaced in log noise from 3.2", ylabel="KL(p(y) ‖ p_K(y)), nats")
axes.legend(fontsize=8)

slope = costs[0.03][-2:].log2().diff().item()
assert -2.2 < slope < -1.8
assert all((cost.diff() < 0).all() for cost in costs.values())
assert costs[0.3][1] < costs[0.1][1] < costs[0.03][1] and costs[0.3][-1] > costs[0.1][-1] > costs[0.03][-1]
print(f"three levels, 3, 1, 0.3: {discretisation([3.0, 1.0, 0.3]):.2f} nats for six observed numbers")

# %% [markdown]
# Each step's variance is wrong by a share of order $1/K$, and the KL is the square of that. The rest, as $K$ grows
# (dotted), is the price of stopping at $T_s$, where one denoising step replaces the rest of the chain. With few levels
# it pays to stop early, with many to go further down. All of this belongs to the model: the fit does not affect it.
#
# **With a network** the density $p(z_K)$ at the top level is not known either. `DiffusionMarginal` estimates a lower
# bound on it by treating $z_K$ as the data of a diffusion that starts there, one random step at a time. The same prior
# can be used in that way, as if its denoiser were a network.

# %%
as_network = DiffusionModel(prior.diffusion(), likelihood, keypoints)
network_guide, network_fit = fitted(as_network, particles=64, steps=500)
network_log_w = log_weights(as_network, network_guide, y, 40_000, seed=4)
network_bound, network_se = (v.item() for v in elbo_estimate(network_log_w))
network_iwae = iwae_bound(network_log_w).estimate.item()

assert network_bound < evidence + STANDARD_ERRORS * network_se
assert evidence - network_bound < 0.1 + STANDARD_ERRORS * network_se
assert network_iwae > evidence + 1, "importance weights of an estimated density are optimistic"

pd.DataFrame(
    {
        "bound": [bound, network_bound],
        "standard error": [bound_se, network_se],
        "std. dev. of log w": [log_w.std().item(), network_log_w.std().item()],
        "importance-weighted": [iwae, network_iwae],
    },
    index=["exact marginal", "estimated marginal"],
).round(3)

# %% [markdown]
# The bound survives: it is linear in $\log p(z_K)$, so noise of mean zero averages out. The importance-weighted figure
# does not, and lies nats *above* the evidence, because $E[e^{\text{noise}}] > 1$. With an estimated marginal, trust the
# bound and not the weights.
#
# **Where the family is too small.** Now the same coordinates correlated, $\mathrm{corr}(x_i, x_j) = 0.8^{|i-j|}$. A
# hidden coordinate is then informed by its observed neighbours, and a guide whose levels are diagonal cannot say that
# the errors of two coordinates go together. It still expresses a part of it, because the prior's mean
# $\hat z_i(z_{i+1})$ mixes coordinates.

# %%
lag = (torch.arange(16)[:, None] - torch.arange(16)).abs()
correlated = GaussianPrior.full(mean, std[:, None] * std * 0.8**lag)
correlated_model = DiffusionModel(correlated, likelihood, keypoints)
correlated_evidence = correlated.log_evidence(likelihood, y, keypoints).item()
correlated_guide, _ = fitted(correlated_model)
correlated_log_w = log_weights(correlated_model, correlated_guide, y, 20_000, seed=5)
correlated_bound, correlated_se = (v.item() for v in elbo_estimate(correlated_log_w))
correlated_gap = correlated_evidence - correlated_bound

assert correlated_gap > evidence - bound + STANDARD_ERRORS * (correlated_se + bound_se)
print(f"gap, independent coordinates: {evidence - bound:.3f} ± {bound_se:.3f} nats")
print(f"gap, correlated coordinates:  {correlated_gap:.3f} ± {correlated_se:.3f} nats")

# %% [markdown]
# ## The answer
#
# **Yes, the bound is true**: no fit above exceeds the evidence of its model by more than chance allows, with the exact
# marginal or the estimated one. **It is as tight as the family allows**: within a few hundredths of a nat, with exact
# means and spreads, where the family holds the posterior; about one nat below where coordinates are correlated and the
# levels of the guide are not.
#
# The bound leaves two things open. It is a bound for the $K$-level model, which with three coarse levels is itself 1.9
# nats (for six observations) from the original prior; and with a network's estimated marginal the importance-weighted
# figure is no bound at all.
