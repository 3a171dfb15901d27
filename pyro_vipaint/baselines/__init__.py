"""Methods to compare with, one file each; next to ``method`` stands ``method_calls``, its network calls by steps."""

from pyro_vipaint.baselines.base import BaselineResult
from pyro_vipaint.baselines.blended import blended, blended_calls
from pyro_vipaint.baselines.copaint import copaint, copaint_calls
from pyro_vipaint.baselines.copaint_tt import copaint_tt, copaint_tt_calls
from pyro_vipaint.baselines.dps import dps, dps_calls
from pyro_vipaint.baselines.pi_gdm import pi_gdm, pi_gdm_calls
from pyro_vipaint.baselines.psld import psld, psld_calls
from pyro_vipaint.baselines.red_diff import red_diff, red_diff_calls
from pyro_vipaint.baselines.repaint import repaint, repaint_calls
from pyro_vipaint.baselines.resample import ReSampleResult, resample, resample_calls

__all__ = [
    "BaselineResult",
    "ReSampleResult",
    "blended",
    "blended_calls",
    "copaint",
    "copaint_calls",
    "copaint_tt",
    "copaint_tt_calls",
    "dps",
    "dps_calls",
    "pi_gdm",
    "pi_gdm_calls",
    "psld",
    "psld_calls",
    "red_diff",
    "red_diff_calls",
    "repaint",
    "repaint_calls",
    "resample",
    "resample_calls",
]
