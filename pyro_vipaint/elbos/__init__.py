"""Objectives, one file each. Those of ``pyro.infer`` work on the same models and guides.

Three things about Pyro's own are worth knowing (each is tested):

- ``RenyiELBO`` weights each image on its own, too, while every site stands in the plate of images. With a guide's site
  outside (``AutoDiagonalNormal``) it subtracts log q of all images from the weight of each: no bound for N > 1.
- The Jit versions find a guide's parameters by name in Pyro's global store, and this library keeps them in the guide
  (``module_local_params``): they raise ``KeyError`` unless the guide is made and used inside
  ``pyro.settings.context(module_local_params=False)``. Network calls inside a compiled program are not counted.
- ``JitTraceMeanField_ELBO`` compiles anew at every step, and the gradient of ``JitTrace_ELBO.differentiable_loss`` is
  twice the true one; that of ``loss_and_grads`` is right.
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
