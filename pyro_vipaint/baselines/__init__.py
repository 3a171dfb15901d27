"""Methods to compare with, one file each."""

from pyro_vipaint.baselines.dps import BaselineResult, dps

__all__ = ["BaselineResult", "dps"]
