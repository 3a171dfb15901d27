"""Objectives, one file each. Those of ``pyro.infer`` work on the same models and guides; ``docs/elbos.md`` says which.

Pyro's own objectives have two limitations:

- ``RenyiELBO`` has one weight per image as long as every site is in the plate of images. With a guide's site outside
  the plate (``AutoDiagonalNormal``) it subtracts log q of all images from the weight of each: no bound for N > 1.
- The Jit versions look up a guide's parameters by name in Pyro's global store, but this library keeps them in the guide
  (``module_local_params``): they raise ``KeyError`` (in :func:`pyro_vipaint.fit` ``InputError``) unless the guide is
  created and used inside ``pyro.settings.context(module_local_params=False)``. Network calls inside a compiled program
  are not counted.
"""

from pyro_vipaint.elbos.annealed import AnnealedELBO, GeometricSchedule
from pyro_vipaint.elbos.beta import BetaELBO
from pyro_vipaint.elbos.renyi import RenyiELBO
from pyro_vipaint.elbos.sampled import SampledELBO, StickingTheLandingELBO

__all__ = [
    "AnnealedELBO",
    "BetaELBO",
    "GeometricSchedule",
    "RenyiELBO",
    "SampledELBO",
    "StickingTheLandingELBO",
]
