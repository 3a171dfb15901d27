"""Numbers of every call: refused in one line before the first network call; and results are finite or an error."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import pyro_vipaint as vp
from pyro_vipaint import baselines
from pyro_vipaint.elbos import AnnealedELBO
from pyro_vipaint.errors import InputError, NonFiniteError, number, whole
from pyro_vipaint.guides import FlowGuide, HierarchicalGuide, MixtureGuide
from pyro_vipaint.models import DiffusionModel, DiffusionPrior
from pyro_vipaint.models.priors.schedules import EDM, RectifiedFlow, TableVP
from pyro_vipaint.settings import Settings
from tests.problems import LIKELIHOOD, MASK, Y, four_pixels

PRIOR = four_pixels()
MODEL = DiffusionModel(PRIOR, LIKELIHOOD, vp.keypoints(PRIOR, noise_levels=(2.0, 0.5)))
GUIDE = HierarchicalGuide(MODEL, Y)
Z = torch.zeros(2, *Y.shape)
NAN, INF, NEGATIVE = float("nan"), float("inf"), -1
BAD: list[Any] = [NAN, INF, NEGATIVE, True, "1", 10**400, 1j, [1.0], torch.ones(3)]


def fit(guide: Any = GUIDE, elbo: Any = None, model: Any = MODEL, steps: Any = 1, **named: Any) -> vp.Fit:
    return vp.fit(model, guide, Y, vp.BetaELBO() if elbo is None else elbo, steps, **named)


def rates(**named: Any) -> dict[str, Any]:
    return {"mu": 0.1, "tau": 0.1, "gamma": 0.1, **named}


def compared(**named: Any) -> Any:
    return vp.compare(MODEL, {"one": HierarchicalGuide}, {"one": vp.BetaELBO()}, Y, **named)


ENTRANCES: dict[str, Callable[[Any], Any]] = {
    "zeta": lambda bad: vp.refine(MODEL, Z, Y, 2, zeta=bad),
    "zeta_decay": lambda bad: vp.refine(MODEL, Z, Y, 2, zeta_decay=bad),
    "polyak": lambda bad: vp.refine(MODEL, Z, Y, 2, polyak=bad),
    "guidance_scale": lambda bad: vp.refine(MODEL, Z, Y, 2, guidance_scale=bad),
    "guidance_scale of a prior": lambda bad: PRIOR.diffusion().denoise(Y, 0.5, guidance_scale=bad),
    "refinement steps": lambda bad: vp.refine(MODEL, Z, Y, bad),
    "samples": lambda bad: vp.sample(GUIDE, Y, bad),
    "seed of a fit": lambda bad: fit(seed=bad),
    "seed of samples": lambda bad: vp.sample(GUIDE, Y, 2, seed=bad),
    "seed of a comparison": lambda bad: compared(seeds=[bad]),
    "draws of a comparison": lambda bad: compared(num_draws=bad),
    "steps": lambda bad: fit(steps=bad),
    "lr": lambda bad: fit(lr=bad),
    "lr of a kind": lambda bad: fit(lr=rates(tau=bad)),
    "lr_decay": lambda bad: fit(lr_decay=bad),
    "average": lambda bad: fit(average=bad),
    "start": lambda bad: vp.keypoints(PRIOR, start=bad),
    "stop": lambda bad: vp.keypoints(PRIOR, stop=bad),
    "levels": lambda bad: vp.keypoints(PRIOR, levels=bad),
    "noise_levels": lambda bad: vp.keypoints(PRIOR, noise_levels=[bad]),
    "keypoints": lambda bad: DiffusionModel(PRIOR, LIKELIHOOD, [bad]),
    "sigma_data": lambda bad: DiffusionPrior(EDM(), PRIOR.denoiser, (1, 2, 2), sigma_data=bad),
    "rho": lambda bad: EDM(rho=bad),
    "sigma_max": lambda bad: EDM(sigma_max=bad),
    "shift": lambda bad: RectifiedFlow(bad),
    "beta": lambda bad: vp.SampledELBO(bad),
    "beta of a site": lambda bad: vp.BetaELBO({"z_1": bad}),
    "start of beta": lambda bad: AnnealedELBO(bad, steps=5),
    "particles": lambda bad: vp.StickingTheLandingELBO(num_particles=bad),
    "alpha": vp.RenyiELBO,
    "tau_scale": lambda bad: HierarchicalGuide(MODEL, Y, tau_scale=bad),
    "gamma_logit": lambda bad: HierarchicalGuide(MODEL, Y, gamma_logit=bad),
    "spread of a mixture": lambda bad: MixtureGuide(MODEL, Y, spread=bad),
    "width of a flow": lambda bad: FlowGuide(MODEL, Y, width=bad),
    **{
        f"settings, {name}": lambda bad, name=name: Settings(**{"noise_levels": (3.0, 1.0), name: bad})
        for name in sorted(Settings.__dataclass_fields__.keys() - {"noise_levels"})  # a row; its rules stand below
    },
    "settings, a noise level": lambda bad: Settings((3.0, bad)),
}


SIGNED = {
    "seed of a fit",
    "seed of samples",
    "seed of a comparison",
    "settings, gamma_logit",
    "gamma_logit",
}  # negative ones are good


def refuses(call: Callable[[], Any]) -> str:
    """The message: one short line, before any network call."""
    with vp.count_calls() as count, pytest.raises(InputError) as caught:
        call()
    assert count.calls == 0 and "\n" not in str(caught.value) and len(str(caught.value)) < 250
    return str(caught.value)


@pytest.mark.parametrize("name", ENTRANCES)
def test_what_is_no_number_in_range_is_refused_where_it_enters(name: str) -> None:
    for bad in BAD:
        if bad is not NEGATIVE or name not in SIGNED:
            refuses(partial(ENTRANCES[name], bad))


METHODS = [
    "blended", "copaint", "copaint_tt", "daps", "ddsmc", "ding", "dps", "mgdm", "pi_gdm", "psld", "red_diff", "repaint",
    "resample",
]  # fmt: skip
UNCHECKED = {"prior", "likelihood", "y", "callback", "condition", "delayed"}


@pytest.mark.parametrize("name", METHODS)
def test_so_is_every_number_of_the_baselines(name: str) -> None:
    method = getattr(baselines, name)
    for argument in inspect.signature(method).parameters.keys() - UNCHECKED:
        for bad in BAD:
            if bad is not NEGATIVE or argument != "seed":
                given = {"num_samples": 2, "steps": 2, argument: (bad, 0.9) if argument == "betas" else bad}
                refuses(partial(method, PRIOR, LIKELIHOOD, Y, **given))


def test_shares_of_noise_end_at_one_and_chains_at_a_million_steps() -> None:
    assert "at most 1," in refuses(lambda: baselines.pi_gdm(PRIOR, LIKELIHOOD, Y, 2, 2, eta=1.5))
    for call in (lambda n: fit(steps=n), lambda n: vp.refine(MODEL, Z, Y, n), lambda n: dps(steps=n)):
        assert "at most 1000000" in refuses(partial(call, 10**8))


def dps(**named: Any) -> baselines.BaselineResult:
    return baselines.dps(PRIOR, LIKELIHOOD, Y, 2, **named)


def test_a_schedule_of_beta_is_judged_at_its_first_bad_weight() -> None:
    values: list[Any] = [NAN, 0.0, None, True]
    for bad in values:
        with pytest.raises(InputError, match="beta must be a positive and finite number"):
            fit(elbo=vp.BetaELBO(lambda step, bad=bad: bad))


PROGRAMS: dict[str, tuple[Callable[[], Any], str]] = {
    "a class of guides": (lambda: fit(HierarchicalGuide), "guide must be .*, not the class HierarchicalGuide"),
    "a class of objectives": (lambda: fit(elbo=vp.BetaELBO), "elbo must be .*, not the class BetaELBO"),
    "no objective": (lambda: fit(elbo="beta"), "elbo must be an objective such as BetaELBO.., not 'beta'"),
    "swapped": (lambda: fit(MODEL, model=GUIDE), "model must be .*, not HierarchicalGuide"),
    "two models": (lambda: fit(MODEL), "guide must be a torch module .*, not DiffusionModel"),
    "a class of models": (lambda: fit(model=DiffusionModel), "model must be .*, not the class DiffusionModel"),
    "a prior": (lambda: fit(model=PRIOR), "model must be .*, not GaussianPrior"),
    "a function as guide": (lambda: fit(lambda y: None), "guide must be a torch module .*, not function"),
    "another program": (lambda: fit(model=lambda y: None), "built on another model"),
    "no parameters": (lambda: fit(torch.nn.Identity()), "number of parameters of the guide must be at least 1"),
    "a callback that is none": (lambda: fit(callback=3), "callback must be a function of a Progress, not 3"),
    "another callback": (lambda: dps(steps=2, callback=3), "callback must be a function of a Progress, not 3"),
    "a guide to refine": (lambda: vp.refine(GUIDE, Z, Y), "model must be a DiffusionModel"),  # type: ignore[arg-type]
    "keypoints of a schedule": (lambda: vp.keypoints(EDM()), "prior must be a prior, not EDM"),  # type: ignore[arg-type]
    "a schedule that falls": (lambda: EDM(2.0, 1.0), "sigma_max - sigma_min must be finite and not negative"),
    "a table of words": (lambda: TableVP(["x"]), "alphas_cumprod must be finite"),  # type: ignore[list-item]
    "ten million steps": (lambda: TableVP([0.5] * 10**7), "length of alphas_cumprod must be at most 1000000"),
    "no seed": (lambda: compared(seeds=[]), "number of seeds must be at least 1"),
    "no sequence of seeds": (lambda: compared(seeds=3), "seeds must be a sequence"),
    "a rate that the facade does not know": (
        lambda: vp.inpaint(Y, MASK, PRIOR, settings=Settings((3.0, 1.0), lr={"mue": 0.1}), device="cpu"),
        "no kind of parameters 'mue'",
    ),
    "no earlier fit": (lambda: fit(resume="fit"), "resume must be a Fit, not 'fit'"),
    "a kind that the guide lacks": (lambda: fit(lr=rates(mue=0.1)), "lr names mue, .* are mu, tau, gamma"),
    "settings of another kind": (
        lambda: vp.inpaint(Y, MASK, PRIOR, settings="fast", device="cpu"),  # type: ignore[arg-type]
        "settings must be Settings such as",
    ),
    "a rate that is a tensor": (lambda: fit(lr=torch.tensor(0.1)), r"lr must be finite .*: use its .item\(\)"),
    **{
        f"no row of levels, {bad!r}": (partial(entrance, bad), "must be a row of numbers, not")
        for bad in (None, "31", 3.0, {3.0: 1.0}, torch.tensor(3.0), np.array(3.0))
        for entrance in (Settings, partial(DiffusionModel, PRIOR, LIKELIHOOD))
    },
    "levels that rise": (lambda: Settings((1.0, 3.0)), "noise-levels must decrease"),
    "no levels": (lambda: Settings(()), "noise-levels must decrease"),
    "a rate for all kinds": (lambda: Settings((3.0, 1.0), lr=0.1), "lr must be a mapping"),  # type: ignore[arg-type]
    "latents of another image": (lambda: vp.refine(MODEL, Z[:, :0], Y, 2), r"z has shape \(2, 0, 1, 2, 2\)"),
    "latents that are NaN": (lambda: vp.refine(MODEL, Z * NAN, Y, 2), "z must be finite: 8 of 8"),
}


@pytest.mark.parametrize(("call", "message"), PROGRAMS.values(), ids=PROGRAMS)
def test_other_things_in_the_place_of_an_argument(call: Callable[[], Any], message: str) -> None:
    with vp.count_calls() as count, pytest.raises(InputError, match=message):
        call()
    assert count.calls == 0


def test_rates_may_name_the_kinds_of_other_guides_but_nothing_else() -> None:
    """One mapping serves a comparison; the facade's rates are the defaults and those of the settings."""
    fit(HierarchicalGuide(MODEL, Y), lr=rates(flow=1e-3))
    settings = Settings((3.0, 1.0), lr={"mue": 0.1})
    with pytest.raises(InputError, match="lr names mue"):
        vp.inpaint(Y, MASK, PRIOR, settings=settings, guide=HierarchicalGuide, device="cpu")


@pytest.mark.parametrize("average", [0, 1])
def test_a_last_step_that_overflows_names_the_parameter(average: int) -> None:
    """Its loss is that of the step before. tau, an exponential, is infinite where the optimiser's number is not."""
    guide = HierarchicalGuide(MODEL, Y)
    with pytest.raises(NonFiniteError, match=r"The fit ended with tau_[12], tau_[12] not finite: try a lower"):
        fit(guide, lr=1e30, average=average)
    assert not guide.tau_1.isfinite().all(), "the guide holds the parameters of that step"


def test_a_last_gradient_that_is_nan_names_its_parameter_alone() -> None:
    guide = HierarchicalGuide(MODEL, Y)
    dict(guide.named_parameters())["gamma_1_unconstrained"].register_hook(lambda gradient: gradient * NAN)
    with pytest.raises(NonFiniteError, match="ended with gamma_1 not finite"):
        fit(guide)


def test_samples_and_images_are_finite_or_the_error_names_the_phase() -> None:
    """Clamping would hide an infinite pixel."""
    guide = HierarchicalGuide(MODEL, Y)
    with torch.no_grad():
        next(iter(guide.parameters())).fill_(INF)
    runs: dict[str, Callable[[], Any]] = {
        "sampling of the guide": lambda: vp.sample(guide, Y, 2),
        "refinement": lambda: vp.refine(MODEL, Z, Y, 3, zeta=1e300),
        "chain of dps": lambda: dps(steps=3, zeta=1e300),
    }
    for phase, run in runs.items():
        with pytest.raises(NonFiniteError, match=f"The {phase} ended in values that are infinite or NaN"):
            run()


def test_a_refusal_is_one_line_whatever_it_shows() -> None:
    assert str(InputError("one\ntwo")) == "one two"
    for check in (number, whole):
        with pytest.raises(InputError) as caught:
            check("n", torch.randn(40, 40))
        assert len(str(caught.value)) < 100


ROWS: dict[str, Callable[[], Any]] = {
    "a list": lambda: [2.0, 0.5],
    "an array": lambda: np.array([2.0, 0.5]),
    "a tensor": lambda: torch.tensor([2.0, 0.5]),
    "numbers that are tensors": lambda: (torch.tensor(2.0), torch.tensor([0.5])),
    "a generator": lambda: (level for level in (2.0, 0.5)),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_any_row_of_noise_levels_is_one(row: Callable[[], Any]) -> None:
    """Settings keep a tuple of plain numbers; times may be given in the same forms."""
    assert Settings(row()).noise_levels == (2.0, 0.5) and Settings(row()) == Settings((2.0, 0.5))
    assert vp.keypoints(PRIOR, noise_levels=row()) == vp.keypoints(PRIOR, noise_levels=(2.0, 0.5))


def test_start_and_stop_may_be_tensors() -> None:
    times = vp.keypoints(PRIOR, start=torch.tensor(0.75), stop=torch.tensor(0.5), levels=2)  # type: ignore[arg-type]
    assert times == (0.75, 0.5)
