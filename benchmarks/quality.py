"""VIPaint against DPS on held-out images at equal NFE: a plan of :mod:`pyro_vipaint.bench`.

    python -m benchmarks.quality                        # 32 images × 10 samples, eight methods; resumes
    python -m benchmarks.quality --only VIPaint         # the methods whose names begin so
    python -m benchmarks.quality --report               # the tables of the shipped rows

Images 0-31 of the 64 shipped held-out ones, one rotated-window mask each, the class label given to every method, y
without noise. Columns: LPIPS to the truth (mean over samples, then over images), mean absolute error on observed pixels
(nothing is pasted in), standard deviation over samples in the hole, NFE per sample with its share of the fit. The
differences are paired over images, with their standard error. Tuned on other images; docs/tuning.md has the record.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmarks.plans import Blocks, Held, block_task, command, nfe_per_sample
from pyro_vipaint import InputError, baselines
from pyro_vipaint.bench import Plan, Suite
from pyro_vipaint.bench.methods import Baseline, Method, VIPaint
from pyro_vipaint.bench.summary import paired
from pyro_vipaint.demo import held_out_images
from pyro_vipaint.models.measurements.masks import rotated_window
from pyro_vipaint.settings import default_settings

COLUMNS = ["lpips", "observation_error", "diversity", "nfe"]
FOUR_AS_TWO = "VIPaint-4, as VIPaint-2"  # with the NFE of VIPaint-2
DPS_ZETAS = (1.0, 2.5)  # the best with 45 steps or more, and the best with about 25 to 35 (docs/tuning.md)
HELD_OUT = 64


def draw(block: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """The one block of held-out images, and their labels."""
    if block > 0:
        raise InputError(f"There are {HELD_OUT} held-out images: ask for fewer.")
    return *held_out_images(), torch.Generator()


def methods(num_samples: int) -> dict[str, Method]:
    """The eight methods of the table."""
    two, four = (nfe_per_sample(default_settings(levels, preset="pictures"), num_samples) for levels in (2, 4))
    return {
        "VIPaint-2": VIPaint(2, "pictures"),
        FOUR_AS_TWO: Held(VIPaint(4, "pictures"), two),
        **{dps_name(2, zeta): dps(two, zeta) for zeta in DPS_ZETAS},
        "VIPaint-4": VIPaint(4, "pictures"),
        **{dps_name(4, zeta): dps(four, zeta) for zeta in DPS_ZETAS},
        "DPS, 250 steps": dps(250, zeta=1.0),
    }


def dps(steps: int, zeta: float) -> Method:
    """DPS from pure noise with ``steps`` NFE per sample."""
    return Held(Baseline(baselines.dps, baselines.dps_calls, options={"zeta": zeta}), steps)


def dps_name(levels: int, zeta: float) -> str:
    """DPS with as many NFE as VIPaint-``levels``."""
    return f"DPS, zeta {zeta:g}, as VIPaint-{levels}"


def suite(num_samples: int) -> Suite:
    """The methods for ``num_samples`` samples per image, on rotated windows."""
    return Suite(methods(num_samples), {"rotated-window": block_task(rotated_window)}, Blocks(HELD_OUT, draw))


PLAN = Plan(("fashion32",), ("rotated-window",), tuple(methods(10)), (None,), num_images=32, num_samples=10, chunk=8)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means by method."""
    groups: Any = rows.groupby("method", sort=False)
    table = groups[COLUMNS].mean().reindex([name for name in PLAN.methods if name in groups.groups])
    table.insert(0, "images", groups.size())
    return table


def report(rows: pd.DataFrame) -> str:
    """The table and the paired differences."""
    text, table = [], summary(rows)
    ours = {"VIPaint-2": 2, FOUR_AS_TWO: 2, "VIPaint-4": 4}
    pairs = [(name, dps_name(levels, zeta)) for name, levels in ours.items() for zeta in DPS_ZETAS]
    pairs += [(name, other) for other in ("DPS, 250 steps", "VIPaint-2") for name in ours if name != other]
    for method, other in pairs:
        if {method, other} <= set(table.index):
            mean, error = paired(rows, "lpips", method, other)
            share = mean / table["lpips"][other]
            text.append(f"LPIPS, {method} minus {other}: {mean:+.4f} ± {error:.4f} ({share:+.1%})")
    return "\n".join([table.rename(columns={"nfe": "NFE"}).round(4).to_string(), *text])


if __name__ == "__main__":
    command(str(__doc__), PLAN, suite, report, "quality")
