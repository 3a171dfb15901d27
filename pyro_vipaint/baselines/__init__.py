"""Methods to compare with, one file each."""

from pyro_vipaint.baselines.base import BaselineResult
from pyro_vipaint.baselines.dps import dps

__all__ = ["BaselineResult", "dps"]
