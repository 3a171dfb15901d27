"""What the page shows of a result: figures, pictures of intervals, answers in words, and the files of a download."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint._torch import dtype_name
from pyro_vipaint.app.job import FILE, Job
from pyro_vipaint.app.pictures import enlarged, squares
from pyro_vipaint.errors import InputError, number
from pyro_vipaint.models import DiffusionPrior, load_prior
from pyro_vipaint.plotting import to_picture
from pyro_vipaint.settings import SIGMA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = "repeat.py"  # of the download
GAP = 0.06  # of a picture's width, between two
DECIDED = 0.99  # probability from which a part counts as seen
MOST_BARS = 8  # classes in a panel
ACCENT, QUIET = "#2b6cb0", "#b7791f"  # the colours of figures


class Parts(NamedTuple):
    """The parts of a painted picture, given what is seen of it.

    Attributes:
        exact: slot -> the probability of each class ``(n,)``, by enumeration.
        sampled: slot -> the share of each class in the samples ``(n,)``, as a classifier reads them.
    """

    exact: Mapping[str, Tensor]
    sampled: Mapping[str, Tensor]


def row(pictures: Tensor) -> np.ndarray:
    """Pictures ``(n, C, H, W)`` in [-1, 1] side by side, as bytes."""
    gap = max(1, round(GAP * pictures.shape[-1]))
    framed = [np.pad(to_picture(x), ((0, 0), (0, gap), (0, 0)), constant_values=255) for x in pictures]
    return squares(np.concatenate(framed, 1)[:, :-gap])


def gallery(result: vp.Result) -> list[tuple[np.ndarray, str]]:
    """The samples, enlarged, with their numbers."""
    return [(enlarged(x), f"sample {s + 1}") for s, x in enumerate(result.samples[:, 0])]


def bound_figure(bounds: Sequence[float]) -> Figure:
    """The bound on log p(y) over the steps of the fit."""
    figure, axes = _figure(4.6, 2.4)
    axes.plot(range(1, len(bounds) + 1), bounds, "o-" if len(bounds) < 15 else "-", color=ACCENT, markersize=4)
    axes.set_xlabel("step of the fit")
    axes.set_ylabel("bound on log p(y), nats")
    axes.locator_params(axis="x", integer=True)
    return figure


def spread_figure(result: vp.Result) -> Figure:
    """The standard deviation over samples, averaged over channels as a root of squares, with its scale."""
    return _map_figure(result.std[0].square().mean(0).sqrt(), "standard deviation, images in [−1, 1]")


def width_figure(lower: Tensor, upper: Tensor) -> Figure:
    """The width of the interval of each pixel, averaged over channels, with its scale."""
    return _map_figure((upper - lower).mean(0), "width of the interval, images in [−1, 1]")


def _map_figure(values: Tensor, label: str) -> Figure:
    figure, axes = _figure(4.6, 3.8)
    drawn = axes.imshow(values.numpy(), cmap="magma", vmin=0, interpolation="nearest")
    figure.colorbar(drawn, ax=axes, label=label)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def parts_figure(parts: Parts) -> Figure:
    """One panel for each slot that is not seen: exact probabilities beside the shares in the samples."""
    unsure = [slot for slot, p in parts.exact.items() if p.max() < DECIDED] or list(parts.exact)
    columns = min(3, len(unsure))
    rows = -(-len(unsure) // columns)
    figure, _ = _figure(3.1 * columns, 2.3 * rows, panels=0)
    for place, slot in enumerate(unsure, 1):
        axes = figure.add_subplot(rows, columns, place)
        exact, sampled = parts.exact[slot], parts.sampled[slot]
        order = (exact + 1e-3 * sampled).argsort(descending=True)
        shown = order[(torch.maximum(exact, sampled)[order] > 0.01)][:MOST_BARS]
        x = np.arange(len(shown))
        axes.bar(x - 0.2, exact[shown].numpy(), 0.4, color=ACCENT, label="exact")
        axes.bar(x + 0.2, sampled[shown].numpy(), 0.4, color=QUIET, label="samples")
        axes.set_xticks(x, [str(int(n)) for n in shown])
        axes.set_ylim(0, 1.02)
        axes.set_title(slot, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if place == 1:
            axes.legend(fontsize=8, frameon=False)
    return figure


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    return figure, figure.subplots() if panels else None


def exact_parts(job: Job, result: vp.Result) -> Parts | None:
    """The exact posterior over the parts of which the prior's pictures are painted, and the parts of the samples.

    None for a prior without parts. The noise of y is taken as N(0, ``SIGMA``^2), that of the settings for pixels,
    and a picture with a label has its class.

    Raises:
        InputError: the hole has soft edges, for which the posterior is not enumerated.
    """
    from pyro_vipaint.cats.classifier import part_probabilities, shipped_classifier
    from pyro_vipaint.cats.parts import PER_CLASS, has_layers, shipped_layers
    from pyro_vipaint.cats.posterior import given_class, parts_posterior

    if not has_layers(job.prior):
        return None
    if not bool(((job.mask == 0) | (job.mask == 1)).all()):
        raise InputError("The exact posterior is enumerated for holes with a sharp edge: set the softness to 0.")
    layers = shipped_layers(job.prior)
    posterior = parts_posterior(layers, job.image[None], job.mask[None], SIGMA)
    if job.label is not None and job.prior in PER_CLASS:
        number = load_prior(job.prior).class_names.index(job.label)
        posterior = given_class(posterior, torch.tensor([number]), PER_CLASS[job.prior])
    shares = part_probabilities(shipped_classifier(job.prior), result.samples[:, 0])
    exact = {slot: p[0].float() for slot, p in posterior.marginals.items()}
    return Parts(exact, {slot: p.mean(0) for slot, p in shares.items()})


def parts_sentence(parts: Parts) -> str:
    """Which slots are seen, and how far the samples are from the exact probabilities in the others."""
    seen = [slot for slot, p in parts.exact.items() if p.max() >= DECIDED]
    unsure = [slot for slot in parts.exact if slot not in seen]
    sentences = [f"What is visible decides {', '.join(seen)}." if seen else "What is visible decides no part."]
    for slot in unsure:
        distance = float((parts.exact[slot] - parts.sampled[slot]).abs().sum() / 2)
        sentences.append(f"**{slot}**: total variation between samples and exact posterior {distance:.2f}.")
    return " ".join(sentences)


def pixel_interval(result: vp.Result, level: float) -> tuple[Tensor, Tensor]:
    """The lower and upper ends ``(C, H, W)`` of the central interval of each pixel.

    Raises:
        InputError: there are too few samples for the level, as :meth:`pyro_vipaint.Result.interval` says.
    """
    lower, upper = result.interval(level)
    return lower[0], upper[0]


def pixel_sentence(result: vp.Result, lower: Tensor, upper: Tensor, level: float, place: tuple[int, int]) -> str:
    """The interval at one pixel (row, column), in words; colours are given by channel."""
    i, j = place
    ends = [f"{float(a):+.2f} to {float(b):+.2f}" for a, b in zip(lower[:, i, j], upper[:, i, j], strict=True)]
    named = (
        ends[0]
        if len(ends) == 1
        else ", ".join(f"{c} {e}" for c, e in zip(("red", "green", "blue"), ends, strict=True))
    )
    mean = ", ".join(f"{float(v):+.2f}" for v in result.mean[0, :, i, j])
    seen = result.mask is not None and bool(result.mask[0, 0, i, j])
    return f"Row {i}, column {j} ({'observed' if seen else 'hidden'}): mean {mean}; {level:.0%} interval {named}."


def brighter(region: Tensor, threshold: float) -> Callable[[Tensor], Tensor]:
    """Whether the mean of the pixels of a ``region`` ``(1, H, W)``, booleans, exceeds ``threshold``: ``(S, N)``.

    Raises:
        InputError: the region is empty, or the threshold no number.
    """
    number("threshold", threshold, signed=True)
    if not region.any():
        raise InputError("No region is painted: paint one on the picture.")
    return lambda images: images[..., region[0]].mean((-2, -1)) > threshold


def probability_sentence(result: vp.Result, region: Tensor, threshold: float) -> str:
    """P(the mean of a painted region exceeds ``threshold``), with its Monte-Carlo error, in words."""
    estimate = result.probability(brighter(region, threshold))
    value, error, count = float(estimate.value[0]), float(estimate.error[0]), int(region.sum())
    return (
        f"P(mean of {count} painted pixel{'s' * (count != 1)} > {threshold:+.2f}) = **{value:.2f}** ± {error:.2f} "
        f"(Monte-Carlo error of {len(result.samples)} samples)"
    )


def summary(result: vp.Result) -> str:
    """Cost and bound of a run, in words."""
    bound = ""
    if result.fit.terms:
        bound = f"Bound on log p(y): **{-sum(float(t[0]) for t in result.fit.final_terms().values()):.1f} nats**. "
    calls = f"{result.calls} network calls on {result.nfe} images"
    return f"{len(result.samples)} samples in {result.seconds:.1f} s. {bound}{calls}."


def download(job: Job, result: vp.Result, prior: DiffusionPrior, folder: Path, lines: str) -> Path:
    """A zip file in ``folder`` of what ``vipaint inpaint`` writes, by the same code, and the ``lines``."""
    from safetensors.torch import save_file

    from pyro_vipaint.results.files import build_report, write_result

    truth = None if job.truth is None else job.truth[None]
    labels = None if job.label is None else [prior.class_names.index(job.label)]
    entries = dict.fromkeys(("image", "mask", "truth", "guidance_scale"))
    entries |= {"invert_mask": False, "resize": False, "soft_mask": True, "grey": False, "dtype": dtype_name(prior)}
    entries |= {name: getattr(job, name) for name in ("prompt", "preset", "guide", "objective", "correction")}
    report = build_report(result, truth, job.seed, prior.name, labels) | entries
    out = folder / "results"
    write_result(out, result, report, truth)
    (out / LINES).write_text(lines, encoding="utf-8")
    save_file({name: value.contiguous() for name, value in job.problem.items()}, out / FILE)
    path = folder / f"vipaint-{Path(job.prior).name}-{job.seed}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(out.iterdir()):
            archive.write(each, each.name)
    return path
