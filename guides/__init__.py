"""Families of approximate posteriors, one file each; import as ``pyro_vipaint.guides``.

Pyro's own guides run on the same models. The table has the number of parameters for one image with T elements in L
levels, and for four levels of 1 × 32 × 32 (T = 4096):

==================================================  ====================================  ===========
guide                                               parameters                            four levels
==================================================  ====================================  ===========
``FeatureGuide``                                    T / L                                       1 024
``PriorGuide``                                      2 T / L                                     2 048
``DeltaGuide``                                      T                                           4 096
``MeanFieldGuide``                                  2 T                                         8 192
``HierarchicalGuide``                               (3 L - 1) T / L                            11 264
``LowRankGuide`` of rank 8                          (3 L - 1 + 8) T / L                        19 456
``AutoNormal``, ``AutoDiagonalNormal``              2 T                                         8 192
``AutoLowRankMultivariateNormal``, default rank     (2 + sqrt(T)) T                           270 336
``AutoStructured``, Normal, each level linear in    2 T + (L - 1) (T / L)^2                 3 153 920
the level above
``AutoMultivariateNormal``                          (2 + T) T                              16 785 408
``AutoIAFNormal``                                   about 9 T^2 (T = 1536: 21 million)    151 027 713
==================================================  ====================================  ===========

Pyro's guides other than ``AutoNormal`` join the images of a batch: T then counts the elements of all images. They start
at the same latent as the guides of this package with ``init_loc_fn=init_to_start(model, start)``.
"""

if __name__ == "guides":
    raise ImportError("import pyro_vipaint.guides, not guides: the folder is packaged under that name.")

from pyro_vipaint.guides.base import LatentGuide as LatentGuide  # the base of guides; __all__ lists the families
from pyro_vipaint.guides.base import init_to_start as init_to_start
from pyro_vipaint.guides.delta import DeltaGuide
from pyro_vipaint.guides.feature import FeatureGuide
from pyro_vipaint.guides.flow import FlowGuide
from pyro_vipaint.guides.hierarchical import HierarchicalGuide
from pyro_vipaint.guides.low_rank import LowRankGuide
from pyro_vipaint.guides.mean_field import MeanFieldGuide
from pyro_vipaint.guides.mixture import MixtureGuide
from pyro_vipaint.guides.prior import PriorGuide
from pyro_vipaint.guides.twisted import TwistedGuide as TwistedGuide  # needs a correction, so not one of __all__

__all__ = [
    "DeltaGuide",
    "FeatureGuide",
    "FlowGuide",
    "HierarchicalGuide",
    "LowRankGuide",
    "MeanFieldGuide",
    "MixtureGuide",
    "PriorGuide",
]
