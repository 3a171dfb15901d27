"""Measurement operators, one family a file, with DeepInverse's names: ``A``, ``A_adjoint``, optionally ``A_dagger``.

An operator may have a ``mask`` (1 = observed): likelihoods then count observed elements only.
"""

from pyro_vipaint.operators.base import (
    Broadcasting,
    Operator,
    adjoint,
    apply,
    is_one_an_image,
    observation_mask,
    pseudo_inverse,
)
from pyro_vipaint.operators.blur import GaussianBlur, MotionBlur
from pyro_vipaint.operators.compose import Compose
from pyro_vipaint.operators.conjugate_gradients import least_squares
from pyro_vipaint.operators.inpainting import Inpainting
from pyro_vipaint.operators.matrix import Matrix
from pyro_vipaint.operators.norm import operator_norm
from pyro_vipaint.operators.super_resolution import SuperResolution

__all__ = [
    "Broadcasting",
    "Compose",
    "GaussianBlur",
    "Inpainting",
    "Matrix",
    "MotionBlur",
    "Operator",
    "SuperResolution",
    "adjoint",
    "apply",
    "is_one_an_image",
    "least_squares",
    "observation_mask",
    "operator_norm",
    "pseudo_inverse",
]
