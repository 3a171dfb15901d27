"""Guides × objectives × seeds on one model and one set of observations, as one tidy table.

Every run is a fresh guide with parameters of its own and a copy of the objective, judged on the *unscaled* model by the
same number of draws: rows compare whatever the objectives were.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vipaint.diagnostics import elbo_estimate, iwae_bound, pareto_k, sliced_wasserstein, weighted_draws
from pyro_vipaint.errors import InputError
from pyro_vipaint.seeding import seeded
from pyro_vipaint.svi import Fit, fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = (
    *("guide", "objective", "seed", "image"),
    *("bound", "bound_se", "iwae", "gap", "k_hat", "distance"),
    *("calls", "evaluations", "seconds", "note"),
)
NUM_DRAWS = 1000  # the default of the diagnostics; k-hat is then judged against 0.67


@dataclass(frozen=True, eq=False)
class Comparison:
    """What :func:`compare` found.

    Attributes:
        table: one row a run and image; the columns are those of :func:`compare`.
        complete: False if it was interrupted: the table then holds the runs that were finished.
    """

    table: pd.DataFrame
    complete: bool

    def summary(self) -> pd.DataFrame:
        """Means over seeds and images by guide and objective, best bound first; of ``k_hat`` the largest."""
        columns = [name for name in self.table.columns if name not in ("guide", "objective", "seed", "image", "note")]
        how = {name: "max" if name == "k_hat" else "mean" for name in columns}
        table = self.table.groupby(["guide", "objective"], sort=False).agg(how)
        return table.sort_values("bound", ascending=False)

    def plot(self) -> Figure:
        """Bounds by guide, a colour an objective, with the evidence where it is known."""
        from pyro_vipaint.plotting import comparison_figure

        return comparison_figure(self.table)


def compare(
    model: Any,
    guides: Mapping[str, Callable[[Any], Any]],
    elbos: Mapping[str, Any],
    y: Tensor,
    *,
    seeds: Sequence[int] = (0,),
    steps: int = 100,
    lr: float | Mapping[str, float] | None = None,
    final_lr: float = 1.0,
    num_draws: int = NUM_DRAWS,
    batch_size: int | None = None,
    evidence: Tensor | None = None,
    posterior: Tensor | None = None,
    callback: Callable[[str, str, int], None] | None = None,
) -> Comparison:
    """Fits every guide with every objective from every seed, and judges each on the unscaled model.

    A run costs steps × (K + 1) network calls for a K-level model, and K + 1 (K + 2 with ``posterior``) to be judged.
    Interrupted from the keyboard it returns the runs that are finished.

    Args:
        model: the :class:`DiffusionModel`.
        guides: by name, what makes a fresh guide of the model: a class, or a function that also sets its arguments.
        elbos: by name, objectives of :mod:`pyro_vipaint.elbos` or of Pyro; each run uses a copy.
        y: observations ``(N, *observation)``.
        seeds: of the guide's start, the fit and the draws that judge it.
        steps, lr, final_lr: as for :func:`fit`.
        num_draws: S, draws of each image that judge a run.
        batch_size: draws of each image in one pass; all of them if not given.
        evidence: log p(y) of each image where it is known, ``(N,)``, in nats.
        posterior: exact draws of E[z_0 given z_Ts], ``(S', N, *event)``, where they are known.
        callback: called as ``callback(guide, objective, seed)`` before each run.

    Returns:
        The table has the columns ``guide``, ``objective``, ``seed``, ``image``; ``bound`` and ``bound_se``, the true
        (beta = 1) bound on log p(y) and its standard error, in nats; ``iwae``, the importance-weighted bound with S
        weights (an estimate where the marginal is estimated); ``gap`` = evidence - bound; ``k_hat``, Pareto's;
        ``distance``, sliced Wasserstein to the exact posterior, in units of the latents; ``calls``, ``evaluations`` and
        ``seconds`` of the fit (over all images); and ``note``: why figures are missing (NaN).

    Raises:
        InputError: there is nothing to compare, or ``evidence`` or ``posterior`` has another number of images.
    """
    _check(guides, elbos, seeds, len(y), evidence, posterior)
    rows: list[dict[str, Any]] = []
    complete = True
    try:
        for (name, build), (objective, elbo), seed in product(guides.items(), elbos.items(), seeds):
            if callback is not None:
                callback(name, objective, seed)
            with seeded(seed):
                guide = build(model)
            fitted = fit(model, guide, y, copy.deepcopy(elbo), steps, lr, final_lr=final_lr, seed=seed)
            figures = _judge(model, guide, y, num_draws, batch_size, seed, posterior)
            run = {"guide": name, "objective": objective, "seed": seed} | _costs(fitted)
            rows += [run | row for row in _per_image(figures, len(y), evidence)]
    except KeyboardInterrupt:
        complete = False
    return Comparison(_table(rows), complete)


@torch.no_grad()
def _judge(
    model: Any, guide: Any, y: Tensor, num_draws: int, batch_size: int | None, seed: int, posterior: Tensor | None
) -> dict[str, Any]:
    """The figures of a fitted guide, ``(N,)`` each; a note in their place where it has no density of its own."""
    try:
        draws = weighted_draws(model, guide, y, num_draws, seed=seed, batch_size=batch_size)
    except InputError as error:
        return {"note": str(error)}
    bound = elbo_estimate(draws.log_weights)
    figures: dict[str, Any] = {
        "bound": bound.estimate,
        "bound_se": bound.standard_error,
        "iwae": iwae_bound(draws.log_weights).estimate,
        "k_hat": pareto_k(draws.log_weights),
    }
    if posterior is not None:
        x = model.prior.denoise(draws.z, model.keypoints[-1], **model.condition)
        figures["distance"] = [sliced_wasserstein(x[:, n], posterior[:, n], seed=seed) for n in range(len(y))]
    return figures


def _costs(fitted: Fit) -> dict[str, float]:
    return {"calls": fitted.calls, "evaluations": fitted.evaluations, "seconds": fitted.seconds}


def _per_image(figures: dict[str, Any], num_images: int, evidence: Tensor | None) -> list[dict[str, Any]]:
    """The figures of one run, a row an image."""
    note, rows = figures.pop("note", ""), []
    for image in range(num_images):
        row = {name: float(value[image]) for name, value in figures.items()}
        if evidence is not None and "bound" in row:
            row["gap"] = float(evidence[image]) - row["bound"]
        rows.append({"image": image, "note": note} | row)
    return rows


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(COLUMNS))


def _check(
    guides: Mapping[str, Any],
    elbos: Mapping[str, Any],
    seeds: Sequence[int],
    num_images: int,
    evidence: Tensor | None,
    posterior: Tensor | None,
) -> None:
    for name, values in (("guides", guides), ("elbos", elbos), ("seeds", seeds)):
        if not len(values):
            raise InputError(f"There is nothing to compare: {name} is empty.")
    if evidence is not None and evidence.shape != (num_images,):
        raise InputError(f"evidence has shape {tuple(evidence.shape)}, not one number for each of {num_images} images.")
    if posterior is not None and (posterior.ndim < 2 or posterior.shape[1] != num_images):
        raise InputError(f"posterior has shape {tuple(posterior.shape)}, not (draws, {num_images} images, *event).")
