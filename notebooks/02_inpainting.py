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
# # What does a posterior over completions look like?
#
# Half of a picture is hidden. There is no one right completion, only a distribution of them,
#
# $$p(x \mid y) \propto p(x)\, p(y \mid x), \qquad y = m \odot x + v,$$
#
# with a diffusion model as $p(x)$. This notebook takes one held-out picture of an ankle boot, shows its front only,
# and goes through inference step by step: model, guide, fit, samples, refinement.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pyro
import torch
from pyro.infer.inspect import get_model_relations

import pyro_vipaint as vp
from pyro_vipaint.demo import held_out_images
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.metrics import hidden_std, observed_error
from pyro_vipaint.models import DiffusionModel, load_prior

plt.rcParams["figure.dpi"] = 90
pyro.set_rng_seed(0)

prior = load_prior("fashion32")
images, labels = held_out_images()
x, label = images[:1], labels[:1]
front = torch.zeros(1, 1, 32, 32)
front[..., :14] = 1  # 1 = observed
y = front * x
print(f"{prior.class_names[label]}, {int(front.sum())} of {front.numel()} pixels observed, values in [-1, 1]")


def show(pictures, titles, differences=()):
    """Grey pictures in a row, each with a title; below the last of them differences, in colour."""
    columns, rows = len(pictures), 2 if len(differences) else 1
    size = (1.7 * columns, 1.8 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for panel, picture, title in zip(axes[0], pictures, titles, strict=True):
        panel.imshow(picture.squeeze(), cmap="gray", vmin=-1, vmax=1)
        panel.set_title(title, fontsize=9)
    for panel, difference in zip(axes[-1, columns - len(differences) :], differences, strict=True):
        shown = panel.imshow(difference.squeeze(), cmap="RdBu_r", vmin=-0.6, vmax=0.6)
    if rows == 2:
        figure.colorbar(shown, ax=axes[-1, -1], shrink=0.8)
    for panel in axes.flat:
        panel.set_axis_off()
    plt.show()


# %% [markdown]
# ## Model and guide
#
# The latent sites $z_4, \dots, z_1$ are the picture at four noise levels $\sigma/\alpha$, from 3 down to 0.9 standard
# deviations of the data. The likelihood is a Laplace distribution around one denoising step from $z_1$, $E[x \mid
# z_1]$. The guide has a mean $\mu$, a spread $\tau$ and a coupling $\gamma$ for every pixel and level,
#
# $$q(z_4) = N(\alpha_4 \mu_4, \tau_4^2), \qquad
# q(z_i \mid z_{i+1}) = N(\gamma_i \hat z_i + (1 - \gamma_i)\, \alpha_i \mu_i,\ \tau_i^2),$$
#
# where $\hat z_i$ is the prior's own mean at that level.

# %%
likelihood = vp.Laplace(vp.Inpainting(front), scale=0.2)
keypoints = vp.keypoints(prior, noise_levels=[level * prior.sigma_data for level in (3.0, 2.0, 1.35, 0.9)])
model = DiffusionModel(prior, likelihood, keypoints, class_labels=label)
start = vp.initial_latent(prior, likelihood, y, class_labels=label)
guide = HierarchicalGuide(model, init=start)


def chain(program):
    """The sites of a Pyro program in the order in which they run; each depends on the one before."""
    relations = get_model_relations(program, (y,))
    return [(site, above, site in relations["observed"]) for site, above in relations["sample_sample"].items()]


figure, axes = plt.subplots(1, 2, figsize=(8, 1.4), layout="constrained")
for panel, (title, program) in zip(axes, {"model": model, "guide": guide}.items(), strict=True):
    sites = chain(program)
    assert [above for _, above, _ in sites] == [[], *([site] for site, *_ in sites[:-1])]
    for place, (site, above, observed) in enumerate(sites):
        grey = "lightgrey" if observed else "white"
        panel.text(place, 0, site, ha="center", va="center", bbox={"boxstyle": "circle,pad=0.5", "fc": grey})
        if above:
            arrow = {"arrowstyle": "-|>", "shrinkA": 16, "shrinkB": 16, "color": "black"}
            panel.annotate("", (place, 0), (place - 1, 0), arrowprops=arrow)
    panel.set(xlim=(-0.5, 4.5), ylim=(-0.5, 0.5), title=title)
    panel.set_axis_off()
plt.show()

# %%
fit = vp.fit(model, guide, y, vp.BetaELBO(beta=1.0, num_particles=2), steps=50, seed=1)
fit

# %%
terms = pd.DataFrame({name: values[:, 0] for name, values in fit.terms.items()})
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.8), layout="constrained")
left.plot(fit.bounds[:, 0])
left.set(xlabel="SVI step", ylabel=r"bound on $\log p(y)$, nats")
right.plot(terms["y"], label=r"$-\log p(y \mid z_1)$")
right.plot(terms["z_4"], label="marginal and entropy at $z_4$")
right.plot(terms[["z_3", "z_2", "z_1"]].sum(axis=1), label="KL at $z_3$, $z_2$, $z_1$ together")
right.set(xlabel="SVI step", ylabel="term of the bound, nats")
right.legend(fontsize=7)
plt.show()

last = fit.bounds[-10:, 0]
assert last.mean() - fit.bounds[0, 0] > 4 * last.std()  # one step is one draw
print(
    f"bound: {fit.bounds[0, 0]:.0f} nats at the first step, {last.mean():.0f} +- {last.std() / 10**0.5:.0f} at the end"
)
assert abs(terms.sum(axis=1).iloc[-1] + fit.bounds[-1, 0]) < 0.05  # the terms add up to the bound
terms.tail(10).mean().rename("mean of the last ten steps, nats").to_frame().T.round(1)

# %% [markdown]
# The bound rises, steeply at first, while the reconstruction term falls: each step is one noisy estimate. The bound
# is that of a density of 448 observed pixels, which can be above 1: at the end it is a positive number of nats.
#
# ## Samples and refinement
#
# A draw of the guide is a latent $z_1$ at the last keypoint, still noisy, in which the network already recognises an
# object. `refine` takes it to a picture in fifteen denoising steps, each corrected by a gradient of the residual of
# this one sample.

# %%
with vp.count_calls() as sampling:
    z = vp.sample(guide, y, num_samples=12, seed=2)
with vp.count_calls() as refining:
    samples = vp.refine(model, z, y, seed=3)
mean, std = samples.mean(0), samples.std(0)
with torch.no_grad():
    predicted = model.reconstruct(z[:1])
show([z[0] / 3, predicted[0], samples[0], x], ["$z_1$ (a third)", r"$E[x \mid z_1]$", "refined", "truth"])

# %%
observation = torch.where(front == 1, y, torch.full_like(y, -0.3))
for title, first, begin in (("observed", observation, 0), ("mean", mean, 4), ("truth", x, 8)):
    drawn = samples[begin : begin + 4]
    show([first, *drawn], [title, *(f"sample {begin + i}" for i in range(1, 5))], drawn - mean)

# %% [markdown]
# Below each sample is what it has more (red) or less (blue) than the mean. All twelve are boots that agree on the front
# and differ in the height of the shaft, its opening and the brightness of the leather. The mean is a blur, not a boot:
# the right answer to squared error alone. Where the posterior is uncertain the standard deviation says so, pixel by
# pixel.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.8), layout="constrained")
drawn = left.imshow(std.squeeze(), vmin=0)
left.axvline(13.5, color="white", linewidth=0.8)
left.set(xlabel="pixel", ylabel="pixel", title="observed | hidden")
figure.colorbar(drawn, label="standard deviation")
columns = std.squeeze().mean(0)
right.plot(columns)
right.axvline(13.5, color="0.6", linewidth=0.8)
right.set(xlabel="column", ylabel="mean standard deviation")
plt.show()

seen = front == 1
error = observed_error(samples, y, front)[:, 0]
assert std[~seen].mean() > 5 * std[seen].mean()
assert error.max() < 0.05
pd.Series(
    {
        "standard deviation, observed pixels": std[seen].mean().item(),
        "standard deviation, hidden pixels": std[~seen].mean().item(),
        "mean absolute error on observed pixels": error.mean().item(),
        "largest of the twelve": error.max().item(),
    },
    name="units of the picture, [-1, 1]",
).to_frame().round(4)

# %% [markdown]
# Nothing was pasted in: the observed pixels are those of the samples themselves. They agree with the data to less than
# a hundredth, where the range is 2, so there is no visible seam.
#
# ## Less data, other labels
#
# Now only the toe is observed, eight columns, and the prior is told that it belongs to an ankle boot, to a sneaker, or
# to a sandal. One call of the facade, with three labels in one batch.

# %%
toe = torch.zeros(1, 32, 32)
toe[..., :8] = 1
names = ["Ankle boot", "Sneaker", "Sandal"]
classes = torch.tensor([prior.class_names.index(name) for name in names])
told = vp.inpaint(x.expand(3, -1, -1, -1), toe, prior, label=classes, num_samples=8, preset="pictures", seed=0)
told

# %%
boot, sneaker, sandal = told.mean
titles = ["mean, Ankle boot", "mean, Sneaker", "mean, Sandal"]
show([boot, sneaker, sandal], titles, [sneaker - boot, sandal - boot])
show([*told.samples[:5, 2]], [f"a sandal, sample {i}" for i in range(1, 6)])

# %%
upper = told.samples[..., 6:13, 18:28].mean((-3, -2, -1))  # where a boot has its shaft, -1 is black
by_label = pd.DataFrame(
    {
        "brightness of the upper": upper.mean(0),
        "its standard error": upper.std(0) / len(upper) ** 0.5,
        "standard deviation, hidden": hidden_std(told.samples, told.mask),
        "error, observed": observed_error(told.samples, told.observation, told.mask).mean(0),
    },
    index=pd.Index(names, name="the prior is told"),
)
assert by_label["brightness of the upper"].idxmin() == "Sandal"
assert (by_label["error, observed"] < 0.05).all()
by_label.round(3)

# %% [markdown]
# The label changes what is imagined behind the toe (in colour: the mean less that of the ankle boot): some of the
# sandals have straps and openings where boots have leather, and so their upper is darker on average. It does not
# overrule the data. Under every label the toe is the one that was seen, a boot's, and most of the shoes built to fit it
# look like boots, the sneakers too.
#
# ## What it cost
#
# Most of the time is spent in the network. With $K = 4$ levels an SVI step calls it $K + 1$ times, sampling $K - 1$
# times for all samples together, refinement once per step. *NFE* counts every picture that passes through the network.

# %%
levels, particles, steps = len(model.levels), 2, len(fit.losses)
assert (fit.calls, fit.nfe) == (steps * (levels + 1), steps * (levels + 1) * particles)
assert (sampling.calls, refining.calls) == (levels - 1, 15)
cost = pd.DataFrame(
    [(count.calls, count.nfe) for count in (fit, sampling, refining)],
    index=["fit", "sampling", "refinement"],
    columns=["network calls", "NFE"],
)
cost.loc["together"] = cost.sum()
cost["NFE per sample"] = (cost["NFE"] / len(samples)).round(1)
cost.fillna("")

# %% [markdown]
# The fit is paid once. The next hundred samples of this picture cost 18 NFE each. So a fit is worth keeping.

# %%
with tempfile.TemporaryDirectory() as folder:
    guide.save_pretrained(Path(folder) / "guide")
    fit.save_pretrained(Path(folder) / "fit")
    print(*sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.*")), sep="\n")
    again = HierarchicalGuide.load(Path(folder) / "guide", model)
    record = vp.Fit.load(Path(folder) / "fit")
assert torch.equal(vp.sample(again, y, num_samples=12, seed=2), z)
further = vp.fit(model, again, y, vp.BetaELBO(beta=1.0, num_particles=2), steps=5, resume=record)
assert further.losses[:50] == fit.losses and len(further.losses) == 55

# %% [markdown]
# ## The answer
#
# A posterior over completions looks like a handful of whole pictures that agree where there are data and differ where
# there are none; their mean is a blur, and their standard deviation is a map of what is not known. It follows the mask
# and the label, and the observed pixels hold: every sample reproduces them to a few hundredths at most, without
# pasting. The guide that was loaded draws the same samples, bit for bit, and its fit can go on.
#
# Whether the spread is of the right *size* cannot be seen in pictures; see the notebook on calibration.
