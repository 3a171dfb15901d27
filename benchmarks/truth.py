"""Is the posterior right? Proper scores and calibration at equal cost: draws of the prior itself, and held-out images.

    python -m benchmarks.truth                                  # everything, in two processes; resumes
    python -m benchmarks.truth --plans held-out --only VIPaint  # one plan, the methods whose names begin so
    python -m benchmarks.truth --report                         # the tables of the shipped rows

Plans, all of rotated windows with the label given:

- ``fashion32`` and ``faces32``: 64 draws of the prior by 200 steps × 16 samples, y = m ⊙ (x + v), v ~ N(0, .05^2).
  Nothing but the method can err.
- ``held-out``: 32 images of the Fashion test set × 10 samples, y = m ⊙ x.

Methods are held to the cost of DPS with 25 or with 50 steps. A method without gradients has as many network calls as
these cost: :data:`FORWARD` calls for a step, the cost of a call with its gradient in calls alone on an idle machine.
Baselines have the numbers of ``vipaint bench`` at a budget; DPS has the best of several zetas on other images, and
*MMPS ×3* three iterations of GMRES. *VIPaint* has its defaults, and at 50 more steps of the refinement; *pictures* is
the other preset. *Warm start* is the control without a guide: noise around the data at VIPaint-2's T_s and its
refinement, or from the other preset's T_e by DPS.

Scores are those of :mod:`pyro_vipaint.bench.scores`; coverage is that of 80 % intervals of smooth projections of the
hole. ``forward`` is the cost in forward equivalents (:mod:`pyro_vipaint.bench.cost`). Each table ends with paired
differences over images, with their standard errors.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.plans import RESULTS, Held
from pyro_vipaint import baselines
from pyro_vipaint.bench import METHODS, Plan, Suite, engine, run
from pyro_vipaint.bench.methods import Baseline, Method, VIPaint
from pyro_vipaint.bench.summary import means, paired
from pyro_vipaint.bench.warm_start import Control, warm_start, warm_start_calls
from pyro_vipaint.progress import progress_bar
from pyro_vipaint.settings import default_settings

FORWARD = 1.85  # forward calls in one step of DPS, on two idle cores
OURS = {"VIPaint-2": 2, "VIPaint-4": 4}
LONG_STEPS = 36  # of the refinement at the cost of DPS with 50 steps
PLANS = {
    "fashion32": Plan(("fashion32",), ("prior-draws",), (), (None,), num_images=64, num_samples=16, chunk=16),
    "faces32": Plan(("faces32",), ("prior-draws",), (), (None,), num_images=64, num_samples=16, chunk=16),
    "held-out": Plan(("fashion32",), ("rotated-window",), (), (None,), num_images=32, num_samples=10, chunk=16),
}
FEW = (*OURS, "DPS, 50")  # of draws of the prior


def dps(zeta: float, steps: int) -> Held:
    """DPS with its weight and steps."""
    return Held(Baseline(baselines.dps, baselines.dps_calls, options={"zeta": zeta}), steps)


def longer(levels: int) -> VIPaint:
    """VIPaint with the longer refinement."""
    return VIPaint(levels, settings=replace(default_settings(levels), refine_steps=LONG_STEPS))


def without_the_guide() -> Held:
    """The control: noise around the data at VIPaint-2's T_s, then its refinement."""
    numbers = default_settings(2)
    options = {"noise_level": numbers.noise_levels[-1], "correction": numbers.correction, "order": numbers.order}
    return Held(Control(warm_start, warm_start_calls, options=options), 1 + numbers.refine_steps)


def methods() -> dict[str, Method]:
    """The methods of the tables, by name and cost in steps of DPS."""
    ours = {name: METHODS[name] for name in METHODS if name.startswith("VIPaint")}
    ours |= {f"{name}, 50": longer(levels) for name, levels in OURS.items()}
    rivals = {
        f"{name}, {steps}": Held(METHODS[name], round(steps * (1 if name in ("MMPS", "PiGDM") else FORWARD)))
        for steps in (25, 50)
        for name in ("PiGDM", "MMPS", "DDNM", "DAPS", *(("DiffPIR", "DDSMC", "DING", "MGDM") if steps == 25 else ()))
    }
    return {
        **ours,
        "DPS, 25": dps(2.5, 25), "DPS, 50": dps(2.0, 50), **rivals,
        "MMPS ×3, 50": Held(Baseline(baselines.mmps, baselines.mmps_calls, options={"iterations": 3}), 26),
        "Warm start, DPS, 25": Held(METHODS["Warm start"], 25), "Warm start, DPS, 50": Held(METHODS["Warm start"], 50),
        "Warm start, 25": without_the_guide(),
    }  # fmt: skip


def plan(name: str, only: tuple[str, ...], images: int | None = None) -> Plan:
    """A plan with its methods; ``images`` is the number of draws of a prior, and not that of held-out images."""
    wanted = methods() if name == "held-out" else FEW
    chosen = [method for method in wanted if method.startswith(only)]
    chosen_plan = replace(PLANS[name], methods=tuple(chosen))
    return chosen_plan if images is None or name == "held-out" else replace(chosen_plan, num_images=images)


def report(rows: pd.DataFrame) -> str:
    """All tables."""
    return "\n\n".join(tables(rows))


def tables(rows: pd.DataFrame) -> Iterator[str]:
    """By plan: the scores of the methods, and what VIPaint's differ by."""
    for name, each in PLANS.items():
        here: Any = rows[(rows["prior"] == each.priors[0]) & (rows["task"] == each.tasks[0])]
        if len(here):
            size = f"{here['image'].nunique()} images × {here['num_samples'].iloc[0]} samples"
            yield f"**{name}**, {size}\n\n{table(here)}"
            methods_here = set(here["method"])
            yield from (difference(here, ours) for ours in OURS if ours in methods_here and len(methods_here) > 1)


def table(rows: pd.DataFrame) -> str:
    """One row per method, by energy score."""
    found: Any = means(rows).sort_values("energy", ignore_index=True)
    shown = {
        "LPIPS": "lpips",
        "energy": "energy",
        "LPIPS energy": "lpips_energy",
        "error/spread": "error_over_spread",
        "coverage": "coverage_projections",
    }
    digits = {"energy": 2, "error/spread": 2, "coverage": 2}
    columns = {
        title: [
            f"{m:.{digits.get(title, 4)}f} ± {e:.{digits.get(title, 4)}f}"
            for m, e in zip(found[name], found[f"{name}_se"], strict=True)
        ]
        for title, name in shown.items()
    }
    cost = {
        "NFE": found["nfe"].round(1),
        "gradients": found["gradients"].round(1),
        "forward": (found["nfe"] + (FORWARD - 1) * found["gradients"]).round(1),
    }
    return str(found[["method"]].assign(**columns, **cost).to_markdown(index=False))


def difference(rows: pd.DataFrame, ours: str) -> str:
    """``ours`` minus the others, paired over images."""
    others = [method for method in dict.fromkeys(rows["method"]) if method != ours]
    lines = []
    for title, column, digits in (("energy", "energy", 3), ("LPIPS energy", "lpips_energy", 4)):
        pairs = {other: paired(rows, column, ours, other) for other in others}
        text = "; ".join(f"{other} {mean:+.{digits}f} ± {error:.{digits}f}" for other, (mean, error) in pairs.items())
        lines.append(f"{ours} minus, in {title}: {text}.")
    return "\n\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--only", nargs="+", default=[""], help="run the methods whose names begin with one of these")
    parser.add_argument("--out", type=Path, default=Path("truth"), help="folder of cells and results.parquet")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, help="number of draws of a prior; held-out images stay 32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--report", action="store_true", help="run nothing and report the shipped rows")
    chosen = parser.parse_args()
    if chosen.report:
        rows = pd.read_parquet(RESULTS / "truth.parquet")
    else:
        rows, local = pd.DataFrame(), engine("local", chosen.workers, chosen.device, 1)
        for name in chosen.plans:
            with progress_bar() as callback:
                asked = plan(name, tuple(chosen.only), chosen.images)
                rows = run(asked, chosen.out, local, chosen.device, callback, suite=Suite(methods()))
    print(report(rows))


if __name__ == "__main__":
    main()
