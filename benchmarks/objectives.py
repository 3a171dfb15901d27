"""Which objectives of ``pyro.infer`` take which guide, what they estimate there, and what they cost.

    python -m benchmarks.objectives   # prints the table of docs/elbos.md and the reasons below it

The problem has two images of a Gaussian prior in 16 dimensions and three levels, so that no term is estimated and a
step with an objective of this library takes three network calls.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import infer
from pyro.contrib.gp.kernels import RBF
from pyro.infer import SVI, autoguide
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint import guides
from pyro_vipaint.models import DiffusionModel, GaussianPrior

PAGE = Path(__file__).parent.parent / "docs" / "elbos.md"
IMAGES, SIZE, PARTICLES, ALPHA = 2, 16, 4, 0.5
PYROS = ("AutoNormal", "AutoDiagonalNormal", "AutoNormalMessenger")
FAMILIES = {name.removesuffix("Guide"): getattr(guides, name) for name in guides.__all__}
FAMILIES |= {name: getattr(autoguide, name) for name in PYROS}
HEAD = ["objective", *FAMILIES, "value", "calls"]

_particles: dict[str, Any] = {"num_particles": PARTICLES, "max_plate_nesting": 1}
_own: dict[str, dict[str, Any]] = {
    "RenyiELBO": {"alpha": ALPHA},
    "ReweightedWakeSleep": {"model_has_params": False},
    "Trace_MMD": {"kernel": RBF(IMAGES * SIZE)},
}
_plain = {"EnergyDistance": partial(infer.EnergyDistance, num_particles=PARTICLES, max_plate_nesting=2)}
_names = [
    name for name in sorted(infer.__all__) if re.fullmatch(r"(Jit)?Trace.*_ELBO|Trace_MMD|Renyi.*|Reweighted.*", name)
]
OBJECTIVES: dict[str, Callable[[], Any]] = _plain | {
    name: partial(getattr(infer, name), vectorize_particles=True, **_particles, **_own.get(name, {})) for name in _names
}
VALUES: dict[str, Any] = {
    "`BetaELBO`": vp.BetaELBO(num_particles=PARTICLES),
    "`SampledELBO`": vp.SampledELBO(num_particles=PARTICLES),
    "`RenyiELBO`": vp.RenyiELBO(ALPHA, num_particles=PARTICLES),
}


def problem() -> tuple[DiffusionModel, Tensor]:
    """The model and the observations, half of whose elements are hidden."""
    prior = GaussianPrior.diagonal(torch.linspace(-0.5, 0.5, SIZE), torch.linspace(0.3, 1.0, SIZE))
    mask = (torch.arange(SIZE) < SIZE // 2).float()
    model = DiffusionModel(prior, vp.Gaussian(vp.Inpainting(mask), 0.1), vp.keypoints(prior, noise_levels=(3, 1, 0.3)))
    return model, mask * torch.linspace(-1, 1, IMAGES * SIZE).reshape(IMAGES, SIZE)


def fresh(family: str, model: DiffusionModel, y: Tensor) -> Any:
    """A guide that has its parameters."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    if family not in PYROS:
        return FAMILIES[family](model, y)
    guide = FAMILIES[family](model, init_loc_fn=guides.init_to_start(model, y))
    guide(y)
    return guide


def use(name: str, family: str) -> tuple[str, str]:
    """How the pair works: by ``fit``, by ``SVI``, so in Pyro's ``store``, or not (–); and why not by ``fit``."""
    found, reason = by_fit(name, family)
    if found or by_svi(name, family):
        return ("fit" if found else "SVI"), reason
    with pyro.settings.context(module_local_params=False):
        return ("store" if by_fit(name, family)[0] or by_svi(name, family) else "–"), reason


def by_fit(name: str, family: str) -> tuple[bool, str]:
    """Whether :func:`pyro_vipaint.fit` works, and why not."""
    model, y = problem()
    try:
        vp.fit(model, fresh(family, model, y), y, OBJECTIVES[name](), 1)
    except (vp.InputError, NotImplementedError) as error:
        return False, str(error)
    return True, ""


def by_svi(name: str, family: str) -> bool:
    """Whether a step of Pyro's SVI moves the guide."""
    model, y = problem()
    guide = fresh(family, model, y)
    before = [parameter.clone() for parameter in guide.parameters()]
    try:
        SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), OBJECTIVES[name]()).step(y)  # pyright: ignore[reportAttributeAccessIssue]
    except (AttributeError, KeyError, NotImplementedError):
        return False
    moved = [not torch.equal(old, new) for old, new in zip(before, guide.parameters(), strict=True)]
    return any(moved) and all(bool(parameter.isfinite().all()) for parameter in guide.parameters())


def values_and_calls(name: str, family: str) -> tuple[set[str], int]:
    """The library's objectives with the same value at the same draws, and the network calls of a step."""
    model, y = problem()

    def value(objective: Any) -> float:
        guide = fresh(family, model, y)
        torch.manual_seed(1)
        return objective.loss_and_grads(model, guide, y)

    with vp.count_calls() as count:
        found = value(OBJECTIVES[name]())
    return {what for what, ours in VALUES.items() if math.isclose(found, value(ours), rel_tol=1e-5)}, count.calls


def row(name: str) -> tuple[list[str], set[str]]:
    """The cells of a row, and the reasons why a guide is not fitted; value and calls are of the library's guides."""
    found = {family: use(name, family) for family in FAMILIES}
    measured = [values_and_calls(name, each) for each, (how, _) in found.items() if how == "fit" and each not in PYROS]
    same = set.intersection(*(values for values, _ in measured)) if measured else {"–"}
    calls = {str(count) for _, count in measured} or {"–"}
    cells = [how for how, _ in found.values()] + [", ".join(sorted(same)) or "another", ", ".join(sorted(calls))]
    return [name, *cells], {reason for _, reason in found.values() if reason}


def page() -> list[str]:
    """The lines of the table and of the reasons."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = {name: row(name) for name in OBJECTIVES}
    lines = [HEAD, [":--", *[":-:"] * len(FAMILIES), ":--", "--:"], *(cells for cells, _ in rows.values())]
    reasons = [f"- {reason}" for _, found in rows.values() for reason in sorted(found)]
    return [f"| {' | '.join(cells)} |" for cells in lines] + ["", *reasons]


def shipped() -> list[str]:
    """The same lines of the page that ships."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| objective"))
    return lines[start : lines.index("<!-- end -->")]


if __name__ == "__main__":
    print("\n".join(page()))
