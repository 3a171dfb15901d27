"""Comparing guides and objectives: the table says what single runs say, and each run is alone."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pyro.distributions import Normal
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import pyro_vipaint as vp
from pyro_vipaint._torch import DIRECTIONS, JUDGING, child_seed
from pyro_vipaint.comparison import COLUMNS
from pyro_vipaint.corrections import DPS, MMPS
from pyro_vipaint.diagnostics import elbo_estimate, log_weights, pareto_threshold, sliced_wasserstein, weighted_draws
from pyro_vipaint.guides import DeltaGuide, HierarchicalGuide, PriorGuide, TwistedGuide
from pyro_vipaint.models import DiffusionModel, EmpiricalPrior, GaussianPrior
from pyro_vipaint.progress import Progress
from tests.problems import LIKELIHOOD, Y, diagonal_problem, four_pixels

if TYPE_CHECKING:
    import pandas as pd

STEPS, DRAWS = 10, 100
GUIDES: dict[str, Any] = {"hierarchical": HierarchicalGuide, "prior": PriorGuide}
ELBOS: dict[str, Any] = {
    "beta": vp.BetaELBO(num_particles=4),
    "annealed": vp.AnnealedELBO(20.0, steps=10, num_particles=4),
}


def run(**settings: Any) -> vp.Comparison:
    problem = diagonal_problem(images=2)
    options: dict[str, Any] = {"steps": STEPS, "num_draws": DRAWS, "lr": 0.1} | settings
    guides, elbos = options.pop("guides", GUIDES), options.pop("elbos", ELBOS)
    return vp.compare(problem.model(), guides, elbos, problem.y, **options)


def test_a_row_is_the_run_made_alone() -> None:
    """Guides and objectives leave nothing behind: the last run of the table equals the same run in a fresh process."""
    problem = diagonal_problem(images=2)
    model = problem.model()
    table = run(seeds=(3, 4)).table
    guide = PriorGuide(model, vp.initial_latent(problem.prior, problem.likelihood, problem.y))
    elbo = vp.AnnealedELBO(20.0, steps=10, num_particles=4)
    fitted = vp.fit(model, guide, problem.y, elbo, STEPS, 0.1, seed=4)
    bound = elbo_estimate(log_weights(model, guide, problem.y, DRAWS, seed=child_seed(4, JUDGING)))
    rows = table.query("guide == 'prior' and objective == 'annealed' and seed == 4")
    assert list(rows["bound"]) == bound.estimate.tolist()
    assert list(rows["bound_se"]) == bound.standard_error.tolist()
    assert set(rows["calls"]) == {fitted.calls} == {STEPS * 3}, "K calls: the marginal is exact"
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 2 * 2 * 2 * 2


def test_samplers_have_a_bound_below_the_evidence_and_their_gradients_are_counted() -> None:
    """One step at the rate zero moves nothing: the bounds are those of the samplers as they are."""
    times = [1 - step / 6 for step in range(6)]
    prior, y = four_pixels(), torch.cat([Y, Y + 0.2])
    evidence = prior.log_evidence(LIKELIHOOD, y, times)
    guides = {"DPS": partial(TwistedGuide, correction=DPS(0.01)), "MMPS": partial(TwistedGuide, correction=MMPS(2))}
    model = DiffusionModel(prior, LIKELIHOOD, times)
    table = vp.compare(
        model, guides, {"ELBO": vp.BetaELBO()}, y, steps=1, lr=0.0, num_draws=DRAWS, evidence=evidence
    ).table
    dps, mmps = (table.query(f"guide == '{name}'") for name in guides)
    assert (table["note"] == "").all() and table["k_hat"].notna().all()
    assert (table["gap"] > -4 * table["bound_se"]).all()
    weights = log_weights(model, guides["MMPS"](model), y, DRAWS, seed=child_seed(0, JUDGING))
    assert list(mmps["bound"]) == pytest.approx(weights.double().mean(0).tolist(), abs=1e-4)
    assert set(table["calls"]) == {6} and (table["gradients"] >= 2 * 5).all()
    assert mmps["gradients"].min() > dps["gradients"].max()


def test_the_objectives_are_left_as_they_were() -> None:
    elbo = vp.AnnealedELBO(20.0, steps=10)
    run(guides={"prior": PriorGuide}, elbos={"annealed": elbo}, steps=3, num_draws=20)
    assert (elbo.step, elbo.terms) == (0, {})


def test_gap_and_distance_tell_a_good_guide_from_a_bad_one() -> None:
    """On the Gaussian truth: gap = evidence - bound, never below zero beyond its error; the better fit is closer."""
    problem = diagonal_problem(images=2)
    evidence = problem.prior.log_evidence(problem.likelihood, problem.y, problem.keypoints)
    posterior = problem.prior.posterior(problem.likelihood, problem.y, problem.keypoints).sample(torch.Size([500]))
    guides = {"far off": lambda model: HierarchicalGuide(model, problem.y + 3.0, gamma_logit=0.0)}
    truth = {"guides": guides, "elbos": {"beta": ELBOS["beta"]}, "evidence": evidence, "posterior": posterior}
    bad, good = (run(steps=steps, lr_decay=0.02, num_draws=400, **truth).table for steps in (1, 300))
    for table in (bad, good):
        assert torch.allclose(torch.tensor(table["gap"] + table["bound"]), evidence.double())
        assert (table["gap"] > -4 * table["bound_se"]).all()
        assert (table["iwae"] > table["bound"]).all()
    assert (good["gap"] < bad["gap"]).all()
    assert (good["distance"] < 0.2 * bad["distance"]).all()
    assert (good["k_hat"] < bad["k_hat"]).all()


def test_interrupting_keeps_the_finished_rows() -> None:
    def interrupt(progress: Progress) -> None:
        assert (progress.phase, progress.total) == ("compare", 4)
        if progress.note == "hierarchical, annealed, seed 0":
            raise KeyboardInterrupt

    result = run(callback=interrupt)
    assert not result.complete
    assert len(result.table) == 2 * 2
    assert set(result.table["guide"]) == {"hierarchical"}
    assert run(elbos={"beta": ELBOS["beta"]}).complete


def test_a_point_mass_has_a_note_in_place_of_a_bound() -> None:
    table = run(guides={"map": DeltaGuide}, elbos={"beta": ELBOS["beta"]}).table
    assert table["bound"].isna().all() and table["note"].str.contains("point mass").all()
    assert (table["calls"] == STEPS * 3).all()


def test_the_summary_takes_means_and_the_largest_k_hat() -> None:
    result = run(elbos={"beta": ELBOS["beta"]}, seeds=(0, 1))
    summary, rows = result.summary(), result.table.query("guide == 'prior'")
    assert summary.loc[("prior", "beta"), "bound"] == pytest.approx(rows["bound"].mean())
    assert summary.loc[("prior", "beta"), "k_hat"] == rows["k_hat"].max()
    assert list(summary["bound"]) == sorted(summary["bound"], reverse=True)
    error = (rows["bound_se"] ** 2).sum() ** 0.5 / len(rows)
    assert summary.loc[("prior", "beta"), "bound_se"] == pytest.approx(error), "of the mean, not the mean of the errors"


def test_the_figure_shows_each_run_once() -> None:
    result = run(seeds=(0, 1), steps=5, num_draws=50)
    (axes,) = result.plot().axes
    drawn = sorted(np.concatenate([np.asarray(line.get_xdata()) for line in axes.lines]).tolist())
    sums = result.table.groupby(["guide", "objective", "seed"]).agg({"bound": "sum"})["bound"]
    assert drawn == pytest.approx(sorted(sums.tolist()))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hierarchical", "prior"]


# what a class is built for


def numbers(table: Any) -> pd.DataFrame:
    """The figures that do not depend on the machine."""
    table = table.drop(columns=["guide", "seconds"]).reset_index(drop=True)
    counts = dict.fromkeys(("calls", "nfe", "gradients"), float)  # a missing number elsewhere makes floats of them
    return table.astype(counts)


@pytest.mark.parametrize("family", [HierarchicalGuide, PriorGuide, DeltaGuide])
def test_a_class_starts_where_the_facade_starts_for_every_image(family: Any) -> None:
    """It is the class called with ``initial_latent`` of y: the same table as from that function."""
    problem = diagonal_problem(images=3)
    start = vp.initial_latent(problem.prior, problem.likelihood, problem.y)
    guides = {"class": family, "function": lambda model: family(model, start)}
    model = problem.model()
    table = vp.compare(model, guides, {"beta": vp.BetaELBO()}, problem.y, steps=3, num_draws=20).table
    one, other = (numbers(table[table["guide"] == name]) for name in guides)
    assert one.equals(other)
    assert list(one["image"]) == [0, 1, 2]


def test_a_likelihood_without_an_operator_starts_a_class_at_zero() -> None:
    prior = diagonal_problem().prior
    model = DiffusionModel(prior, lambda x: Normal(x[..., :6], 0.1), vp.keypoints(prior, noise_levels=[1.0]))
    guides = {"class": PriorGuide, "function": lambda model: PriorGuide(model, torch.zeros(2, 16))}
    table = vp.compare(model, guides, {"beta": vp.BetaELBO()}, torch.ones(2, 6), steps=3, num_draws=20).table
    one, other = (numbers(table[table["guide"] == name]) for name in guides)
    assert one.equals(other) and one["bound"].notna().all()


def test_classes_of_pyros_guides_are_called_with_the_model_alone() -> None:
    """Its objectives can be compared as well."""
    elbos = {"beta": ELBOS["beta"], "pyro": Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)}
    table = run(guides={"auto": AutoNormal, "ours": PriorGuide}, elbos=elbos, steps=5).table
    assert (table["note"] == "").all() and table["bound"].map(math.isfinite).all()


# what a run costs


def test_the_cost_is_that_of_the_docstring(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call for where the classes start; a run: steps × (K + 1), and for each batch of draws K + 2 to judge it.

    No pass holds more than ``batch_size`` draws of each image.
    """
    problem = diagonal_problem(images=2)
    model = problem.model(problem.prior.diffusion())  # the marginal is estimated, by one call
    posterior = problem.prior.posterior(problem.likelihood, problem.y, problem.keypoints).sample(torch.Size([20]))
    steps, levels, batches = 4, 3, 3
    sizes: list[int] = []
    monkeypatch.setattr("pyro_vipaint.models.priors.prior.record_call", sizes.append)
    vp.compare(
        model, GUIDES, {"beta": vp.BetaELBO(num_particles=2)}, problem.y,
        steps=steps, num_draws=50, batch_size=20, posterior=posterior,
    )  # fmt: skip
    assert len(sizes) == 1 + len(GUIDES) * (steps * (levels + 1) + batches * (levels + 2))
    assert max(sizes) == 20 * 2


# the exact posterior


def image_problem() -> tuple[DiffusionModel, torch.Tensor, torch.Tensor]:
    """A Gaussian prior of 1 × 4 × 4 images, two observations, and exact posterior draws, which are flattened."""
    torch.manual_seed(1)
    prior = GaussianPrior.diagonal(0.5 * torch.randn(1, 4, 4), 0.3 + torch.rand(1, 4, 4))
    mask = torch.zeros(1, 4, 4)
    mask[..., :2] = 1
    likelihood = vp.Gaussian(vp.Inpainting(mask), sigma=0.1)
    model = DiffusionModel(prior, likelihood, vp.keypoints(prior, noise_levels=[1.0, 0.3]))
    y = torch.randn(2, 1, 4, 4) * mask
    return model, y, prior.posterior(likelihood, y, model.keypoints).sample(torch.Size([60]))


@pytest.mark.parametrize("batch_size", [None, 30])
def test_exact_draws_may_be_flattened_or_of_the_events_shape(batch_size: int | None) -> None:
    """Both give the distance of the guide's clean draws, made by hand in one pass, whatever the batches are."""
    model, y, flat = image_problem()
    guide = HierarchicalGuide(model, vp.initial_latent(model.prior, model.likelihood, y))
    vp.fit(model, guide, y, vp.BetaELBO(), 5, seed=0)
    draws = weighted_draws(model, guide, y, 80, seed=child_seed(0, JUDGING), batch_size=batch_size)
    x = model.reconstruct(draws.z).reshape(80, 2, 16)
    expected = [sliced_wasserstein(x[:, n], flat[:, n], seed=child_seed(0, DIRECTIONS)) for n in range(2)]
    assert flat.shape == (60, 2, 16)
    guides, elbos = {"ours": HierarchicalGuide}, {"beta": vp.BetaELBO()}
    settings: dict[str, Any] = {"steps": 5, "num_draws": 80, "batch_size": batch_size}
    for posterior in (flat, flat.reshape(60, 2, 1, 4, 4)):
        table = vp.compare(model, guides, elbos, y, posterior=posterior, **settings).table
        assert list(table["distance"]) == pytest.approx(expected, rel=1e-5)


# runs that fail


def raising(error: Exception) -> Any:
    """A guide that cannot be made."""

    def build(model: Any) -> Any:
        raise error

    return build


def too_far(model: Any) -> Any:
    """A guide whose first loss is infinite, as after a rate that is too high."""
    return HierarchicalGuide(model, torch.full((2, 16), 1e30))


@pytest.mark.parametrize(
    ("build", "note"),
    [
        (too_far, "The fit became non-finite at step 1"),
        (raising(vp.InputError("give another rank.")), "give another rank."),
        (raising(ValueError("a shape\n  Trace Shapes:\n  z_1 16")), "ValueError: a shape"),
        (raising(NotImplementedError()), "NotImplementedError:"),
    ],
)
def test_a_run_that_fails_leaves_the_others_as_they_are(build: Any, note: str) -> None:
    """Rows beside a failure equal those of a comparison without it; the failure has a note of one line, and NaN."""
    short = {"elbos": {"beta": ELBOS["beta"]}, "steps": 5, "num_draws": 50}
    first, last = GUIDES.items()
    table = run(guides=dict([first, ("fails", build), last]), **short).table
    assert list(table["guide"].unique()) == ["hierarchical", "fails", "prior"]
    failed = table["guide"] == "fails"
    assert numbers(table[~failed]).equals(numbers(run(**short).table))
    assert table.loc[failed, "note"].str.startswith(note).all() and not table["note"].str.contains("\n").any()
    figures = [name for name in COLUMNS if name not in ("guide", "objective", "seed", "image", "note")]
    assert table.loc[failed, figures].isna().all(axis=None)


def test_the_summary_and_the_figure_live_with_failed_runs() -> None:
    fails = raising(ValueError("no"))
    short = {"elbos": {"beta": ELBOS["beta"]}, "steps": 2, "num_draws": 50}
    result = run(guides={"fails": fails, "prior": PriorGuide}, **short)
    assert result.complete
    summary = result.summary()
    assert list(summary.index) == [("prior", "beta"), ("fails", "beta")]
    assert summary.loc[("fails", "beta")].isna().all()
    assert [label.get_text() for label in result.plot().axes[0].get_yticklabels()] == ["prior"]
    assert run(guides={"fails": fails}, **short).summary()["bound"].isna().all()


@pytest.mark.parametrize("lr", [60.0, 1e30])  # infinite weights, infinite parameters
@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_fit_whose_last_step_went_too_far_has_a_note_in_place_of_a_bound(lr: float) -> None:
    table = run(guides={"prior": PriorGuide}, elbos={"beta": ELBOS["beta"]}, steps=1, lr=lr).table
    assert table["bound"].isna().all() and table["note"].str.contains("not finite: try a lower").all()
    assert (table["calls"] == 3).all() if lr < 1e30 else table["calls"].isna().all()


def test_a_mistake_in_a_program_is_not_a_failed_run() -> None:
    with pytest.raises(TypeError, match="no such argument"):
        run(guides={"mistaken": raising(TypeError("no such argument"))})


# what is refused, before anything is run

MODEL = diagonal_problem(images=2).model()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guides": {}}, "guides must map names to classes or functions"),
        ({"guides": {"mine": PriorGuide(MODEL)}}, "guides must map names .* not 'mine' to PriorGuide"),
        ({"elbos": vp.BetaELBO()}, "elbos must map names to objectives .* to BetaELBO"),
        ({"elbos": {"mine": vp.BetaELBO}}, "elbos must map names .* not 'mine' to the class BetaELBO"),
        ({"seeds": (2**70,)}, "seed must be at most 1844"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"num_draws": 0}, "num_draws must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"lr": {"mu": 0.1, "tau": math.nan}}, "lr must be finite"),
        ({"evidence": torch.zeros(3)}, "evidence has shape"),
        ({"posterior": torch.zeros(5, 3, 16)}, r"\(5, 3, 16\), not \(draws, 2 images"),
        ({"posterior": torch.zeros(5, 2, 4, 5)}, r"with an event of \(16,\)"),
        ({"y": torch.zeros(16)}, r"y has shape \(16,\), not \(N, \*observation\)"),
        ({"y": torch.zeros(2, 6)}, r"y has shape \(2, 6\), not .* = \(2, 16\)"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_first_fit(settings: dict[str, Any], message: str) -> None:
    """In one line, without a network call and without a run."""
    begun: list[Progress] = []
    options = {"steps": 1, "num_draws": 2, "callback": begun.append} | settings
    y = options.pop("y", torch.zeros(2, 16))
    guides, elbos = options.pop("guides", GUIDES), options.pop("elbos", ELBOS)
    with vp.count_calls() as count, pytest.raises(vp.InputError, match=message) as caught:
        vp.compare(MODEL, guides, elbos, y, **options)
    assert (count.calls, begun) == (0, [])
    assert "\n" not in str(caught.value)


def test_a_likelihood_of_whole_images_is_compared_too() -> None:
    """The perceptual one is a density of images: their shape is that of its event, not of its batch."""
    images = torch.rand(4, 1, 32, 32) * 2 - 1
    prior = EmpiricalPrior(images)
    model = DiffusionModel(prior, vp.Perceptual(vp.Inpainting(torch.ones(1, 32, 32))), (0.5, 0.4))
    table = vp.compare(model, {"h": HierarchicalGuide}, {"beta": vp.BetaELBO()}, images[:2], steps=1, num_draws=2).table
    assert table["bound"].notna().all()
    with pytest.raises(vp.InputError, match="y has shape"):
        vp.compare(model, {"h": HierarchicalGuide}, {"beta": vp.BetaELBO()}, images[:2, 0], steps=1, num_draws=2)


def test_fits_that_are_matched_spend_the_same_evaluations() -> None:
    """One, four and twelve particles at 2 images and 3 calls a step: 144 evaluations are 24, 6 and 2 steps."""
    elbos = {str(count): vp.BetaELBO(num_particles=count) for count in (1, 4, 12)}
    guides: dict[str, Any] = {"prior": PriorGuide, "Pyro's": AutoNormal}
    steps: dict[str, list[int]] = {}

    def count(progress: Progress) -> None:
        steps.setdefault(progress.note, [])

    table = run(guides=guides, elbos=elbos, evaluations=144, steps=1, num_draws=20, callback=count).table
    ours = table.query("guide == 'prior'")
    assert set(ours["nfe"]) == {144} and len(steps) == 6
    calls = {objective: set(rows["calls"]) for objective, rows in ours.groupby("objective")}
    assert calls == {"1": {24 * 3}, "4": {6 * 3}, "12": {2 * 3}}
    theirs = table.query('guide == "Pyro\'s"')  # whose first run makes the parameters and costs calls of its own
    assert (theirs["nfe"] <= 144).all() and (theirs["nfe"] > 144 - 12 * 2 * 3).all()
    matched = run(guides={"prior": PriorGuide}, elbos={"4": elbos["4"]}, evaluations=144, num_draws=20).table
    alone = run(guides={"prior": PriorGuide}, elbos={"4": elbos["4"]}, steps=6, num_draws=20).table
    assert list(matched["bound"]) == list(alone["bound"]), "the count of a step changes no draw"


def test_evaluations_that_pay_no_step_are_named() -> None:
    table = run(elbos={"beta": ELBOS["beta"]}, evaluations=23, num_draws=20).table
    assert table["note"].str.contains("pay no step: one costs 24").all() and table["nfe"].isna().all()
    with pytest.raises(vp.InputError, match="evaluations must be at least 1"):
        run(evaluations=0)


def test_an_iwae_that_k_hat_forbids_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the threshold for the number of draws, .5 for a hundred; the summary has the share, the page a mark."""
    options = {"guides": {"prior": PriorGuide}, "elbos": {"beta": ELBOS["beta"]}, "steps": 1}
    pages = {}
    for k_hat, trusted in (((0.1, 0.51), [1, 0]), ((0.1, 0.5), [1, 1]), ((math.inf, 0.6), [0, 0])):
        monkeypatch.setattr("pyro_vipaint.comparison.pareto_k", lambda weights, k=k_hat: torch.tensor(k))
        comparison = run(**options)
        assert list(comparison.table["reliable"]) == trusted
        assert list(comparison.summary()["reliable"]) == [sum(trusted) / 2]
        pages[tuple(trusted)] = "†" in comparison._repr_html_()
    assert pages == {(1, 0): True, (1, 1): False, (0, 0): True}
    assert pareto_threshold(DRAWS) == 0.5
