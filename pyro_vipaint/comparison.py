"""Guides × objectives × seeds on one model and one set of observations, as one tidy table.

Every run is a fresh guide with parameters of its own and a copy of the objective. It is judged on the *unscaled* model
by the same number of draws, so that rows are comparable for any objectives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import DIRECTIONS, JUDGING, SEEDS, child_seed, double, seeded
from pyro_vipaint.calls import count_calls
from pyro_vipaint.diagnostics import elbo_estimate, iwae_bound, pareto_k, sliced_wasserstein, weighted_draws
from pyro_vipaint.diagnostics.pareto import pareto_threshold
from pyro_vipaint.errors import InputError, NonFiniteError, described, instance, numbers, one_warning_each, whole
from pyro_vipaint.guides.base import LatentGuide
from pyro_vipaint.models.diffusion import DiffusionModel
from pyro_vipaint.progress import Callback, Progress, showing
from pyro_vipaint.sampling import initial_latent
from pyro_vipaint.svi import check_fit_numbers, fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


COLUMNS = (
    *("guide", "objective", "seed", "image"),
    *("bound", "bound_se", "iwae", "gap", "k_hat", "reliable", "distance"),
    *("calls", "nfe", "gradients", "seconds", "note"),
)
NUM_DRAWS = 1000  # the default of the diagnostics; k-hat is then judged against 0.67
Builder = Callable[..., Any]
FAILURES = (ArithmeticError, ValueError, RuntimeError)  # of one run; others, as TypeError, are a program's mistakes


@dataclass(frozen=True, eq=False)
class Comparison:
    """The result of :func:`compare`.

    Attributes:
        table: one row per run and image; the columns are those of :func:`compare`.
        complete: False if it was interrupted; the table then holds the finished runs.
    """

    table: pd.DataFrame
    complete: bool

    __repr__, _repr_html_ = compact, as_html

    def _facts(self) -> dict[str, Any]:
        """What the comparison prints: how much is in it, and its best run by mean bound."""
        table: Any = self.table
        names = {name: list(dict.fromkeys(table[name])) for name in ("guide", "objective", "seed", "image")}
        said: dict[str, Any] = {"guides": names["guide"], "objectives": names["objective"]}
        said |= {"seeds": len(names["seed"]), "images": len(names["image"])}
        if self.table["bound"].notna().any():
            best: Any = self.summary()["bound"]
            said["best"] = f"{' with '.join(map(str, best.index[0]))}, bound {best.iloc[0]:.2f} nats"
        said["failed"] = int((table.groupby(["guide", "objective", "seed"])["note"].first() != "").sum())
        return said | {"complete": self.complete}

    def _picture_html(self) -> str:
        """The summary; an IWAE that cannot be trusted for all images and seeds has a mark."""
        table = self.summary().round(4)
        doubtful = table["reliable"] < 1
        table["iwae"] = [f"{value:.4g}" + " †" * flag for value, flag in zip(table["iwae"], doubtful, strict=True)]
        note = "<i>† k-hat forbids to trust this IWAE</i>" if doubtful.any() else ""
        return table.to_html(float_format="{:.4g}".format, border=0) + note

    def summary(self) -> pd.DataFrame:
        """Means over seeds and images by guide and objective, best bound first; of ``k_hat`` the largest.

        ``reliable`` is the share of images and seeds whose ``iwae`` can be trusted.

        ``bound_se`` is the Monte-Carlo error of the mean bound of these fits, sqrt(sum of squares) / number; it does
        not include the spread over seeds and images. Missing figures (NaN) are omitted.
        """
        columns = [name for name in self.table.columns if name not in ("guide", "objective", "seed", "image", "note")]
        how: dict[str, Any] = dict.fromkeys(columns, "mean") | {"k_hat": "max"}
        how["bound_se"] = lambda errors: (errors**2).sum(min_count=1) ** 0.5 / errors.count()
        table = self.table.groupby(["guide", "objective"], sort=False).agg(how)
        return table.sort_values("bound", ascending=False)

    def plot(self) -> Figure:
        """Bounds by guide, one colour per objective, with the evidence where it is known."""
        from pyro_vipaint.plotting import comparison_figure

        return comparison_figure(self.table)


@one_warning_each()
def compare(
    model: DiffusionModel,
    guides: Mapping[str, Callable[[Any], Any]],
    elbos: Mapping[str, Any],
    y: Tensor,
    *,
    seeds: Sequence[int] = (0,),
    steps: int = 100,
    lr: float | Mapping[str, float] | None = None,
    lr_decay: float = 1.0,
    num_draws: int = NUM_DRAWS,
    batch_size: int | None = None,
    evidence: Tensor | None = None,
    posterior: Tensor | None = None,
    evaluations: int | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Comparison:
    """Fits every guide with every objective from every seed, and judges each on the unscaled model.

    A fit costs steps × (K + 1) network calls for a K-level model; judging it costs K + 1 (K + 2 with ``posterior``) for
    each batch of draws. One more call, before the first run and in no row, finds where classes of guides start.

    A run that fails (a learning rate too high, a guide that an objective does not take) has the error in ``note`` and
    NaN for the figures that it did not reach; the other runs continue. This holds for arithmetic, value and runtime
    errors; others, such as a TypeError, are mistakes in a program and are raised. A keyboard interrupt returns the
    finished runs.

    Args:
        model: the :class:`DiffusionModel`.
        guides: by name, a function that makes a fresh guide of the model. A class of :mod:`pyro_vipaint.guides` is
            built for the images of ``y`` and starts at :func:`initial_latent`; anything else, such as a class of Pyro's
            or a function that also sets arguments, is called with the model alone.
        elbos: by name, objectives of :mod:`pyro_vipaint.elbos` or of Pyro; each run uses a copy.
        y: observations ``(N, *observation)``.
        seeds: of the guide's start and the fit; the draws that judge it come from a child seed. The same call gives the
            same figures; another batch gives other draws of the same law (docs/bound.md, "What a seed promises").
        steps, lr, lr_decay: as for :func:`fit`.
        num_draws: S, draws of each image that judge a run.
        batch_size: draws of each image in one pass; all of them by default.
        evidence: log p(y) of each image where it is known, ``(N,)``, in nats. It should be that of the K-level model,
            as :class:`GaussianPrior` gives with ``keypoints``. ``log_evidence`` of :class:`GaussianMixturePrior` and
            :class:`EmpiricalPrior` is that of the prior itself, which the K-level model approaches as its levels are
            refined; the gap to it may be negative.
        posterior: exact draws of E[z_0 given z_Ts], ``(S', N, *event)`` or flattened, ``(S', N, D)``, where they are
            known. Those of the prior itself are as close as its evidence.
        evaluations: NFE that every fit may spend, in the place of ``steps``: each takes as many steps as they pay, so
            that objectives of many draws are compared at the cost of those of few. A fit spends all of them where they
            are a multiple of what a step costs, otherwise less by a part of one. That cost is counted on two steps of
            another guide before each fit, which are in no row. Gradients do not count.
        callback: called after each run with its :class:`pyro_vipaint.progress.Progress`, phase ``compare``.
        progress: draw a bar, on a terminal or in a notebook.

    Returns:
        The table has the columns ``guide``, ``objective``, ``seed``, ``image``; ``bound`` and ``bound_se``, the true
        (beta = 1) bound on log p(y) and its standard error, in nats; ``iwae``, the importance-weighted bound with S
        weights (an estimate where the marginal is estimated); ``gap`` = evidence - bound; ``k_hat``, Pareto's;
        ``reliable``, 1 where ``k_hat`` is at most the threshold of :func:`pyro_vipaint.diagnostics.pareto_threshold`
        (.7, or less for few draws: Vehtari et al. 2024) and 0 where ``iwae`` and its weights cannot be trusted;
        ``distance``, sliced Wasserstein to the exact posterior, in units of the latents; ``calls``, ``nfe``,
        ``gradients`` (images whose gradient was taken through the network) and ``seconds`` of the fit (over all
        images); and ``note``: why figures are missing (NaN).

    Example:
        The bound of samplers without a fit, by one step that moves nothing. The model has their steps as keypoints.

        >>> model = DiffusionModel(prior, likelihood, [1 - step / 50 for step in range(50)])  # doctest: +SKIP
        >>> samplers = {"DPS": DPS(1.0), "MMPS": MMPS()}  # doctest: +SKIP
        >>> guides = {name: partial(TwistedGuide, correction=c) for name, c in samplers.items()}  # doctest: +SKIP
        >>> compare(model, guides, {"ELBO": BetaELBO()}, y, steps=1, lr=0.0).summary()  # doctest: +SKIP

    Raises:
        InputError: an argument cannot be used, before the first fit; the message says what to give.
    """
    import pandas as pd

    wanted = "classes or functions of the model that make a fresh guide"
    _check_named("guides", guides, lambda guide: callable(guide) and not isinstance(guide, nn.Module), wanted)
    wanted = "objectives such as BetaELBO()"
    _check_named("elbos", elbos, lambda elbo: hasattr(elbo, "loss_and_grads") and not isinstance(elbo, type), wanted)
    check_fit_numbers(steps, 0, lr, lr_decay)
    whole("evaluations", 1 if evaluations is None else evaluations)
    whole("num_draws", num_draws)
    whole("batch_size", num_draws if batch_size is None else batch_size)
    instance("seeds", seeds, isinstance(seeds, Iterable), "a sequence of whole numbers")
    seeds = [whole("seed", seed, *SEEDS) for seed in seeds]
    whole("the number of seeds", len(seeds))
    posterior = _check_arrays(model, y, evidence, posterior)
    rows: list[dict[str, Any]] = []
    complete = True
    try:
        fresh, runs = _builders(guides, model, y), len(guides) * len(elbos) * len(seeds)
        with showing(progress, callback) as callback:
            for (name, build), (objective, elbo), seed in product(fresh.items(), elbos.items(), seeds):
                figures: dict[str, Any] = {"guide": name, "objective": objective, "seed": seed, "note": ""}
                try:
                    with seeded(seed):
                        guide = build(model)
                    if evaluations is not None:
                        steps = _affordable(model, build, y, elbo, evaluations, seed)
                    with count_calls() as cost:
                        fitted = fit(
                            model, guide, y, copy.deepcopy(elbo), steps, lr, lr_decay=lr_decay, seed=seed, keep=0
                        )
                    figures |= {"calls": fitted.calls, "nfe": fitted.nfe, "gradients": cost.gradients}
                    figures["seconds"] = fitted.seconds
                    figures |= _judge(model, guide, y, seed, num_draws, batch_size, evidence, posterior)
                except FAILURES as error:
                    figures["note"] = _one_line(error)
                for n in range(len(y)):
                    row = {column: float(v[n]) if isinstance(v, Tensor) else v for column, v in figures.items()}
                    rows.append({"image": n} | row)
                if callback is not None:
                    callback(Progress("compare", len(rows) // len(y), runs, note=f"{name}, {objective}, seed {seed}"))
    except KeyboardInterrupt:
        complete = False
    return Comparison(pd.DataFrame(rows, columns=list(COLUMNS)), complete)


def _affordable(model: DiffusionModel, build: Builder, y: Tensor, elbo: Any, evaluations: int, seed: int) -> int:
    """The number of steps that ``evaluations`` pay: two steps that move nothing tell what the start and a step cost."""
    spent: list[int] = []
    with seeded(seed):
        guide = build(model)
        with count_calls() as cost:
            fit(model, guide, y, copy.deepcopy(elbo), 2, 0.0, keep=0, callback=lambda _: spent.append(cost.nfe))
    step = spent[1] - spent[0]
    start = spent[0] - step
    if evaluations < start + step:
        raise InputError(f"evaluations={evaluations} pay no step: one costs {start + step}, so give at least as many.")
    return (evaluations - start) // max(step, 1)


@torch.no_grad()
def _judge(
    model: DiffusionModel,
    guide: Any,
    y: Tensor,
    seed: int,
    num_draws: int,
    batch_size: int | None,
    evidence: Tensor | None,
    posterior: Tensor | None,
) -> dict[str, Any]:
    """The figures of a fitted guide, ``(N,)`` each; a note in their place if its weights are not finite."""
    draws = weighted_draws(model, guide, y, num_draws, seed=child_seed(seed, JUDGING), batch_size=batch_size)
    if not draws.log_weights.isfinite().all():
        return {"note": "The weights of the fitted guide are not finite: try a lower learning rate."}
    bound = elbo_estimate(draws.log_weights)
    figures: dict[str, Any] = {
        "bound": bound.estimate,
        "bound_se": bound.standard_error,
        "iwae": iwae_bound(draws.log_weights).estimate,
        "k_hat": (k_hat := pareto_k(draws.log_weights)),
        "reliable": k_hat <= pareto_threshold(num_draws),
    }
    if evidence is not None:
        figures["gap"] = double(evidence).to(bound.estimate.device) - bound.estimate
    if posterior is not None:
        x = _clean(model, draws.z, batch_size or num_draws)
        directions = child_seed(seed, DIRECTIONS)
        distances = [sliced_wasserstein(x[:, n], posterior[:, n], seed=directions) for n in range(len(y))]
        figures["distance"] = torch.tensor(distances)
    return figures


def _clean(model: DiffusionModel, z: Tensor, batch_size: int) -> Tensor:
    """E[z_0 given z_Ts], flattened to ``(S, N, D)``: one network call per batch of draws."""
    batches = z.split(batch_size)
    return torch.cat([model.prior.denoise(part, model.keypoints[-1], **model.condition) for part in batches]).flatten(2)


def _one_line(error: Exception) -> str:
    """The message of an error of this library; the kind and the first line of another."""
    if isinstance(error, (InputError, NonFiniteError)):
        return str(error)
    return " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[:1]])


def _builders(guides: Mapping[str, Builder], model: DiffusionModel, y: Tensor) -> dict[str, Builder]:
    """The functions that make the guides; classes of this library start at :func:`initial_latent`, made once."""
    ours = {name for name, build in guides.items() if isinstance(build, type) and issubclass(build, LatentGuide)}
    if not ours:
        return dict(guides)
    if hasattr(model.likelihood, "operator"):
        start = initial_latent(model.prior, model.likelihood, y, **model.condition)
    else:
        start = torch.zeros(len(y), *model.prior.event_shape).to(y)
    return {
        name: (lambda model, build=build: build(model, start)) if name in ours else build
        for name, build in guides.items()
    }


def _check_named(what: str, values: Any, usable: Callable[[Any], bool], wanted: str) -> None:
    """Refuses anything but a mapping from names to ``usable`` values, at least one."""
    named = values if isinstance(values, Mapping) and values else {"": values}
    for name, value in named.items():
        if name == "" or not usable(value):
            raise InputError(f"{what} must map names to {wanted}, not {name!r} to {described(value)}.")


def _check_arrays(model: DiffusionModel, y: Tensor, evidence: Tensor | None, posterior: Tensor | None) -> Tensor | None:
    """The posterior draws as ``(S', N, D)``.

    Refused are observations that the model cannot have made, and an evidence or a posterior for other images.
    """
    instance("model", model, hasattr(model, "check"), "a DiffusionModel")
    model.check(y)
    count, event = len(y), torch.Size(model.prior.event_shape)
    if evidence is not None:
        numbers("evidence", evidence, (count,))
    if posterior is None:
        return None
    shape = posterior.shape
    if len(shape) < 2 or not shape[0] or shape[1] != count or shape[2:].numel() != event.numel():
        wanted = f"(draws, {count} images, *event) with an event of {tuple(event)}, flattened or not"
        raise InputError(f"posterior has shape {tuple(shape)}, not {wanted}.")
    return numbers("posterior", posterior).flatten(2)
