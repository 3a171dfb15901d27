"""Objectives, one file each."""

from pyro_vipaint.elbos.beta import BetaELBO

__all__ = ["BetaELBO"]
