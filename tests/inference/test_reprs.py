"""Every public object prints in a few lines, in a terminal and in a notebook, whatever it holds."""

from __future__ import annotations

import inspect
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_vipaint as vp
from pyro_vipaint import baselines, diagnostics, elbos, guides, models
from pyro_vipaint._repr import LONGEST, as_html, brief, compact
from pyro_vipaint.baselines.base import BaselineResult
from pyro_vipaint.corrections import MMPS
from pyro_vipaint.models import DiffusionModel, DiffusionPrior
from pyro_vipaint.settings import Settings

SIZE = (1, 8, 8)
MASK = torch.ones(1, 1, 8, 8)
Y = torch.zeros(2, 1, 8, 8)
BY_HAND = {  # protocols and bases without objects of their own, and the errors
    models.Broadcasting, models.Codec, models.Denoiser, models.Likelihood, models.NetworkDenoiser, models.Operator,
    models.Schedule, vp.InputError, vp.NonFiniteError,
}  # fmt: skip


class Network(nn.Module):
    """A network of many layers, whose own repr is long."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(200))

    def forward(self, z: Tensor, timestep: Tensor, **condition: Any) -> Tensor:
        return 0.1 * z


@cache
def objects() -> dict[str, Any]:
    """An object of each public class, by its name, and some more of a class that prints in several ways."""
    prior = DiffusionPrior(models.EDM(), models.EDMDenoiser(Network(), models.EDM()), SIZE, name="<small>")
    many = DiffusionPrior(
        models.EDM(), prior.denoiser, SIZE, class_names=tuple(f"class {i}" for i in range(1000)), name="n" * 1000
    )
    schedule = models.LinearVP()
    covariance = models.DataCovariance.of(torch.randn(90, *SIZE), rank=3)
    likelihood = vp.Gaussian(vp.Inpainting(MASK), sigma=0.1)
    gaussian = models.GaussianPrior.diagonal(torch.zeros(SIZE), torch.ones(SIZE))
    model = DiffusionModel(gaussian, likelihood, vp.keypoints(gaussian, noise_levels=[3.0, 1.0, 0.3]))
    guide = guides.HierarchicalGuide(model, Y)
    fit = vp.fit(model, guide, Y, vp.BetaELBO(), 5, seed=0)
    comparison = vp.compare(
        model, {"<b>": guides.PriorGuide}, {"beta": vp.BetaELBO()}, Y, steps=2, num_draws=20, seeds=(0, 1)
    )
    weights = torch.randn(200, 2)
    table = models.TableVP(torch.linspace(0.99, 0.01, 1000).tolist())
    images = torch.randn(50, *SIZE)
    samples = torch.randn(10, 2, *SIZE)
    numbers = Settings((3.0, 1.0))
    result = vp.Result(samples, Y, likelihood.operator, fit, numbers, 9, 90, 1.0)
    mixture = models.GaussianMixturePrior.diagonal(torch.ones(3), torch.zeros(3, *SIZE), 0.5)
    classes = {"ears": torch.tensor([0, 1]), "tail": torch.tensor([1, 0])}
    parts = diagnostics.PartsPosterior(torch.randn(2, 2).log_softmax(1), torch.zeros(2), classes)
    named: dict[str, Any] = {
        "Result": result, "Fit": fit, "Comparison": comparison, "SMC": vp.smc(model, guide, Y, 4),
        "a prior of many classes": many, "Settings": numbers, "BaselineResult": BaselineResult(samples, 1, 1, 1.0),
        "ReSampleResult": baselines.ReSampleResult(samples, 1, 1, 1.0, 0, 5),
        "GeometricSchedule": elbos.GeometricSchedule(3.0, 1.0, 9),
        "AnnealedELBO": vp.AnnealedELBO(3.0, steps=3), "WeightedELBO": vp.BetaELBO({"z_1": 2.0}),
        "GaussianBlur": vp.GaussianBlur(1.0), "MotionBlur": vp.MotionBlur(3), "SuperResolution": vp.SuperResolution(2),
        "Inpainting": vp.Inpainting(MASK), "Matrix": models.Matrix(torch.randn(30, 64)),
        "Compose": vp.Compose(vp.SuperResolution(2), vp.Compose(vp.GaussianBlur(1.0), vp.Inpainting(MASK))),
        "Gaussian": vp.Gaussian(vp.Inpainting(MASK), sigma=torch.ones(1, 8, 8)),
        "Laplace": vp.Laplace(vp.GaussianBlur(1.0)),
        "Perceptual": vp.Perceptual(vp.Inpainting(MASK)), "Poisson": vp.Poisson(vp.Inpainting(MASK), gain=10.0),
        "DiffusionPrior": prior, "DiffusionModel": model, "Level": model.levels[0], "DataCovariance": covariance,
        "DiffusionMarginal": models.DiffusionMarginal(prior, 0.5),
        "MatchedPrior": models.MatchedPrior(gaussian, covariance),
        "a long table of errors": models.MatchedPrior(gaussian, {i / 1000: torch.ones(SIZE) for i in range(999)}),
        "EmpiricalPrior": models.EmpiricalPrior(images), "GaussianMixturePrior": mixture, "GaussianPrior": gaussian,
        "TableVP": table, "AutoencoderCodec": models.AutoencoderCodec(Network(), 0.2), "Identity": models.Identity(),
        "GuidedNetwork": models.GuidedNetwork(Network(), {"class_labels": torch.tensor([3])}),
        "EDMDenoiser": prior.denoiser, "empirical denoiser": models.EmpiricalPrior(images).denoiser,
        "mixture denoiser": mixture.denoiser, "gaussian denoiser": gaussian.denoiser, "FitState": fit.state,
        "TwistedGuide": guides.TwistedGuide(model, Y, correction=MMPS()),
        "WeightedDraws": diagnostics.weighted_draws(model, guide, Y, 20),
        "Estimate": diagnostics.elbo_estimate(weights), "Ratio": diagnostics.Ratio(1.0, 0.1),
        "SmoothedWeights": diagnostics.pareto_smooth(weights),
        "Resampled": diagnostics.resample(model, guide, Y, 20, 3),
        "ProjectionSummary": diagnostics.project_onto_samples(samples, samples, 5),
        "SBC": diagnostics.SBC(*({"mean": torch.zeros(99), "norm": torch.zeros(99)} for _ in range(3))),
        "VSBC": diagnostics.VSBC(*(torch.zeros(99, 3) for _ in range(3))), "PartsPosterior": parts,
        "Accuracy": diagnostics.Accuracy(0.5, 0.1),
    }  # fmt: skip
    for name in ("EDM", "CosineVP", "GeometricVE", "LinearVP", "RectifiedFlow", "ScaledLinearVP"):
        named[name] = getattr(models, name)()
    for name in ("EpsilonDenoiser", "FlowDenoiser", "SampleDenoiser", "VDenoiser"):
        named[name] = getattr(models, name)(Network(), schedule)
    learned = DiffusionPrior(schedule, models.LearnedRangeDenoiser(Network(), schedule), SIZE)
    named |= {"LearnedVariancePrior": models.LearnedVariancePrior(learned), "LearnedRangeDenoiser": learned.denoiser}
    named["PriorCheck"] = vp.PriorCheck("fashion32", 9, comparison.table, {"as v": 0.5}, ("a fault " * 99,) * 9)
    named["Conformal"] = diagnostics.Conformal(1.9, 0.9, 64, 10)
    for name in guides.__all__:
        named[name] = getattr(guides, name)(model, Y)
    for name in ("BetaELBO", "RenyiELBO", "SampledELBO", "StickingTheLandingELBO"):
        named[name] = getattr(vp, name)()
    return named


def _public() -> dict[str, Any]:
    """Everything that the packages export."""
    packages = (vp, models, guides, elbos, diagnostics, baselines)
    return {f"{part.__name__}.{name}": getattr(part, name) for part in packages for name in part.__all__}


class Checker(HTMLParser):
    """Every tag is closed; what stands between them is kept."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_everything_public_prints_in_six_hundred_characters() -> None:
    """A class is printed by an object of it, which the table above must hold."""
    missing = []
    for name, value in _public().items():
        if inspect.isclass(value) and value not in BY_HAND and not inspect.isabstract(value):
            found = [each for each in objects().values() if type(each) is value]
            missing += [] if found else [name]
            assert all(type(each).__name__ in repr(each) for each in found)
        assert len(repr(value)) <= LONGEST, name
    assert not missing, "add an object of these classes to the table of this file"
    for name, value in objects().items():
        text = repr(value)
        assert len(text) <= LONGEST and not any(part in text for part in ("\n", "tensor(", " at 0x")), (name, text)


@pytest.mark.parametrize(
    "name", ["Result", "Fit", "Comparison", "SMC", "DiffusionPrior", "DiffusionModel", "HierarchicalGuide", "Estimate"]
)
def test_the_page_of_an_object_is_whole_and_asks_nobody(name: str) -> None:
    page = objects()[name]._repr_html_()
    checker = Checker()
    checker.feed(page)
    assert not checker.open and "script" not in checker.tags and "table" in checker.tags
    assert all(link.startswith("data:image/png;base64,") for link in checker.links)
    assert type(objects()[name]).__name__ in checker.text


def test_names_of_users_are_escaped() -> None:
    for name, text in (("Comparison", "<b>"), ("DiffusionPrior", "<small>")):
        checker = Checker()
        checker.feed(objects()[name]._repr_html_())
        assert text in checker.text and "small" not in checker.tags


def test_a_fact_is_type_and_shape_or_the_number_itself() -> None:
    assert brief(torch.zeros(10, 1, 32, 32)) == "float32 (10, 1, 32, 32)"
    assert brief(torch.tensor(0.25)) == "0.25" and brief(torch.tensor([1.5, -2.0])) == "float32 (2,) = [1.5, -2]"
    assert brief(torch.zeros(9, device="meta")) == "float32 (9,) on meta"
    assert brief(nn.Linear(10, 100)) == "Linear (1,100 parameters)"
    assert brief(list(range(100))) == "[0, 1, …, 99] (100)" and brief((1, 8, 8)) == "(1, 8, 8)"
    assert len(brief("a" * 1000, 30)) == 30


def test_printing_costs_no_network_call_and_no_random_number() -> None:
    printed, before = objects().values(), torch.get_rng_state()
    with vp.count_calls() as count:
        for value in printed:
            assert compact(value) and as_html(value)
    assert count.calls == 0 and torch.equal(torch.get_rng_state(), before)


def test_the_curve_of_a_fit_has_a_point_per_step() -> None:
    fit = objects()["Fit"]
    points = fit._repr_html_().split('points="')[1].split('"')[0].split()
    heights = [float(point.split(",")[1]) for point in points]
    bounds = fit.bounds.sum(1)
    assert len(points) == len(bounds)
    assert heights[int(bounds.argmax())] == min(heights), "the best step is on top"
