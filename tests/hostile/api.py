"""Hostile calls of the Python interface."""

# Arguments of wrong types are the point of this file.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import pyro_vipaint as vp
from pyro_vipaint import baselines, models
from pyro_vipaint.corrections import MMPS, Wiener
from pyro_vipaint.errors import NonFiniteError
from pyro_vipaint.guides import FlowGuide, HierarchicalGuide, LowRankGuide, MeanFieldGuide, MixtureGuide
from pyro_vipaint.models import DiffusionModel, EmpiricalPrior, GaussianMixturePrior, GaussianPrior, load_prior
from pyro_vipaint.settings import Settings, default_settings
from tests.hostile.harness import Case, refused, working
from tests.hostile.world import (
    IMAGE,
    INF,
    KEYPOINTS,
    LABELLED,
    LATENT,
    LIKELIHOOD,
    MASK,
    MODEL,
    NAN,
    ONE,
    OPERATOR,
    PAIR,
    PLAIN,
    SHAPE,
    Halved,
    fit,
    guide,
    inpaint,
    model,
    network_prior,
    refine,
    restore,
    spoilt,
)

Y = ONE * MASK
bad: Any = None  # what no type checker would let pass


class Lambda:
    """An operator from two functions."""

    def __init__(self, A: Any, A_adjoint: Any) -> None:
        self.A, self.A_adjoint = A, A_adjoint


class Doubled(nn.Module):
    """A module that is no operator."""


def chosen(**changes: Any) -> Settings:
    return replace(default_settings(2, preset="pictures"), **changes)


# vp.inpaint, vp.restore

IDENTITY = Lambda(lambda x: x, lambda y: y)
FACADE = [
    *refused({
        "image: None": (lambda: inpaint(None), "image"),
        "image: a string": (lambda: inpaint("shoe.png"), "image"),
        "image: a dict": (lambda: inpaint({"x": 1}), "image"),
        "image: a set": (lambda: inpaint({1, 2}), "image"),
        "image: an object": (lambda: inpaint(object()), "image"),
        "image: a class": (lambda: inpaint(Tensor), "image"),
        "image: ragged lists": (lambda: inpaint([[1.0, 2.0], [3.0]]), "image"),
        "image: strings": (lambda: inpaint([["a", "b"]]), "image"),
        "image: no elements": (lambda: inpaint(torch.zeros(0)), "image"),
        "image: no images": (lambda: inpaint(torch.zeros(0, *SHAPE)), "image"),
        "image: no pixels": (lambda: inpaint(torch.zeros(1, 0, 8)), "image"),
        "image: a number": (lambda: inpaint(0.5), "image"),
        "image: bytes 0..255": (lambda: inpaint((IMAGE * 100).abs().byte()), "float"),
        "image: whole numbers": (lambda: inpaint(IMAGE.long()), "float"),
        "image: booleans": (lambda: inpaint(IMAGE > 0), "float"),
        "image: complex": (lambda: inpaint(IMAGE.to(torch.complex64)), "float|complex"),
        "image: floats 0..255": (lambda: inpaint((IMAGE + 1) * 127.5), r"\[-1, 1\]"),
        "image: standardised, 7": (lambda: inpaint(7 * IMAGE), r"\[-1, 1\]"),
        "image: NaN where observed": (lambda: inpaint(spoilt(NAN)), "NaN|finite|hid"),
        "image: infinite where observed": (lambda: inpaint(spoilt(INF)), "finite|hid"),
        "image: minus infinity": (lambda: inpaint(spoilt(-INF)), "finite|hid"),
        "image: all NaN": (lambda: inpaint(torch.full(SHAPE, NAN)), "NaN|finite|hid"),
        "image: 1e38": (lambda: inpaint(spoilt(1e38)), r"\[-1, 1\]"),
        "image: three channels": (lambda: inpaint(IMAGE.expand(3, 8, 8)), "channel|shape"),
        "image: (H, W, C)": (lambda: inpaint(IMAGE.expand(3, 8, 8).permute(1, 2, 0)), "channel|shape"),
        "image: five dimensions": (lambda: inpaint(torch.zeros(2, 2, *SHAPE)), "shape"),
        "image: another size": (lambda: inpaint(torch.zeros(1, 10, 12)), "resize"),
        "image: a million pixels": (lambda: inpaint(torch.zeros(1, 1000, 1000)), "resize"),
        "image: on the meta device": (lambda: inpaint(torch.zeros(SHAPE, device="meta")), "meta|device|number"),
        "image: sparse": (lambda: inpaint(IMAGE.to_sparse()), "image|sparse|dense"),
        "image: quantised": (lambda: inpaint(torch.quantize_per_tensor(IMAGE, 0.1, 0, torch.qint8)), "image|float"),
        "mask: None": (lambda: inpaint(mask=None), "mask"),
        "mask: a string": (lambda: inpaint(mask="box"), "mask"),
        "mask: all observed": (lambda: inpaint(mask=torch.ones(8, 8)), "mask|hid"),
        "mask: all hidden": (lambda: inpaint(mask=torch.zeros(8, 8)), "mask|observ"),
        "mask: 0 and 255": (lambda: inpaint(mask=255 * MASK), "255|mask"),
        "mask: bytes 0 and 255": (lambda: inpaint(mask=(255 * MASK).byte()), "255|mask"),
        "mask: soft beyond 1": (lambda: inpaint(mask=MASK / 2 + 0.6), "mask|0"),
        "mask: -1 and 1": (lambda: inpaint(mask=2 * MASK - 1), "mask|0"),
        "mask: NaN": (lambda: inpaint(mask=torch.where(MASK == 1, 1, NAN)), "mask|0"),
        "mask: infinite": (lambda: inpaint(mask=torch.where(MASK == 1, 1, INF)), "mask|0"),
        "mask: complex": (lambda: inpaint(mask=MASK.to(torch.complex64)), "mask"),
        "mask: three channels": (lambda: inpaint(mask=MASK.expand(3, 8, 8)), "mask"),
        "mask: another size": (lambda: inpaint(mask=torch.eye(10)), "resize"),
        "mask: no masks": (lambda: inpaint(mask=torch.ones(0, *SHAPE)), "mask"),
        "mask: three for two images": (lambda: inpaint(PAIR, MASK.repeat(3, 1, 1, 1)), "mask"),
        "mask: one of two hides all": (lambda: inpaint(mask=torch.stack([MASK, 0 * MASK])), "mask|observ"),
        "mask: the image in its place": (lambda: inpaint(MASK, IMAGE), "mask"),
        "prior: None": (lambda: inpaint(prior=None), "prior"),
        "prior: a number": (lambda: inpaint(prior=3), "prior"),
        "prior: empty": (lambda: inpaint(prior=""), "prior"),
        "prior: unknown": (lambda: inpaint(prior="fashion"), "fashion32"),
        "prior: with a null byte": (lambda: inpaint(prior="a\0b"), "prior"),
        "prior: a line break": (lambda: inpaint(prior="no\nsuch"), "prior"),
        "prior: a thousand letters": (lambda: inpaint(prior="x" * 1000), "prior"),
        "prior: a class": (lambda: inpaint(prior=GaussianPrior), "prior"),
        "prior: a network": (lambda: inpaint(prior=nn.Identity()), "from_diffusers"),
        "prior: of vectors": (
            lambda: inpaint(prior=GaussianPrior.diagonal(torch.zeros(4), torch.ones(4))), "prior|images",
        ),
        "levels: 0": (lambda: inpaint(levels=0), "levels"),
        "levels: -1": (lambda: inpaint(levels=-1), "levels"),
        "levels: a million": (lambda: inpaint(levels=10**6), "levels"),
        "levels: 2.5": (lambda: inpaint(levels=2.5), "levels"),
        "levels: a string": (lambda: inpaint(levels="4"), "levels"),
        "levels: True": (lambda: inpaint(levels=True), "levels"),
        "samples: 0": (lambda: inpaint(num_samples=0), "samples"),
        "samples: -3": (lambda: inpaint(num_samples=-3), "samples"),
        "samples: NaN": (lambda: inpaint(num_samples=NAN), "samples"),
        "samples: a string": (lambda: inpaint(num_samples="10"), "samples"),
        "samples: 1e9": (lambda: inpaint(num_samples=1e9), "samples"),
        "steps: 0": (lambda: inpaint(steps=0), "steps"),
        "steps: 1.5": (lambda: inpaint(steps=1.5), "steps"),
        "steps: a list": (lambda: inpaint(steps=[3]), "steps"),
        "refine_steps: 0": (lambda: inpaint(refine_steps=0), "refine"),
        "refine_steps: a string": (lambda: inpaint(refine_steps="15"), "refine"),
        "beta: 0": (lambda: inpaint(beta=0), "beta"),
        "beta: NaN": (lambda: inpaint(beta=NAN), "beta"),
        "beta: infinite": (lambda: inpaint(beta=INF), "beta"),
        "beta: a string": (lambda: inpaint(beta="1"), "beta"),
        "beta: a tensor": (lambda: inpaint(beta=torch.ones(2)), "beta"),
        "zeta: -1": (lambda: inpaint(zeta=-1.0), "zeta"),
        "zeta: NaN": (lambda: inpaint(zeta=NAN), "zeta"),
        "noise: -0.1": (lambda: inpaint(noise=-0.1), "noise"),
        "noise: NaN": (lambda: inpaint(noise=NAN), "noise"),
        "noise: a string": (lambda: inpaint(noise="0.1"), "noise"),
        "seed: 0.5": (lambda: inpaint(seed=0.5), "seed"),
        "seed: 2^64": (lambda: inpaint(seed=2**64), "seed"),
        "seed: -2^64": (lambda: inpaint(seed=-(2**64)), "seed"),
        "seed: a string": (lambda: inpaint(seed="0"), "seed"),
        "device: unknown": (lambda: inpaint(device="abacus"), "device"),
        "device: cuda:99": (lambda: inpaint(device="cuda:99"), "device"),
        "device: meta": (lambda: inpaint(device="meta"), "device"),
        "device: empty": (lambda: inpaint(device=""), "device"),
        "label: without classes": (lambda: inpaint(label=0), "class"),
        "label: too large": (lambda: inpaint(prior=LABELLED, label=2), "0 to 1"),
        "label: negative": (lambda: inpaint(prior=LABELLED, label=-1), "0 to 1"),
        "label: 0.0": (lambda: inpaint(prior=LABELLED, label=0.0), "whole|label"),
        "label: True": (lambda: inpaint(prior=LABELLED, label=True), "whole|label"),
        "label: NaN": (lambda: inpaint(prior=LABELLED, label=NAN), "whole|label"),
        "label: 2^70": (lambda: inpaint(prior=LABELLED, label=2**70), "label|0 to 1"),
        "label: unknown name": (lambda: inpaint(prior=LABELLED, label="Bagg"), "label|class"),
        "label: three for one image": (lambda: inpaint(prior=LABELLED, label=[1, 1, 1]), "label|images"),
        "label: none for two images": (lambda: inpaint(PAIR, prior=LABELLED, label=[]), "label|images"),
        "prompt: without text encoder": (lambda: inpaint(prompt="a cat"), "text"),
        "guidance: nothing to guide by": (lambda: inpaint(guidance_scale=2), "guid"),
        "guidance: negative": (lambda: inpaint(prior=LABELLED, label=0, guidance_scale=-1), "guid"),
        "guidance: NaN": (lambda: inpaint(prior=LABELLED, label=0, guidance_scale=NAN), "guid"),
        "guidance: no null label": (lambda: inpaint(prior=LABELLED, label=0, guidance_scale=2), "null"),
        "settings: a dict": (lambda: inpaint(settings={"steps": 3}), "settings"),
        "settings: the class": (lambda: inpaint(settings=Settings), "settings"),
        "settings: levels ascend": (lambda: inpaint(settings=Settings((1.0, 5.0))), "decreas|level|keypoint"),
        "settings: levels equal": (lambda: inpaint(settings=Settings((1.0, 1.0))), "decreas|level|keypoint"),
        "settings: no levels": (lambda: inpaint(settings=Settings(())), "level|keypoint|none"),
        "settings: level NaN": (lambda: inpaint(settings=Settings((NAN, 1.0))), "level|range|finite"),
        "settings: level infinite": (lambda: inpaint(settings=Settings((INF, 1.0))), "level|range|finite"),
        "settings: level 0": (lambda: inpaint(settings=Settings((1.0, 0.0))), "level|range|positive"),
        "settings: level negative": (lambda: inpaint(settings=Settings((1.0, -1.0))), "level|range|positive"),
        "settings: level a string": (lambda: inpaint(settings=Settings(bad or ("3", "1"))), "level"),
        "settings: levels a number": (lambda: inpaint(settings=Settings(bad or 3.0)), "level"),
        "settings: level off the schedule": (lambda: inpaint(settings=Settings((1e9, 1.0))), "range|level"),
        "settings: scale 0": (lambda: inpaint(settings=chosen(scale=0.0)), "scale"),
        "settings: scale NaN": (lambda: inpaint(settings=chosen(scale=NAN)), "scale"),
        "settings: particles 0": (lambda: inpaint(settings=chosen(num_particles=0)), "particles"),
        "settings: rate negative": (lambda: inpaint(settings=chosen(lr={"mu": -0.1})), "lr"),
        "settings: rate NaN": (lambda: inpaint(settings=chosen(lr={"mu": NAN})), "lr"),
        "settings: rate True": (lambda: inpaint(settings=chosen(lr={"mu": True})), "lr"),
        "settings: rates a list": (lambda: inpaint(settings=chosen(lr=[0.1])), "lr"),
        "settings: decay of the rate 0": (lambda: inpaint(settings=chosen(lr_decay=0.0)), "decay"),
        "settings: average too long": (lambda: inpaint(settings=chosen(average=31), steps=None), "average"),
        "settings: average negative": (lambda: inpaint(settings=chosen(average=-1)), "average"),
        "settings: steps a string": (lambda: inpaint(settings=chosen(steps="30"), steps=None), "steps"),
        "settings: sigma 0": (lambda: inpaint(settings=chosen(sigma=0.0)), "sigma"),
        "settings: sigma a map": (lambda: inpaint(settings=chosen(sigma=MASK)), "sigma"),
        "settings: order 3": (lambda: inpaint(settings=chosen(order=3)), "order"),
        "settings: order 2 of DPS": (lambda: inpaint(settings=chosen(order=2)), "order"),
        "settings: correction a string": (lambda: inpaint(settings=chosen(correction="DPS")), "correction"),
        "settings: correction a class": (lambda: inpaint(settings=chosen(correction=MMPS)), "correction"),
        "settings: twist a guide": (lambda: inpaint(settings=chosen(twist=MODEL)), "twist"),
        "settings: Wiener without a covariance": (lambda: inpaint(settings=chosen(correction=Wiener())), "covariance"),
        "preset: unknown": (lambda: inpaint(preset="picture"), "pictures"),
        "preset: empty": (lambda: inpaint(preset=""), "preset"),
        "preset: a list": (lambda: inpaint(preset=["pictures"]), "preset"),
        "preset: unknown, with settings": (lambda: inpaint(preset="best", settings=chosen()), "preset"),
        "settings: polyak 0": (lambda: inpaint(settings=chosen(polyak=0.0)), "polyak"),
        "settings: tau NaN": (lambda: inpaint(settings=chosen(tau_scale=NAN)), "tau"),
        "settings: gamma infinite": (lambda: inpaint(settings=chosen(gamma_logit=INF)), "gamma"),
        "settings: LPIPS of 8 pixels": (lambda: inpaint(settings=chosen(perceptual_weight=1.0)), "LPIPS"),
        "operator: a string": (lambda: restore(operator="deblur"), "operator"),
        "operator: None": (lambda: restore(operator=None), "operator"),
        "operator: the mask": (lambda: restore(operator=MASK), "operator"),
        "operator: a class": (lambda: restore(operator=vp.Inpainting), "operator"),
        "operator: a class without arguments": (lambda: restore(operator=vp.GaussianBlur), "operator"),
        "operator: a likelihood": (lambda: restore(operator=LIKELIHOOD), "operator"),
        "operator: a module": (lambda: restore(operator=Doubled()), "operator"),
        "operator: no adjoint": (lambda: restore(operator=SimpleNamespace(A=lambda x: x)), "adjoint"),
        "operator: A is a tensor": (lambda: restore(operator=Lambda(MASK, MASK)), "operator"),
        "operator: A raises": (lambda: restore(operator=Lambda(lambda x: 1 / 0, lambda y: y)), "operator"),
        "operator: A gives None": (lambda: restore(operator=Lambda(lambda x: None, lambda y: y)), "operator"),
        "operator: A gives NaN": (lambda: restore(operator=Lambda(lambda x: x * NAN, lambda y: y)), "operator"),
        "operator: A gives an array": (
            lambda: restore(operator=Lambda(lambda x: x.detach().numpy(), lambda y: y)), "operator",
        ),
        "operator: adjoint of another shape": (
            lambda: restore(ONE, Lambda(lambda x: x, lambda y: y[..., :4])), "adjoint|shape",
        ),
        "operator: adjoint of another map": (lambda: restore(ONE, Lambda(lambda x: x, lambda y: 2 * y)), "adjoint"),
        "operator: adjoint raises": (lambda: restore(ONE, Lambda(lambda x: x, lambda y: 1 / 0)), "adjoint"),
        "operator: not linear": (lambda: restore(ONE, Lambda(lambda x: x**2, lambda y: y)), "linear|adjoint"),
        "operator: affine": (lambda: restore(ONE, Lambda(lambda x: x + 1, lambda y: y)), "linear|adjoint"),
        "operator: random": (
            lambda: restore(ONE, Lambda(lambda x: x * torch.rand(1), lambda y: y)), "random|same|linear|adjoint",
        ),
        "operator: zero": (lambda: restore(0 * ONE, Lambda(lambda x: 0 * x, lambda y: 0 * y)), "zero|nothing"),
        "operator: for vectors": (lambda: restore(operator=models.Matrix(torch.ones(2, 5))), "operator"),
        "operator: a factor that does not divide": (lambda: restore(operator=vp.SuperResolution(3)), "divide"),
        "operator: a blur wider than the image": (lambda: restore(ONE, vp.GaussianBlur(std=NAN)), "std"),
        "y: of another shape": (lambda: restore(PAIR, vp.SuperResolution(2)), "shape"),
        "y: None": (lambda: restore(None), "observation"),
        "y: bytes": (lambda: restore((Y * 100).abs().byte()), "float"),
        "y: 0..255": (lambda: restore((Y + 1) * 127.5), r"\[-1, 1\]|noise"),
        "y: NaN where observed": (lambda: restore(spoilt(NAN)[None]), "NaN|finite|hid"),
        "y: NaN without a mask": (lambda: restore(spoilt(NAN)[None], vp.GaussianBlur(1.0)), "NaN|finite"),
        "y: three for two masks": (
            lambda: restore(torch.zeros(3, *SHAPE), vp.Inpainting(torch.stack([MASK, 1 - MASK]))), "mask",
        ),
        "likelihood: a number": (lambda: restore(likelihood=3), "likelihood"),
        "likelihood: a class": (lambda: restore(likelihood=vp.Gaussian), "likelihood"),
        "likelihood: of another operator": (
            lambda: restore(likelihood=vp.Gaussian(vp.GaussianBlur(1.0))), "operator|likelihood",
        ),
    }),
    *working({
        "image: double precision": (
            lambda: inpaint(IMAGE.double()), lambda r: torch.equal(r.samples, inpaint().samples),
        ),
        "image: an array, strides reversed": (
            lambda: inpaint(IMAGE.flip(-1).numpy()[..., ::-1]), lambda r: torch.equal(r.samples, inpaint().samples),
        ),
        "image: (H, W)": (lambda: inpaint(IMAGE[0]), lambda r: torch.equal(r.samples, inpaint().samples)),
        "image: NaN where hidden": (
            lambda: inpaint(torch.where(MASK == 1, IMAGE, NAN)), lambda r: torch.equal(r.samples, inpaint().samples),
        ),
        "image: infinite where hidden": (
            lambda: inpaint(torch.where(MASK == 1, IMAGE, INF)), lambda r: torch.equal(r.samples, inpaint().samples),
        ),
        "image: part of a graph": (
            lambda: inpaint(IMAGE.clone().requires_grad_()), lambda r: torch.equal(r.samples, inpaint().samples),
        ),
        "image: nested lists": (lambda: inpaint(IMAGE.tolist()), lambda r: torch.equal(r.samples, inpaint().samples)),
        "image: half precision": (lambda: inpaint(IMAGE.half()), lambda r: r.samples.isfinite().all()),
        "image: constant": (lambda: inpaint(torch.full(SHAPE, -1.0)), lambda r: r.samples.isfinite().all()),
        "mask: booleans": (lambda: inpaint(mask=MASK.bool()), lambda r: torch.equal(r.samples, inpaint().samples)),
        "mask: nested lists": (
            lambda: inpaint(mask=MASK[0].int().tolist()), lambda r: torch.equal(r.samples, inpaint().samples),
        ),
        "mask: one pixel observed": (
            lambda: inpaint(mask=spoilt(1.0)), lambda r: r.samples.isfinite().all(),
        ),
        "device: None, PyTorch's default": (
            lambda: inpaint(device=None), lambda r: torch.equal(r.samples, inpaint().samples),
        ),
        "samples: one": (lambda: inpaint(num_samples=1), lambda r: torch.equal(r.std, 0 * r.std)),
        "samples: a numpy number": (lambda: inpaint(num_samples=np.int64(2)), lambda r: len(r.samples) == 2),
        "levels: one": (lambda: inpaint(levels=1), lambda r: r.samples.shape == (2, 1, *SHAPE)),
        "seed: the largest": (lambda: inpaint(seed=2**64 - 1), lambda r: r.samples.isfinite().all()),
        "seed: the least": (lambda: inpaint(seed=-(2**63)), lambda r: r.samples.isfinite().all()),
        "below no_grad": (lambda: torch.no_grad()(inpaint)(), lambda r: torch.equal(r.samples, inpaint().samples)),
        "noise: 0": (lambda: inpaint(noise=0.0), lambda r: torch.equal(r.samples, inpaint().samples)),
        "operator: in double precision": (
            lambda: restore(operator=Lambda(lambda x: x.double() * MASK, lambda y: (y * MASK).float())),
            lambda r: r.samples.isfinite().all() and r.samples.abs().max() <= 1,
        ),
        "operator: an overlapping mask for each": (
            lambda: restore(PAIR, vp.Inpainting(torch.stack([MASK, 1 - MASK]))),
            lambda r: r.samples.shape == (2, 2, *SHAPE),
        ),
        "guide: Pyro's own": (
            lambda: inpaint(guide=lambda model, start: AutoNormal(model)), lambda r: r.samples.isfinite().all(),
        ),
        "a guide of high rank": (
            lambda: inpaint(guide=lambda model, start: LowRankGuide(model, start, rank=64)),
            lambda r: r.samples.isfinite().all(),
        ),
    }),
    *(replace(case, calls=1) for case in refused({  # the guide is made at the initial latent, which takes a call
        "callback: a number": (lambda: inpaint(callback=3), "callback"),
        "settings: rate of nothing": (lambda: inpaint(settings=chosen(lr={"nu": 0.1})), "nu"),
        "guide: a number": (lambda: inpaint(guide=3), "guide"),
        "guide: a guide, not its factory": (lambda: inpaint(guide=guide()), "guide"),
        "guide: a factory of nothing": (lambda: inpaint(guide=lambda model, start: None), "guide"),
        "guide: a factory of one argument": (lambda: inpaint(guide=lambda model: guide(model)), "guide"),
        "guide: for two images": (
            lambda: inpaint(guide=lambda model, start: HierarchicalGuide(model, torch.zeros(2, *SHAPE))), "images",
        ),
    })),
    *[
        Case("beta so large that the fit breaks", lambda _: inpaint(beta=1e38, steps=3, preset="pictures"), "step",
             error=NonFiniteError,
             calls=99),
        Case("rates so large that the last step overflows",
             lambda _: inpaint(settings=chosen(lr={"mu": 0.1, "tau": 1e36, "gamma": 0.1}), steps=1),
             "tau", error=NonFiniteError, calls=99),
        Case("inference mode", lambda _: torch.inference_mode()(inpaint)(), "inference_mode", calls=1),
    ],
]  # fmt: skip


# models


def fit_labelled(**condition: Any) -> Any:
    """A fit on a class-conditional network."""
    of = model(network_prior(), **condition)
    return fit(of, guide(of))


MODELS = [
    *refused({
        "model: keypoints ascend": (lambda: DiffusionModel(PLAIN, LIKELIHOOD, (0.2, 0.5)), "decrease"),
        "model: no keypoints": (lambda: DiffusionModel(PLAIN, LIKELIHOOD, ()), "keypoint"),
        "model: keypoint 0": (lambda: DiffusionModel(PLAIN, LIKELIHOOD, (0.5, 0.0)), "keypoint"),
        "model: keypoint NaN": (lambda: DiffusionModel(PLAIN, LIKELIHOOD, (0.5, NAN)), "keypoint"),
        "model: keypoints a string": (lambda: DiffusionModel(PLAIN, LIKELIHOOD, bad or "ab"), "keypoint"),
        "model: keypoints a number": (lambda: DiffusionModel(PLAIN, LIKELIHOOD, bad or 0.5), "keypoint"),
        "model: no prior": (lambda: DiffusionModel(bad, LIKELIHOOD, KEYPOINTS), "prior"),
        "model: a name for the prior": (lambda: DiffusionModel(bad or "plain", LIKELIHOOD, KEYPOINTS), "prior"),
        "model: no likelihood": (lambda: DiffusionModel(PLAIN, bad, KEYPOINTS), "likelihood"),
        "model: an operator for the likelihood": (lambda: model(likelihood=OPERATOR), "likelihood"),
        "model: a class for the likelihood": (lambda: model(likelihood=vp.Gaussian), "likelihood"),
        "model: a likelihood of a tensor": (lambda: model(likelihood=lambda x: x), "likelihood|distribution"),
        "model: a likelihood that raises": (lambda: model(likelihood=lambda x: 1 / 0), "likelihood"),
        "model: a likelihood of another size": (
            lambda: model(likelihood=vp.Gaussian(models.Matrix(torch.ones(2, 5)))), "operator|shape|likelihood",
        ),
        "model: a mask of another size": (
            lambda: model(likelihood=vp.Gaussian(vp.Inpainting(torch.eye(5)))), "mask|operator|shape",
        ),
        "model: y of bytes": (lambda: fit(y=(Y * 100).abs().byte()), "float|uint8"),
        "model: label 99": (lambda: fit_labelled(class_labels=torch.tensor([99])), "label|class"),
        "model: label -1": (lambda: fit_labelled(class_labels=torch.tensor([-1])), "label|class"),
        "model: label an int": (lambda: fit_labelled(class_labels=3), "label|class"),
        "model: label a float": (lambda: fit_labelled(class_labels=torch.tensor([1.0])), "label|class"),
        "model: label 10": (lambda: fit_labelled(class_labels=torch.tensor([4])), "label|class"),
        "model: a list of labels": (lambda: fit_labelled(class_labels=[1]), "label|class"),
        "model: three labels for one image": (
            lambda: fit_labelled(class_labels=torch.tensor([1, 2, 3])), "label|class|condition|images",
        ),
        "model: labels on the meta device": (
            lambda: fit_labelled(class_labels=torch.tensor([1], device="meta")), "label|class|device",
        ),
        "model: condition labels": (lambda: model(network_prior(), labels=torch.tensor([1])), "labels"),
        "model: condition label": (lambda: model(network_prior(), label=1), "label"),
        "model: guidance NaN": (
            lambda: model(network_prior(), class_labels=torch.tensor([1]), guidance_scale=NAN), "guid",
        ),
        "model: guidance negative": (
            lambda: model(network_prior(), class_labels=torch.tensor([1]), guidance_scale=-2.0), "guid",
        ),
        "model: three masks for two images": (
            lambda: model(likelihood=vp.Gaussian(vp.Inpainting(MASK.repeat(3, 1, 1, 1))))(num_images=2), "mask|images",
        ),
        "model: num_images 0": (lambda: MODEL(num_images=0), "images"),
        "model: num_images -2": (lambda: MODEL(num_images=-2), "images"),
        "model: num_images 1.5": (lambda: MODEL(num_images=bad or 1.5), "images"),
        "model: y a list": (lambda: MODEL(bad or Y.tolist()), "y|tensor"),
        "prior: sigma_data NaN": (lambda: replace(PLAIN, sigma_data=NAN), "sigma_data"),
        "prior: sigma_data negative": (lambda: replace(PLAIN, sigma_data=-1.0), "sigma_data"),
        "prior: sigma_data a string": (lambda: replace(PLAIN, sigma_data="0.5"), "sigma_data"),
        "keypoints: levels 0": (lambda: vp.keypoints(PLAIN, levels=0), "levels"),
        "keypoints: levels 2.5": (lambda: vp.keypoints(PLAIN, levels=bad or 2.5), "levels"),
        "keypoints: start is stop": (lambda: vp.keypoints(PLAIN, 0.4, 0.4), "decrease"),
        "keypoints: start 1.2": (lambda: vp.keypoints(PLAIN, 1.2), "\\(0, 1\\]|0 and 1"),
        "keypoints: start NaN": (lambda: vp.keypoints(PLAIN, NAN), "0 and 1|start|finite"),
        "keypoints: start a string": (lambda: vp.keypoints(PLAIN, bad or "0.5"), "start"),
        "keypoints: level NaN": (lambda: vp.keypoints(PLAIN, noise_levels=[5.0, NAN]), "level|range"),
        "keypoints: levels ascend": (lambda: vp.keypoints(PLAIN, noise_levels=[0.5, 5.0]), "decrease"),
        "keypoints: a level as a string": (lambda: vp.keypoints(PLAIN, noise_levels=bad or ["5", "1"]), "level"),
        "EDM: rho NaN": (lambda: models.EDM(rho=NAN), "rho"),
        "EDM: rho 0": (lambda: models.EDM(rho=0.0), "rho"),
        "EDM: rho negative": (lambda: models.EDM(rho=-7.0), "rho"),
        "EDM: sigma_min over sigma_max": (lambda: models.EDM(2.0, 1.0), "sigma"),
        "EDM: sigma_max infinite": (lambda: models.EDM(sigma_max=INF), "sigma"),
        "RectifiedFlow: shift 0": (lambda: models.RectifiedFlow(0.0), "shift"),
        "RectifiedFlow: shift NaN": (lambda: models.RectifiedFlow(NAN), "shift"),
        "LinearVP: beta_max NaN": (lambda: models.LinearVP(beta_max=NAN), "beta"),
        "TableVP: ascends": (lambda: models.TableVP([0.1, 0.9]), "alphas_cumprod"),
        "TableVP: NaN": (lambda: models.TableVP([0.9, NAN]), "alphas_cumprod"),
        "TableVP: above one": (lambda: models.TableVP([1.5, 0.5]), "alphas_cumprod"),
        "TableVP: empty": (lambda: models.TableVP([]), "alphas_cumprod"),
        "TableVP: strings": (lambda: models.TableVP(bad or ["a"]), "alphas_cumprod"),
        "GaussianPrior: std 0": (lambda: GaussianPrior.diagonal(torch.zeros(4), torch.zeros(4)), "positive|std"),
        "GaussianPrior: std NaN": (
            lambda: GaussianPrior.diagonal(torch.zeros(4), torch.full((4,), NAN)), "std|positive",
        ),
        "GaussianPrior: std of another shape": (
            lambda: GaussianPrior.diagonal(torch.zeros(4), torch.ones(3)), "std|shape|broadcast",
        ),
        "GaussianPrior: mean NaN": (
            lambda: GaussianPrior.diagonal(torch.full((4,), NAN), torch.ones(4)), "mean|finite",
        ),
        "GaussianPrior: covariance not positive": (
            lambda: GaussianPrior.full(torch.zeros(2), -torch.eye(2)), "positive",
        ),
        "GaussianPrior: covariance NaN": (
            lambda: GaussianPrior.full(torch.zeros(2), torch.full((2, 2), NAN)), "covariance|positive",
        ),
        "GaussianPrior: covariance not square": (
            lambda: GaussianPrior.full(torch.zeros(2), torch.ones(2, 3)), "covariance",
        ),
        "MatchedPrior: no prior": (lambda: models.MatchedPrior(bad, {0.5: 0.1}), "prior"),
        "MatchedPrior: no errors": (lambda: models.MatchedPrior(PLAIN, bad), "errors"),
        "MatchedPrior: a time that is a text": (lambda: models.MatchedPrior(PLAIN, bad or {"a": 0.1}), "time"),
        "MatchedPrior: an error of another shape": (lambda: models.MatchedPrior(PLAIN, {0.5: torch.ones(7)}), "errors"),
        "denoising_errors: no prior": (lambda: models.denoising_errors(bad, torch.ones(2, 4), [0.5]), "prior"),
        "denoising_errors: no images": (lambda: models.denoising_errors(PLAIN, bad, [0.5]), "images"),
        "denoising_errors: a time above 1": (
            lambda: models.denoising_errors(PLAIN, torch.zeros(2, *PLAIN.event_shape), [1.5]), "time",
        ),
        "GaussianMixturePrior: weight 0": (
            lambda: GaussianMixturePrior.diagonal(torch.zeros(2), torch.zeros(2, 4), 1.0), "weight",
        ),
        "GaussianMixturePrior: weight NaN": (
            lambda: GaussianMixturePrior.diagonal(torch.full((2,), NAN), torch.zeros(2, 4), 1.0), "weight",
        ),
        "GaussianMixturePrior: three weights for two": (
            lambda: GaussianMixturePrior.diagonal(torch.ones(3), torch.zeros(2, 4), 1.0), "weight",
        ),
        "EmpiricalPrior: no images": (lambda: EmpiricalPrior(torch.zeros(0, 4)), "image"),
        "EmpiricalPrior: bytes": (lambda: EmpiricalPrior(torch.zeros(3, 4, dtype=torch.uint8)), "float"),
        "EmpiricalPrior: NaN": (lambda: EmpiricalPrior(torch.full((3, 4), NAN)), "finite|NaN"),
        "EmpiricalPrior: weight NaN": (lambda: EmpiricalPrior(torch.eye(3), torch.full((3,), NAN)), "weight"),
        "EmpiricalPrior: batch_size 0": (lambda: EmpiricalPrior(torch.eye(3), batch_size=0), "batch"),
        "Gaussian: sigma 0": (lambda: vp.Gaussian(OPERATOR, 0.0), "sigma"),
        "Gaussian: sigma NaN": (lambda: vp.Gaussian(OPERATOR, NAN), "sigma"),
        "Gaussian: sigma a string": (lambda: vp.Gaussian(OPERATOR, bad or "0.1"), "sigma"),
        "Gaussian: a map with a zero": (lambda: vp.Gaussian(OPERATOR, spoilt(1.0)), "sigma"),
        "Gaussian: a map with NaN": (lambda: vp.Gaussian(OPERATOR, spoilt(NAN) + 1), "sigma"),
        "Gaussian: a negative map": (lambda: vp.Gaussian(OPERATOR, spoilt(0.0) - 1), "sigma"),
        "Laplace: scale -1": (lambda: vp.Laplace(OPERATOR, -1.0), "scale"),
        "Laplace: scale infinite": (lambda: vp.Laplace(OPERATOR, INF), "scale"),
        "Perceptual: weight -1": (lambda: vp.Perceptual(OPERATOR, 0.2, -1.0), "weight"),
        "Poisson: gain 0": (lambda: vp.Poisson(OPERATOR, gain=0.0), "gain"),
        "Poisson: gain NaN": (lambda: vp.Poisson(OPERATOR, gain=NAN), "gain"),
        "Poisson: negative counts": (
            lambda: fit(model(likelihood=vp.Poisson(OPERATOR, gain=10.0)),
             guide(model(likelihood=vp.Poisson(OPERATOR, gain=10.0))), y=-5 * ONE.abs()),
            "count|negative|another model",
        ),
        "Inpainting: 255": (lambda: vp.Inpainting(255 * MASK), "255|0"),
        "Inpainting: soft": (lambda: vp.Inpainting(MASK / 2), "sigma|0"),
        "Inpainting: -1": (lambda: vp.Inpainting(-MASK), "0"),
        "Inpainting: NaN": (lambda: vp.Inpainting(MASK * NAN), "0"),
        "Inpainting: None": (lambda: vp.Inpainting(bad), "mask"),
        "Inpainting: a list": (lambda: vp.Inpainting(bad or [[1.0, 0.0]]), "mask|tensor"),
        "SuperResolution: factor 1": (lambda: vp.SuperResolution(1), "factor"),
        "SuperResolution: factor 2.0": (lambda: vp.SuperResolution(bad or 2.0), "factor"),
        "SuperResolution: mode": (lambda: vp.SuperResolution(2, bad or "lanczos"), "mode"),
        "GaussianBlur: std 0": (lambda: vp.GaussianBlur(0.0), "std"),
        "GaussianBlur: kernel even": (lambda: vp.GaussianBlur(1.0, 4), "odd"),
        "GaussianBlur: std 1e9": (lambda: vp.GaussianBlur(1e9).A(ONE), "std|kernel|wide"),
        "MotionBlur: length 0": (lambda: vp.MotionBlur(0), "length"),
        "MotionBlur: angle NaN": (lambda: vp.MotionBlur(3, NAN), "angle"),
        "MotionBlur: length a million": (lambda: vp.MotionBlur(10**6).A(ONE), "length"),
        "Matrix: a vector": (lambda: models.Matrix(torch.ones(3)), "matrix"),
        "Matrix: NaN": (lambda: models.Matrix(torch.full((2, 2), NAN)), "matrix|finite"),
        "Compose: a string": (lambda: vp.Compose(bad or "blur", OPERATOR), "operator"),
        "load_prior: None": (lambda: load_prior(bad), "prior|name"),
        "load_prior: 123": (lambda: load_prior(bad or 123), "prior|name"),
        "load_prior: empty": (lambda: load_prior(""), "prior|name"),
        "load_prior: a network": (lambda: load_prior(bad or nn.Identity()), "from_diffusers"),
        "load_prior: a hub id without a hub": (lambda: load_prior("nobody/nothing"), "hub|folder"),
        "load_prior: a dtype that is none": (lambda: load_prior("fashion32", dtype=bad or "float16"), "dtype"),
        "load_prior: a dtype of integers": (lambda: load_prior("fashion32", dtype=torch.int64), "dtype"),
        "load_prior: a device that is none": (lambda: load_prior("fashion32", device="abacus"), "device"),
        "from_diffusers: None": (lambda: models.from_diffusers(None), "pipeline"),
        "from_diffusers: a network": (lambda: models.from_diffusers(nn.Identity()), "pipeline"),
        "from_diffusers: a class": (lambda: models.from_diffusers(dict), "pipeline"),
        "from_diffusers: no scheduler": (
            lambda: models.from_diffusers(SimpleNamespace(unet=network_prior().denoiser.network.network.module)),  # type: ignore[attr-defined]
            "scheduler",
        ),
        "denoise: label 99": (
            lambda: network_prior().denoise(torch.zeros(1, *SHAPE), 0.5, class_labels=torch.tensor([99])),
             "label|class",
        ),
        "denoise: condition unknown": (
            lambda: network_prior().denoise(torch.zeros(1, *SHAPE), 0.5, labels=torch.tensor([1])), "labels",
        ),
        "check_operator: adjoint of another map": (
            lambda: vp.check_operator(Lambda(lambda x: x, lambda y: 2 * y), SHAPE), "adjoint",
        ),
        "check_operator: not linear": (
            lambda: vp.check_operator(Lambda(torch.tanh, lambda y: y), SHAPE), "linear|adjoint",
        ),
        "check_operator: affine": (
            lambda: vp.check_operator(Lambda(lambda x: x + 1, lambda y: y), SHAPE), "linear|A\\(0\\)",
        ),
        "check_operator: NaN": (lambda: vp.check_operator(Lambda(lambda x: x * NAN, lambda y: y), SHAPE), "finite|NaN"),
        "masks: size 0": (lambda: models.box(0), "size"),
        "masks: size -1": (lambda: models.random_large(-1), "size"),
        "masks: number -1": (lambda: models.rotated_window(8, -1), "num"),
        "masks: seed -1": (lambda: models.rotated_window(8, 1, -1), "seed"),
    }),
    *(replace(case, calls=2) for case in refused({
        "model: no label": (lambda: fit_labelled(), "label"),
        "model: y without its first dimension": (lambda: MODEL(Y[0]), "shape"),
    })),
    *working({
        "Inpainting: booleans": (lambda: vp.Inpainting(MASK.bool()).A(ONE), lambda y: torch.equal(y, ONE * MASK)),
        "Gaussian: a noise map": (
            lambda: vp.Gaussian(OPERATOR, torch.full(SHAPE, 0.1))(ONE).log_prob(Y),
            lambda p: torch.allclose(p, LIKELIHOOD(ONE).log_prob(Y)),
        ),
        "TableVP: zero terminal": (
            lambda: models.TableVP([0.9, 0.5, 0.0]), lambda s: all(v.isfinite().all() for v in s(torch.tensor([0.0,
             1.0]))),
        ),
        "check_operator: a blur": (lambda: vp.check_operator(vp.GaussianBlur(1.0), SHAPE), lambda r: True),
        "check_operator: a composition": (
            lambda: vp.check_operator(vp.Compose(vp.SuperResolution(2), vp.MotionBlur(3, 30.0)), SHAPE), lambda r: True,
        ),
        "the prior predictive of two images": (lambda: MODEL(num_images=2), lambda y: y.shape == (2, *SHAPE)),
        "MotionBlur: longer than the image": (
            lambda: vp.MotionBlur(20).A(torch.ones(1, *SHAPE)), lambda y: torch.allclose(y, torch.ones(1, *SHAPE)),
        ),
        "Matrix: not square": (
            lambda: models.Matrix(torch.ones(2, 5)).A_dagger(torch.ones(2)), lambda x: torch.allclose(x,
             torch.full((5,), 0.2)),
        ),
        "load_prior: a path object": (lambda: load_prior(models.pretrained.load.weights_folder() / "fashion32"),
                                      lambda p: p.event_shape == (1, 32, 32)),
    }),
]  # fmt: skip


# guides, ELBOs, fit, sample, refine


def plain_model(y: Any = None) -> Any:
    return pyro.sample("y", pyro.distributions.Normal(0.0, 1.0), obs=None if y is None else y.mean())


@dataclass
class Flat:
    """An object that is no ELBO."""

    loss: float = 0.0


def beta_site(name: str) -> Any:
    return vp.BetaELBO(beta={name: 2.0})


INFERENCE = [
    *refused({
        "fit: no model": (lambda: fit(bad or 3), "model"),
        "fit: no guide": (lambda: vp.fit(MODEL, bad, Y, vp.BetaELBO()), "guide"),
        "fit: a class of guides": (lambda: fit(by=HierarchicalGuide), "guide|class"),
        "fit: a class of ELBOs": (lambda: fit(elbo=vp.BetaELBO), "ELBO|class"),
        "fit: Pyro's class of ELBOs": (lambda: fit(elbo=Trace_ELBO), "ELBO|class"),
        "fit: no ELBO": (lambda: fit(elbo=Flat()), "ELBO|loss"),
        "fit: a string for the ELBO": (lambda: fit(elbo="beta"), "ELBO|loss"),
        "fit: model and guide swapped": (lambda: vp.fit(guide(), bad or MODEL, Y, vp.BetaELBO()), "guide|swap|model"),
        "fit: model twice": (lambda: fit(by=MODEL), "guide"),
        "fit: the prior for the model": (lambda: fit(PLAIN), "model"),
        "fit: a guide of another model": (lambda: fit(model()), "model"),
        "fit: a plain function for the model": (lambda: fit(plain_model), "model"),
        "fit: a plain function for the guide": (lambda: fit(by=lambda y: None), "guide|param"),
        "fit: no y": (lambda: vp.fit(MODEL, guide(), bad, vp.BetaELBO()), "y"),
        "fit: y an array": (lambda: fit(y=Y.numpy()), "y|tensor"),
        "fit: y whole numbers": (lambda: fit(y=Y.long()), "float|int64"),
        "fit: y booleans": (lambda: fit(y=Y > 0), "float|bool"),
        "fit: y complex": (lambda: fit(y=Y.to(torch.complex64)), "float|complex"),
        "fit: y 0..255": (lambda: fit(y=(Y + 1) * 127.5), r"\[-1, 1\]|units|range"),
        "fit: y NaN": (lambda: fit(y=spoilt(NAN)[None]), "NaN|finite"),
        "fit: y infinite": (lambda: fit(y=spoilt(INF)[None]), "finite"),
        "fit: y of another shape": (lambda: fit(y=torch.zeros(1, 1, 7, 8)), "shape"),
        "fit: y without images": (lambda: fit(y=torch.zeros(0, *SHAPE)), "image|shape|observation"),
        "fit: y one dimension short": (lambda: fit(y=Y[0]), "shape"),
        "fit: y of two images": (lambda: fit(y=PAIR), "image"),
        "fit: y on the meta device": (lambda: fit(y=Y.to("meta")), "device|meta"),
        "fit: steps 0": (lambda: fit(steps=0), "steps"),
        "fit: steps True": (lambda: fit(steps=True), "steps"),
        "fit: steps 1e9 as a float": (lambda: fit(steps=1e9), "steps"),
        "fit: lr negative": (lambda: fit(lr=-0.1), "lr"),
        "fit: lr NaN": (lambda: fit(lr=NAN), "lr"),
        "fit: lr 1e38": (lambda: fit(lr=1e38), "lr"),
        "fit: lr infinite": (lambda: fit(lr=INF), "lr"),
        "fit: lr True": (lambda: fit(lr=True), "lr"),
        "fit: lr a string": (lambda: fit(lr="0.1"), "lr"),
        "fit: lr of an unknown kind": (lambda: fit(lr={"mu": 0.1, "tau": 0.1, "gamma": 0.1, "nu": 0.1}), "nu"),
        "fit: lr of too few kinds": (lambda: fit(lr={"mu": 0.1}), "gamma|tau"),
        "fit: lr_decay 0": (lambda: fit(lr_decay=0.0), "decay"),
        "fit: lr_decay NaN": (lambda: fit(lr_decay=NAN), "decay"),
        "fit: average 3 of 2": (lambda: fit(average=3), "average"),
        "fit: seed 0.5": (lambda: fit(seed=0.5), "seed"),
        "fit: seed True": (lambda: fit(seed=True), "seed"),
        "fit: seed too large": (lambda: fit(seed=2**64), "seed"),
        "fit: resume a number": (lambda: fit(resume=3), "resume|fit"),
        "fit: callback a number": (lambda: fit(callback=3), "callback"),
        "BetaELBO: beta 0": (lambda: vp.BetaELBO(0.0), "positive"),
        "BetaELBO: beta NaN": (lambda: vp.BetaELBO(NAN), "positive|finite"),
        "BetaELBO: beta negative": (lambda: vp.BetaELBO(-1.0), "positive"),
        "BetaELBO: beta a string": (lambda: vp.BetaELBO(bad or "1"), "positive|beta"),
        "BetaELBO: beta True": (lambda: vp.BetaELBO(True), "positive|beta"),
        "BetaELBO: beta a list": (lambda: vp.BetaELBO(bad or [1.0]), "beta"),
        "BetaELBO: beta NaN at a site": (lambda: vp.BetaELBO({"z_1": NAN}), "positive|finite"),
        "BetaELBO: particles 0": (lambda: vp.BetaELBO(num_particles=0), "particles"),
        "BetaELBO: particles 1.5": (lambda: vp.BetaELBO(num_particles=bad or 1.5), "particles"),
        "BetaELBO: particles True": (lambda: vp.BetaELBO(num_particles=True), "particles"),
        "RenyiELBO: alpha 1": (lambda: vp.RenyiELBO(1.0), "alpha"),
        "RenyiELBO: alpha NaN": (lambda: vp.RenyiELBO(NAN), "alpha"),
        "RenyiELBO: alpha infinite": (lambda: vp.RenyiELBO(INF), "alpha"),
        "RenyiELBO: alpha a string": (lambda: vp.RenyiELBO(bad or "0"), "alpha"),
        "SampledELBO: particles 0": (lambda: vp.SampledELBO(num_particles=0), "particles"),
        "AnnealedELBO: steps 1": (lambda: vp.AnnealedELBO(2.0, steps=1), "steps"),
        "AnnealedELBO: start 0": (lambda: vp.AnnealedELBO(0.0, steps=5), "start"),
        "AnnealedELBO: stop NaN": (lambda: vp.AnnealedELBO(2.0, NAN, steps=5), "stop"),
        "guide: of no model": (lambda: HierarchicalGuide(bad), "model"),
        "guide: of a prior": (lambda: HierarchicalGuide(bad or PLAIN), "model"),
        "guide: init of another shape": (lambda: HierarchicalGuide(MODEL, torch.zeros(1, 1, 8, 9)), "shape"),
        "guide: init one dimension short": (lambda: HierarchicalGuide(MODEL, torch.zeros(SHAPE)), "shape"),
        "guide: init without images": (lambda: HierarchicalGuide(MODEL, torch.zeros(0, *SHAPE)), "shape|image|rows"),
        "guide: init NaN": (lambda: HierarchicalGuide(MODEL, spoilt(NAN)[None]), "finite|NaN"),
        "guide: init whole numbers": (
            lambda: HierarchicalGuide(MODEL, torch.zeros(1, *SHAPE, dtype=torch.int64)), "float",
        ),
        "guide: init a list": (lambda: HierarchicalGuide(MODEL, bad or [0.0]), "init|tensor"),
        "guide: tau 0": (lambda: guide(tau_scale=0.0), "tau"),
        "guide: tau NaN": (lambda: MeanFieldGuide(MODEL, tau_scale=NAN), "tau"),
        "guide: gamma NaN": (lambda: guide(gamma_logit=NAN), "gamma"),
        "guide: granularity": (lambda: guide(gamma="pixel"), "element"),
        "guide: rank 0": (lambda: LowRankGuide(MODEL, rank=0), "rank"),
        "guide: rank 2.5": (lambda: LowRankGuide(MODEL, rank=bad or 2.5), "rank"),
        "guide: components 0": (lambda: MixtureGuide(MODEL, num_components=0), "components"),
        "guide: spread NaN": (lambda: MixtureGuide(MODEL, spread=NAN), "spread"),
        "guide: couplings -1": (lambda: FlowGuide(MODEL, num_couplings=-1), "couplings"),
        "guide: width 0": (lambda: FlowGuide(MODEL, width=0), "width"),
        "sample: of a model": (lambda: vp.sample(MODEL, Y), "guide"),
        "sample: of a class": (lambda: vp.sample(HierarchicalGuide, Y), "guide"),
        "sample: of a number": (lambda: vp.sample(3, Y), "guide"),
        "sample: samples 0": (lambda: vp.sample(guide(), Y, 0), "samples"),
        "sample: samples 2.5": (lambda: vp.sample(guide(), Y, bad or 2.5), "samples"),
        "sample: samples True": (lambda: vp.sample(guide(), Y, True), "samples"),
        "sample: seed a string": (lambda: vp.sample(guide(), Y, seed=bad or "0"), "seed"),
        "sample: y of two images": (lambda: vp.sample(guide(), PAIR), "image"),
        "sample: y None": (lambda: vp.sample(guide(), bad), "y"),
        "initial_latent: y NaN": (lambda: vp.initial_latent(PLAIN, LIKELIHOOD, spoilt(NAN)[None]), "NaN|finite"),
        "initial_latent: y bytes": (lambda: vp.initial_latent(PLAIN, LIKELIHOOD, Y.abs().byte()), "float|uint8"),
        "initial_latent: a likelihood without operator": (
            lambda: vp.initial_latent(PLAIN, lambda x: LIKELIHOOD(x), Y), "operator|likelihood",
        ),
        "refine: z of three images": (lambda: refine(torch.zeros(2, 3, *SHAPE)), "image|shape"),
        "refine: z without samples": (lambda: refine(torch.zeros(1, *SHAPE)), "z|shape"),
        "refine: z of another event": (lambda: refine(torch.zeros(2, 1, 1, 8, 9)), "z|shape"),
        "refine: z NaN": (lambda: refine(torch.full((2, 1, *SHAPE), NAN)), "finite|NaN"),
        "refine: z None": (lambda: vp.refine(MODEL, bad, Y), "z"),
        "refine: z whole numbers": (lambda: refine(torch.zeros(2, 1, *SHAPE, dtype=torch.int64)), "float|z"),
        "refine: y NaN": (lambda: refine(y=spoilt(NAN)[None]), "NaN|finite"),
        "refine: y bytes": (lambda: refine(y=Y.abs().byte()), "float|uint8"),
        "refine: y 0..255": (lambda: refine(y=(Y + 1) * 127.5), r"\[-1, 1\]|units|range"),
        "refine: y of another shape": (lambda: refine(y=Y[..., :4]), "shape"),
        "refine: y None": (lambda: vp.refine(MODEL, torch.zeros(2, 1, *SHAPE), bad), "y"),
        "refine: steps 0": (lambda: refine(steps=0), "steps"),
        "refine: steps 2.5": (lambda: refine(steps=2.5), "steps"),
        "refine: zeta NaN": (lambda: refine(zeta=NAN), "zeta"),
        "refine: zeta negative": (lambda: refine(zeta=-1.0), "zeta"),
        "refine: zeta infinite": (lambda: refine(zeta=INF), "zeta"),
        "refine: zeta a string": (lambda: refine(zeta="1"), "zeta"),
        "refine: zeta_decay NaN": (lambda: refine(zeta_decay=NAN), "decay"),
        "refine: polyak 0": (lambda: refine(polyak=0.0), "polyak"),
        "refine: guidance NaN": (lambda: refine(guidance_scale=NAN), "guid"),
        "refine: guidance negative": (lambda: refine(guidance_scale=-1.0), "guid"),
        "refine: seed too large": (lambda: refine(seed=2**64), "seed"),
        "refine: a guide for the model": (lambda: refine(of=guide()), "model"),
        "refine: a likelihood without operator": (
            lambda: refine(of=model(likelihood=lambda x: LIKELIHOOD(x))), "operator|likelihood",
        ),
        "refine: inference mode": (lambda: torch.inference_mode()(refine)(), "inference_mode"),
    }),
    *(replace(case, calls=2) for case in refused({
        "BetaELBO: beta of no site": (lambda: fit(elbo=beta_site("z_9")), "z_9"),
        "BetaELBO: a schedule of NaN": (lambda: fit(elbo=vp.BetaELBO(lambda step: NAN)), "positive|finite"),
        "BetaELBO: a schedule of nothing": (lambda: fit(elbo=vp.BetaELBO(lambda step: bad)), "positive|beta"),
    })),
    *working({
        "a step of a frozen guide (lr 0)": (lambda: fit(lr=0.0), lambda f: len(f.losses) == 2),
        "fit below no_grad": (lambda: torch.no_grad()(fit)(), lambda f: len(f.losses) == 2),
        "fit: NaN where hidden": (
            lambda: (fit(y=torch.where(MASK == 1, ONE, NAN), seed=0).losses, fit(seed=0).losses),
             lambda p: p[0] == p[1],
        ),
        "sample: one draw": (lambda: vp.sample(guide(), Y, 1), lambda z: z.shape == (1, 1, *SHAPE)),
        "refine: one step": (lambda: refine(steps=1), lambda x: x.isfinite().all() and x.abs().max() <= 1),
        "refine: zeta 1e38, whose steps are limited": (
            lambda: refine(zeta=1e38, steps=5), lambda x: x.isfinite().all() and x.abs().max() <= 1,
        ),
        "refine: zeta 0": (lambda: refine(zeta=0.0), lambda x: x.isfinite().all()),
        "a deep copy of a guide": (lambda: copy.deepcopy(guide()), lambda g: len(list(g.parameters())) == 5),
    }),
    *[
        Case("fit: lr 1e30", lambda _: fit(lr=1e30), "lr|rate|step|finite", error=NonFiniteError, calls=99),
        Case("fit: lr 1e36, one step", lambda _: fit(lr=1e36, steps=1), "mu|tau|gamma|rate", error=NonFiniteError,
             calls=99),
        Case("fit: lr 1e36, averaged", lambda _: fit(lr=1e36, steps=1, average=1), "mu|tau|gamma|rate",
             error=NonFiniteError, calls=99),
    ],
]  # fmt: skip


# baselines, compare

LATENT_ONLY = ("psld", "resample")
NAMES = (
    "blended", "copaint", "copaint_tt", "daps", "ddsmc", "ding", "dps", "mgdm", "pi_gdm", "psld", "red_diff", "repaint",
    "resample",
)  # fmt: skip
NUMBERS: dict[str, tuple[str, ...]] = {
    "blended": ("eta",),
    "copaint": ("lr", "growth", "regularisation"),
    "copaint_tt": ("lr",),
    "daps": ("spread",),
    "ddsmc": ("eta", "share"),
    "ding": ("shift",),
    "dps": ("zeta",),
    "mgdm": ("lr",),
    "pi_gdm": ("eta",),
    "psld": ("omega", "gamma"),
    "red_diff": ("lr", "weight"),
    "resample": ("zeta", "variance_factor", "pixel_lr", "latent_lr"),
}


def method(name: str, y: Any = Y, likelihood: Any = LIKELIHOOD, samples: Any = 2, steps: Any = 3, **named: Any) -> Any:
    """A short run of a baseline."""
    prior = named.pop("prior", LATENT if name in LATENT_ONLY else PLAIN)
    return getattr(baselines, name)(prior, likelihood, y, samples, steps, **named)


def labelled_for(name: str) -> Any:
    """A class-conditional network of the kind that the baseline takes."""
    return replace(network_prior(), codec=Halved()) if name in LATENT_ONLY else network_prior()


def of_method(name: str) -> dict[str, Any]:
    """What every baseline must refuse."""
    table: dict[str, Any] = {
        f"{name}: y NaN": (lambda: method(name, spoilt(NAN)[None]), "NaN|finite"),
        f"{name}: y bytes": (lambda: method(name, (Y * 100).abs().byte()), "float|uint8"),
        f"{name}: y 0..255": (lambda: method(name, (Y + 1) * 127.5), r"\[-1, 1\]|units|range"),
        f"{name}: y of another shape": (lambda: method(name, Y[..., :4]), "shape|mask"),
        f"{name}: y None": (lambda: method(name, None), "y|observation"),
        f"{name}: samples 0": (lambda: method(name, samples=0), "samples"),
        f"{name}: samples 2.5": (lambda: method(name, samples=2.5), "samples"),
        f"{name}: steps 0": (lambda: method(name, steps=0), "steps"),
        f"{name}: steps a string": (lambda: method(name, steps="9"), "steps"),
        f"{name}: no likelihood": (lambda: method(name, likelihood=None), "likelihood"),
        f"{name}: seed 0.5": (lambda: method(name, seed=0.5), "seed"),
        f"{name}: an unknown condition": (
            lambda: method(name, prior=labelled_for(name), class_labels=torch.tensor([1]), zetta=1.0),
            "zetta",
        ),
        f"{name}: label 99": (
            lambda: method(name, prior=labelled_for(name), class_labels=torch.tensor([99])),
            "label|class",
        ),
    }
    for number in NUMBERS.get(name, ()):
        table[f"{name}: {number} NaN"] = (lambda number=number: method(name, **{number: NAN}), number)
    for number in NUMBERS.get(name, ())[:1]:
        table[f"{name}: {number} negative"] = (lambda number=number: method(name, **{number: -1.0}), number)
    return table


def compare(guides: Any = None, elbos: Any = None, y: Any = Y, **named: Any) -> Any:
    """A short comparison."""
    guides = {"mean field": MeanFieldGuide} if guides is None else guides
    named = {"steps": 2, "num_draws": 20, **named}
    return vp.compare(named.pop("of", MODEL), guides, {"ELBO": vp.BetaELBO()} if elbos is None else elbos, y, **named)


METHODS = [
    *(case for name in NAMES for case in refused(of_method(name))),
    *refused({
        "psld: a pixel prior": (lambda: method("psld", prior=PLAIN), "latent"),
        "pi_gdm: a latent prior": (lambda: method("pi_gdm", prior=LATENT), "pixel"),
        "daps: a latent prior": (lambda: method("daps", prior=LATENT), "pixel"),
        "ddsmc: a latent prior": (lambda: method("ddsmc", prior=LATENT), "pixel"),
        "ddsmc: a blur": (lambda: method("ddsmc", likelihood=vp.Gaussian(vp.GaussianBlur(1.0))), "mask"),
        "ddsmc: fewer particles than samples": (lambda: method("ddsmc", num_particles=1), "num_particles"),
        "ding: a latent prior": (lambda: method("ding", prior=LATENT), "pixel"),
        "ding: delayed a number": (lambda: method("ding", delayed=1), "delayed"),
        "mgdm: gradient steps 0": (lambda: method("mgdm", gradient_steps=0), "gradient"),
        "repaint: a blur": (lambda: method("repaint", likelihood=vp.Gaussian(vp.GaussianBlur(1.0))), "mask"),
        "repaint: jumps 0": (lambda: method("repaint", jump_length=0), "jump"),
        "repaint: resamples 1.5": (lambda: method("repaint", resamples=1.5), "resamples"),
        "copaint: gradient steps -1": (lambda: method("copaint", gradient_steps=-1), "gradient"),
        "resample: iterations -1": (lambda: method("resample", pixel_iterations=-1), "iterations"),
        "red_diff: betas 2": (lambda: method("red_diff", betas=(2.0, 2.0)), "beta"),
        "dps: below inference mode": (lambda: torch.inference_mode()(method)("dps"), "inference_mode"),
        "compare: no guides": (lambda: compare({}), "guides"),
        "compare: a guide, not its class": (lambda: compare({"a": guide()}), "guides"),
        "compare: a list of guides": (lambda: compare([MeanFieldGuide]), "guides"),
        "compare: no ELBOs": (lambda: compare(elbos={}), "elbos"),
        "compare: a class of ELBOs": (lambda: compare(elbos={"a": vp.BetaELBO}), "elbos"),
        "compare: y NaN": (lambda: compare(y=spoilt(NAN)[None]), "NaN|finite"),
        "compare: y bytes": (lambda: compare(y=Y.abs().byte()), "float|uint8"),
        "compare: y 0..255": (lambda: compare(y=(Y + 1) * 127.5), r"\[-1, 1\]|units|range"),
        "compare: y of another shape": (lambda: compare(y=Y[..., :4]), "shape"),
        "compare: no model": (lambda: compare(of=3), "model"),
        "compare: no seeds": (lambda: compare(seeds=()), "seed"),
        "compare: a seed 0.5": (lambda: compare(seeds=(0.5,)), "seed"),
        "compare: a number for the seeds": (lambda: compare(seeds=0), "seed"),
        "compare: steps 0": (lambda: compare(steps=0), "steps"),
        "compare: draws 0": (lambda: compare(num_draws=0), "draws"),
        "compare: draws 1.5": (lambda: compare(num_draws=1.5), "draws"),
        "compare: batch 0": (lambda: compare(batch_size=0), "batch"),
        "compare: lr NaN": (lambda: compare(lr=NAN), "lr"),
        "compare: evidence of two images": (lambda: compare(evidence=torch.zeros(2)), "evidence"),
        "compare: evidence NaN": (lambda: compare(evidence=torch.tensor([NAN])), "evidence"),
        "compare: posterior of another shape": (lambda: compare(posterior=torch.zeros(9, 1, 63)), "posterior"),
        "compare: posterior NaN": (lambda: compare(posterior=torch.full((9, 1, *SHAPE), NAN)), "posterior|finite"),
    }),
    *working({
        "dps: one sample, one step": (lambda: method("dps", samples=1, steps=1), lambda r: r.samples.isfinite().all()),
        "dps: NaN where hidden": (
            lambda: (method("dps", torch.where(MASK == 1, ONE, NAN), seed=0).samples, method("dps", seed=0).samples),
            lambda p: torch.equal(*p),
        ),
        "compare: a run that fails is a note": (
            lambda: compare(lr=1e30, steps=3).table, lambda t: len(t) == 1 and t["note"][0] != "",
        ),
    }),
]  # fmt: skip
assert all(name in dict(inspect.getmembers(baselines)) for name in NAMES)
