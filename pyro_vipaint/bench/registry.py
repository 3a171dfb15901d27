"""The names of the methods, and what of the authors' settings changes when they are held to a budget.

The authors' numbers are made for their number of steps. At a budget DPS has a zeta that was tuned (1 on
fashion32, 2.5 with less than 40 steps; 4 on cats64: ``benchmarks/quality.py`` and ``benchmarks/cats.py``), and RePaint
and CoPaint-TT go back and forth over shorter stretches, since one of the authors' would take most of the budget.
"""

from __future__ import annotations

from pyro_vipaint import baselines
from pyro_vipaint.bench.methods import Baseline, Method, VIPaint

RESAMPLING = {"jump_length": 5, "resamples": 4}

METHODS: dict[str, Method] = {
    "VIPaint-2": VIPaint(2),
    "VIPaint-4": VIPaint(4),
    "Blended": Baseline(baselines.blended, baselines.blended_calls, latents=True, only_inpainting=True),
    "RePaint": Baseline(baselines.repaint, baselines.repaint_calls, only_inpainting=True, options=RESAMPLING),
    "DPS": Baseline(
        baselines.dps,
        baselines.dps_calls,
        latents=True,
        options={"zeta": 1.0},
        short_options={"zeta": 2.5},
        latent_options={"zeta": 4.0},
    ),
    "PiGDM": Baseline(baselines.pi_gdm, baselines.pi_gdm_calls),
    "CoPaint": Baseline(baselines.copaint, baselines.copaint_calls),
    "CoPaint-TT": Baseline(baselines.copaint_tt, baselines.copaint_tt_calls, options={"tau": 5}),
    "RED-Diff": Baseline(baselines.red_diff, baselines.red_diff_calls, latents=True),
    "PSLD": Baseline(baselines.psld, baselines.psld_calls, pixels=False, latents=True),
    "ReSample": Baseline(baselines.resample, baselines.resample_calls, pixels=False, latents=True),
}
