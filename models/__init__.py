"""p(z, y): a diffusion prior and a measurement make a Pyro *model*; import as ``pyro_vipaint.models``.

The package exports every public name of its folders:

- ``priors/``: schedules, denoisers, codecs, the prior and the distribution of z_Te;
- ``exact/``: priors whose posterior is known in closed form;
- ``measurements/``: operators A, likelihoods of y, masks;
- ``pretrained/``: priors by name, from a folder, from a hub, or from a pipeline of diffusers.
"""

if __name__ == "models":
    raise ImportError("import pyro_vipaint.models, not models: the folder is packaged under that name.")

from pyro_vipaint.models.diffusion import DiffusionModel, Level
from pyro_vipaint.models.exact.empirical import EmpiricalPrior
from pyro_vipaint.models.exact.gaussian import GaussianPrior
from pyro_vipaint.models.exact.mixture import GaussianMixturePrior
from pyro_vipaint.models.measurements.blur import GaussianBlur, MotionBlur
from pyro_vipaint.models.measurements.laws import check_operator
from pyro_vipaint.models.measurements.likelihoods import Gaussian, Laplace, Likelihood, Perceptual, Poisson
from pyro_vipaint.models.measurements.linalg import cgls, operator_norm
from pyro_vipaint.models.measurements.masks import (
    MASKS,
    box,
    composite,
    random_large,
    random_small,
    rotated_window,
    soft_inpainting,
)
from pyro_vipaint.models.measurements.operators import (
    Broadcasting,
    Compose,
    Inpainting,
    Matrix,
    Operator,
    adjoint,
    apply,
    observation_mask,
    pseudo_inverse,
)
from pyro_vipaint.models.measurements.super_resolution import SuperResolution
from pyro_vipaint.models.pretrained.convert import convert
from pyro_vipaint.models.pretrained.load import embedded_priors, from_diffusers, load_prior
from pyro_vipaint.models.priors.classifier_free import GuidedNetwork
from pyro_vipaint.models.priors.codecs import AutoencoderCodec, Codec, Identity
from pyro_vipaint.models.priors.covariance import DataCovariance
from pyro_vipaint.models.priors.denoisers import (
    Denoiser,
    EDMDenoiser,
    EpsilonDenoiser,
    FlowDenoiser,
    LearnedRangeDenoiser,
    NetworkDenoiser,
    SampleDenoiser,
    VDenoiser,
    integer_timestep,
)
from pyro_vipaint.models.priors.learned import LearnedVariancePrior
from pyro_vipaint.models.priors.marginal import DiffusionMarginal
from pyro_vipaint.models.priors.matched import MatchedPrior, denoising_errors
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import (
    EDM,
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    ScaledLinearVP,
    Schedule,
    TableVP,
    keypoints,
    noise_level,
    time_of,
)

__all__ = [
    # the model
    "DiffusionModel",
    "Level",
    # priors
    "DiffusionPrior",
    "DataCovariance",
    "DiffusionMarginal",
    "MatchedPrior",
    "LearnedVariancePrior",
    "denoising_errors",
    "convert",
    "embedded_priors",
    "from_diffusers",
    "load_prior",
    # exact priors
    "EmpiricalPrior",
    "GaussianMixturePrior",
    "GaussianPrior",
    # schedules
    "EDM",
    "CosineVP",
    "GeometricVE",
    "LinearVP",
    "RectifiedFlow",
    "ScaledLinearVP",
    "Schedule",
    "TableVP",
    "keypoints",
    "noise_level",
    "time_of",
    # denoisers
    "Denoiser",
    "EDMDenoiser",
    "EpsilonDenoiser",
    "FlowDenoiser",
    "LearnedRangeDenoiser",
    "GuidedNetwork",
    "NetworkDenoiser",
    "SampleDenoiser",
    "VDenoiser",
    "integer_timestep",
    # codecs
    "AutoencoderCodec",
    "Codec",
    "Identity",
    # operators
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
    "cgls",
    "check_operator",
    "observation_mask",
    "operator_norm",
    "pseudo_inverse",
    # likelihoods
    "Gaussian",
    "Laplace",
    "Likelihood",
    "Perceptual",
    "Poisson",
    # masks
    "MASKS",
    "box",
    "composite",
    "random_large",
    "random_small",
    "rotated_window",
    "soft_inpainting",
]
