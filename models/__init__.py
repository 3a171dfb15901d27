"""Priors and the Pyro model built on them; import as ``pyro_vipaint.models``."""

if __name__ == "models":
    raise ImportError("import pyro_vipaint.models, not models: the folder is packaged under that name.")

from pyro_vipaint.models.diffusion import DiffusionModel
from pyro_vipaint.models.empirical import EmpiricalPrior
from pyro_vipaint.models.exact import GaussianPrior
from pyro_vipaint.models.mixture import GaussianMixturePrior
from pyro_vipaint.models.pretrained import embedded_priors, from_diffusers, load_prior
from pyro_vipaint.models.priors import DiffusionMarginal, DiffusionPrior

__all__ = [
    "DiffusionMarginal",
    "DiffusionModel",
    "DiffusionPrior",
    "EmpiricalPrior",
    "GaussianMixturePrior",
    "GaussianPrior",
    "embedded_priors",
    "from_diffusers",
    "load_prior",
]
