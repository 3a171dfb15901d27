"""Figures by matplotlib: each function returns the figure that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vipaint.plotting.pictures import STD_MAP, are_pictures, deviations, observations, pictures, sheet

if TYPE_CHECKING:
    import pandas as pd

    from pyro_vipaint.results import Result
    from pyro_vipaint.svi import Fit

STD = "std. dev."
FENCE = 10.0  # median absolute deviations: the middle half of the values has at least a tenth of an axis
SEVERAL = 8  # images of a fit that have a line of their own


def contact_sheet(result: Result, truth: Tensor | None = None, max_samples: int = 10) -> Figure:
    """One row per image: truth where known, observation, mean, standard deviation, samples.

    ``truth``: ``(N, C, H, W)``, or one image for all, in [-1, 1]. The standard deviation, its mean over channels, is
    drawn in colours from 0 to the largest of all images; the bar below it says how large that is, in the units of the
    images. Observations of fewer pixels are enlarged; those that are not pictures are omitted.
    """
    columns = {} if truth is None else {"truth": pictures(truth.expand(result.mean.shape))}
    if are_pictures(result.observation) and result.observation.ndim == 4:
        columns["observation"] = observations(result)
    spread, largest = deviations(result)
    columns |= {"mean": pictures(result.mean), STD: spread}
    columns |= {f"sample {i + 1}": pictures(x) for i, x in enumerate(result.samples[:max_samples])}
    return _mosaic(list(columns), list(columns.values()), list(columns).index(STD), largest)


def fit_figure(fit: Fit) -> Figure:
    """The bound on log p(y) over the steps, and its terms; the last steps over which the guide was averaged are shaded.

    Left, the bound of each image (up to eight) and their mean, or the negative objective where it reported no terms.
    Right, the mean over images of each term of the bound on -log p(y), in nats. An axis keeps the range of most steps:
    the value of one that leaves it is written at the edge.
    """
    figure = Figure(figsize=(9.0 if fit.terms else 5.0, 3.0), layout="constrained")
    panels = figure.subplots(1, 2 if fit.terms else 1, squeeze=False)[0]
    steps = np.arange(1, len(fit.losses) + 1)
    if fit.terms:
        bounds = fit.bounds.double().numpy()
        if 1 < bounds.shape[1] <= SEVERAL:
            panels[0].plot(steps, bounds, color="C0", alpha=0.3, linewidth=0.8)
        _curves(panels[0], steps, {"bound, mean over images": bounds.mean(1)}, upwards=True)
        terms = {name: values.double().mean(1).numpy() for name, values in fit.terms.items()}
        _curves(panels[1], steps, terms, upwards=False)
        panels[1].set_ylabel("terms of -log p(y), nats")
    else:
        _curves(panels[0], steps, {"negative objective, all images": -np.asarray(fit.losses)}, upwards=True)
    panels[0].set_ylabel("log p(y), nats")
    for axes in panels:
        if fit.average:
            axes.axvspan(
                len(steps) - fit.average + 0.5, len(steps) + 0.5, color="0.85", label="guide averaged", zorder=0
            )
        axes.set_xlabel("step")
        axes.legend(fontsize=7)
    return figure


def comparison_figure(table: pd.DataFrame) -> Figure:
    """One dot per run: the bound on log p(y), summed over images, by guide. The evidence is a line.

    Each objective has a colour; a hollow dot is a run whose k-hat forbids to trust its IWAE. ``table`` is that of
    :func:`pyro_vipaint.compare`. Runs without a bound are omitted. A run far from the others is a triangle at the edge
    with its bound beside it, so that it does not flatten the rest.
    """
    keys = ["guide", "objective", "seed"]
    how = {"bound": "sum", "gap": "sum"} | ({"reliable": "min"} if "reliable" in table else {})
    runs = table.dropna(subset="bound").groupby(keys, sort=False, as_index=False).agg(how)
    guides = list(dict.fromkeys(runs["guide"]))
    figure = Figure(figsize=(6.0, 0.6 + 0.4 * max(len(guides), 2)), layout="constrained")
    axes = figure.subplots()
    evidence = float((runs["bound"] + runs["gap"]).mean()) if table["gap"].notna().any() else None
    low, high = robust_limits(runs["bound"].to_numpy())
    for objective, group in runs.groupby("objective", sort=False):
        rows = np.array([guides.index(guide) for guide in group["guide"]])
        bound, colour = group["bound"].to_numpy(), f"C{list(dict.fromkeys(runs['objective'])).index(objective)}"
        inside = (bound >= low) & (bound <= high)
        trusted = group["reliable"].to_numpy() == 1 if "reliable" in group else np.full(len(bound), True)
        label: str | None = str(objective)
        for which, face in ((trusted, colour), (~trusted, "none")):
            axes.plot(bound[inside & which], rows[inside & which], "o", color=colour, mfc=face, alpha=0.7, label=label)
            label = None
        _at_the_edge(axes, bound[~inside], rows[~inside], colour, low, high)
    if evidence is not None:
        axes.axvline(evidence, color="black", linewidth=1, label="log p(y)")
    axes.set_yticks(range(len(guides)), guides)
    axes.invert_yaxis()
    if (runs["bound"] < low).any() or (runs["bound"] > high).any():
        axes.set_xlim(*_padded(low, high if evidence is None else max(high, evidence)))
    axes.set_xlabel("bound on log p(y), nats (further right is better)")
    axes.legend(fontsize=7)
    return figure


def robust_limits(values: np.ndarray) -> tuple[float, float]:
    """The range of the finite values that lie within ten median absolute deviations of the median.

    Half of the values may be anywhere without any influence on it.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    centre = np.median(values)
    reach = FENCE * max(np.median(np.abs(values - centre)), 1e-3 * abs(centre), 1e-9)
    kept = values[np.abs(values - centre) <= reach]
    return float(kept.min()), float(kept.max())


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def _at_the_edge(axes: Any, bounds: np.ndarray, rows: np.ndarray, colour: str, low: float, high: float) -> None:
    """A triangle at the edge, and the value, for each run outside the axis."""
    for bound, row in zip(bounds, rows, strict=True):
        left = bound < low
        edge = _padded(low, high)[0 if left else 1]
        axes.plot([edge], [row], "<" if left else ">", color=colour, clip_on=False)
        offset, side = ((8, 0), "left") if left else ((-8, 0), "right")
        axes.annotate(f"{bound:.3g}", (edge, row), offset, textcoords="offset points", ha=side, va="center", fontsize=7)


def _curves(axes: Any, steps: np.ndarray, curves: dict[str, np.ndarray], upwards: bool) -> None:
    """The curves; steps far from the others leave the axis, and the value of the farthest one is written there."""
    for label, values in curves.items():
        axes.plot(steps, values, label=label, linewidth=1.2)
    everything = np.concatenate(list(curves.values()))
    limits = [robust_limits(values) for values in curves.values()]
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    outside = everything.min() if upwards else everything.max()
    if not low <= outside <= high:
        axes.set_ylim(*_padded(low, high))
        at = (0.02, 0.02) if upwards else (0.02, 0.98)
        axes.text(
            *at, f"{'lowest' if upwards else 'highest'} {outside:.3g}", transform=axes.transAxes, fontsize=7,
            va="bottom" if upwards else "top",
        )  # fmt: skip


def _mosaic(titles: Sequence[str], columns: Sequence[list[np.ndarray]], bar: int, largest: float) -> Figure:
    """All pictures in one axes, separated by white: drawing one axes per picture is slow.

    Pixels stay square. The bar of the standard deviations stands below the column ``bar``.
    """
    width = columns[0][0].shape[1]
    whole, gap = sheet(columns)
    inches = (len(columns), len(columns) * whole.shape[0] / whole.shape[1])
    head, foot = 0.25, 0.4  # inches, for the titles and the bar
    total = inches[1] + head + foot
    figure = Figure(figsize=(inches[0], total))
    axes = figure.add_axes((0, foot / total, 1, inches[1] / total))
    axes.imshow(whole, interpolation="nearest", aspect="auto")  # the axes has the proportions of the sheet
    axes.xaxis.tick_top()
    axes.set_xticks([j * (width + gap) + (width - 1) / 2 for j in range(len(columns))], titles, fontsize=7)
    axes.tick_params(length=0, pad=2)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    left, share = bar * (width + gap) / whole.shape[1], width / whole.shape[1]
    scale = figure.add_axes((left, (foot - 0.18) / total, share, 0.1 / total))
    scale.imshow(np.linspace(0, 1, 256)[None], aspect="auto", extent=(0, largest, 0, 1), cmap=STD_MAP)
    scale.set_yticks([])
    scale.set_xticks([0, largest], ["0", f"{largest:.2g}"], fontsize=6)
    scale.tick_params(length=0, pad=2)
    for label, side in zip(scale.get_xticklabels(), ("left", "right"), strict=True):
        label.set_horizontalalignment(side)
    return figure
