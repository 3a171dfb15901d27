"""Guides × objectives × seeds on one model and one set of observations, as one tidy table.

Every run is a fresh guide with parameters of its own and a copy of the objective, judged on the *unscaled* model by the
same number of draws: rows compare whatever the objectives were.

What :func:`pyro_vipaint.compare` is handed, checked before the first fit: hours of it may follow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from operator import index
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyro_vipaint._torch import DIRECTIONS, JUDGING, seeded
from pyro_vipaint.checks import check_seed, check_whole
from pyro_vipaint.diagnostics import elbo_estimate, iwae_bound, pareto_k, sliced_wasserstein, weighted_draws
from pyro_vipaint.errors import InputError, NonFiniteError
from pyro_vipaint.guides.base import LatentGuide
from pyro_vipaint.models.diffusion import DiffusionModel
from pyro_vipaint.models.measurements.likelihoods import check_shape
from pyro_vipaint.progress import Callback, Progress
from pyro_vipaint.sampling import initial_latent
from pyro_vipaint.svi import check_rates, fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


COLUMNS = (
    *("guide", "objective", "seed", "image"),
    *("bound", "bound_se", "iwae", "gap", "k_hat", "distance"),
    *("calls", "nfe", "seconds", "note"),
)
NUM_DRAWS = 1000  # the default of the diagnostics; k-hat is then judged against 0.67
FAILURES = (ArithmeticError, ValueError, RuntimeError)  # of one run; others, as TypeError, are a program's mistakes


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
        """Means over seeds and images by guide and objective, best bound first; of ``k_hat`` the largest.

        ``bound_se`` is the Monte-Carlo error of the mean bound of these very fits, sqrt(sum of squares) / number; what
        other seeds and images would give is not in it. Figures that are missing (NaN) are left out.
        """
        columns = [name for name in self.table.columns if name not in ("guide", "objective", "seed", "image", "note")]
        how: dict[str, Any] = dict.fromkeys(columns, "mean") | {"k_hat": "max", "bound_se": _error_of_mean}
        table = self.table.groupby(["guide", "objective"], sort=False).agg(how)
        return table.sort_values("bound", ascending=False)

    def plot(self) -> Figure:
        """Bounds by guide, a colour an objective, with the evidence where it is known."""
        from pyro_vipaint.plotting import comparison_figure

        return comparison_figure(self.table)


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
    callback: Callback | None = None,
) -> Comparison:
    """Fits every guide with every objective from every seed, and judges each on the unscaled model.

    A run costs steps × (K + 1) network calls for a K-level model, and to be judged K + 1 (K + 2 with ``posterior``) for
    each batch of draws. One more call, before the first run and in no row, finds where classes of guides start.

    A run that fails (a learning rate too high, a guide that an objective does not take) has the error in ``note`` and
    NaN for the figures that it did not reach; the others go on. That holds for arithmetic, value and runtime errors;
    others, such as a TypeError, are mistakes in a program and are raised. Interrupted from the keyboard it returns the
    runs that are finished.

    Args:
        model: the :class:`DiffusionModel`.
        guides: by name, what makes a fresh guide of the model. A class of :mod:`pyro_vipaint.guides` is built for the
            images of ``y`` and starts at :func:`initial_latent`; anything else, such as a class of Pyro's or a function
            that also sets arguments, is called with the model alone.
        elbos: by name, objectives of :mod:`pyro_vipaint.elbos` or of Pyro; each run uses a copy.
        y: observations ``(N, *observation)``.
        seeds: of the guide's start and the fit; the draws that judge it come from another seed that this one sets.
        steps, lr, lr_decay: as for :func:`fit`.
        num_draws: S, draws of each image that judge a run.
        batch_size: draws of each image in one pass; all of them if not given.
        evidence: log p(y) of each image where it is known, ``(N,)``, in nats. It should be that of the K-level model,
            as :class:`GaussianPrior` gives with ``keypoints``. ``log_evidence`` of :class:`GaussianMixturePrior` and
            :class:`EmpiricalPrior` is that of the prior itself, which the K-level model approaches as its levels are
            refined: against it the gap may be negative.
        posterior: exact draws of E[z_0 given z_Ts], ``(S', N, *event)`` or flattened, ``(S', N, D)``, where they are
            known; those of the prior itself are as near as its evidence.
        callback: called after each run with its :class:`pyro_vipaint.progress.Progress`, phase ``compare``.

    Returns:
        The table has the columns ``guide``, ``objective``, ``seed``, ``image``; ``bound`` and ``bound_se``, the true
        (beta = 1) bound on log p(y) and its standard error, in nats; ``iwae``, the importance-weighted bound with S
        weights (an estimate where the marginal is estimated); ``gap`` = evidence - bound; ``k_hat``, Pareto's;
        ``distance``, sliced Wasserstein to the exact posterior, in units of the latents; ``calls``, ``nfe`` and
        ``seconds`` of the fit (over all images); and ``note``: why figures are missing (NaN).

    Raises:
        InputError: an argument cannot be used, before the first fit; the message says what to give.
    """
    check_guides(guides)
    check_elbos(elbos)
    check_numbers(steps, lr, lr_decay, num_draws, batch_size)
    seeds = check_seeds(seeds)
    check_observations(model, y)
    check_evidence(evidence, len(y))
    posterior = check_posterior(posterior, len(y), torch.Size(model.prior.event_shape))
    train = partial(fit, steps=steps, lr=lr, lr_decay=lr_decay)
    judge = partial(_judge, num_draws=num_draws, batch_size=batch_size, evidence=evidence, posterior=posterior)
    rows: list[dict[str, Any]] = []
    complete = True
    try:
        fresh, runs = builders(guides, model, y), len(guides) * len(elbos) * len(seeds)
        for (name, build), (objective, elbo), seed in product(fresh.items(), elbos.items(), seeds):
            figures = _run(model, build, elbo, y, seed, train, judge)
            rows += _per_image({"guide": name, "objective": objective, "seed": seed} | figures, len(y))
            if callback is not None:
                callback(Progress("compare", len(rows) // len(y), runs, note=f"{name}, {objective}, seed {seed}"))
    except KeyboardInterrupt:
        complete = False
    return Comparison(_table(rows), complete)


def _run(
    model: DiffusionModel,
    build: Callable[[Any], Any],
    elbo: Any,
    y: Tensor,
    seed: int,
    train: Callable[..., Any],
    judge: Callable[..., dict[str, Tensor]],
) -> dict[str, Any]:
    """The figures of one run as far as it came, and a note if that is not to the end."""
    figures: dict[str, Any] = {"note": ""}
    try:
        with seeded(seed):
            guide = build(model)
        fitted = train(model, guide, y, copy.deepcopy(elbo), seed=seed)
        figures |= {"calls": fitted.calls, "nfe": fitted.nfe, "seconds": fitted.seconds}
        figures |= judge(model, guide, y, seed=seed)
    except FAILURES as error:
        figures["note"] = _one_line(error)
    return figures


@torch.no_grad()
def _judge(
    model: DiffusionModel,
    guide: Any,
    y: Tensor,
    *,
    seed: int,
    num_draws: int,
    batch_size: int | None,
    evidence: Tensor | None,
    posterior: Tensor | None,
) -> dict[str, Tensor]:
    """The figures of a fitted guide, ``(N,)`` each."""
    draws = weighted_draws(model, guide, y, num_draws, seed=seed ^ JUDGING, batch_size=batch_size)
    if not draws.log_weights.isfinite().all():
        raise NonFiniteError("The weights of the fitted guide are not finite: try a lower learning rate.")
    bound = elbo_estimate(draws.log_weights)
    figures = {
        "bound": bound.estimate,
        "bound_se": bound.standard_error,
        "iwae": iwae_bound(draws.log_weights).estimate,
        "k_hat": pareto_k(draws.log_weights),
    }
    if evidence is not None:
        figures["gap"] = evidence.to(bound.estimate) - bound.estimate
    if posterior is not None:
        x = _clean(model, draws.z, batch_size or num_draws)
        distances = [sliced_wasserstein(x[:, n], posterior[:, n], seed=seed ^ DIRECTIONS) for n in range(len(y))]
        figures["distance"] = torch.tensor(distances)
    return figures


def _clean(model: DiffusionModel, z: Tensor, batch_size: int) -> Tensor:
    """E[z_0 given z_Ts], flattened to ``(S, N, D)``: a network call for each batch of draws."""
    batches = z.split(batch_size)
    return torch.cat([model.prior.denoise(part, model.keypoints[-1], **model.condition) for part in batches]).flatten(2)


def _one_line(error: Exception) -> str:
    """The message of one of our errors; of another the first line, with its kind."""
    if isinstance(error, (InputError, NonFiniteError)):
        return str(error)
    return " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[:1]])


def _error_of_mean(errors: pd.Series) -> float:
    """The standard error of a mean of independent estimates, from theirs."""
    return float((errors**2).sum(min_count=1) ** 0.5 / errors.count())


def _per_image(figures: dict[str, Any], num_images: int) -> list[dict[str, Any]]:
    """One run as a row an image."""
    return [
        {"image": n} | {name: float(v[n]) if isinstance(v, Tensor) else v for name, v in figures.items()}
        for n in range(num_images)
    ]


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(COLUMNS))


Builder = Callable[[Any], Any]


def check_observations(model: Any, y: Any) -> None:
    """Refuses a ``y`` that is not what the model observes: an image without its batch dimension would broadcast."""
    if not isinstance(model, DiffusionModel):
        raise InputError(f"model must be a DiffusionModel, not {_kind(model)}.")
    if not isinstance(y, Tensor) or not y.ndim or not len(y):
        raise InputError("y must be a tensor of observations (N, *observation), N at least 1.")
    for name, value in model.condition.items():
        if isinstance(value, Tensor) and value.ndim and len(value) != len(y):
            raise InputError(f"y holds {len(y)} images, the model's condition {name} is for {len(value)}.")
    with torch.no_grad():
        x = model.prior.decode(torch.zeros(len(y), *model.prior.event_shape).to(y))
        check_shape(y, model.likelihood(x))


def check_guides(guides: Any) -> None:
    """Refuses anything but what makes fresh guides, by name."""
    for name, build in _named("guides", guides, "{'hierarchical': HierarchicalGuide}").items():
        if isinstance(build, nn.Module) or not callable(build):
            raise InputError(
                f"guides[{name!r}] is one {_kind(build)}, not what makes a fresh guide for each run: give a class, "
                f"or a function of the model."
            )


def check_elbos(elbos: Any) -> None:
    """Refuses anything but objectives, by name."""
    for name, elbo in _named("elbos", elbos, "{'beta': BetaELBO()}").items():
        if isinstance(elbo, type):
            raise InputError(f"elbos[{name!r}] is the class {elbo.__name__}: give an objective, {elbo.__name__}(…).")
        if not callable(getattr(elbo, "loss_and_grads", None)):
            raise InputError(f"elbos[{name!r}] is no objective but {_kind(elbo)}: give one such as BetaELBO().")


def check_seeds(seeds: Any) -> list[int]:
    """The seeds as a list of whole numbers."""
    try:
        found = [index(seed) for seed in seeds]
    except TypeError:
        raise InputError(f"seeds must be a sequence of whole numbers such as (0, 1, 2), not {seeds!r}.") from None
    if not found:
        raise InputError("There is nothing to compare: seeds is empty.")
    for seed in found:
        check_seed(seed)
    return found


def check_numbers(
    steps: int, lr: float | Mapping[str, float] | None, lr_decay: float, num_draws: int, batch_size: int | None
) -> None:
    """Refuses numbers with which no run could be made."""
    check_whole("steps", steps)
    check_whole("num_draws", num_draws)
    if batch_size is not None:
        check_whole("batch_size", batch_size)
    check_rates(lr, lr_decay)


def check_evidence(evidence: Tensor | None, num_images: int) -> None:
    """Refuses an evidence that is not one number an image."""
    if evidence is not None and evidence.shape != (num_images,):
        raise InputError(f"evidence has shape {tuple(evidence.shape)}, not one number for each of {num_images} images.")


def check_posterior(posterior: Tensor | None, num_images: int, event: torch.Size) -> Tensor | None:
    """The draws as ``(S', N, D)``: the exact posteriors of the library draw flattened events."""
    if posterior is None:
        return None
    shape = posterior.shape
    if len(shape) < 2 or not shape[0] or shape[1] != num_images or shape[2:].numel() != event.numel():
        raise InputError(
            f"posterior has shape {tuple(shape)}, not (draws, {num_images} images, *event) with an event of "
            f"{tuple(event)}, flattened or not."
        )
    return posterior.flatten(2)


def builders(guides: Mapping[str, Builder], model: DiffusionModel, y: Tensor) -> dict[str, Builder]:
    """What makes each guide of the model. A class of ours starts at :func:`initial_latent`, made once for all."""
    if not any(_is_ours(build) for build in guides.values()):
        return dict(guides)
    init = _start(model, y)
    return {name: _from(build, init) if _is_ours(build) else build for name, build in guides.items()}


def _from(build: Callable[..., Any], init: Tensor) -> Builder:
    return lambda model: build(model, init)


def _start(model: DiffusionModel, y: Tensor) -> Tensor:
    """Zeros under a likelihood that is no operator and noise."""
    if hasattr(model.likelihood, "operator"):
        return initial_latent(model.prior, model.likelihood, y, **model.condition)
    return torch.zeros(len(y), *model.prior.event_shape).to(y)


def _is_ours(build: Any) -> bool:
    return isinstance(build, type) and issubclass(build, LatentGuide)


def _named(what: str, values: Any, example: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise InputError(f"{what} must be a mapping from names such as {example}, not {_kind(values)}.")
    if not values:
        raise InputError(f"There is nothing to compare: {what} is empty.")
    return values


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
